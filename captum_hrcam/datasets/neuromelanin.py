"""Neuromelanin-sensitive MRI of the brain stem: Parkinson's disease or not, from a BIDS folder."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import VisionDataset

from captum_hrcam.datasets.bids import find_scans, read_groups
from captum_hrcam.datasets.files import check_split, existing
from captum_hrcam.datasets.nifti import Array, from_slices, open_scan, stack_shape
from captum_hrcam.datasets.slices import SliceReader
from captum_hrcam.datasets.splits import split_indices

_EXPECTED = (
    "NeuromelaninMRI expects a BIDS folder as root: participants.tsv with participant_id and a "
    "group column, and sub-*/anat/*.nii.gz (or sub-*/ses-*/anat/). The paper's scans are not "
    "public: use your own, under the terms of your study. Nothing is downloaded for you."
)


class NeuromelaninMRI(VisionDataset):
    r"""
    Axial slices of neuromelanin-sensitive MRI, patients and others, split by subject.

    Slices are shown as a radiologist sees them: anterior at the top, the patient's right at the
    left. Axes are the stored ones nearest to the canonical ones (right, anterior, superior);
    nothing is interpolated. Intensities are scaled per volume, its 1st percentile to 0 and its
    99th to 1, and clipped.

    A volume is read whole once, for its percentiles, and later only in the range of ``slices``. The
    slices (up to 512 MiB per process) are kept in memory. DataLoader workers keep theirs from epoch
    to epoch with ``persistent_workers=True``.

    Args:
        root (str or Path): a BIDS folder: ``participants.tsv``, ``sub-*/anat/*.nii.gz`` (or .nii),
            with or without ``ses-*``.
        split (str): "train", "test" or "all".
        group_column (str): the column of ``participants.tsv`` with the group.
        positive (str): the group with label 1; all others have label 0.
        suffix (str): the BIDS suffix of the scans to take, as "MTw" for ``sub-01_MTw.nii.gz``, or
            a longer end of their names, as "part-mag_MTw" or "acq-NM_T1w"; None if all scans are of
            one kind.
        slices (tuple[int, int]): start and stop, counted upwards from the lowest slice, 0; None for
            all.
        box (tuple[int, int, int, int]): y0, y1, x0, x1: rows and columns of the slice as shown,
            around the brain stem; None for whole slices.
        test_fraction (float): share of every group's subjects in the test split.
        seed (int): the seed of the split.
        transform (Callable): applied to the image, (1, H, W) float32 in 0..1. For networks on
            three channels, ``torchvision.transforms.v2.Grayscale(3)`` repeats it.
        target_transform (Callable): applied to the label.

    Attributes:
        classes (tuple[str, str]): the other groups' names, and ``positive``.
        targets (list[int]): the label of each item.
        subjects (list[str]): the subject of each item, as ``sub-01``.
        paths (list[Path]): the scan of each item.
        levels (list[int]): the slice number of each item in its scan.

    Returns (by index):
        tuple[Tensor, int]: image (1, H, W) and label, transformed.

    Raises:
        FileNotFoundError: root, ``participants.tsv`` or a participant's scan is missing.
        ValueError: unknown split; no group column; a subject without group or row; ``positive``
            or the other groups empty; several kinds of scans; a scan without orientation; slices
            or box outside one.
        OSError: a scan is damaged or truncated.
        ImportError: nibabel is not installed: ``pip install "captum-hrcam[mri]"``.

    Examples::

        >>> train = NeuromelaninMRI(
        ...     "nm_mri", "train", slices=(2, 6), box=(8, 24, 6, 22))  # doctest: +SKIP
        >>> test = NeuromelaninMRI(
        ...     "nm_mri", "test", slices=(2, 6), box=(8, 24, 6, 22))  # doctest: +SKIP
        >>> set(train.subjects) & set(test.subjects)  # doctest: +SKIP
        set()
        >>> image, label = test[0]  # doctest: +SKIP
        >>> image.shape  # doctest: +SKIP
        torch.Size([1, 16, 16])
        >>> overlay = test.to_nifti(0, image)  # doctest: +SKIP
        >>> overlay.to_filename("map.nii.gz")  # doctest: +SKIP
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        group_column: str = "group",
        positive: str = "PD",
        suffix: str | None = None,
        slices: tuple[int, int] | None = None,
        box: tuple[int, int, int, int] | None = None,
        test_fraction: float = 0.3,
        seed: int = 0,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(root, transform=transform, target_transform=target_transform)
        check_split(split, ("train", "test", "all"))
        self.split, self.slices, self.box = split, slices, box
        folder = existing(Path(self.root), _EXPECTED)
        self._reader = SliceReader(slices, box)
        groups = read_groups(folder, group_column, _EXPECTED)
        self.classes = _classes(folder / "participants.tsv", group_column, groups, positive)
        scans = find_scans(folder, list(groups), suffix, _EXPECTED)
        subjects = sorted(groups)
        strata = [groups[s] for s in subjects]
        chosen = split_indices(split, strata, subjects, test_fraction, seed)
        self.targets: list[int] = []
        self.subjects: list[str] = []
        self.paths: list[Path] = []
        self.levels: list[int] = []
        for subject in (subjects[i] for i in chosen):
            for path in scans[subject]:
                levels = self._reader.levels(path)
                self.levels += levels
                self.paths += [path] * len(levels)
                self.subjects += [subject] * len(levels)
                self.targets += [int(groups[subject] == positive)] * len(levels)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        seen = self._reader.read(self.paths[i], self.levels[i])
        image = torch.tensor(seen)[None]  # a copy: transforms may write
        target = self.targets[i]
        return self.transforms(image, target) if self.transforms else (image, target)

    def to_nifti(self, items: int | str | Sequence[int], maps: Tensor | Array) -> Any:
        r"""
        Maps of slices as a NIfTI image on the scan's grid, to lay over the scan in any viewer.

        Args:
            items (int, str or Sequence[int]): one item, several items of one scan, or a subject:
                all its items.
            maps (Tensor or array): one map for each item, (n, H, W) or (n, 1, H, W), or (H, W)
                for one item; H and W those of the untransformed image.

        Returns:
            nibabel.Nifti1Image: float32, with the scan's shape, orientation and affine; zero
            outside the slices and the box.

        Raises:
            ValueError: no such subject; items of several scans; maps of another number or size.
        """
        chosen = self._items_of(items)
        scan = open_scan(self.paths[chosen[0]])
        _, rows, columns = self._reader.extent(scan)
        size = (len(chosen), rows.stop - rows.start, columns.stop - columns.start)
        if not isinstance(maps, Tensor):  # a copy: arrays may be read-only, flipped, big-endian
            maps = torch.from_numpy(np.array(maps, np.float32))
        shape = tuple(maps.shape)
        if maps.numel() != np.prod(size) or shape[-2:] != size[1:]:
            raise ValueError(
                f"maps: got shape {shape}, expected {size}: one map for each of {len(chosen)} "
                "item(s) at the size of the untransformed image. Undo transforms first, as by "
                f"torch.nn.functional.interpolate(maps, size={size[1:]}, mode='bilinear')."
            )
        stack = np.zeros(stack_shape(scan), np.float32)
        levels = [self.levels[i] for i in chosen]
        stack[levels, rows, columns] = maps.detach().cpu().float().reshape(size).numpy()
        return from_slices(scan, stack)

    def extra_repr(self) -> str:
        """The split and how many subjects each group has, for ``repr``."""
        counts = ", ".join(
            f"{name} {len({s for s, t in zip(self.subjects, self.targets, strict=True) if t == k})}"
            for k, name in enumerate(self.classes)
        )
        return f"Split: {self.split}\nSubjects: {counts}"

    def _items_of(self, items: int | str | Sequence[int]) -> list[int]:
        if isinstance(items, str):
            chosen = [i for i, subject in enumerate(self.subjects) if subject == items]
        else:
            chosen = [*items] if isinstance(items, Iterable) else [items]
        if not chosen:
            raise ValueError(f"items: got {items!r}, expected an item or a subject of this split.")
        scans = sorted({self.paths[i].name for i in chosen})
        if len({self.paths[i] for i in chosen}) > 1:
            raise ValueError(
                f"items: {items!r} are of several scans, {', '.join(scans)}. Pass the item numbers "
                "of one scan (see .paths) and their maps."
            )
        return chosen


def _classes(table: Path, column: str, groups: dict[str, str], positive: str) -> tuple[str, str]:
    found = sorted(set(groups.values()))
    others = [group for group in found if group != positive]
    if positive not in found or not others:
        raise ValueError(
            f"positive: got {positive!r}, but column {column!r} of {table} holds {found}; expected "
            "this group and at least one other."
        )
    return "/".join(others), positive
