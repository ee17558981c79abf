"""Reading a data set's files: tables, folders and images, with errors that name the path."""

import csv
import os
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

# What Pillow raises for damaged files depends on the format and on where the damage lies.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error)


class _MoreThan8Bits(ValueError):
    """An image that is whole, but cannot be shown as it is."""


def check_split(split: str, allowed: Sequence[str]) -> None:
    """ValueError unless ``split`` is one of ``allowed``."""
    if split not in allowed:
        raise ValueError(f"split: got {split!r}, expected one of {', '.join(map(repr, allowed))}.")


def existing(path: Path, expected: str) -> Path:
    """``path`` itself, or a FileNotFoundError that says what was expected there."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: not found. {expected}")
    return path


def read_table(
    path: Path, columns: Sequence[str], expected: str, delimiter: str = ","
) -> list[dict[str, str]]:
    """The rows of a CSV or TSV file by column name. Every row must hold ``columns``, and no two
    rows may have the same value in the first of these."""
    # Excel saves with a byte-order mark, which would become part of the first column's name.
    with existing(path, expected).open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        header = list(reader.fieldnames or ())
        absent = [column for column in columns if column not in header]
        if absent:
            raise ValueError(
                f"{path}: no column {', '.join(map(repr, absent))}; it has {header}. {expected}"
            )
        rows = list(reader)
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ValueError(f"{path}, line {line}: expected {len(header)} fields, as its header.")
    if not rows:
        raise ValueError(f"{path}: holds a header and no rows. {expected}")
    first, n = Counter(row[columns[0]].strip() for row in rows).most_common(1)[0]
    if n > 1:
        raise ValueError(f"{path}: {first!r} stands in {n} rows, expected one. Remove the others.")
    return rows


def check_listed(table: Path, folder: Path, names: Sequence[str], expected: str) -> None:
    """FileNotFoundError unless all ``names`` that ``table`` lists are files under ``folder``.

    Each folder is listed once: looking for tens of thousands of files one by one is slow on network
    disks.
    """
    present: dict[str, set[str]] = {}
    missing = []
    for name in names:
        parent, _, base = name.rpartition("/")
        if parent not in present:
            inside = folder / parent
            present[parent] = set(os.listdir(inside)) if inside.is_dir() else set()
        if base not in present[parent]:
            missing.append(name)
    if missing:
        raise FileNotFoundError(
            f"{folder / missing[0]}: listed in {table}, but not there; "
            f"{len(missing)} of {len(names)} listed images are missing. {expected}"
        )


def read_image(path: Path, mode: str = "RGB") -> Image.Image:
    """The decoded image in Pillow's ``mode``, of 8 bits. A missing or damaged file raises an
    OSError that names it, an image of more bits a ValueError."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would cut off all above 255
                raise _MoreThan8Bits(
                    f"{path}: has more than 8 bits a pixel (Pillow's mode {image.mode!r}). Convert "
                    "it to 8 bits, with the window that it is to be seen in."
                )
            return image.convert(mode)
    except (FileNotFoundError, _MoreThan8Bits):
        raise
    except _DAMAGED as error:
        raise OSError(
            f"{path}: cannot be read as an image ({error}). The file is damaged or truncated; "
            "extract or copy it again."
        ) from error
