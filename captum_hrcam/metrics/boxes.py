"""The box around what a map marks, against the boxes around the objects."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from captum_hrcam.metrics.extras import require
from captum_hrcam.metrics.pairs import Array, ArrayOrTensor, Mask, Pairs, defined
from captum_hrcam.metrics.scaling import scale_batch
from captum_hrcam.metrics.thresholds import GRID

Boxes = npt.NDArray[np.int64]  # (boxes, 2, dims): the corners [first, last + 1)


def max_box_acc_v2(
    maps: ArrayOrTensor,
    masks: ArrayOrTensor,
    *,
    contours: Literal["largest", "all"] = "largest",
    thresholds: Sequence[float] | Array = GRID,
    iou_levels: Sequence[float] = (0.3, 0.5, 0.7),
) -> float:
    r"""MaxBoxAccV2 (Choe et al. 2020), with boxes from masks.

        mean over d of  max over t of  share of images with  IoU(box(A >= t), box(M)) >= d

    The map, scaled to 0..1, is thresholded at t; pixels that touch, also at a corner, form one
    contour. Each of the mask's contours gives an object's box, and meeting any one of them counts.
    Each d has its own best t, the same for all images. By definition, this t is an oracle.

    Args:
        maps: (H, W), (N, \*spatial) or (N, 1, \*spatial), 2D or 3D.
        masks: 0 and 1, one per map.
        contours: "largest": the map's box is that of its largest contour. "all": the box of any
            contour may meet the object, as in the authors' code for MaxBoxAccV2; kinder to maps
            with many specks.
        thresholds: t tried, in 0..1. The default .01, ..., .99 leaves out t = 0, which marks
            every map whole.
        iou_levels: d.

    Returns:
        One float in 0..1. Images with an empty mask are left out, with a warning that counts
        them; NaN if there are no others.

    Raises:
        ValueError: sizes that differ; NaN or infinity; a mask not of 0 and 1; another
            ``contours``; a threshold or level outside 0..1.
        ImportError: scipy, of the extra ``eval``, is not installed.

    Examples::

        >>> maps, masks = np.zeros((1, 8, 8)), np.zeros((1, 8, 8))
        >>> maps[0, 2:5, 2:6] = 1.0  # 3 x 4 pixels marked of an object of 4 x 4: IoU 0.75
        >>> masks[0, 2:6, 2:6] = 1
        >>> max_box_acc_v2(maps, masks)
        1.0
    """
    if contours not in ("largest", "all"):
        raise ValueError(f"contours={contours!r}: expected 'largest' or 'all'")
    t = _in_unit(thresholds, "thresholds")
    d = _in_unit(iou_levels, "iou_levels")
    pairs = Pairs.of(maps, masks)
    curves = [
        box_iou_curve(a, m, t, contours == "largest")
        for a, m in zip(scale_batch(pairs.maps), pairs.masks, strict=True)
    ]
    best = defined(np.stack(curves), "the box IoU")  # (images, thresholds)
    if len(best) == 0:
        return np.nan
    return float(np.mean([(best >= level).mean(0).max() for level in d]))


def _in_unit(values: Sequence[float] | Array, name: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"{name}={values}: expected a sequence of numbers in 0..1")
    return array


def box_iou_curve(a: Array, m: Mask, thresholds: Array, largest: bool) -> Array:
    """(thresholds,), the best IoU of the map's boxes with the mask's; NaN without an object."""
    if not m.any():
        return np.full(len(thresholds), np.nan)
    objects = _boxes(m)
    marked = (_boxes(a >= t, largest) for t in thresholds)
    return np.array([_box_iou(boxes, objects).max(initial=0) for boxes in marked])


def _boxes(marked: Mask, largest: bool = False) -> Boxes:
    """The box of every connected component, or of the largest (by pixels; the first of equals)."""
    ndimage = require("scipy.ndimage")
    # Neighbours at a corner belong together, as in OpenCV's findContours.
    labels, n = ndimage.label(marked, structure=np.ones((3,) * marked.ndim))
    slices = ndimage.find_objects(labels)
    if largest and n > 1:
        slices = [slices[np.bincount(labels.ravel())[1:].argmax()]]
    corners = [[[side.start for side in box], [side.stop for side in box]] for box in slices]
    return np.array(corners, dtype=np.int64).reshape(-1, 2, marked.ndim)


def _box_iou(p: Boxes, q: Boxes) -> Array:
    """(P, Q), every box of p with every box of q."""
    first = np.maximum(p[:, None, 0], q[None, :, 0])
    stop = np.minimum(p[:, None, 1], q[None, :, 1])
    shared = (stop - first).clip(min=0).prod(-1)
    size_p, size_q = (p[:, 1] - p[:, 0]).prod(-1), (q[:, 1] - q[:, 0]).prod(-1)
    return shared / (size_p[:, None] + size_q[None] - shared)
