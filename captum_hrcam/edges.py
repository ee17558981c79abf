"""Edges: fine layers that mark every edge in the image, not the object's.

In breast ultrasound they mark all bright tissue. The next layers see the same edges and confirm
them, and the tumour is lost in the sum. Two signs together tell, without masks. Of such a layer's
map the deepest layer, which sees the tumour, sees little; and where the finest layer marks most,
the deepest marks little. Either sign alone errs. Of an object far smaller than its cells the
deepest layer sees little, too, but both mark the same place. Where one of them looks beside the
object, the deepest marks little where the finest marks most, but sees much.
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
SEEN = 0.57  # of what the deepest layer sees of the layer it sees best
TOLD = 0.8  # area under ROC
PLACE = 0.6  # a class that no layer is told better of has no place
BRIGHTEST = 0.01  # of a map's cells


class Seen:
    """How much of each layer's maps the deepest layer sees.

    Two correlations within images: with the deepest map raised to the layer's own cells, which all
    lowers that the deepest layer does not mark; and pooled to the deepest layer's cells, which
    counts how much there is of it, not how sharp it is. Of both the geometric mean.

    Args:
        layers: shallow to deep.
    """

    def __init__(self, layers: list[str]) -> None:
        self._moments = {name: (CellMoments(1, 1), CellMoments(1, 1)) for name in layers[:-1]}

    def add(self, maps: list[Tensor]) -> None:
        """Each layer's maps of a few images, (n, 1, *cells), in this order."""
        space = tuple(range(2, maps[0].ndim))
        *shallow, last = (z - z.mean(space, keepdim=True) for z in maps)
        for z, (own, pooled) in zip(shallow, self._moments.values(), strict=True):
            own.add(z, upsample(last, tuple(z.shape[2:])))
            pooled.add(pool(z, tuple(last.shape[2:])), last)

    def shares(self) -> dict[str, float]:
        """layer name -> of the layer that is seen best, without the last; of all ranks."""
        found = {}
        for name, both in self._moments.items():
            for moments in both:
                moments.over_ranks()
            own, pooled = (max(moments.correlation, LEAST) for moments in both)
            found[name] = math.sqrt(own * pooled)
        return {name: seen / max(found.values()) for name, seen in found.items()}


class Told:
    """How well the deepest layer's map tells where each finer one marks most.

    The area under ROC of its values at the finer layer's cells, for the hundredth of them that is
    brightest there; the mean over images of the classes that have a place.

    Args:
        layers: shallow to deep.
        k: classes.
    """

    def __init__(self, layers: list[str], k: int) -> None:
        self._layers = layers[:-1]
        self._sums = torch.zeros(len(layers), k, dtype=torch.float64)  # last of images

    def add(self, maps: list[Tensor], classes: Tensor) -> None:
        """Each layer's maps of a few images, (n, 1, *cells), shallow to deep, and the class that
        each is of, (n,)."""
        *shallow, last = maps
        found = [areas(z, upsample(last, tuple(z.shape[2:]))) for z in shallow]
        rows = torch.stack([*found, torch.ones(len(last), dtype=torch.float64)])
        self._sums.index_add_(1, classes.cpu(), rows)

    def areas(self) -> dict[str, float]:
        """layer name -> area, without the last; of all ranks; NaN where no class has a place."""
        sums = group.total(self._sums)
        best = (sums[:-1] / sums[-1]).amax(0) if self._layers else sums[-1]
        of_placed = sums[:, best >= PLACE].sum(1)
        return dict(zip(self._layers, (of_placed[:-1] / of_placed[-1]).tolist(), strict=True))


def areas(marks: Tensor, tells: Tensor) -> Tensor:
    """(n,), the area under ROC of one map for the brightest cells of another; ties count half.

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
    return auroc(tells.T, brightest.T)  # of each map: its cells are the rows


def without_edges(
    seen: Mapping[str, float], told: Mapping[str, float], resolutions: Sizes
) -> tuple[list[str], str]:
    """The layers to keep, shallow to deep, and why: where the finest marks edges, those
    from the first on whose cells are four times as wide, as the next finer ones mark edges, too,
    only less. All where fewer than two would be left.

    Args:
        seen: layer name -> share, shallow to deep, without the last layer; at least one.
        told: layer name -> area, as well.
        resolutions: layer name -> spatial size; of the last layer, too.

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
    why = (
        f"the deepest layer sees {seen[finest]:.2f} times as much of its map as of the one it sees "
        f"best ({SEEN} is enough), and tells where {finest!r} marks most with an AUROC of "
        f"{told[finest]:.2f} ({TOLD} is enough)"
    )
    if seen[finest] >= SEEN or told[finest] >= TOLD:
        return names, f"layers: {finest!r} does not mark edges all over the image: {why}"
    return keep_wider(finest, resolutions, f"as {finest!r} marks edges all over the image", why)
