"""Edges: a finest layer that marks every edge in the image, not the object's.

In ultrasound of a breast it marks all bright tissue, the next layers see the same edges and confirm
them, and the tumour is lost in the sum. No mask is needed to doubt it: of its map the deepest layer
sees little. But so it does of objects far smaller than its own cells, which the finest layer sees
best. So the model's outputs have a veto, see ``Revisit``: the finest layer stays where blurring
what the others alone mark leaves the class more probability, by more than a standard error.

Where it goes, the layers that are left count by what the deepest sees of them: the next finer ones
mark such edges, too, only less.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from captum_hrcam.cells import LEAST, CellMoments, pool
from captum_hrcam.fusion import upsample
from captum_hrcam.grain import Sizes, octaves

# Of what the deepest layer sees of the layer it sees best. Ultrasound has .29 to .51 (one network
# of seven .67), textures .05 to .37, very small objects .21 and .37; lesions, digits among strokes
# and brains .65 and more (documentation, "Choosing the head").
ENOUGH = 0.57
POWER = 4  # of what is seen, as layers then count


class Doubt(NamedTuple):
    """The finest layers, which may mark edges everywhere, and why one would think so."""

    layers: list[str]
    why: str


class SeenByDeepest:
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


def doubted(shares: Mapping[str, float], resolutions: Sizes) -> Doubt | None:
    """The layers before the first with cells twice as wide that the deepest one sees little of;
    None where there is none, or where fewer than two layers would be left.

    Args:
        shares: layer name -> how much of its map the deepest layer sees, of 1, shallow to deep,
            without the last layer.
        resolutions: layer name -> spatial size; of the last layer, too.

    Examples::

        >>> sizes = {"1": (64, 64), "2": (32, 32), "3": (16, 16), "4": (8, 8)}
        >>> doubt = doubted({"1": 0.4, "2": 0.6, "3": 1.0}, sizes)
        >>> print(*doubt.layers, doubt.why)
        1 of its map the deepest layer sees 0.40 times as much as of the one it sees best (0.57 is \
enough)
        >>> print(doubted({"1": 0.6, "2": 0.7, "3": 1.0}, sizes))
        None
    """
    names, sizes = list(resolutions), list(resolutions.values())
    finest = names[: next((i for i, s in enumerate(sizes) if octaves(sizes[0], s) >= 1), 0)]
    layers = [name for name in finest if shares[name] < ENOUGH]
    if not layers or len(names) - len(layers) < 2:
        return None
    share = min(shares[name] for name in layers)
    return Doubt(
        layers,
        f"of its map the deepest layer sees {share:.2f} times as much as of the one it sees best "
        f"({ENOUGH} is enough)",
    )
