r"""Does the model see the image as it was given? Maps are drawn over the input, so it should.

A model that pads, crops, flips or turns the image inside its ``forward`` shows its layers another
picture. Every map then lies beside what it marks, and nothing in a head's figures reveals it. So
noise is added to a few images, to one strip at a time, a quarter of an axis wide, and the cells of
the finest layer that change show what the layer sees. If a strip's middle is at s, as a share of
the image's side, and the cells that change lie around c, as a share of the layer's side::

    c = 1/2 + offset + scale (s - 1/2)

with scale 1 and offset 0 if the layer sees the image as it is. (A crop appears smaller than it is,
as it cuts the outer strips.) If the strips' places lie on no such line, or overlap, the layer does
not tell: in a U-Net, cells change wherever its coarse layers do; an image that is shifted round its
edge lies in two places. Masks, labels and the head are not involved.
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
OFF_LINE = 0.06  # of a side; crops had at most .04, other changes of the picture .01
LEAST_CELLS = 24  # along each axis; fewer cannot resolve a few hundredths of a side
STRETCH, ASIDE = 0.05, 0.025  # shares of a side; finest layers of CNNs tried had at most .03, .02
CELLS = 5  # tolerance; coarser layers have wide receptive fields, and were off by at most four


class Line(NamedTuple):
    """The line through the strips' places along one axis of a layer, all in shares of a side."""

    scale: float
    offset: float
    width: float  # mean over strips, of the cells that belong to a strip
    residual: float  # root mean square, over strips

    @property
    def is_narrow(self) -> bool:
        """Whether the strips lie at places along this axis, rather than all along it."""
        return self.width < NARROW

    @property
    def is_of_a_picture(self) -> bool:
        """Whether the places are on the line, and as wide as strips are at this scale."""
        widest = abs(self.scale) / STRIPS + OFF_LINE
        return self.residual <= OFF_LINE and self.width <= widest


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
    if before.ndim != images.ndim:
        return []
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator).to(images) * images.std()
    given = images.min().item(), images.max().item()  # a model may refuse other values
    found = []
    for axis in range(2, images.ndim):
        change = torch.stack(
            [
                (features(_within(images + strip, *given)) - before).float().square().sum((0, 1))
                for strip in _strips(noise, axis)
            ]
        )
        if not change.sum() > TRIFLE * before.float().square().sum():  # also if NaN
            return []
        seen = _seen(change, axis - 1)
        if seen is None:
            return []
        found.append(seen)
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


def _seen(change: Tensor, axis: int) -> Seen | None:
    """How the axis is seen, from the cells' changes (strips, *cells); None if they do not tell."""
    own = _line(change, axis)
    others = [_line(change, other) for other in range(1, change.ndim) if other != axis]
    told = [own] if own.is_narrow else [line for line in others if line.is_narrow]
    if not told or not all(line.is_of_a_picture for line in told):
        return None
    scale, offset = (own.scale, own.offset) if own.is_narrow else (0.0, 0.0)
    return Seen(scale, offset, change.shape[axis])


def _line(change: Tensor, axis: int) -> Line:
    """The line along one axis, from the cells' changes (strips, *cells)."""
    others = [a for a in range(1, change.ndim) if a != axis]
    profile = (change.sum(others) if others else change).cpu().double()
    if (profile.amax(1) <= 0).any():
        return Line(0.0, 0.0, 1.0, 0.0)  # a strip that nothing sees
    core = (profile > CORE * profile.amax(1, keepdim=True)).double()
    n = profile.shape[1]
    cells = (torch.arange(n) + 0.5) / n - 0.5
    c = (core * cells).sum(1) / core.sum(1)
    s = (torch.arange(STRIPS) + 0.5) / STRIPS - 0.5
    scale, offset = (c * s).sum() / (s * s).sum(), c.mean()
    residual = (c - offset - scale * s).square().mean().sqrt()
    return Line(scale.item(), offset.item(), core.mean(1).mean().item(), residual.item())
