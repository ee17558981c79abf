"""MURA: radiographs of the upper limb, normal or abnormal."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torchvision.datasets import VisionDataset

from captum_hrcam.datasets.files import check_listed, check_split, existing, read_image

_EXPECTED = (
    "MURA expects MURA-v1.1 (or the folder that holds it) as root, with train_image_paths.csv, "
    "valid_image_paths.csv, train/ and valid/: from "
    "https://stanfordmlgroup.github.io/competitions/mura/ or "
    "https://stanfordaimi.azurewebsites.net (MURA) after registration, under the Stanford "
    "University Dataset Research Use Agreement. Nothing is downloaded for you."
)
_STUDY_TYPES = (
    "XR_ELBOW",
    "XR_FINGER",
    "XR_FOREARM",
    "XR_HAND",
    "XR_HUMERUS",
    "XR_SHOULDER",
    "XR_WRIST",
)
# MURA-v1.1/train/XR_SHOULDER/patient00001/study1_positive/image1.png
_LINE = re.compile(
    r"[^/]+/(?P<name>(?:train|valid)/(?P<type>XR_[A-Z]+)/(?P<patient>patient\d+)/"
    r"study\d+_(?P<label>positive|negative)/[^/]+)"
)


class MURA(VisionDataset):
    r"""
    MURA v1.1: radiographs of seven parts of the upper limb, normal or abnormal (the paper's).

    The label is the study's (``study1_positive``): every image of an abnormal study is labelled
    abnormal, although the abnormality may show in one view only. Only what the tables list counts;
    other files in the folders are ignored. The hidden test set is not public.

    Args:
        root (str or Path): ``MURA-v1.1`` or the folder that holds it.
        split (str): "train" or "valid", the split of the data set itself.
        study_type (str or Sequence[str]): only these, "shoulder" or "XR_SHOULDER"; None for all.
        transform (Callable): applied to the image, a PIL image in RGB.
        target_transform (Callable): applied to the label.

    Attributes:
        classes (tuple[str, ...]): negative (normal), positive (abnormal).
        targets (list[int]): the label of each item, 1 for positive.
        patients (list[str]): the patient of each item, as ``patient00001``.
        study_types (list[str]): the study type of each item, as ``XR_SHOULDER``.
        names (list[str]): the path of each item in ``MURA-v1.1``, in the table's order.

    Returns (by index):
        tuple[Image, int]: image (RGB) and label, transformed.

    Raises:
        FileNotFoundError: root, the table or a listed image is missing.
        ValueError: unknown split or study type; a line of the table without label.
        OSError: (by index) an image is damaged or truncated.

    Examples::

        >>> train = MURA("MURA-v1.1", "train")  # doctest: +SKIP
        >>> shoulders = MURA("MURA-v1.1", "valid", study_type="shoulder")  # doctest: +SKIP
        >>> set(shoulders.study_types)  # doctest: +SKIP
        {'XR_SHOULDER'}
        >>> image, label = shoulders[0]  # doctest: +SKIP
        >>> shoulders.classes[label] in shoulders.names[0]  # doctest: +SKIP
        True
    """

    classes = ("negative", "positive")

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        study_type: str | Sequence[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(root, transform=transform, target_transform=target_transform)
        check_split(split, ("train", "valid"))
        wanted = _wanted_types(study_type)
        self.split = split
        self._folder = _find_folder(Path(self.root), f"{split}_image_paths.csv")
        table = self._folder / f"{split}_image_paths.csv"
        entries = [entry for entry in _read_lines(table) if entry["type"] in wanted]
        if not entries:
            raise ValueError(f"{table}: lists no image of {', '.join(wanted)}. {_EXPECTED}")
        self.names = [entry["name"] for entry in entries]
        self.targets = [self.classes.index(entry["label"]) for entry in entries]
        self.patients = [entry["patient"] for entry in entries]
        self.study_types = [entry["type"] for entry in entries]
        check_listed(table, self._folder, self.names, _EXPECTED)

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
        return self._folder / self.names[i]

    def extra_repr(self) -> str:
        """The split, its study types and how many images each class has, for ``repr``."""
        types = ", ".join(sorted(set(self.study_types)))
        counts = ", ".join(f"{c} {self.targets.count(k)}" for k, c in enumerate(self.classes))
        return f"Split: {self.split}\nStudy types: {types}\nClasses: {counts}"


def _wanted_types(study_type: str | Sequence[str] | None) -> tuple[str, ...]:
    if study_type is None:
        return _STUDY_TYPES
    given = [study_type] if isinstance(study_type, str) else list(study_type)
    wanted = tuple("XR_" + name.upper().removeprefix("XR_") for name in given)
    unknown = [name for name, full in zip(given, wanted, strict=True) if full not in _STUDY_TYPES]
    if unknown or not given:
        raise ValueError(
            f"study_type: got {unknown or given}, expected of {', '.join(_STUDY_TYPES)}."
        )
    return wanted


def _find_folder(root: Path, table: str) -> Path:
    """MURA-v1.1 itself, for root or its parent."""
    for folder in (root, root / "MURA-v1.1"):
        if (folder / table).is_file():
            return folder
    raise FileNotFoundError(f"{existing(root, _EXPECTED) / table}: not found. {_EXPECTED}")


def _read_lines(table: Path) -> list[dict[str, str]]:
    entries = []
    for number, line in enumerate(table.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(
                f"{table}, line {number}: got {line.strip()!r}, expected a path with study type, "
                "patient and label as "
                "MURA-v1.1/train/XR_SHOULDER/patient00001/study1_positive/image1.png."
            )
        entries.append(match.groupdict())
    return entries
