"""What a thresholded map marks, against the mask: sensitivity, specificity, IoU, Dice.

Each map A is scaled to 0..1 on its own, then pixels with A >= t are marked. An image without an
object has no sensitivity, IoU or Dice: they are NaN, whatever the map and the threshold, so that
all methods are scored on the same images. An image that is all object has no specificity: NaN.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from captum_hrcam.metrics.pairs import Array, ArrayOrTensor, Figures, Mask, Pairs
from captum_hrcam.metrics.scaling import scale_batch


@dataclass(frozen=True)
class Threshold:
    """A threshold that remembers where it comes from; print it beside the figure it gave.

    Attributes:
        value: t in 0..1, on maps scaled to 0..1: one for all images, or (N,), one for each.
        source: where it comes from: "otsu", the map alone; "validation", other images; "oracle",
            the very images that are scored.

    Examples::

        >>> print(Threshold(0.42, "oracle"))
        0.42 (oracle)
    """

    value: float | Array
    source: Literal["otsu", "validation", "oracle"]

    def __str__(self) -> str:
        each = "per image" if np.ndim(self.value) else f"{float(self.value):.3g}"
        return f"{each} ({self.source})"


def sensitivity(
    maps: ArrayOrTensor, masks: ArrayOrTensor, threshold: float | Array | Threshold
) -> Figures:
    r"""TP / (TP + FN) of A >= t: the share of the object that is marked.

    The paper's figure (Shinde et al. 2021), at t = .3, .5, .8.

    Args:
        maps: (H, W), (N, \*spatial) or (N, 1, \*spatial), 2D or 3D.
        masks: 0 and 1, one per map.
        threshold: t in 0..1, on the map scaled to 0..1; or (N,), one per image.

    Returns:
        (N,) float64; a float for one image (H, W). NaN on an empty mask.

    Raises:
        ValueError: sizes that differ; NaN or infinity; a mask not of 0 and 1; t outside 0..1.

    Examples::

        >>> A, M = np.array([[0.0, 1.0], [2.0, 4.0]]), np.array([[0, 1], [0, 1]])
        >>> sensitivity(A, M, 0.5), specificity(A, M, 0.5)
        (0.5, 0.5)
    """
    pairs = Pairs.of(maps, masks)
    marked = _mark(pairs.maps, threshold)
    return pairs.figures(_ratio(_count(marked & pairs.masks), _count(pairs.masks)))


def specificity(
    maps: ArrayOrTensor, masks: ArrayOrTensor, threshold: float | Array | Threshold
) -> Figures:
    """TN / (TN + FP) of A >= t: the share of the background that is left unmarked.

    Args:
        maps, masks: as :func:`sensitivity`.
        threshold: likewise.

    Returns:
        (N,) float64; a float for one image (H, W). NaN where the mask covers the whole image.

    Raises:
        ValueError: as :func:`sensitivity`.

    Examples::

        >>> A, M = np.array([[0.0, 1.0], [2.0, 4.0]]), np.array([[0, 0], [0, 1]])
        >>> round(specificity(A, M, 0.5), 3)  # of three background pixels one is marked
        0.667
    """
    pairs = Pairs.of(maps, masks)
    marked = _mark(pairs.maps, threshold)
    return pairs.figures(_ratio(_count(~marked & ~pairs.masks), _count(~pairs.masks)))


def iou(maps: ArrayOrTensor, masks: ArrayOrTensor, threshold: float | Array | Threshold) -> Figures:
    """TP / (TP + FP + FN) of A >= t: intersection over union.

    Args:
        maps, masks: as :func:`sensitivity`.
        threshold: likewise, as from :func:`otsu_threshold`, :func:`validation_threshold` or
            :func:`oracle_threshold`.

    Returns:
        (N,) float64; a float for one image (H, W). NaN on an empty mask.

    Raises:
        ValueError: as :func:`sensitivity`.

    Examples::

        >>> A, M = np.array([[0.0, 1.0], [2.0, 4.0]]), np.array([[0, 1], [0, 1]])
        >>> iou(A, M, 0.25), dice(A, M, 0.25)
        (0.6666666666666666, 0.8)
    """
    pairs = Pairs.of(maps, masks)
    marked = _mark(pairs.maps, threshold)
    union = _count(marked | pairs.masks)
    return pairs.figures(_on_objects(_count(marked & pairs.masks), union, pairs.masks))


def dice(
    maps: ArrayOrTensor, masks: ArrayOrTensor, threshold: float | Array | Threshold
) -> Figures:
    """2 TP / (2 TP + FP + FN) of A >= t.

    Args:
        maps, masks: as :func:`sensitivity`.
        threshold: likewise.

    Returns:
        (N,) float64; a float for one image (H, W). NaN on an empty mask.

    Raises:
        ValueError: as :func:`sensitivity`.

    Examples::

        >>> A, M = np.array([[0.0, 1.0], [2.0, 4.0]]), np.array([[0, 1], [0, 1]])
        >>> dice(A, M, 0.5)  # one of two object pixels marked, and one beside
        0.5
    """
    pairs = Pairs.of(maps, masks)
    marked = _mark(pairs.maps, threshold)
    sizes = _count(marked) + _count(pairs.masks)
    return pairs.figures(_on_objects(2 * _count(marked & pairs.masks), sizes, pairs.masks))


def _mark(maps: Array, threshold: float | Array | Threshold) -> Mask:
    r"""A >= t of checked maps (N, \*spatial)."""
    t = np.asarray(threshold.value if isinstance(threshold, Threshold) else threshold)
    if t.shape not in ((), (len(maps),)):
        raise ValueError(
            f"threshold of shape {t.shape} for {len(maps)} maps: expected one number, or one per "
            f"map, ({len(maps)},)"
        )
    if not ((t >= 0) & (t <= 1)).all():
        raise ValueError(
            f"threshold={threshold}: expected numbers in 0..1, since maps are scaled to 0..1"
        )
    return scale_batch(maps) >= t.reshape(-1, *[1] * (maps.ndim - 1))


def _count(marked: Mask) -> npt.NDArray[np.int64]:
    return marked.reshape(len(marked), -1).sum(1)


def _ratio(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> Array:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _on_objects(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64], masks: Mask) -> Array:
    return np.where(_count(masks) > 0, _ratio(part, whole), np.nan)
