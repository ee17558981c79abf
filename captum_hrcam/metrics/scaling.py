"""Each map scaled to 0..1."""

import numpy as np

from captum_hrcam.metrics.pairs import Array, ArrayOrTensor, as_maps


def min_max(maps: ArrayOrTensor) -> Array:
    r"""(A - min A) / (max A - min A), for each map on its own; a constant map becomes 0.

    Args:
        maps: (H, W), (N, \*spatial) or (N, 1, \*spatial), 2D or 3D.

    Returns:
        A float64 array of the same shape.

    Raises:
        ValueError: a shape other than these; NaN or infinity.

    Examples::

        >>> min_max(np.array([[-2.0, 0.0], [2.0, 0.0]]))
        array([[0. , 0.5],
               [1. , 0.5]])
    """
    values, _ = as_maps(maps)
    return scale_batch(values).reshape(tuple(np.shape(maps)))


def scale_batch(maps: Array) -> Array:
    """``min_max`` of checked maps (N, *spatial)."""
    space = tuple(range(1, maps.ndim))
    low = maps.min(space, keepdims=True)
    span = maps.max(space, keepdims=True) - low
    return (maps - low) / np.where(span == 0, 1, span)
