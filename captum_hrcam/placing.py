r"""Where a layer's cells look: its map is drawn there.

A cell is taken to lie in the middle of the pixels that it covers. It need not look there: kernels
of strided convolutions are centred on the first of these pixels, so that a deep layer's map may lie
half a cell, many pixels, beside what it marks, and learned kernels are skewed as well. How far is
measured on a few images, without masks: noise is added to random stripes of an image, then to the
stripes between. Where the first changes the map more than the second, the stripes are seen::

    D(q) = (E(q) - E'(q)) / (E(q) + E'(q)),    E = mean over a cell's row of (A(x + noise) - A(x))^2
    C(d) = sum over q of D(q) stripes(q - d)

and the map's displacement is the centroid of C around its peak, along each axis.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_hrcam import group

IMAGES = 32
STRIPES = 16  # across an image
NOISE = 0.3  # its deviation where both axes' stripes meet, over sqrt(axes), of the image's own
FOLDS = 8  # of the images, for the error of what was found
CORE = 0.25  # of the peak: what exceeds it belongs to the peak

Maps = dict[str, Tensor]


def place(maps: Tensor, displacement: Sequence[float]) -> Tensor:
    r"""Maps (N, K, \*cells) moved back by their displacement, in cells along each axis; linear.

    What an edge lacks is its outermost cell again. A constant keeps the mean of each map as it was,
    and so the score that it decomposes.

    Examples::

        >>> place(torch.tensor([[[0.0, 0.0, 4.0, 0.0]]]), [0.5])
        tensor([[[0., 2., 2., 0.]]])
    """
    placed = maps
    for axis, cells in enumerate(displacement, start=2):
        placed = _moved(placed, cells, axis)
    space = tuple(range(2, maps.ndim))
    return placed + (maps.mean(space, keepdim=True) - placed.mean(space, keepdim=True))


def _moved(maps: Tensor, cells: float, axis: int) -> Tensor:
    """maps(q + cells), edges replicated."""
    whole = math.floor(cells)
    at = torch.arange(maps.shape[axis], device=maps.device) + whole
    last = maps.shape[axis] - 1
    first, second = (maps.index_select(axis, (at + i).clamp_(0, last)) for i in (0, 1))
    return torch.lerp(first, second, cells - whole)


@dataclass
class Displacements:
    """Measures how far each layer's map lies from what it sees.

    Args:
        native_maps: (inputs, rows) -> {layer: (n, 1, *cells)}, one map for each image.
    """

    native_maps: Callable[[tuple[Tensor, ...], slice], Maps]
    _correlations: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict)
    _strides: dict[tuple[str, int], float] = field(default_factory=dict)
    _generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def add(self, inputs: tuple[Tensor, ...], rows: slice) -> None:
        """Some images; the first input says where their places are."""
        size = inputs[0].shape[2:]
        stripes = [_Stripes(len(inputs[0]), n, self._generator) for n in size]
        between = [s.between() for s in stripes]
        plain = self.native_maps(inputs, rows)
        seen, others = (self.native_maps(self._noisy(inputs, s), rows) for s in (stripes, between))
        for name, a in plain.items():
            change, other = ((b[name] - a)[:, 0].double() ** 2 for b in (seen, others))
            for axis, n in enumerate(size):
                over = [1 + i for i in range(len(size)) if i != axis]
                e, f = (x.mean(over) if over else x for x in (change, other))
                d = ((e - f) / (e + f).clamp(min=1e-300)).nan_to_num().cpu()
                stride = n / d.shape[1]
                radius = min(math.ceil(1.5 * max(2, stride) + n / STRIPES), n - 1)
                c = correlate(d, stripes[axis].at(n).double(), radius)
                self._correlations.setdefault((name, axis), []).append(c)
                self._strides[name, axis] = stride

    def found(self) -> dict[str, Tensor]:
        """{layer: (axes,)}, in cells; of all ranks."""
        cells: dict[str, list[float]] = {}
        for (name, axis), rows in self._correlations.items():
            stride = self._strides[name, axis]
            pixels = displacement(group.gather(torch.cat(rows)))
            furthest = max(1.5, 0.75 * stride)
            cells.setdefault(name, []).append(min(max(pixels, -furthest), furthest) / stride)
        return {name: torch.tensor(values).double() for name, values in cells.items()}

    def _noisy(self, inputs: tuple[Tensor, ...], stripes: list["_Stripes"]) -> tuple[Tensor, ...]:
        """Inputs of as many axes as the first, with noise where the stripes are."""
        axes = inputs[0].ndim
        return tuple(self._with_noise(x, stripes) if x.ndim == axes else x for x in inputs)

    def _with_noise(self, x: Tensor, stripes: list["_Stripes"]) -> Tensor:
        """Within the image's own range, and in its own type."""
        n, axes = len(x), len(stripes)
        variance: Tensor | float = 0.0
        for axis, s in enumerate(stripes):
            shape = [n, 1, *[1] * axes]
            shape[2 + axis] = x.shape[2 + axis]
            variance = variance + s.at(x.shape[2 + axis]).reshape(shape)
        assert isinstance(variance, Tensor), "there is an axis"
        pixels = x.flatten(1).float()
        each = [v.reshape(n, *[1] * (x.ndim - 1)) for v in (
            pixels.std(1, correction=0), pixels.amin(1), pixels.amax(1))]  # fmt: skip
        deviation, low, high = each
        noise = torch.randn(x.shape, generator=self._generator) * variance.sqrt()
        noisy = x + NOISE * deviation * noise.to(x.device)
        noisy = noisy.maximum(low).minimum(high)
        return (noisy if x.is_floating_point() else noisy.round()).to(x.dtype)


class _Stripes:
    """Random stripes of each image along one axis, at any resolution."""

    def __init__(self, n: int, pixels: int, generator: torch.Generator) -> None:
        self.count = max(1, min(STRIPES, pixels // 2))
        self.bits = (torch.rand(n, self.count + 1, generator=generator) < 0.5).float()
        self.offset = torch.rand(n, 1, generator=generator)

    def between(self) -> "_Stripes":
        """What these leave free."""
        others = object.__new__(_Stripes)
        others.count, others.bits, others.offset = self.count, 1 - self.bits, self.offset
        return others

    def at(self, pixels: int) -> Tensor:
        """(n, pixels), 1 on a stripe."""
        middles = (torch.arange(pixels) + 0.5) / pixels
        return self.bits.gather(1, (middles * self.count + self.offset).floor().long())


def correlate(profile: Tensor, stripes: Tensor, radius: int) -> Tensor:
    """C(d) of each image, d from -radius to radius pixels.

    Args:
        profile: D (n, cells).
        stripes: (n, pixels).

    Returns:
        (n, 2 radius + 1).
    """
    pixels = stripes.shape[1]
    d = F.interpolate(profile[:, None], size=pixels, mode="linear", align_corners=False)[:, 0]
    s = F.pad(stripes - stripes.mean(1, keepdim=True), (radius, radius))
    moved = s.unfold(1, pixels, 1).flip(1)  # (n, 2 radius + 1, pixels): stripes(q - d)
    return torch.einsum("nq,ndq->nd", d - d.mean(1, keepdim=True), moved)


def displacement(correlations: Tensor) -> float:
    """Pixels, from the images' C(d) (n, lags): drawn to 0 by as much as images disagree.

    A layer that mixes all places changes everywhere alike, and has no peak: it is left where it is.
    """
    n = len(correlations)
    folds = min(FOLDS, n)
    total = correlations.sum(0)
    found = centroid(total)
    if folds < 2 or not math.isfinite(found) or found == 0:
        return 0.0
    without = torch.tensor([centroid(total - correlations[i::folds].sum(0)) for i in range(folds)])
    variance = (folds - 1) * without.var(correction=0).item()  # of a jackknife
    return found * max(0.0, 1 - variance / found**2) if math.isfinite(variance) else 0.0


def centroid(correlation: Tensor) -> float:
    """Of the peak, in steps from the middle; NaN where there is none."""
    peak = int(correlation.argmax())
    core = (correlation - CORE * correlation[peak]).clamp(min=0)
    if correlation[peak] <= 0:
        return math.nan
    first = last = peak
    while first > 0 and core[first - 1] > 0:
        first -= 1
    while last < len(core) - 1 and core[last + 1] > 0:
        last += 1
    steps = torch.arange(first, last + 1) - len(core) // 2
    core = core[first : last + 1]
    return ((core * steps).sum() / core.sum()).item()
