"""The paper's experiments, from the folder of data to its figures.

    python examples/reproduce_paper.py simulated --arch resnet50 --out reproduced/simulated
    python examples/reproduce_paper.py isic --root ISIC_2019 --out reproduced/isic
    python examples/reproduce_paper.py mura --root MURA-v1.1 --out reproduced/mura
    python examples/reproduce_paper.py neuromelanin --root nm_mri --out reproduced/neuromelanin

trains the base network, fits HR-CAM's default head and the paper's, and writes metrics.json and the
figures into --out. A run that was cut off goes on after its last epoch. Under ``torchrun
--nproc-per-node=N`` the training runs on N GPUs. Nothing is downloaded but ImageNet's weights;
``EXPERIMENT --help`` lists the options.
"""

import argparse
import os
import platform
from pathlib import Path

import torch
from paper import experiment, folds, isic, mura, neuromelanin, outcome, simulated
from paper.training import device_group, is_first

CLINICAL = {"isic": isic, "mura": mura, "neuromelanin": neuromelanin}
SMALLEST = 64  # pixels


def main() -> None:
    options = parse()
    with device_group() as device:
        if options.experiment == "simulated":
            run_simulated(options, device)
        else:
            run_clinical(options, device)


def run_simulated(options: argparse.Namespace, device: torch.device) -> None:
    """ResNet-50 on simulated lesions: Figs. 2 and 3."""
    options.out.mkdir(parents=True, exist_ok=True)
    n, size = options.images, options.image_size
    train_set = simulated.Drawn(n, size, seed=0, transform=simulated.AUGMENT)
    checkpoint = checkpoint_of(options, options.out)
    network = experiment.trained(train_set, 2, options, device, checkpoint)
    if not is_first():
        return
    test_set = simulated.Drawn(n // 3, size, seed=1)
    fitted = outcome.fit(network, train_set.plain(), options.batch_size, device)
    outcome.write_scores(fitted, test_set, options.batch_size, device, options.out, run(options))
    lesions = test_set.lesions()
    shown = range(min(6, len(lesions)))
    cases = [(lesions[i][0], 1, lesions.kind(i)) for i in shown]
    masks = torch.stack([lesions.mask(i) for i in shown])
    outcome.write_figures(fitted, list(simulated.Drawn.classes), cases, options.out, masks)
    simulated.against_masks(fitted, lesions, options.out)


def run_clinical(options: argparse.Namespace, device: torch.device) -> None:
    """Images from a folder: Figs. 4, 5 and 6. All folds are trained before any is explained."""
    try:
        splits = CLINICAL[options.experiment].splits(options)
    except (OSError, ValueError, ImportError) as error:  # they say what is wrong with the data
        raise SystemExit(f"{options.experiment}: {error}") from error
    folders = [options.out]
    if len(splits) > 1:
        folders = [options.out / f"fold{k}" for k in range(1, len(splits) + 1)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    if splits[0].subjects and is_first():
        folds.keep_subjects(splits, options.out)
    networks = [
        experiment.trained(
            split.train,
            len(split.classes),
            options,
            device,
            checkpoint_of(options, folder),
            class_weights=split.class_weights,
            standardize=True,
        )
        for split, folder in zip(splits, folders, strict=True)
    ]
    if not is_first():
        return
    found = [
        experiment.explain(network, split, options, device, folder, run(options))
        for network, split, folder in zip(networks, splits, folders, strict=True)
    ]
    if len(found) > 1:
        folds.write_folds(found, options.out, run(options))


def checkpoint_of(options: argparse.Namespace, folder: Path) -> Path:
    """Where training is kept: --checkpoint, or beside the figures."""
    return options.checkpoint or folder / f"{options.arch}.pt"


def run(options: argparse.Namespace) -> dict:
    """What was run, for metrics.json."""
    told = {k: v for k, v in vars(options).items() if not isinstance(v, Path)}
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {"options": told, "machine": machine, "torch": torch.__version__}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    experiments = parser.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    own = experiments.add_parser("simulated", help="lesions in drawn slices: Figs. 2 and 3")
    own.add_argument("--images", type=int, default=6000, help="for training; a third for tests")
    experiment.add_common(own, weights="none", lr=1e-3, workers=0)
    workers = min(8, (os.cpu_count() or 1) - 1)
    for name, module in CLINICAL.items():
        own = experiments.add_parser(name, help=module.__doc__)
        own.add_argument("--root", type=Path, default=Path("."), help="by default this folder")
        module.add_options(own)
        experiment.add_common(own, weights="imagenet", lr=1e-4, workers=workers)
    options = parser.parse_args()
    if options.image_size < SMALLEST:
        parser.error(
            f"--image-size: got {options.image_size}, expected {SMALLEST} or more: the networks' "
            "last maps have a 32nd of it, and one cell is no map."
        )
    return options


if __name__ == "__main__":
    main()
