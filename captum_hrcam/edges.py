"""Edges: fine layers that mark every edge in the image, not just the object's.

In breast ultrasound they mark all bright tissue. The next layers see the same edges and confirm
them, and the tumour is lost in the sum. Two signs together reveal most such layers, without masks:
the deepest layer, which sees the tumour, sees little of the finest layer's map; and it marks little
where the finest layer marks most. Either sign alone can mislead. The deepest layer also sees little
of an object far smaller than its own cells, but then both layers mark the same place. And if one of
the two looks beside the object, the deepest layer marks little where the finest marks most, but it
sees much of that layer's map. So the two are added.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from captum_hrcam import group
from captum_hrcam.cells import LEAST, CellMoments, pool
from captum_hrcam.fusion import upsample
from captum_hrcam.grain import Sizes, keep_wider
from captum_hrcam.head_and_model import auroc

# See the documentation, "Choosing the head".
ENOUGH = 0.85  # of both together, each 1 at best; see ``clear``
PLACE = 0.6  # area under ROC; a class for which no layer reaches it has no place
BRIGHTEST = 0.01  # share of a map's cells


class Seen:
    """How much of each layer's maps the deepest layer sees.

    This is the geometric mean of two correlations of both layers' maps within images. One is taken
    at the layer's own cells, with the deepest map upsampled; all that the deepest layer does not
    mark lowers it. The other is taken at the deepest layer's cells, with the layer's map pooled; it
    depends on how much is marked, not on how sharply.

    Args:
        layers: shallow to deep.
    """

    def __init__(self, layers: list[str]) -> None:
        self._moments = {name: (CellMoments(1, 1), CellMoments(1, 1)) for name in layers[:-1]}

    def add(self, maps: list[Tensor]) -> None:
        """Take each layer's maps of a few images, (n, 1, *cells), shallow to deep."""
        space = tuple(range(2, maps[0].ndim))
        *shallow, last = (z - z.mean(space, keepdim=True) for z in maps)
        for z, (own, pooled) in zip(shallow, self._moments.values(), strict=True):
            own.add(z, upsample(last, tuple(z.shape[2:])))
            pooled.add(pool(z, tuple(last.shape[2:])), last)

    def shares(self) -> dict[str, float]:
        """layer name -> how much of it is seen, as a share of the layer that is seen best, without
        the last layer; over all ranks."""
        found = {}
        for name, both in self._moments.items():
            for moments in both:
                moments.over_ranks()
            own, pooled = (max(moments.correlation, LEAST) for moments in both)
            found[name] = math.sqrt(own * pooled)
        return {name: seen / max(found.values()) for name, seen in found.items()}


class Told:
    """How well the deepest layer's map tells where each finer layer marks most.

    This is the area under ROC of the deepest map, upsampled to the finer layer's cells, for the
    brightest hundredth of the finer layer's cells; the mean over images of the classes that have a
    place.

    Args:
        layers: shallow to deep.
        k: the number of classes.
    """

    def __init__(self, layers: list[str], k: int) -> None:
        self._layers = layers[:-1]
        self._sums = torch.zeros(len(layers), k, dtype=torch.float64)  # the last row counts images

    def add(self, maps: list[Tensor], classes: Tensor) -> None:
        """Take each layer's maps of a few images, (n, 1, *cells), shallow to deep, and the maps'
        classes, (n,)."""
        *shallow, last = maps
        found = [areas(z, upsample(last, tuple(z.shape[2:]))) for z in shallow]
        rows = torch.stack([*found, torch.ones(len(last), dtype=torch.float64)])
        self._sums.index_add_(1, classes.cpu(), rows)

    def areas(self) -> dict[str, float]:
        """layer name -> area, without the last layer; over all ranks. NaN if no class has a
        place."""
        sums = group.total(self._sums)
        best = (sums[:-1] / sums[-1]).amax(0) if self._layers else sums[-1]
        of_placed = sums[:, best >= PLACE].sum(1)
        return dict(zip(self._layers, (of_placed[:-1] / of_placed[-1]).tolist(), strict=True))


def areas(marks: Tensor, tells: Tensor) -> Tensor:
    """The areas (n,) under ROC of one map for the brightest cells of another; ties count half.

    Args:
        marks, tells: (n, 1, *cells).

    Examples::

        >>> a = torch.tensor([[[0.0, 3.0, 1.0, 2.0]]])
        >>> areas(a, a).item(), areas(a, -a).item(), areas(a, 0 * a).item()
        (1.0, 0.0, 0.5)
    """
    marks, tells = marks.flatten(1), tells.flatten(1)
    k = max(1, round(BRIGHTEST * marks.shape[1]))
    brightest = torch.zeros_like(marks, dtype=torch.bool)
    brightest.scatter_(1, marks.topk(k, 1).indices, True)
    return auroc(tells.T, brightest.T)  # a column for each map, a row for each cell


def without_edges(
    seen: Mapping[str, float], told: Mapping[str, float], resolutions: Sizes
) -> tuple[list[str], str]:
    """The layers to keep, shallow to deep, and a line for the report that says why.

    If the finest layer marks edges, only layers whose cells are at least four times as wide are
    kept, as the next finer ones mark edges, too, only less. All are kept if fewer than two would be
    left.

    Args:
        seen: layer name -> share (see ``Seen``), shallow to deep, without the last layer; at least
            one.
        told: layer name -> area (see ``Told``), likewise.
        resolutions: layer name -> spatial size, including the last layer.

    Examples::

        >>> sizes = {"1": (64, 64), "2": (32, 32), "3": (16, 16), "4": (8, 8)}
        >>> seen = {"1": 0.4, "2": 0.7, "3": 1.0}
        >>> without_edges(seen, {"1": 0.64, "2": 0.83, "3": 0.95}, sizes)[0]
        ['3', '4']
        >>> without_edges(seen, {"1": 0.95, "2": 0.9, "3": 0.95}, sizes)[0]
        ['1', '2', '3', '4']
    """
    names = list(resolutions)
    finest = next(iter(told))
    if math.isnan(told[finest]):
        return names, "layers: all kept, as no class was found to have a place"
    both = clear(seen[finest], told[finest])
    why = (
        f"the deepest layer sees {seen[finest]:.2f} times as much of its map as of the one it sees "
        f"best, and tells where {finest!r} marks most with an AUROC of {told[finest]:.2f} "
        f"({seen[finest]:.2f} + 2 x {told[finest]:.2f} - 1 is {both:.2f}, {ENOUGH} is enough)"
    )
    if both >= ENOUGH:
        return names, f"layers: {finest!r} does not mark edges all over the image: {why}"
    return keep_wider(finest, resolutions, f"as {finest!r} marks edges all over the image", why)


def clear(seen: float, told: float) -> float:
    """How clearly the deepest layer speaks for a finer one: what it sees, plus how much better than
    chance it tells; from -1 to 2.

    Args:
        seen: share, 1 at best.
        told: area under ROC, 0.5 by chance.

    Examples::

        >>> clear(1.0, 1.0), clear(0.5, 0.5)
        (2.0, 0.5)
    """
    return seen + 2 * told - 1
