"""Grain: layers so fine that they see what a texture is made of, or every edge, not the object.

A patch of stripes is told by its stripes. A fine layer marks each of them, and as much in the noise
around; in an ultrasound image it marks every bright edge. Deeper layers, whose cells hold a few of
these, mark the patch or the tumour. No mask is needed to see it: of the fine layer's map the
deepest layer sees little.
"""

import math
from collections.abc import Mapping

from torch import Tensor

from captum_hrcam.cells import LEAST, CellMoments, pool
from captum_hrcam.fusion import upsample

# Of what the deepest layer sees of the layer it sees best. Textures have .05 to .37, ultrasound .32
# to .49, digits on photographs .44 to .55; lesions, digits among strokes and brains .65 and more
# (documentation, "Choosing the head").
ENOUGH = 0.57
HARDLY = 0.4  # less is grain, and cells four times as wide see the patch; else twice as wide do


class Seen:
    """How much of each layer's maps the deepest layer sees.

    Two correlations within images: with the deepest map raised to the layer's own cells, which
    every edge lowers that the deepest layer does not mark, and so does a small object; and pooled
    to the deepest layer's cells, which an object does not lower, however small. Of both the
    geometric mean.

    Args:
        layers: shallow to deep.
    """

    def __init__(self, layers: list[str]) -> None:
        self._moments = {name: (CellMoments(1, 1), CellMoments(1, 1)) for name in layers[:-1]}

    def add(self, maps: list[Tensor]) -> None:
        """Each layer's maps of a few images, (n, 1, *cells), in this order."""
        *shallow, last = (z - z.flatten(1).mean(1).reshape(-1, *[1] * (z.ndim - 1)) for z in maps)
        for z, (own, pooled) in zip(shallow, self._moments.values(), strict=True):
            own.add(z, upsample(last, tuple(z.shape[2:])))
            pooled.add(pool(z, tuple(last.shape[2:])), last)

    def found(self) -> dict[str, float]:
        """layer name -> from LEAST to 1, without the last layer; of all ranks."""
        found = {}
        for name, both in self._moments.items():
            for moments in both:
                moments.over_ranks()
            own, pooled = (max(moments.correlation, LEAST) for moments in both)
            found[name] = math.sqrt(own * pooled)
        return found


def without_grain(
    seen: Mapping[str, float], resolutions: Mapping[str, tuple[int, ...]]
) -> tuple[list[str], str]:
    """The layers to keep, shallow to deep, and why.

    A layer of which the deepest sees little is left out with all whose cells are not twice as wide
    as its own, or where it hardly sees anything, four times, if two layers are left then. So of
    layers of one resolution none is left out.

    Args:
        seen: layer name -> how much of its map the deepest layer sees, shallow to deep, all above
            0; without the last layer.
        resolutions: layer name -> spatial size; of the last layer, too.

    Examples::

        >>> sizes = {"1": (64, 64), "2": (32, 32), "3": (16, 16), "4": (8, 8)}
        >>> without_grain({"1": 0.2, "2": 0.6, "3": 0.8}, sizes)[0]
        ['3', '4']
        >>> without_grain({"1": 0.4, "2": 0.6, "3": 0.8}, sizes)[0]
        ['2', '3', '4']
        >>> without_grain({"1": 0.6, "2": 0.7, "3": 0.7}, sizes)[0]
        ['1', '2', '3', '4']
    """
    names = list(resolutions)
    if not seen:
        return names, "layers: the only one"
    shares = {name: s / max(seen.values()) for name, s in seen.items()}
    grainy = {name: 2 if share < HARDLY else 1 for name, share in shares.items() if share < ENOUGH}
    kept = min((_coarser(*told, resolutions) for told in grainy.items()), key=len, default=names)
    worst = min(shares, key=shares.__getitem__)
    why = (
        f"of the map of {worst!r} the deepest layer sees {shares[worst]:.2f} times as much as of "
        f"the one it sees best ({ENOUGH} is enough)"
    )
    if len(kept) < len(names):
        left_out = ", ".join(name for name in names if name not in kept)
        why = f"{left_out} left out, as for grain or edges everywhere: {why}"
        return kept, f"layers: {why}; solver='cascade' keeps them"
    all_stay = "all stay, too few are coarser" if grainy else "none sees grain or edges alone"
    return names, f"layers: {all_stay}: {why}"


def _coarser(layer: str, by: int, resolutions: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The layers whose cells are that many octaves wider, or fewer, so that two are left."""
    for least in range(by, 0, -1):
        kept = [n for n, size in resolutions.items() if octaves(resolutions[layer], size) >= least]
        if len(kept) >= 2:
            return kept
    return list(resolutions)


def octaves(fine: tuple[int, ...], coarse: tuple[int, ...]) -> int:
    """How often cells double from one layer to the other, on average over dimensions, rounded; one
    along which there is but one cell, as of a signal given as an image, is none."""
    doubled = [math.log2(a / b) for a, b in zip(fine, coarse, strict=True) if a > 1]
    return round(sum(doubled) / max(1, len(doubled)))
