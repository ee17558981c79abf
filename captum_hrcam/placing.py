r"""Where a layer's cells look, so that its map can be drawn there.

A cell is taken to lie in the middle of the pixels that it covers, but it need not look there.
Kernels of strided convolutions are centred on the first of these pixels, so a deep layer's map may
lie half a cell, many pixels, beside what it marks. Learned kernels are skewed, too: one layer marks
the left edge of what it knows, another the right. The displacement is measured on a few images,
without masks. In an image mirrored through its middle, the layer looks to the same side as before.
Its map, mirrored back, then lies on the other side of the objects, and the distance between the two
maps is twice the displacement::

    C(d) = sum over q of a(q + d) a'(-q),    a = ((A - mean A)+)^2, less its mean, of norm 1

Here A is the image's map and A' that of the mirrored image; a' is made from A' as a is from A. The
mean of a over images is also subtracted: what lights up in the same place of every image, as an
edge may, is not an object. The displacement along each axis is half the centroid of C around its
peak.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_hrcam import group
from captum_hrcam.checks import same_axes

IMAGES = 48
FURTHEST = 1.5  # cells that a map is moved by at most
REACH = 4  # cells, the largest distance between the two maps that is tried; twice the displacement
PEAKS = 2  # power of what exceeds a map's mean, so that objects count and the background does not
FOLDS = 8  # of the images, to estimate the error; fewer images than this tell nothing
STANDS_OUT = 3  # standard errors by which a peak must stand out
CORE = 0.5  # share of the peak's height; what exceeds it belongs to the peak
TYPICAL = 0.5  # cells, a usual displacement; one with a larger error is mostly shrunk to 0

Maps = dict[str, Tensor]


def place(maps: Tensor, displacement: Sequence[float]) -> Tensor:
    r"""Move maps (N, K, \*cells) back by their displacement, in cells along each axis; linear.

    At the edges, the outermost cells are repeated. A constant is added that keeps each map's mean
    as it was, and with it the score that the map decomposes.

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
    """Measures how far each layer's map lies from what it marks in the inputs.

    Args:
        native_maps: (inputs, rows) -> {layer: (n, 1, *cells)}, one map for each image.
        count: whether these images count. A rank without images still passes one, uncounted,
            because all ranks must take part in the group's sums.
    """

    native_maps: Callable[[tuple[Tensor, ...], slice], Maps]
    count: bool = True
    _peaks: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def add(self, inputs: tuple[Tensor, ...], rows: slice) -> None:
        """Take some images; other inputs with as many dimensions are mirrored with them."""
        size = inputs[0].shape[2:]
        space = tuple(range(2, inputs[0].ndim))
        mirrored = tuple(x.flip(space) if x.ndim == inputs[0].ndim else x for x in inputs)
        others = self.native_maps(mirrored, rows)
        for name, a in self.native_maps(inputs, rows).items():
            same_axes("inputs", size, a.shape[2:])
            n = len(a) if self.count else 0
            both = (peaks(a)[:n].float(), peaks(others[name].flip(space))[:n].float())
            self._peaks.setdefault(name, []).append(both)

    def found(self) -> dict[str, Tensor]:
        """The displacements {layer: (axes,)}, in cells, from the images of all ranks."""
        cells: dict[str, Tensor] = {}
        for name, batches in self._peaks.items():
            usual = [_mean_over_images(p) for p in zip(*batches, strict=True)]
            parts = [
                correlate(*(x.double() - u for x, u in zip(pair, usual, strict=True)))
                for pair in batches
            ]
            along = [displacement(group.gather(torch.cat(c))) for c in zip(*parts, strict=True)]
            cells[name] = torch.tensor(along).double().clamp(-FURTHEST, FURTHEST)
        return cells


def correlate(a: Tensor, b: Tensor) -> list[Tensor]:
    r"""C(d) of each image along each axis, summed over the shifts along the other axes.

    Args:
        a: (n, \*cells), the ``peaks`` of maps, less their mean over images.
        b: the same for the mirrored images' maps, mirrored back.

    Returns:
        (n, 2 reach + 1) for each axis, d from -reach to reach cells; only d = 0 along an axis of
        one or two cells.
    """
    axes = list(range(1, a.ndim))
    # Of two cells, less their mean, one is as high as the other is low: neither side stands out.
    reach = [min(REACH, n - 1) if n > 2 else 0 for n in a.shape[1:]]
    if len(a) == 0:  # a Fourier transform of nothing is refused
        return [a.new_zeros(0, 2 * r + 1) for r in reach]
    # Padded, so that what is shifted out at one edge does not come in at the other.
    sides = [n + r for n, r in zip(a.shape[1:], reach, strict=True)]
    spectrum = torch.fft.rfftn(a, sides, axes) * torch.fft.rfftn(b, sides, axes).conj()
    c = torch.fft.irfftn(spectrum, sides, axes)
    for axis, r in zip(axes, reach, strict=True):
        c = c.roll(r, axis).narrow(axis, 0, 2 * r + 1)
    return [c.movedim(axis, 1).reshape(len(c), c.shape[axis], -1).sum(2) for axis in axes]


def peaks(maps: Tensor) -> Tensor:
    r"""a (n, \*cells) from A (n, 1, \*cells), as above, with its mean over images still in it."""
    a = maps[:, 0].cpu().double()
    space = list(range(1, a.ndim))
    above = (a - a.mean(space, keepdim=True)).clamp(min=0)
    high = (above / above.amax(space, keepdim=True)) ** PEAKS
    high = high - high.mean(space, keepdim=True)
    return (high / torch.linalg.vector_norm(high, dim=space, keepdim=True)).nan_to_num()


def _mean_over_images(batches: Sequence[Tensor]) -> Tensor:
    """The mean (*cells) over all ranks' images (n, *cells)."""
    summed = torch.stack([x.double().sum(0) for x in batches]).sum(0)
    return group.total(summed) / max(1, group.count(sum(map(len, batches))))


def displacement(correlations: Tensor) -> float:
    """The displacement in cells, from C(d) (n, lags) of n images, shrunk to 0 as these disagree.

    A layer that mixes all places has no peak that stands out from chance: its map is not moved.
    """
    n = len(correlations)
    if n < FOLDS:
        return 0.0
    total = correlations.sum(0)
    peak = total.argmax()
    if not total[peak] > STANDS_OUT * correlations[:, peak].std() * n**0.5:
        return 0.0
    without = torch.tensor([centroid(total - correlations[i::FOLDS].sum(0)) for i in range(FOLDS)])
    variance = (FOLDS - 1) * without.var(correction=0).item() / 4  # of a jackknife
    if not math.isfinite(variance):
        return 0.0
    return centroid(total) / 2 * TYPICAL**2 / (TYPICAL**2 + variance)


def centroid(correlation: Tensor) -> float:
    """The peak's centroid, in steps from the middle; NaN if there is no peak. A peak that the edge
    cuts on one side is cut at the same distance from its summit on the other side."""
    peak, end = int(correlation.argmax()), len(correlation) - 1
    core = (correlation - CORE * correlation[peak]).clamp(min=0)
    if correlation[peak] <= 0:
        return math.nan
    first = last = peak
    while first > 0 and core[first - 1] > 0:
        first -= 1
    while last < end and core[last + 1] > 0:
        last += 1
    if first == 0:
        last = min(last, 2 * peak)
    if last == end:
        first = max(first, 2 * peak - end)
    steps = torch.arange(first, last + 1) - end // 2
    core = core[first : last + 1]
    return ((core * steps).sum() / core.sum()).item()
