r"""Does the model see the image as it was given? Maps are drawn over the input, so it should.

A model that pads, crops, flips or turns the image inside its ``forward`` shows its layers another
picture. Every map then lies beside what it marks, and nothing in a head's figures reveals it. So
noise is added to a few images, to one strip at a time, a quarter of an axis wide, and the cells of
the finest layer that change show what the layer sees. If a strip's middle is at s, as a share of
the image's side, and the cells that change lie around c, as a share of the layer's side::

    c = 1/2 + offset + scale (s - 1/2)

with scale 1 and offset 0 if the layer sees the image as it is. (A crop appears smaller than it is,
as it cuts the outer strips.) Masks, labels and the head are not involved.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

IMAGES = 16  # of eight images with bright letters in corners, one set in six gave a false alarm
STRIPS = 4
TRIFLE = 1e-3  # share of the features' energy; strips whose places are seen change more than this
CORE = 0.5  # share of the largest change along an axis; cells above it belong to the strip
NARROW = 0.4  # share of a side; a strip is a quarter of the side
LEAST_CELLS = 24  # along each axis; fewer cannot resolve a few hundredths of a side
STRETCH, ASIDE = 0.05, 0.025  # shares of a side; finest layers of CNNs tried had at most .03, .02
CELLS = 5  # tolerance; coarser layers have wide receptive fields, and were off by at most four


class Seen(NamedTuple):
    """How a layer with ``cells`` cells along one axis of the image sees that axis."""

    scale: float
    offset: float
    cells: int

    @property
    def is_off(self) -> bool:
        """Whether maps lie clearly beside what they mark."""
        coarse = CELLS / self.cells
        return abs(self.scale - 1) > max(STRETCH, coarse) or abs(self.offset) > max(
            ASIDE, coarse / 2
        )


def framing(features: Callable[[Tensor], Tensor], images: Tensor) -> list[Seen]:
    r"""Measure how the finest layer sees each axis of the images.

    An axis that it sees along another one, as when the model turns the image, gets scale and offset
    0. The list is empty if the layer does not tell.

    Args:
        features: images -> the finest layer's maps (n, C, \*cells), ``LEAST_CELLS`` or more.
        images: (n, C, \*spatial), a few.
    """
    before = features(images)
    axes = range(2, images.ndim)
    if before.ndim != images.ndim:
        return []
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator).to(images) * images.std()
    given = images.min().item(), images.max().item()  # a model may refuse other values
    found = []
    for axis in axes:
        change = torch.stack(
            [
                (features(_within(images + strip, *given)) - before).float().square().sum((0, 1))
                for strip in _strips(noise, axis)
            ]
        )
        if not change.sum() > TRIFLE * before.float().square().sum():  # also if NaN
            return []
        seen = {other: _along(change, other - 1) for other in axes}
        if not any(width < NARROW for _, _, width in seen.values()):
            return []
        scale, offset, width = seen[axis]
        cells = before.shape[axis]
        found.append(Seen(scale, offset, cells) if width < NARROW else Seen(0.0, 0.0, cells))
    return found


def _within(images: Tensor, low: float, high: float) -> Tensor:
    """Mirror values at the limits, so that a black background changes as much as the rest."""
    images = low + (images - low).abs()
    return (high - (high - images).abs()).clamp(min=low)


def _strips(noise: Tensor, axis: int) -> list[Tensor]:
    """Copies of the noise, each with one quarter along the axis kept and 0 elsewhere."""
    edges = [round(noise.shape[axis] * i / STRIPS) for i in range(STRIPS + 1)]
    found = []
    for start, end in itertools.pairwise(edges):
        strip = torch.zeros_like(noise)
        strip.narrow(axis, start, end - start).copy_(noise.narrow(axis, start, end - start))
        found.append(strip)
    return found


def _along(change: Tensor, axis: int) -> tuple[float, float, float]:
    """(scale, offset, mean width of the cores) along one axis, from changes (strips, *cells)."""
    others = [a for a in range(1, change.ndim) if a != axis]
    profile = change.sum(others).double().cpu() if others else change.double().cpu()
    if (profile.amax(1) <= 0).any():
        return 0.0, 0.0, 1.0  # a strip that nothing sees
    core = (profile > CORE * profile.amax(1, keepdim=True)).double()
    n = profile.shape[1]
    cells = (torch.arange(n) + 0.5) / n - 0.5
    c = (core * cells).sum(1) / core.sum(1)
    s = (torch.arange(STRIPS) + 0.5) / STRIPS - 0.5
    return ((c * s).sum() / (s * s).sum()).item(), c.mean().item(), core.mean(1).mean().item()
