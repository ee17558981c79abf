"""Every row of pooled features: in memory while they fit, else on disk."""

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from captum_hrcam import group
from captum_hrcam.features import CHUNK_BYTES, Sample

CONTAINER = Path("/sys/fs/cgroup/memory.max")
SHARE_OF_MEMORY = 0.25  # for rows in memory; a solver needs as much again


class RowFile:
    """Rows on disk as float32, one image after the other; read back as memory-mapped tensors.

    Args:
        path: the file, created or overwritten.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.widths: list[int] = []
        # Kept open until it is mapped: another fit may remove the name.
        self._file: BinaryIO = open(path, "w+b")  # noqa: SIM115
        self._map: mmap.mmap | None = None

    @classmethod
    def existing(cls, path: Path, widths: list[int]) -> "RowFile":
        """Open a file that was written before."""
        rows = cls.__new__(cls)
        rows.path, rows.widths, rows._file, rows._map = path, widths, path.open("rb"), None
        return rows

    def add(self, *rows: Tensor) -> None:
        """Take one batch: a column of flags (n,), then columns (n, width)."""
        columns = [(row[:, None] if row.ndim == 1 else row).float() for row in rows]
        self.widths = [column.shape[1] for column in columns]
        with self._telling():
            self._file.write(torch.cat(columns, 1).numpy().data)

    def close(self) -> None:
        """Close a file that is not to be read."""
        self._file.close()

    def sync(self) -> None:
        """Put all rows on the disk."""
        with self._telling():
            self._file.flush()
            os.fsync(self._file.fileno())

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(
                error.errno,
                f"cache: {os.fspath(self.path)!r} cannot take more features ({error.strerror}); "
                "free some disk, name another folder, or use solver='pattern', which keeps none",
            ) from error

    def rows(self) -> tuple[Tensor, ...]:
        """The columns, (n,) bool and (n, width) each, views of the file."""
        if self._map is None:
            if self._file.writable():  # not one that was written before
                self.sync()
            with self._file:
                # Copy on write: a tensor must be writable, the file must not change.
                self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        width = sum(self.widths)
        table = torch.from_numpy(np.frombuffer(self._map, dtype=np.float32)).reshape(-1, width)
        flags = []
        for part in table.split(max(1, CHUNK_BYTES // (4 * width))):  # a flag reads its whole page
            flags.append(part[:, 0] > 0.5)
            self.forget()
        _, *columns = table.split(self.widths, 1)
        return (torch.cat(flags), *columns)

    def forget(self) -> None:
        """Release the pages that were read, which would count as this process's memory."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


class AllRows:
    """Keeps every row in memory, or in a temporary file once they exceed a limit.

    Args:
        limit: bytes to keep in memory; by default a quarter of the machine's, shared by the ranks
            that run on it.
    """

    def __init__(self, limit: float | None = None) -> None:
        if limit is None:
            limit = SHARE_OF_MEMORY * memory_of_machine() / group.size_on_machine()
        self.limit = limit
        self._memory = Sample(None)
        self._bytes = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.file: RowFile | None = None  # where rows are once they exceed the limit

    def add(self, *rows: Tensor) -> None:
        """Take one batch."""
        if self.file is not None:
            self.file.add(*rows)
            return
        self._memory.add(*rows)
        self._bytes += sum(row.nbytes for row in rows)
        if self._bytes > self.limit:
            self._folder = tempfile.TemporaryDirectory(prefix="captum-hrcam-")
            self.file = RowFile(Path(self._folder.name) / "features")
            self.file.add(*self._memory.rows())
            self._memory = Sample(None)

    def rows(self) -> tuple[Tensor, ...]:
        """The columns."""
        return self._memory.rows() if self.file is None else self.file.rows()

    @property
    def forget(self) -> Callable[[], None] | None:
        """Releases what was read from disk; None while the rows are in memory."""
        return None if self.file is None else self.file.forget


def memory_of_machine() -> int:
    """Bytes of RAM, or of the container's share; a very large number where the system does not
    say."""
    found = [2**62]
    with suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(ValueError, OSError):  # ValueError: "max", that is, no limit
        found.append(int(CONTAINER.read_text()))
    return min(found)
