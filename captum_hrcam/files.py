"""Files that are written whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def in_a_folder(path: str | os.PathLike[str]) -> Path:
    """The path of a file to be written; refused if it is a folder or its folder does not exist."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"path: {os.fspath(path)!r} is a folder; name a file in it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: no folder {os.fspath(path.parent)!r}; make it first.")
    return path


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a new file beside ``path``, which replaces ``path`` once all of it is on the disk. After
    an error or interruption, an earlier file is as it was, and nothing else is left."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
