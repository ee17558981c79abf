"""Axial slices of scans: a range and a box of them, scaled by volume, the latest kept in memory."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from captum_hrcam.datasets.nifti import open_scan, read_slices, stack_shape

Array = np.ndarray[Any, Any]

_WINDOW = (1, 99)  # percentiles of the volume shown as 0 and 1
_CACHE_BYTES = 2**29  # of slices kept per process


class SliceReader:
    """
    Reads slices of scans, in 0..1 between two percentiles of their volume.

    A volume is read whole once, for its percentiles, and later only in the range. The reader is
    pickled without the slices in memory: each DataLoader worker reads its own.

    Args:
        slices (tuple[int, int]): start and stop; None for all.
        box (tuple[int, int, int, int]): y0, y1, x0, x1; None for whole slices.
    """

    def __init__(
        self, slices: tuple[int, int] | None, box: tuple[int, int, int, int] | None
    ) -> None:
        self.slices, self.box = slices, box
        self._windows: dict[Path, tuple[float, float]] = {}
        self._cache: OrderedDict[Path, Array] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": OrderedDict()}

    def extent(self, scan: Any) -> tuple[slice, slice, slice]:
        """The levels, rows and columns to take from a scan's whole stack."""
        depth, height, width = stack_shape(scan)
        start, stop = self.slices or (0, depth)
        y0, y1, x0, x1 = self.box or (0, height, 0, width)
        return slice(start, stop), slice(y0, y1), slice(x0, x1)

    def levels(self, path: Path) -> list[int]:
        """The slice numbers to take from a scan; ValueError where range or box are outside it."""
        scan = open_scan(path)
        depth, height, width = stack_shape(scan)
        levels, rows, columns = self.extent(scan)
        if not 0 <= levels.start < levels.stop <= depth:
            raise ValueError(f"slices: got {self.slices}, but {path} has {depth} slices.")
        if not (
            0 <= rows.start < rows.stop <= height and 0 <= columns.start < columns.stop <= width
        ):
            raise ValueError(
                f"box: got (y0, y1, x0, x1) = {self.box}, but slices of {path} have {height} rows "
                f"and {width} columns."
            )
        return list(range(levels.start, levels.stop))

    def read(self, path: Path, level: int) -> Array:
        """One slice, (rows, columns) of the box, from memory or file."""
        if path not in self._cache:
            self._cache[path] = self._stack(path)
            while len(self._cache) > 1 and self._bytes > _CACHE_BYTES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(path)
        return self._cache[path][level - (self.slices[0] if self.slices else 0)]

    @property
    def _bytes(self) -> int:
        return sum(stack.nbytes for stack in self._cache.values())

    def _stack(self, path: Path) -> Array:
        scan = open_scan(path)
        levels, rows, columns = self.extent(scan)
        if path in self._windows:
            stack = read_slices(scan, levels.start, levels.stop)
        else:
            volume = read_slices(scan, 0, stack_shape(scan)[0])
            self._windows[path] = _window(path, volume)
            stack = volume[levels]
        low, high = self._windows[path]
        return np.clip((stack[:, rows, columns] - low) / (high - low), 0, 1, dtype=np.float32)


def _window(path: Path, volume: Array) -> tuple[float, float]:
    if not np.isfinite(volume).all():
        raise ValueError(f"{path}: holds NaN or infinity; expected finite intensities.")
    low, high = (float(v) for v in np.percentile(volume, _WINDOW))
    if low == high:
        raise ValueError(f"{path}: nearly all voxels are {low:g}; expected an image.")
    return low, high
