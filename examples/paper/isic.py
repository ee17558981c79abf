"""ISIC 2019, eight kinds of skin lesion: the paper's Fig. 4."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import v2

from captum_hrcam.datasets import ISIC2019
from paper.pictures import Pictures, Split, apart, first_of_each, to_pixels


def add_options(parser: ArgumentParser) -> None:
    outlined = "ISIC2018_Task1_Training_GroundTruth, to outline lesions"
    parser.add_argument("--masks", type=Path, metavar="DIR", help=outlined)


def splits(options: Namespace) -> list[Split]:
    """Train and test, split by lesion; one case of each class, with a mask if the class has one."""
    size = options.image_size
    train = ISIC2019(options.root, "train")
    test = ISIC2019(options.root, "test", masks=options.masks)
    masked = set(test.masked)
    items = sorted(range(len(test)), key=lambda i: i not in masked)
    shown = first_of_each([test.targets[i] for i in items], items)
    names = [test.names[i] for i in shown]
    cases = [
        (i, test.targets[i], name.removesuffix("_downsampled"))
        for i, name in zip(shown, names, strict=True)
    ]
    lesions = [known or name for known, name in zip(train.lesion_id, train.names, strict=True)]
    return [
        Split(
            Pictures(train, to_pixels(size, augment=True)),
            Pictures(train, to_pixels(size)),
            Pictures(test, to_pixels(size)),
            list(test.classes),
            cases,
            names,
            class_weights=balanced(train.targets, len(train.classes)),
            masks=masks(test, shown, size) if masked else None,
            held=apart(train.targets, lesions),
        )
    ]


def balanced(targets: list[int], n_classes: int) -> Tensor:
    """Class weights inverse to the classes' numbers of images, 1 on average over the images."""
    counts = torch.bincount(torch.tensor(targets), minlength=n_classes).clamp(min=1)
    return len(targets) / (n_classes * counts)


def masks(data: ISIC2019, items: list[int], size: int) -> Tensor:
    """The items' masks (items, size, size), bool, squeezed to a square like the images; all False
    if an image has none."""
    resize = v2.Resize((size, size), v2.InterpolationMode.NEAREST)
    drawn = torch.zeros(len(items), size, size, dtype=torch.bool)
    for row, i in zip(drawn, items, strict=True):
        mask = data.mask(i)
        if mask is not None:
            row[:] = resize(mask[None].to(torch.uint8))[0] > 0
    return drawn
