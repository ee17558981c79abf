"""Where a map points: its maximum, and its positive part."""

import numpy as np

from captum_hrcam.metrics.pairs import Array, ArrayOrTensor, Figures, Mask, Pairs


def pointing_game(maps: ArrayOrTensor, masks: ArrayOrTensor) -> Figures:
    r"""1 where the map's maximum lies in the mask (Zhang et al. 2018, Excitation Backprop).

    If several pixels share the maximum, the figure is the fraction of them inside. There is no
    tolerance around the mask. A constant map points nowhere: 0.

    Args:
        maps: (H, W), (N, \*spatial) or (N, 1, \*spatial), 2D or 3D.
        masks: 0 and 1, one per map.

    Returns:
        (N,) float64; a float for one image (H, W). NaN on an empty mask.

    Raises:
        ValueError: sizes that differ; NaN or infinity; a mask not of 0 and 1.

    Examples::

        >>> pointing_game(np.array([[7.0, 7.0], [2.0, 1.0]]), np.array([[1, 0], [1, 0]]))
        0.5
    """
    return Pairs.of(maps, masks).each(_maximum_inside)


def energy_pointing(maps: ArrayOrTensor, masks: ArrayOrTensor) -> Figures:
    """sum of max(A, 0) inside the mask / sum of max(A, 0) (Wang et al. 2020, Score-CAM).

    The map is taken as it is, signed and unscaled: what speaks against the class has no share.

    Args:
        maps, masks: as :func:`pointing_game`.

    Returns:
        (N,) float64; a float for one image (H, W). 0 for a map with no positive part; NaN on an
        empty mask, where every map would have 0.

    Raises:
        ValueError: as :func:`pointing_game`.

    Examples::

        >>> energy_pointing(np.array([[3.0, 1.0], [-9.0, 0.0]]), np.array([[1, 0], [1, 0]]))
        0.75
    """
    return Pairs.of(maps, masks).each(_energy_inside)


def _maximum_inside(a: Array, m: Mask) -> float:
    if not m.any():
        return np.nan
    if a.min() == a.max():
        return 0.0
    return float(m[a == a.max()].mean())


def _energy_inside(a: Array, m: Mask) -> float:
    if not m.any():
        return np.nan
    positive = a.clip(min=0)
    total = positive.sum()
    return float(positive[m].sum() / total) if total > 0 else 0.0
