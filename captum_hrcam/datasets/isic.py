"""ISIC 2019: dermoscopic images of eight kinds of skin lesion."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import VisionDataset

from captum_hrcam.datasets.files import (
    check_listed,
    check_split,
    existing,
    read_image,
    read_table,
)
from captum_hrcam.datasets.masks import transformed
from captum_hrcam.datasets.splits import split_indices

_IMAGES = "ISIC_2019_Training_Input"
_LABELS = "ISIC_2019_Training_GroundTruth.csv"
_METADATA = "ISIC_2019_Training_Metadata.csv"
_EXPECTED = (
    f"ISIC2019 expects {_IMAGES}/*.jpg, {_LABELS} and {_METADATA} in root: the training data of "
    "the ISIC 2019 challenge, from https://challenge.isic-archive.com/data/#2019 under "
    "CC BY-NC 4.0. Nothing is downloaded for you."
)
_EXPECTED_MASKS = (
    "masks expects the folder of ISIC_*_segmentation.png of the ISIC 2018 challenge, task 1 "
    "(ISIC2018_Task1_Training_GroundTruth), from https://challenge.isic-archive.com/data/#2018."
)


class ISIC2019(VisionDataset):
    r"""
    The training data of the ISIC 2019 challenge: 25,331 images, eight classes (the paper's).

    No lesion has images in both the training and the test split. The split is grouped by lesion and
    stratified by class; an image without a lesion id is a group of its own. The test set of the
    challenge has no public labels in this layout and is not used.

    Args:
        root (str or Path): the folder with ``ISIC_2019_Training_Input/``,
            ``ISIC_2019_Training_GroundTruth.csv`` and ``ISIC_2019_Training_Metadata.csv``.
        split (str): "train", "test" or "all".
        test_fraction (float): share of every class in the test split.
        seed (int): the seed of the split.
        masks (str or Path): folder of lesion masks, ``ISIC_0000000_segmentation.png``, from ISIC
            2018 task 1; most images have none.
        transform (Callable): applied to the image, a PIL image in RGB.
        target_transform (Callable): applied to the label.
        mask_transform (Callable): applied to the mask by :meth:`mask`; see there.

    Attributes:
        classes (tuple[str, ...]): MEL, NV, BCC, AK, BKL, DF, VASC, SCC.
        targets (list[int]): the label of each item, an index into ``classes``.
        names (list[str]): the image id of each item, sorted, as ``ISIC_0000002_downsampled``.
        lesion_id (list[str | None]): the lesion of each item, None where it is not known.
        masked (list[int]): the items that have a mask.

    Returns (by index):
        tuple[Image, int]: image (RGB) and label, transformed.

    Raises:
        FileNotFoundError: root, a table, a listed image or the masks folder is missing.
        ValueError: unknown split; a column is missing; an image without exactly one label or
            without metadata.
        OSError: (by index) an image is damaged or truncated.

    Examples::

        >>> from torchvision.transforms import v2 as T
        >>> to_tensor = T.Compose([T.Resize((224, 224)), T.PILToTensor(), T.ToDtype(torch.float)])
        >>> train = ISIC2019("ISIC_2019", "train", transform=to_tensor)  # doctest: +SKIP
        >>> test = ISIC2019(
        ...     "ISIC_2019", "test", masks="ISIC_masks", transform=to_tensor,
        ...     mask_transform=to_tensor)  # doctest: +SKIP
        >>> image, label = test[test.masked[0]]  # doctest: +SKIP
        >>> test.mask(test.masked[0]).shape == image.shape[1:]  # doctest: +SKIP
        True
        >>> set(train.names) & set(test.names)  # doctest: +SKIP
        set()
    """

    classes = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        test_fraction: float = 0.2,
        seed: int = 0,
        masks: str | Path | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        mask_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(root, transform=transform, target_transform=target_transform)
        check_split(split, ("train", "test", "all"))
        self.split, self.mask_transform = split, mask_transform
        self._images = existing(existing(Path(self.root), _EXPECTED) / _IMAGES, _EXPECTED)
        labels, lesions = self._read_labels(), self._read_lesions()
        names = sorted(labels)  # not the table's order
        unknown = [name for name in names if name not in lesions]
        if unknown:
            raise ValueError(
                f"{Path(self.root) / _METADATA}: no row for image {unknown[0]}, which {_LABELS} "
                f"lists ({len(unknown)} in all). Use both tables of the same download."
            )
        # A lone image's own name cannot collide with a lesion's (BCN_*, HAM_*, MSK*).
        groups = [lesions[name] or name for name in names]
        strata = [labels[name] for name in names]
        names = [names[i] for i in split_indices(split, strata, groups, test_fraction, seed)]
        self.names = names
        self.targets = [labels[name] for name in names]
        self.lesion_id = [lesions[name] for name in names]
        files = [f"{name}.jpg" for name in names]
        check_listed(Path(self.root) / _LABELS, self._images, files, _EXPECTED)
        self._masks = _find_masks(Path(masks).expanduser()) if masks is not None else {}
        self.masked = [i for i, name in enumerate(names) if _original(name) in self._masks]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        image, target = read_image(self.path(i)), self.targets[i]
        return self.transforms(image, target) if self.transforms else (image, target)

    def path(self, i: int) -> Path:
        """
        The file of an item.

        Args:
            i (int): the item.

        Returns:
            *Path*: of the image.
        """
        return self._images / f"{self.names[i]}.jpg"

    def mask(self, i: int) -> Tensor | None:
        """
        The lesion's pixels, (H, W) bool, or None.

        Masks are drawn on the full image; for the challenge's downsampled images they are resized
        (nearest neighbour). ``transform`` is not applied, but ``mask_transform`` is. It is given a
        ``torchvision.tv_tensors.Mask``, so the image's own transform can serve for both if it is of
        ``torchvision.transforms.v2`` and draws nothing at random: it resizes and crops the mask by
        the nearest neighbour, and leaves its values alone.

        Args:
            i (int): the item.

        Returns:
            Tensor or None: the mask, or None where the item has none; see ``masked``.

        Raises:
            TypeError: ``mask_transform`` does not give a tensor.
            ValueError: the mask's proportions are not the image's.
            OSError: the mask is damaged or truncated.
        """
        file = self._masks.get(_original(self.names[i]))
        if file is None:
            return None
        mask = read_image(file, mode="L")
        with Image.open(self.path(i)) as image:
            width, height = image.size  # from the header; nothing is decoded
        if abs(mask.width * height / (mask.height * width) - 1) > 0.02:
            raise ValueError(
                f"{file}: {mask.width}x{mask.height} pixels, which does not fit the proportions of "
                f"{self.path(i)}, {width}x{height}. Expected the mask of this image."
            )
        resized = mask.resize((width, height), Image.Resampling.NEAREST)
        drawn = torch.from_numpy(np.asarray(resized) > 0)  # stored as 255, or as 1
        return transformed(drawn, self.mask_transform)

    def extra_repr(self) -> str:
        """The split and how many images each class has, for ``repr``."""
        counts = ", ".join(f"{c} {self.targets.count(k)}" for k, c in enumerate(self.classes))
        return f"Split: {self.split}\nClasses: {counts}"

    def _read_labels(self) -> dict[str, int]:
        """{image: class} from the one-hot columns."""
        path = Path(self.root) / _LABELS
        labels = {}
        for row in read_table(path, ("image", *self.classes), _EXPECTED):
            marks = [row[c].strip() for c in self.classes]
            ones = [k for k, mark in enumerate(marks) if mark in ("1", "1.0")]
            if len(ones) != 1 or any(mark not in ("0", "0.0", "1", "1.0") for mark in marks):
                raise ValueError(
                    f"{path}: image {row['image']} is labelled {', '.join(marks)}; expected 1.0 "
                    f"for exactly one of {', '.join(self.classes)}, and 0.0 for the others."
                )
            labels[row["image"]] = ones[0]
        return labels

    def _read_lesions(self) -> dict[str, str | None]:
        """{image: lesion id or None}."""
        rows = read_table(Path(self.root) / _METADATA, ("image", "lesion_id"), _EXPECTED)
        return {row["image"]: row["lesion_id"].strip() or None for row in rows}


def _original(name: str) -> str:
    """The archive's id: the 2019 challenge marks images it made smaller by a suffix."""
    return name.removesuffix("_downsampled")


def _find_masks(folder: Path) -> dict[str, Path]:
    suffix = "_segmentation.png"
    files = existing(folder, _EXPECTED_MASKS).glob(f"ISIC_*{suffix}")
    masks = {file.name.removesuffix(suffix): file for file in files}
    if not masks:
        raise FileNotFoundError(f"{folder}: no ISIC_*{suffix} in it. {_EXPECTED_MASKS}")
    return masks
