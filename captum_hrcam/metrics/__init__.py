r"""Metrics of maps against masks: nothing here sees a model.

Each takes arrays or tensors, (H, W), (N, \*spatial) or (N, 1, \*spatial), 2D or 3D, and returns one
float64 figure per image, NaN where it is undefined. Three axes are N images: pass one volume as
``volume[None]``. ``summarize`` and ``compare_paired`` count the NaN.

Examples::

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> maps, masks = rng.random((4, 1, 8, 8)), rng.random((4, 8, 8)) > 0.7
    >>> summarize(sensitivity(maps, masks, 0.5)).n
    4
"""

from captum_hrcam.metrics.baselines import centred_gaussian
from captum_hrcam.metrics.boxes import max_box_acc_v2
from captum_hrcam.metrics.overlap import Threshold, dice, iou, sensitivity, specificity
from captum_hrcam.metrics.pointing import energy_pointing, pointing_game
from captum_hrcam.metrics.pooled import PooledAveragePrecision, pxap, vxap
from captum_hrcam.metrics.ranking import (
    pixel_auroc,
    pixel_average_precision,
    sensitivity_at_specificity,
)
from captum_hrcam.metrics.scaling import min_max
from captum_hrcam.metrics.statistics import (
    PairedComparison,
    Summary,
    compare_paired,
    holm,
    summarize,
)
from captum_hrcam.metrics.thresholds import (
    oracle_threshold,
    otsu_threshold,
    validation_threshold,
)

__all__ = [
    "PairedComparison",
    "PooledAveragePrecision",
    "Summary",
    "Threshold",
    "centred_gaussian",
    "compare_paired",
    "dice",
    "energy_pointing",
    "holm",
    "iou",
    "max_box_acc_v2",
    "min_max",
    "oracle_threshold",
    "otsu_threshold",
    "pixel_auroc",
    "pixel_average_precision",
    "pointing_game",
    "pxap",
    "sensitivity",
    "sensitivity_at_specificity",
    "specificity",
    "summarize",
    "validation_threshold",
    "vxap",
]
