r"""Where a layer's cells look: its map is drawn there.

A cell is taken to lie in the middle of the pixels that it covers. It need not look there: kernels
of strided convolutions are centred on the first of these pixels, so that a deep layer's map may lie
half a cell, many pixels, beside what it marks, and learned kernels are skewed as well. How far is
measured on a few images, without masks: noise is added to random stripes of an image, then to the
stripes between. Where the first changes the map more than the second, the stripes are seen::

    D(q) = (E(q) - E'(q)) / (E(q) + E'(q)),    E = mean over a cell's row of (A(x + noise) - A(x))^2
    C(d) = mean over q of D(q) stripes(q - d)

and the map's displacement is the centroid of C around its peak, along each axis.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_hrcam import group
from captum_hrcam.fusion import same_axes, upsample

IMAGES = 32  # or as many stripes of fewer images
STRIPES = 16  # across an image
NOISE = 0.3  # its deviation on one axis's stripe, of the image's own
FURTHEST = 1.5  # pixels that a map is moved by, or half as many of its cells; in cells never more
FOLDS = 8  # of the images, for the error of what was found
STANDS_OUT = 3  # standard errors that a peak is to have
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
    if len(displacement) != maps.ndim - 2:
        raise ValueError(
            f"head: got a displacement along {len(displacement)} axes, but the layer's maps have "
            f"{maps.ndim - 2}. Fit it on this model."
        )
    reach = 1 + max(math.floor(abs(cells)) for cells in displacement)
    placed = F.pad(maps, [reach] * 2 * len(displacement), mode="replicate")
    for axis, cells in enumerate(displacement, start=2):
        start, n = reach + math.floor(cells), maps.shape[axis]
        first, second = placed.narrow(axis, start, n), placed.narrow(axis, start + 1, n)
        placed = torch.lerp(first, second, cells % 1)
    space = tuple(range(2, maps.ndim))
    return placed + (maps.mean(space, keepdim=True) - placed.mean(space, keepdim=True))


@dataclass
class Displacements:
    """Measures how far each layer's map lies from what it sees in the first input.

    Args:
        native_maps: (inputs, rows) -> {layer: (n, 1, *cells)}, one map for each image.
    """

    native_maps: Callable[[tuple[Tensor, ...], slice], Maps]
    _correlations: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict)
    _strides: dict[tuple[str, int], float] = field(default_factory=dict)
    _generator: torch.Generator = field(default_factory=torch.Generator)

    def __post_init__(self) -> None:
        self._generator.manual_seed(group.rank())  # ranks see other images in other stripes

    def add(self, inputs: tuple[Tensor, ...], rows: slice) -> None:
        """Some images, or some more stripes of the same."""
        size = inputs[0].shape[2:]
        stripes = [_Stripes.drawn(len(inputs[0]), n, self._generator) for n in size]
        x, *rest = inputs
        plain = self.native_maps(inputs, rows)
        seen, others = (
            self.native_maps((add_noise(x, s, self._generator), *rest), rows)
            for s in (stripes, [s.between() for s in stripes])
        )
        for name, a in plain.items():
            same_axes(a, size)
            change, other = ((b[name] - a)[:, 0].double() ** 2 for b in (seen, others))
            for axis, n in enumerate(size):
                e, f = _profile(change, axis), _profile(other, axis)
                d = ((e - f) / (e + f).clamp(min=1e-300)).nan_to_num()
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
            found = displacement(group.gather(torch.cat(rows))) / stride
            furthest = max(FURTHEST / 2, FURTHEST / max(1.0, stride))
            cells.setdefault(name, []).append(min(max(found, -furthest), furthest))
        return {name: torch.tensor(values).double() for name, values in cells.items()}


def _profile(change: Tensor, axis: int) -> Tensor:
    """Mean over all axes but one, (n, *cells) -> (n, cells)."""
    rows = change.movedim(1 + axis, 1)
    return rows.reshape(*rows.shape[:2], -1).mean(2).cpu()


def add_noise(x: Tensor, stripes: list["_Stripes"], generator: torch.Generator) -> Tensor:
    r"""Images (n, C, \*pixels) with noise where the stripes of the axes are, twice its variance
    where they cross; within each image's own range, and in its own type."""
    n, axes = len(x), len(stripes)
    variance = torch.zeros(n, 1, *[1] * axes)
    for axis, along in enumerate(stripes, start=2):
        shape = [n if i == 0 else x.shape[i] if i == axis else 1 for i in range(x.ndim)]
        variance = variance + along.at(x.shape[axis]).reshape(shape)
    noise = (NOISE * variance.sqrt() * torch.randn(x.shape, generator=generator)).to(x.device)
    pixels = x.reshape(n, 1, *[1] * axes, -1).float()
    noisy = x + noise * pixels.std(-1, correction=0)
    noisy = noisy.maximum(pixels.amin(-1)).minimum(pixels.amax(-1))
    return (noisy if x.is_floating_point() else noisy.round()).to(x.dtype)


@dataclass(frozen=True)
class _Stripes:
    """Random stripes of each image along one axis, at any resolution."""

    bits: Tensor  # (n, count + 1), 1 on a stripe
    offset: Tensor  # (n, 1), of a stripe's width

    @classmethod
    def drawn(cls, n: int, pixels: int, generator: torch.Generator) -> "_Stripes":
        """Some for each of n images."""
        count = max(1, min(STRIPES, pixels // 2))
        bits = (torch.rand(n, count + 1, generator=generator) < 0.5).float()
        return cls(bits, torch.rand(n, 1, generator=generator))

    def between(self) -> "_Stripes":
        """What these leave free."""
        return replace(self, bits=1 - self.bits)

    def at(self, pixels: int) -> Tensor:
        """(n, pixels), 1 on a stripe."""
        middles = (torch.arange(pixels) + 0.5) / pixels
        count = self.bits.shape[1] - 1
        return self.bits.gather(1, (middles * count + self.offset).floor().long())


def correlate(profile: Tensor, stripes: Tensor, radius: int) -> Tensor:
    """C(d) of each image, d from -radius to radius pixels.

    Args:
        profile: D (n, cells).
        stripes: (n, pixels).

    Returns:
        (n, 2 radius + 1).
    """
    n = stripes.shape[1]
    raised = upsample(profile[:, None], (n,))[:, 0]
    d, s = (x - x.mean(1, keepdim=True) for x in (raised, stripes))
    spectrum = torch.fft.rfft(d, 2 * n) * torch.fft.rfft(s, 2 * n).conj()  # padded with zeros
    c = torch.fft.irfft(spectrum, 2 * n).roll(radius, 1)[:, : 2 * radius + 1]
    return c * n / (n - torch.arange(-radius, radius + 1).abs())  # which overlap by less


def displacement(correlations: Tensor) -> float:
    """Pixels, from C(d) (n, lags) of n times stripes: drawn to 0 by as much as they disagree.

    A layer that mixes all places has no peak that stands out from chance: it stays where it is.
    """
    n = len(correlations)
    folds = min(FOLDS, n)
    total = correlations.sum(0)
    peak = total.argmax()
    by_chance = correlations[:, peak].std(correction=0) * n**0.5
    if folds < 2 or not total[peak] > STANDS_OUT * by_chance:
        return 0.0
    found = centroid(total)
    without = torch.tensor([centroid(total - correlations[i::folds].sum(0)) for i in range(folds)])
    variance = (folds - 1) * without.var(correction=0).item()  # of a jackknife
    if found == 0 or not math.isfinite(variance):
        return 0.0
    return found * max(0.0, 1 - variance / found**2)


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
