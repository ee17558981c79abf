"""How alike two maps of one image are, whatever their scale."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from captum_hrcam.metrics.extras import require
from captum_hrcam.metrics.pairs import Array
from captum_hrcam.metrics.scaling import scale_batch

WINDOW = 7
POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def ssim(a: Tensor, b: Tensor) -> Array:
    r"""Structural similarity of maps, each scaled to 0..1: its mean over all whole windows.

        (2 mu_a mu_b + c1) (2 cov_ab + c2) / ((mu_a^2 + mu_b^2 + c1) (var_a + var_b + c2))

    c1 = 0.01^2, c2 = 0.03^2; uniform windows of 7 pixels a side, or the whole of a shorter side.

    Source: Wang et al. 2004, IEEE Trans. Image Process. 13(4), 600-612,
    https://doi.org/10.1109/TIP.2003.819861; there with a Gaussian window, 8-bit images and 2D.

    Args:
        a (Tensor): (N, 1, \*spatial), one to three spatial dimensions.
        b (Tensor): likewise.

    Returns:
        *ndarray*: (N,) float64, at most 1. A constant map counts as all 0.

    Raises:
        ValueError: shapes that differ, or are not those of maps.

    Examples::

        >>> a = torch.arange(64.0).reshape(1, 1, 8, 8)
        >>> ssim(a, 5 * a - 3).round(6).tolist(), bool(ssim(a, -a) < 0)
        ([1.0], True)
    """
    _check_pair(a, b)
    a, b = _scaled(a), _scaled(b)
    window = [min(WINDOW, n) for n in a.shape[2:]]
    pool = POOL[a.ndim - 2]

    def mean(x: Tensor) -> Tensor:
        return pool(x, window, stride=1)

    mu_a, mu_b = mean(a), mean(b)
    variances = mean(a * a) - mu_a**2 + mean(b * b) - mu_b**2
    covariance = mean(a * b) - mu_a * mu_b
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mu_a * mu_b + c1) * (2 * covariance + c2)
    local = likeness / ((mu_a**2 + mu_b**2 + c1) * (variances + c2))
    return local.flatten(1).mean(1).numpy()


def rank_correlation(a: Tensor, b: Tensor) -> Array:
    r"""Spearman's rank correlation over an image's pixels, ties with their mean rank.

    Args:
        a, b: as :func:`ssim`.

    Returns:
        *ndarray*: (N,) float64, in -1..1; NaN where a map is constant.

    Raises:
        ValueError: as :func:`ssim`.
        ImportError: scipy, of the extra ``eval``, is not installed.

    Examples::

        >>> a = torch.arange(64.0).reshape(1, 1, 8, 8)
        >>> rank_correlation(a, a**3).round(6).tolist(), rank_correlation(a, -a).round(6).tolist()
        ([1.0], [-1.0])
    """
    spearmanr = require("scipy.stats").spearmanr
    _check_pair(a, b)

    def one(x: Array, y: Array) -> float:
        return spearmanr(x, y).statistic if np.ptp(x) and np.ptp(y) else np.nan

    flat = (maps.detach().cpu().double().flatten(1).numpy() for maps in (a, b))
    return np.array([one(x, y) for x, y in zip(*flat, strict=True)], dtype=np.float64)


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim not in (3, 4, 5) or a.shape[1] != 1 or 0 in a.shape:
        raise ValueError(
            f"maps: got shapes {tuple(a.shape)} and {tuple(b.shape)}, expected two of the same "
            "(N, 1, *spatial). captum_hrcam.compare gives maps in this shape."
        )
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("maps: NaN or infinity among the values, expected finite ones.")


def _scaled(maps: Tensor) -> Tensor:
    """Each map to 0..1 in float64; a constant one to 0."""
    return torch.from_numpy(scale_batch(maps.detach().cpu().double().numpy()))
