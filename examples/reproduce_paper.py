"""The paper's experiments, from the folder of data to its figures.

    python examples/reproduce_paper.py simulated --arch resnet50 --out reproduced/simulated
    python examples/reproduce_paper.py isic --root ISIC_2019 --out reproduced/isic
    python examples/reproduce_paper.py mura --root MURA-v1.1 --out reproduced/mura
    python examples/reproduce_paper.py neuromelanin --root nm_mri --out reproduced/neuromelanin

Each command trains the base network, fits HR-CAM's default head and the paper's, and writes
metrics.json and the figures into --out. A run that was cut off continues after its last epoch.
Under ``torchrun --nproc-per-node=N`` the training runs on N GPUs (or in N processes on a CPU); one
process does the rest. Nothing is downloaded except ImageNet's weights. ``EXPERIMENT --help`` lists
the options.
"""

import argparse
import functools
import json
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from paper import folds, isic, mura, neuromelanin, simulated
from paper.figures import write_figures
from paper.networks import Network, build
from paper.options import add_options, default_workers, settings
from paper.outcome import explain
from paper.pictures import Split
from paper.training import device_group, loader, n_processes, rank, train

EXPERIMENTS = {"simulated": simulated, "isic": isic, "mura": mura, "neuromelanin": neuromelanin}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run an experiment. Every process trains all folds before the first process explains any."""
    options = parse(arguments)
    try:
        splits = EXPERIMENTS[options.experiment].splits(options)
    except (OSError, ValueError, ImportError) as error:  # the message says what is wrong
        raise SystemExit(f"{options.experiment}: {error}") from error
    folders = [options.out]
    if len(splits) > 1:
        folders = [options.out / f"fold{k}" for k in range(1, len(splits) + 1)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    if splits[0].subjects and rank() == 0:
        folds.keep_subjects(splits, options.out)
    with device_group() as device:
        networks = [
            trained(split, options, device, options.checkpoint or folder / f"{options.arch}.pt")
            for split, folder in zip(splits, folders, strict=True)
        ]
    if rank() == 0:
        write(networks, splits, options, device)


def trained(
    split: Split, options: argparse.Namespace, device: torch.device, checkpoint: Path
) -> Network:
    """Train the base network, from where a checkpoint was left, if there is one."""
    torch.manual_seed(0)
    network = build(
        options.arch, len(split.classes), options.weights, standardize=split.standardize
    )
    train(
        network,
        split.train,
        epochs=options.epochs,
        batch_size=options.batch_size,
        device=device,
        checkpoint=checkpoint,
        settings=settings(options),
        lr=options.lr,
        workers=options.workers,
        class_weights=split.class_weights,
    )
    return network


def write(
    networks: list[Network], splits: list[Split], options: argparse.Namespace, device: torch.device
) -> None:
    """Fit the heads, and write metrics.json and the figures, over all folds, into --out."""
    load = functools.partial(
        loader, batch_size=options.batch_size, workers=options.workers, device=device
    )
    outcomes = [
        explain(network, split, load) for network, split in zip(networks, splits, strict=True)
    ]
    classes = splits[0].classes
    found = outcomes[0].metrics if len(splits) == 1 else folds.over_folds(outcomes, classes)
    found |= {
        "options": settings(options),
        "processes": n_processes(),
        "machine": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "torch": torch.__version__,
    }
    text = json.dumps(found, indent=2, allow_nan=False)
    (options.out / "metrics.json").write_text(text + "\n")
    write_figures(outcomes, classes, options.out)
    if options.experiment == "simulated":
        simulated.against_masks(outcomes[0].fitted, splits[0].test.lesions(), options.out)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    experiments = parser.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    for name, module in EXPERIMENTS.items():
        own = experiments.add_parser(name, help=module.__doc__, description=module.__doc__)
        if name == "simulated":
            add_options(own, weights="none", lr=1e-3, workers=0)
        else:
            folder = "of the data; by default this one"
            own.add_argument("--root", type=Path, metavar="DIR", default=Path("."), help=folder)
            add_options(own, weights="imagenet", lr=1e-4, workers=default_workers())
        module.add_options(own)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
