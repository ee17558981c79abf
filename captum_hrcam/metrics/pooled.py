"""Figures over a whole set's pixels: average precision (PxAP in 2D, VxAP in 3D), the ROC curve."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from captum_hrcam.metrics.pairs import Array, ArrayOrTensor, Mask, Pairs
from captum_hrcam.metrics.ranking import average_precision
from captum_hrcam.metrics.scaling import scale_batch

Counts: TypeAlias = npt.NDArray[np.integer[Any]]

EXACT_BELOW = 10_000_000  # pixels: about a second and 500 MiB of sorting


class PooledAveragePrecision:
    """PxAP or VxAP batch by batch, for sets that do not fit in memory.

    Two histograms of the scaled values are kept, of object and of background pixels; values in one
    bin count as equal. Bins are even in the fourth root, so they are narrower for small values,
    where nearly all pixels of a map with a few high peaks lie. Memory is that of a batch and of the
    pixels that are kept; images may differ in size from batch to batch.

    Args:
        spatial_dims: 2 for images (PxAP), 3 for volumes (VxAP).
        bins: at least 1,000; a bin near 1 is 1 / bins wide, those below are narrower.
        exact_below: up to this many pixels are kept as they are, and the figure is exact; if there
            are more, all go into the histograms.

    Raises:
        ValueError: fewer bins, or other dimensions.

    Examples::

        >>> pooled = PooledAveragePrecision()
        >>> for _ in range(3):
        ...     pooled.update(np.arange(4.0).reshape(1, 2, 2), np.array([[[0, 1], [0, 1]]]))
        >>> pooled.n_images, round(pooled.compute(), 4)
        (3, 0.8333)
    """

    def __init__(self, spatial_dims: int = 2, bins: int = 10_000, exact_below: int = 0) -> None:
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims={spatial_dims}: expected 2 (images) or 3 (volumes)")
        if bins < 1000:
            raise ValueError(f"bins={bins}: expected 1000 or more, below the figure is coarse")
        self.spatial_dims = spatial_dims
        self.bins = bins
        self.n_images = 0
        self.n_empty = 0  # images without an object: their pixels count, as background
        # One bin more: the value 1, every map's maximum, has its own.
        self._inside = np.zeros(4 * bins + 1, dtype=np.int64)
        self._outside = np.zeros(4 * bins + 1, dtype=np.int64)
        self._exact_below = exact_below
        self._kept: list[tuple[Array, Mask]] = []  # scaled, flat
        self._pixels = 0

    def update(self, maps: ArrayOrTensor, masks: ArrayOrTensor) -> None:
        r"""Take one batch.

        Args:
            maps: (N, \*spatial) or (N, 1, \*spatial), or one image (\*spatial).
            masks: 0 and 1, one per map.

        Raises:
            ValueError: sizes that differ; NaN or infinity; a mask not of 0 and 1.
        """
        pairs = Pairs.of(maps, masks, self.spatial_dims)
        for a, m in zip(pairs.maps, pairs.masks, strict=True):
            self._add(a, m)

    def _add(self, a: Array, m: Mask) -> None:
        self._kept.append((scale_batch(a[None])[0].ravel(), m.ravel()))
        self.n_images += 1
        self.n_empty += not m.any()
        self._pixels += a.size
        if self._pixels > self._exact_below:
            for kept in self._kept:
                self._count(*kept)
            self._kept = []

    def _count(self, a: Array, m: Mask) -> None:
        inside, outside = self._histograms(a, m)
        self._inside += inside
        self._outside += outside

    def _histograms(self, a: Array, m: Mask) -> tuple[Counts, Counts]:
        index = (np.sqrt(np.sqrt(a)) * 4 * self.bins).astype(np.int64)
        n = len(self._inside)
        return np.bincount(index[m], minlength=n), np.bincount(index[~m], minlength=n)

    def compute(self) -> float:
        """The average precision over all pixels so far; NaN until an object has come.

        Raises:
            ImportError: scikit-learn, of the extra ``eval``, is not installed (exact only).
        """
        if self._kept:
            a, m = map(np.concatenate, zip(*self._kept, strict=True))
            return average_precision(a, m)
        inside, outside = self._inside[::-1], self._outside[::-1]  # by falling value
        if not inside.any():
            return np.nan
        tp, fp = inside.cumsum(), outside.cumsum()
        precision = tp / np.maximum(tp + fp, 1)
        return float((precision * inside).sum() / tp[-1])

    def roc(self) -> tuple[Array, Array]:
        """The ROC curve over all pixels so far, in bins even if pixels are kept.

        Returns:
            (fpr, tpr), rising from 0 to 1, at most 4 ``bins`` + 2 points; the false positive rates
            are NaN until background has come, the true positive rates until an object has.
        """
        inside: Counts = self._inside
        outside: Counts = self._outside
        if self._kept:
            inside, outside = self._histograms(*map(np.concatenate, zip(*self._kept, strict=True)))
        filled = np.flatnonzero(inside + outside)[::-1]  # by falling value; the others add no point
        return _rates(outside[filled]), _rates(inside[filled])


def pxap(
    maps: ArrayOrTensor,
    masks: ArrayOrTensor,
    *,
    exact_below: int = EXACT_BELOW,
    bins: int = 10_000,
) -> float:
    """PxAP (Choe et al. 2020): average precision over the pixels of all images pooled.

    Each map is first scaled to 0..1 on its own. For a set that does not fit in memory, use
    :class:`PooledAveragePrecision`.

    Args:
        maps: (H, W), (N, H, W) or (N, 1, H, W).
        masks: 0 and 1, one per map. An image with an empty mask adds background pixels.
        exact_below: with at most this many pixels, the figure is scikit-learn's, which is exact;
            with more, it comes from histograms.
        bins: as for :class:`PooledAveragePrecision`.

    Returns:
        One float; NaN where all masks are empty.

    Raises:
        ValueError: volumes; sizes that differ; NaN or infinity; a mask not of 0 and 1.
        ImportError: scikit-learn, of the extra ``eval``, is not installed (exact only).

    Examples::

        >>> maps = np.array([[[4.0, 3.0], [2.0, 1.0]], [[0.0, 0.0], [0.0, 5.0]]])
        >>> masks = np.array([[[1, 0], [1, 0]], [[0, 0], [0, 1]]])
        >>> round(pxap(maps, masks), 4)  # by falling value: two inside; one outside; one inside
        0.9167
    """
    return _pooled(maps, masks, 2, exact_below, bins)


def vxap(
    maps: ArrayOrTensor,
    masks: ArrayOrTensor,
    *,
    exact_below: int = EXACT_BELOW,
    bins: int = 10_000,
) -> float:
    """VxAP: :func:`pxap` over the voxels of volumes, each scaled as a whole.

    Args:
        maps: (D, H, W), (N, D, H, W) or (N, 1, D, H, W).
        masks: 0 and 1, one per map.
        exact_below, bins: as :func:`pxap`.

    Returns:
        One float; NaN where all masks are empty.

    Raises:
        ValueError: images; sizes that differ; NaN or infinity; a mask not of 0 and 1.
        ImportError: as :func:`pxap`.

    Examples::

        >>> volume, mask = np.arange(8.0).reshape(2, 2, 2), np.zeros((2, 2, 2))
        >>> mask[1, 1] = 1  # the two highest values
        >>> vxap(volume, mask)
        1.0
    """
    return _pooled(maps, masks, 3, exact_below, bins)


def _pooled(
    maps: ArrayOrTensor, masks: ArrayOrTensor, spatial_dims: int, exact_below: int, bins: int
) -> float:
    pairs = Pairs.of(maps, masks, spatial_dims)
    pooled = PooledAveragePrecision(spatial_dims, bins, exact_below)
    for a, m in zip(pairs.maps, pairs.masks, strict=True):
        pooled._add(a, m)
    return pooled.compute()


def _rates(counts: Counts) -> Array:
    """Cumulative shares of the total count, starting at 0."""
    return np.append(0, counts.cumsum()) / (counts.sum() or np.nan)
