"""How well a map's values order the pixels of one image: no threshold, no scale."""

import numpy as np

from captum_hrcam.metrics.extras import require
from captum_hrcam.metrics.pairs import Array, ArrayOrTensor, Figures, Mask, Pairs


def pixel_average_precision(maps: ArrayOrTensor, masks: ArrayOrTensor) -> Figures:
    r"""sum_n (R_n - R_{n-1}) P_n over this image's pixels, by falling map value.

    This is scikit-learn's ``average_precision_score``; equal values count as one step. A map
    without knowledge scores the mask's share of the image.

    Args:
        maps: (H, W), (N, \*spatial) or (N, 1, \*spatial), 2D or 3D.
        masks: 0 and 1, one per map.

    Returns:
        (N,) float64; a float for one image (H, W). NaN on an empty mask.

    Raises:
        ValueError: sizes that differ; NaN or infinity; a mask not of 0 and 1.
        ImportError: scikit-learn, of the extra ``eval``, is not installed.

    Examples::

        >>> A, M = np.array([[4.0, 3.0], [2.0, 1.0]]), np.array([[1, 0], [1, 0]])
        >>> pixel_average_precision(A, M) == (1 / 1 + 2 / 3) / 2
        True
    """
    return Pairs.of(maps, masks).each(average_precision)


def average_precision(a: Array, m: Mask) -> float:
    """scikit-learn's average precision over all pixels, NaN without a positive one. It is cut at 1,
    as scikit-learn's sum may round above 1."""
    if not m.any():
        return np.nan
    return min(float(require("sklearn.metrics").average_precision_score(m.ravel(), a.ravel())), 1.0)


def pixel_auroc(maps: ArrayOrTensor, masks: ArrayOrTensor) -> Figures:
    """The chance that an object pixel has a higher value than a background pixel; ties count half.

    It is the area under the ROC curve over this image's pixels, scikit-learn's ``roc_auc_score``.

    Args:
        maps, masks: as :func:`pixel_average_precision`.

    Returns:
        (N,) float64; a float for one image (H, W). NaN where the mask is empty or full.

    Raises:
        ValueError, ImportError: as :func:`pixel_average_precision`.

    Examples::

        >>> pixel_auroc(np.array([[4.0, 3.0], [2.0, 1.0]]), np.array([[1, 0], [1, 0]]))
        0.75
    """
    auroc = require("sklearn.metrics").roc_auc_score

    def score(a: Array, m: Mask) -> float:
        return auroc(m.ravel(), a.ravel()) if m.any() and not m.all() else np.nan

    return Pairs.of(maps, masks).each(score)


def sensitivity_at_specificity(
    maps: ArrayOrTensor, masks: ArrayOrTensor, specificity: float = 0.9
) -> Figures:
    """The largest TP / (TP + FN) of any threshold on A that keeps TN / (TN + FP) >= specificity.

    It is taken over this image's pixels; every value of the map is a threshold, and none is
    interpolated. The figure is 0 if only marking nothing is specific enough.

    Args:
        maps, masks: as :func:`pixel_average_precision`.
        specificity: the specificity to be kept, in 0..1, such as .90 or .95.

    Returns:
        (N,) float64; a float for one image (H, W). NaN where the mask is empty or full.

    Raises:
        ValueError: as :func:`pixel_average_precision`; a specificity outside 0..1.
        ImportError: scikit-learn, of the extra ``eval``, is not installed.

    Examples::

        >>> A, M = np.array([[4.0, 3.0], [2.0, 1.0]]), np.array([[1, 0], [1, 0]])
        >>> sensitivity_at_specificity(A, M, 0.95), sensitivity_at_specificity(A, M, 0.5)
        (0.5, 1.0)
    """
    if not 0 <= specificity <= 1:
        raise ValueError(f"specificity={specificity}: expected a number in 0..1, as 0.9")
    roc_curve = require("sklearn.metrics").roc_curve

    def score(a: Array, m: Mask) -> float:
        if not m.any() or m.all():
            return np.nan
        fpr, tpr, _ = roc_curve(m.ravel(), a.ravel(), drop_intermediate=False)
        # In whole pixels: 1 - 9 / 10 is not 1 / 10, and a specificity met exactly must count.
        background = (~m).sum()
        kept = (background - np.rint(fpr * background)) / background
        return tpr[kept >= specificity].max()

    return Pairs.of(maps, masks).each(score)
