"""The map that has seen neither image nor model."""

from collections.abc import Sequence

import numpy as np

from captum_hrcam.metrics.pairs import Array


def centred_gaussian(shape: Sequence[int], sigma: float = 0.25) -> Array:
    """exp(-r² / 2), r the distance from the centre in standard deviations.

    The baseline of Choe et al. 2020 (Evaluating Weakly Supervised Object Localization Methods
    Right): a method below it has localised nothing. The standard deviation is a share of each
    side, so on an image that is not square the Gaussian keeps the image's proportions. Metrics
    that look at ranks only do not depend on it.

    Args:
        shape: the spatial size, (H, W) or (D, H, W).
        sigma: standard deviation as a share of each side.

    Returns:
        An array of that shape, largest at the centre.

    Raises:
        ValueError: a size below one, or a sigma that is not positive.

    Examples::

        >>> masks = np.zeros((4, 9, 15))
        >>> maps = np.broadcast_to(centred_gaussian(masks.shape[1:]), masks.shape)
        >>> np.unravel_index(maps[0].argmax(), maps[0].shape) == (4, 7)
        True
    """
    if not shape or min(shape) < 1:
        raise ValueError(f"shape={tuple(shape)}: expected sizes of at least 1, as (H, W)")
    if not sigma > 0:
        raise ValueError(f"sigma={sigma}: expected a positive share of the side, as 0.25")
    sides = [((np.arange(n) + 0.5) / n - 0.5) / sigma for n in shape]
    r2 = sum(x**2 for x in np.meshgrid(*sides, indexing="ij", sparse=True))
    return np.exp(-np.asarray(r2, dtype=np.float64) / 2)
