r"""Does the model see the image as it was given? A map is drawn over the input.

A model that pads, crops, flips or turns the image inside its ``forward`` shows its layers another
picture, and every map lies beside what it marks: nothing in a head's figures tells. So noise is
added to a quarter of a few images, strip by strip along each axis, and where the finest layer's
cells change says what they see. Of strips with their middles at s, in sides of the image, and cells
that change around c, in sides of the layer::

    c = 1/2 + offset + scale (s - 1/2)

with scale 1 and offset 0 where the layer sees the image as it is. (A crop is told smaller than it
is, as it cuts the outer strips.) Masks, labels and the head are not involved.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

IMAGES = 16  # eight with bright letters in corners gave false alarms, one time in six
STRIPS = 4
TRIFLE = 1e-3  # of the features' energy: the strips change more where their places are seen
CORE = 0.5  # of the largest change along an axis: what exceeds it belongs to the strip
NARROW = 0.4  # of a side; a strip is a quarter of it
LEAST_CELLS = 24  # along each axis: fewer do not tell a few hundredths of a side
STRETCH, ASIDE = 0.05, 0.025  # of a side; finest layers of CNNs tried had .03 and .02 at most
CELLS = 5  # of tolerance: coarser layers have wide receptive fields, and were off by four at most


class Seen(NamedTuple):
    """How a layer of so many cells sees one axis of the image."""

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
    r"""How each axis of the images is seen; with scale and offset 0 one that the layer sees along
    another, as of an image that is turned. Empty where the layer does not tell.

    Args:
        features: images -> the finest layer's maps (n, C, \*cells).
        images: (n, C, \*spatial), some; of a layer of ``LEAST_CELLS`` or more.
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
        if not change.sum() > TRIFLE * before.float().square().sum():  # nor NaN
            return []
        seen = {other: _along(change, other - 1) for other in axes}
        if not any(width < NARROW for _, _, width in seen.values()):
            return []
        scale, offset, width = seen[axis]
        cells = before.shape[axis]
        found.append(Seen(scale, offset, cells) if width < NARROW else Seen(0.0, 0.0, cells))
    return found


def _within(images: Tensor, low: float, high: float) -> Tensor:
    """Mirrored at the limits, so that a black ground changes as much as the rest."""
    images = low + (images - low).abs()
    return (high - (high - images).abs()).clamp(min=low)


def _strips(noise: Tensor, axis: int) -> list[Tensor]:
    """The noise in one quarter after the other, 0 elsewhere."""
    edges = [round(noise.shape[axis] * i / STRIPS) for i in range(STRIPS + 1)]
    found = []
    for start, end in itertools.pairwise(edges):
        strip = torch.zeros_like(noise)
        strip.narrow(axis, start, end - start).copy_(noise.narrow(axis, start, end - start))
        found.append(strip)
    return found


def _along(change: Tensor, axis: int) -> tuple[float, float, float]:
    """(scale, offset, the cores' mean width) of (strips, *cells) along one axis."""
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
