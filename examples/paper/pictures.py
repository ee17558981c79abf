"""What the networks see: images at their size, augmented or not, and the two sides of a split."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from captum_hrcam.datasets.splits import held_out

# The paper's three, as far as it says: flip, rotation, shift; black beyond the image's edge.
AUGMENT = v2.Compose(
    [
        v2.RandomHorizontalFlip(),
        v2.RandomAffine(20, translate=(0.1, 0.1), interpolation=v2.InterpolationMode.BILINEAR),
    ]
)


class Pictures(Dataset):
    """Items of a data set, transformed; each comes ``times`` times per epoch.

    Args:
        source: gives (image, label).
        transform: applied to each image when it is read.
        items: of the source; None for all.
        times: 10 with a random transform is the paper's tenfold augmentation.
    """

    def __init__(
        self,
        source: Dataset,
        transform: Callable,
        items: Sequence[int] | None = None,
        times: int = 1,
    ) -> None:
        self.source, self.transform, self.times = source, transform, times
        self.items = list(range(len(source)) if items is None else items)

    def __len__(self) -> int:
        return len(self.items) * self.times

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image, label = self.source[self.items[i % len(self.items)]]
        return self.transform(image), label


@dataclass
class Split:
    """Images to train on and to test on, and which of the latter to draw.

    Args:
        train: the training images, augmented.
        plain: the training images without augmentation, each once; the heads are fitted on them.
        test: the test images, neither augmented nor seen before.
        classes: the K classes' names.
        cases: (item of ``test``, the class whose map is drawn, caption).
        names: what each case is in the data set, for metrics.json.
        class_weights: (K,), the classes' weights in the loss.
        masks: (cases, H, W), to be outlined.
        subjects: the subjects on each of the two sides, if the split is by subject.
        held: the items of ``plain`` that the heads' choices are made on, all those of some patients
            or lesions; empty where each image stands for itself.
        standardize: whether the images are in 0..1, for the network to standardize.
    """

    train: Dataset
    plain: Dataset
    test: Dataset
    classes: list[str]
    cases: list[tuple[int, int, str]]
    names: list[str]
    class_weights: Tensor | None = None
    masks: Tensor | None = None
    subjects: dict[str, list[str]] = field(default_factory=dict)
    held: list[int] = field(default_factory=list)
    standardize: bool = True


def to_pixels(size: int, *, gray: bool = False, augment: bool = False) -> v2.Compose:
    """A transform to three channels in 0..1, squeezed to a square.

    Args:
        size: pixels per side.
        gray: images are tensors (1, H, W) in 0..1; otherwise PIL images in RGB.
        augment: also flip, turn and shift at random, by ``AUGMENT``.
    """
    resize = v2.Resize((size, size), antialias=True)
    to_tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    steps = [resize, v2.Grayscale(3)] if gray else [resize, *to_tensor]
    return v2.Compose([*steps, AUGMENT] if augment else steps)


def apart(targets: Sequence[int], groups: Sequence[str]) -> list[int]:
    """A fifth of the items, class by class, with all that belong to the same patient or lesion."""
    return [i for i, out in enumerate(held_out(targets, groups, fraction=0.2, seed=0)) if out]


def first_of_each(keys: Iterable, items: Iterable[int]) -> list[int]:
    """The first item of each key in the data set's order, so no picture is picked for its looks."""
    found: dict = {}
    for key, i in zip(keys, items, strict=True):
        found.setdefault(key, i)
    return [found[key] for key in sorted(found)]
