"""Where a threshold comes from: the map, a validation set, or (labelled so) the test set."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from captum_hrcam.metrics.overlap import Threshold, iou
from captum_hrcam.metrics.pairs import Array, ArrayOrTensor, Figures, as_maps, defined
from captum_hrcam.metrics.scaling import scale_batch

# t = 0 marks every pixel of every map: it would score the image's layout, not the map.
GRID: Array = np.arange(1, 100) / 100


def otsu_threshold(maps: ArrayOrTensor) -> Threshold:
    r"""Otsu's threshold of each map (Otsu 1979): two groups of pixels, as far apart as can be.

        t = argmax over t of  w0 w1 (m0 - m1)²,    w, m: count and mean below t, and from t on

    t is chosen among the map's own values, not a histogram's bins. No mask is used; on a constant
    map nothing is marked.

    Args:
        maps: (H, W), (N, \*spatial) or (N, 1, \*spatial), 2D or 3D.

    Returns:
        Threshold with (N,) values in 0..1, or one value for one image (H, W).

    Raises:
        ValueError: a shape other than these; NaN or infinity.

    Examples::

        >>> A, M = np.array([[0.0, 1.0], [9.0, 10.0]]), np.array([[0, 0], [1, 1]])
        >>> iou(A, M, otsu_threshold(A))
        1.0
    """
    values, single = as_maps(maps)
    t = np.array([_otsu(a.ravel()) for a in scale_batch(values)])
    return Threshold(float(t[0]) if single else t, "otsu")


def validation_threshold(
    maps: ArrayOrTensor,
    masks: ArrayOrTensor,
    score: Callable[[ArrayOrTensor, ArrayOrTensor, float], Figures] = iou,
    grid: Sequence[float] | Array = GRID,
) -> Threshold:
    r"""The one threshold that is best, on average, for images that will not be scored.

    Args:
        maps: of the validation images, (N, \*spatial) or (N, 1, \*spatial), 2D or 3D.
        masks: 0 and 1, one per map.
        score: ``iou``, ``dice`` or any score(maps, masks, t) -> (N,); higher is better.
        grid: the thresholds tried; among equally good ones, the first is taken.

    Returns:
        Threshold with one value.

    Raises:
        ValueError: as :func:`iou`; no image with an object.

    Examples::

        >>> maps, masks = np.array([[[0.0, 2.0], [3.0, 4.0]]]), np.array([[[0, 0], [1, 1]]])
        >>> print(validation_threshold(maps, masks))
        0.51 (validation)
    """
    return _best(maps, masks, score, grid, "validation")


def oracle_threshold(
    maps: ArrayOrTensor,
    masks: ArrayOrTensor,
    score: Callable[[ArrayOrTensor, ArrayOrTensor, float], Figures] = iou,
    grid: Sequence[float] | Array = GRID,
) -> Threshold:
    """The one threshold that is best for the very images that are scored: an upper bound.

    Its label says "oracle", and so must every table: in practice, nobody knows this threshold.

    Args:
        maps, masks: of the images that are scored; as :func:`validation_threshold`.
        score, grid: as :func:`validation_threshold`.

    Returns:
        Threshold with one value.

    Raises:
        ValueError: as :func:`validation_threshold`.

    Examples::

        >>> maps, masks = np.array([[[0.0, 2.0], [3.0, 4.0]]]), np.array([[[0, 0], [1, 1]]])
        >>> print(oracle_threshold(maps, masks))
        0.51 (oracle)
    """
    return _best(maps, masks, score, grid, "oracle")


def _otsu(x: Array) -> float:
    """The lowest value of the upper group; 1 for a constant map, which is scaled to 0."""
    x = np.sort(x)
    w0 = np.flatnonzero(np.diff(x)) + 1  # a split lies between unequal neighbours only
    if len(w0) == 0:
        return 1.0
    w1 = len(x) - w0
    below = x.cumsum()[w0 - 1]
    m0, m1 = below / w0, (x.sum() - below) / w1
    return float(x[w0[(w0 * w1 * (m0 - m1) ** 2).argmax()]])


def _best(
    maps: ArrayOrTensor,
    masks: ArrayOrTensor,
    score: Callable[[ArrayOrTensor, ArrayOrTensor, float], Figures],
    grid: Sequence[float] | Array,
    source: Literal["validation", "oracle"],
) -> Threshold:
    if len(grid) == 0:
        raise ValueError("grid is empty: expected thresholds in 0..1, as [0.1, 0.5, 0.9]")
    scores = np.stack([np.atleast_1d(score(maps, masks, float(t))) for t in grid], axis=1)
    if np.isnan(scores).any(1).all():
        raise ValueError(
            f"masks: the score is undefined for {len(scores)} of {len(scores)} images, as for an "
            "empty mask: expected at least one image with an object, by which to choose a threshold"
        )
    scores = defined(scores, "the threshold's score", stacklevel=4)  # (images, thresholds)
    return Threshold(float(grid[int(scores.mean(0).argmax())]), source)
