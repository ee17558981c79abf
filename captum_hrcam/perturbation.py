"""Does the model use what a map marks? Blur it away, or show it alone; no mask is needed."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_hrcam.modes import full_precision
from captum_hrcam.pooling import accumulator_dtype

SIGMA = 0.1  # of the blur, as a share of each side: wider than a lesion, smaller than a head
LONG = 2048  # taps; a longer kernel, as on a second of sound, is faster by Fourier transform
FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2)

Score = Callable[[Tensor], Tensor]


def blur(images: Tensor, sigma: float = SIGMA) -> Tensor:
    r"""Gaussian blur over space, edges replicated.

    Args:
        images: (N, C, \*spatial), one to three spatial dimensions. Of complex images both parts are
            blurred.
        sigma: standard deviation as a share of each side.
    """
    if images.is_complex():
        return torch.complex(blur(images.real, sigma), blur(images.imag, sigma))
    dtype, images = images.dtype, images.to(accumulator_dtype(images))
    with full_precision(images.device):
        for axis in range(2, images.ndim):
            n = images.shape[axis]
            radius = min(math.ceil(3 * sigma * n), n)
            taps = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
            kernel = torch.exp(-0.5 * (taps / max(sigma * n, 1e-3)) ** 2)
            rows = images.movedim(axis, -1)  # (N, C, ..., n)
            padded = F.pad(rows.reshape(-1, 1, n), (radius, radius), mode="replicate")
            smooth = _convolved(padded, kernel / kernel.sum())
            images = smooth.reshape(rows.shape).movedim(-1, axis)
    return images.to(dtype)


def _convolved(rows: Tensor, kernel: Tensor) -> Tensor:
    """Rows (n, 1, length) convolved with a symmetric kernel, where it lies on them as a whole."""
    if len(kernel) <= LONG:
        return F.conv1d(rows, kernel[None, None])
    n = rows.shape[-1]
    spectrum = torch.fft.rfft(rows) * torch.fft.rfft(kernel, n)
    return torch.fft.irfft(spectrum, n)[..., len(kernel) - 1 :]


def marked(maps: Tensor, fraction: float) -> Tensor:
    r"""Mark the map's largest values: exactly this share of pixels; among equal values, the first.

    Args:
        maps: (N, 1, \*spatial).
        fraction: share of the pixels, 0..1, rounded to whole pixels.

    Returns:
        (N, 1, \*spatial), 1 where marked.

    Raises:
        ValueError: a fraction outside 0..1.
    """
    return _first(_ranks(maps), fraction).to(maps)


def _ranks(maps: Tensor) -> Tensor:
    """Each pixel's rank, 0 for the largest value, in the map's shape."""
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).reshape(maps.shape)


def _first(ranks: Tensor, fraction: float) -> Tensor:
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction: got {fraction!r}, expected a share of the pixels in 0..1.")
    return ranks < round(fraction * math.prod(ranks.shape[1:]))


@torch.no_grad()
def deletion_curve(
    score: Score, images: Tensor, maps: Tensor, fractions: Sequence[float] = FRACTIONS
) -> Tensor:
    r"""The score as marked pixels are replaced by the blurred image; it falls fast for a good map.

    Source: Petsiuk et al. 2018 (RISE), https://arxiv.org/abs/1806.07421.

    Args:
        score: images -> (N,), for example the model's probability of each image's class.
        images: (N, C, \*spatial).
        maps: (N, 1, \*spatial).
        fractions: shares of the pixels, one for each step of the curve.

    Returns:
        (N, len(fractions)).
    """
    return _curve(score, images, blur(images), maps, fractions)


@torch.no_grad()
def insertion_curve(
    score: Score, images: Tensor, maps: Tensor, fractions: Sequence[float] = FRACTIONS
) -> Tensor:
    """The score as marked pixels are shown on the blurred image; it rises fast for a good map.

    Args, Returns: as :func:`deletion_curve`.
    """
    return _curve(score, blur(images), images, maps, fractions)


def _curve(
    score: Score, ground: Tensor, shown: Tensor, maps: Tensor, fractions: Sequence[float]
) -> Tensor:
    ranks = _ranks(maps)
    steps = (_first(ranks, fraction).to(shown) for fraction in fractions)  # held one at a time
    return torch.stack([score(torch.lerp(ground, shown, m)) for m in steps], 1)
