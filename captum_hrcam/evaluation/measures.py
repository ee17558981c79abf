"""Which figures an evaluation gives: of each image, and of the whole set batch by batch."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from captum_hrcam.metrics import (
    dice,
    energy_pointing,
    iou,
    otsu_threshold,
    pixel_auroc,
    pixel_average_precision,
    pointing_game,
    sensitivity,
    sensitivity_at_specificity,
    specificity,
)
from captum_hrcam.metrics.boxes import box_iou_curve
from captum_hrcam.metrics.pairs import Array, ArrayOrTensor, Mask, Pairs
from captum_hrcam.metrics.pooled import PooledAveragePrecision
from captum_hrcam.metrics.scaling import scale_batch
from captum_hrcam.metrics.thresholds import GRID

Score: TypeAlias = Callable[..., Any]

THRESHOLDS = (0.3, 0.5, 0.8)  # the paper's
LEVELS: Array = np.array([0.3, 0.5, 0.7])  # of the box IoU, as max_box_acc_v2's
EXACT_BELOW = 1_000_000  # pixels kept of each method, for an exact PxAP: 9 MB
ORACLE_IOU = "IoU, best common threshold (oracle)"


def default_metrics() -> dict[str, Score]:
    """The metrics of every evaluation, {name: f(maps, masks) -> (N,)}; add to them with ``|``.

    Examples::

        >>> mine = default_metrics() | {"IoU 0.5": lambda a, m: iou(a, m, 0.5)}
        >>> list(mine)[-4:]
        ['Dice (Otsu)', 'pointing game', 'energy pointing', 'IoU 0.5']
    """
    at = [(f, t) for t in THRESHOLDS for f in (sensitivity, specificity)]
    return {
        **{f"{f.__name__} {t}": partial(f, threshold=t) for f, t in at},
        "sensitivity at specificity 0.90": partial(sensitivity_at_specificity, specificity=0.9),
        "sensitivity at specificity 0.95": partial(sensitivity_at_specificity, specificity=0.95),
        "pixel AP": pixel_average_precision,
        "pixel AUROC": pixel_auroc,
        "IoU (Otsu)": lambda maps, masks: iou(maps, masks, otsu_threshold(maps)),
        "Dice (Otsu)": lambda maps, masks: dice(maps, masks, otsu_threshold(maps)),
        "pointing game": pointing_game,
        "energy pointing": energy_pointing,
    }


class SetFigures:
    """PxAP (VxAP in 3D), the best common threshold's IoU, and in 2D MaxBoxAccV2.

    The last two are means over images with an object, at thresholds chosen on these same images.
    So only the sums at every threshold of the grid are kept.

    Args:
        spatial_dims: 2 for images, 3 for volumes.

    Examples::

        >>> rng = np.random.default_rng(0)
        >>> figures = SetFigures(spatial_dims=2)
        >>> for _ in range(3):
        ...     figures.update(rng.random((4, 8, 8)), rng.random((4, 8, 8)) > 0.7)
        >>> list(figures.compute())
        ['PxAP', 'MaxBoxAccV2', 'IoU, best common threshold (oracle)']
    """

    def __init__(self, spatial_dims: int) -> None:
        self.spatial_dims = spatial_dims
        self.pooled = PooledAveragePrecision(spatial_dims, exact_below=EXACT_BELOW)
        self.iou = np.zeros(len(GRID))
        self.hits = np.zeros((len(LEVELS), len(GRID)))

    def update(self, maps: ArrayOrTensor, masks: ArrayOrTensor) -> None:
        r"""Take one batch: maps (N, \*spatial) or (N, 1, \*spatial), masks of 0 and 1."""
        self.pooled.update(maps, masks)
        pairs = Pairs.of(maps, masks, self.spatial_dims)
        for a, m in zip(scale_batch(pairs.maps), pairs.masks, strict=True):
            if m.any():
                self.iou += _iou_curve(a, m)
                # A volume's components at 99 thresholds would cost more than all other figures.
                if self.spatial_dims == 2:
                    self.hits += box_iou_curve(a, m, GRID, largest=True) >= LEVELS[:, None]

    def compute(self) -> dict[str, float]:
        """{name: figure}; NaN until an object has come."""
        n = self.pooled.n_images - self.pooled.n_empty
        figures = {"PxAP" if self.spatial_dims == 2 else "VxAP": self.pooled.compute()}
        if self.spatial_dims == 2:
            figures["MaxBoxAccV2"] = float((self.hits / n).max(1).mean()) if n else np.nan
        return figures | {ORACLE_IOU: float((self.iou / n).max()) if n else np.nan}


def _iou_curve(a: Array, m: Mask) -> Array:
    """(thresholds,), the IoU of a >= t with a mask that is not empty, for all t in one pass."""
    passed = np.searchsorted(GRID, a, side="right")  # how many t <= a
    inside, outside = (
        np.bincount(passed[where], minlength=len(GRID) + 1)[::-1].cumsum()[-2::-1]
        for where in (m, ~m)
    )
    return inside / (m.sum() + outside)
