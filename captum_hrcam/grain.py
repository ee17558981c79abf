"""Grain: layers so fine that they see what a texture is made of, not where it is.

A patch of stripes is recognised by its stripes. A fine layer marks each of them, and just as much
in the noise around the patch; deeper layers, whose cells hold a stripe or more, mark the patch. No
mask is needed to detect this: the deeper layers hardly confirm the fine layer's map.
"""

import math
from collections.abc import Mapping

# Share of the best confirmed layer's confirmation. Textures have .27 to .49, lesions and digits
# among strokes .69 and more, digits on photographs .51 and more (documentation, "Choosing the
# head").
ENOUGH = 0.5
OCTAVES = 2  # doublings: cells four times as wide as those that see the grain see the patch

Sizes = Mapping[str, tuple[int, ...]]  # layer name -> spatial size, shallow to deep


def without_grain(confirmed: Mapping[str, float], resolutions: Sizes) -> tuple[list[str], str]:
    """The layers to keep, shallow to deep, and a line for the report that says why.

    Kept are the layers whose cells are at least four times as wide as those of the deepest layer
    that sees only grain. All are kept if each is confirmed, and if fewer than two would be left, as
    when all layers have one resolution.

    Args:
        confirmed: layer name -> the correlation of its map with what all deeper layers say, shallow
            to deep, all above 0; without the last layer, which has no deeper ones.
        resolutions: layer name -> spatial size, including the last layer.

    Examples::

        >>> sizes = {"1": (64, 64), "2": (32, 32), "3": (16, 16), "4": (8, 8)}
        >>> without_grain({"1": 0.2, "2": 0.6, "3": 0.8}, sizes)[0]
        ['3', '4']
        >>> without_grain({"1": 0.6, "2": 0.7, "3": 0.7}, sizes)[0]
        ['1', '2', '3', '4']
    """
    names = list(resolutions)
    if not confirmed:
        return names, "layers: the only one"
    best = max(confirmed.values())
    grainy = [name for name, r in confirmed.items() if r < ENOUGH * best]
    told = min(confirmed, key=confirmed.__getitem__) if not grainy else grainy[-1]
    why = (
        f"deeper layers confirm {told!r} {confirmed[told] / best:.2f} times as well as the best "
        f"confirmed layer ({ENOUGH} is enough)"
    )
    if not grainy:
        return names, f"layers: none sees only the grain of a texture: {why}"
    return keep_wider(told, resolutions, f"as {told!r} sees only the grain of a texture", why)


def keep_wider(layer: str, resolutions: Sizes, reason: str, why: str) -> tuple[list[str], str]:
    """The layers whose cells are at least four times as wide as this layer's, or all if fewer than
    two would be left; and a line for the report with the ``reason`` and the figures behind it,
    ``why``."""
    names, sizes = list(resolutions), list(resolutions.values())
    wide = (i for i, size in enumerate(sizes) if octaves(resolutions[layer], size) >= OCTAVES)
    first = next(wide, len(names))
    if len(names) - first < 2:
        return names, f"layers: all kept, {reason}, but fewer than two are much coarser: {why}"
    left_out = ", ".join(names[:first])
    return names[first:], (
        f"layers: {left_out} left out, {reason}: {why}; solver='cascade' keeps them"
    )


def octaves(fine: tuple[int, ...], coarse: tuple[int, ...]) -> int:
    """How often the cells' width doubles from one layer to the other: the mean over dimensions,
    rounded. A dimension with only one cell, as when a signal is given as an image, is left out."""
    doubled = [math.log2(a / b) for a, b in zip(fine, coarse, strict=True) if a > 1]
    return round(sum(doubled) / max(1, len(doubled)))
