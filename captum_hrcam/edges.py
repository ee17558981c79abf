"""Edges: a finest layer that marks every edge in the image, not the object's.

In ultrasound of a breast it marks all bright tissue, the next layers see the same edges and confirm
them, and the tumour is lost in the sum. No mask is needed to doubt it: of its map the deepest layer
sees little. But so it does of objects far smaller than its own cells, which the finest layer sees
best. So the model's outputs have a veto, see ``Revisit``: the finest layer stays where blurring
what the others alone mark leaves the class more probability, by more than a standard error.
"""

import math
from collections.abc import Mapping

from torch import Tensor

from captum_hrcam.cells import LEAST, CellMoments, pool
from captum_hrcam.fusion import upsample
from captum_hrcam.grain import octaves

# Of what the deepest layer sees of the layer it sees best. Ultrasound has .29 to .51 (one network
# of seven .67), textures .05 to .37, very small objects .21 and .37; lesions, digits among strokes
# and brains .65 and more (documentation, "Choosing the head").
ENOUGH = 0.57

Sizes = dict[str, tuple[int, ...]]


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


def without_finest(shares: Mapping[str, float], resolutions: Sizes) -> tuple[Sizes, str]:
    """The layers with cells twice as wide as the finest's, and why it is doubted; none where it is
    not, or where fewer than two would be left.

    Args:
        shares: layer name -> how much of its map the deepest layer sees, of 1, shallow to deep,
            without the last layer.
        resolutions: layer name -> spatial size; of the last layer, too.

    Examples::

        >>> sizes = {"1": (64, 64), "2": (32, 32), "3": (16, 16), "4": (8, 8)}
        >>> left, why = without_finest({"1": 0.4, "2": 0.6, "3": 1.0}, sizes)
        >>> print(list(left), why)
        ['2', '3', '4'] of its map the deepest layer sees 0.40 times as much as of the one it sees \
best (0.57 is enough)
        >>> without_finest({"1": 0.6, "2": 0.7, "3": 1.0}, sizes)
        ({}, '')
    """
    finest = next(iter(resolutions))
    left = {n: size for n, size in resolutions.items() if octaves(resolutions[finest], size) >= 1}
    share = shares.get(finest, 1.0)
    if share >= ENOUGH or len(left) < 2:
        return {}, ""
    return left, (
        f"of its map the deepest layer sees {share:.2f} times as much as of the one it sees best "
        f"({ENOUGH} is enough)"
    )
