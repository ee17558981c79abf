"""The paper's experiments, from the folder of data to its figures.

    python examples/reproduce_paper.py simulated --arch resnet50 --out reproduced/simulated

trains the base network, fits HR-CAM's default head and the paper's, and writes metrics.json and the
figures into --out. A run that was cut off goes on after its last epoch. Under ``torchrun
--nproc-per-node=N`` the training runs on N GPUs.
"""

import argparse
import platform
from pathlib import Path

import torch
from paper import outcome, simulated
from paper.networks import build
from paper.training import device_group, is_first, train


def main() -> None:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    with device_group() as device:
        run_simulated(options, device)


def run_simulated(options: argparse.Namespace, device: torch.device) -> None:
    """ResNet-50 on simulated lesions: Figs. 2 and 3."""
    n, size = options.images, options.image_size
    train_set = simulated.Drawn(n, size, seed=0, transform=simulated.AUGMENT)
    torch.manual_seed(0)
    network = build(options.arch, 2, options.weights)
    train(
        network.model,
        train_set,
        epochs=options.epochs,
        batch_size=options.batch_size,
        device=device,
        checkpoint=options.checkpoint or options.out / f"{options.arch}.pt",
        lr=options.lr,
        workers=options.workers,
    )
    if not is_first():
        return
    train_set.transform = None
    test_set = simulated.Drawn(n // 3, size, seed=1)
    fitted = outcome.fit(network, train_set, options.batch_size, device)
    outcome.write_scores(fitted, test_set, options.batch_size, device, options.out, run(options))
    lesions = simulated.Drawn(n // 3, size, seed=1, lesions_only=True)
    shown = range(min(6, len(lesions)))
    cases = [(lesions[i][0], 1, lesions.kind(i)) for i in shown]
    masks = torch.stack([lesions.mask(i) for i in shown])
    outcome.write_figures(fitted, list(simulated.Drawn.classes), cases, options.out, masks)
    simulated.against_masks(fitted, lesions, options.out)


def run(options: argparse.Namespace) -> dict:
    """What was run, for metrics.json."""
    told = {k: v for k, v in vars(options).items() if not isinstance(v, Path)}
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {"options": told, "machine": machine, "torch": torch.__version__}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=["simulated"])
    parser.add_argument("--arch", choices=["resnet50", "vgg19"], default="resnet50")
    parser.add_argument("--weights", choices=["imagenet", "none"], default="none")
    parser.add_argument("--images", type=int, default=6000, help="for training; a third for tests")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3, help="largest of the one-cycle schedule")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, help="by default in --out")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
