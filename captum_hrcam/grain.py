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

    Kept are the layers from the first on whose cells are at least four times as wide as those of
    the deepest layer that sees only grain. All are kept if each is confirmed, and if fewer than two
    would be left, as when all layers have one resolution. Layers after a coarser one, as a
    decoder's, are never asked: they stay as fine as they are, as they see what it sees.

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
    if len(confirmed) == 1:
        return names, "layers: all kept, as two are too few to tell which sees only grain"
    best = max(confirmed.values())
    asked = [name for name in descent(resolutions) if name in confirmed]
    grainy = [name for name in asked if confirmed[name] < ENOUGH * best]
    told = grainy[-1] if grainy else min(asked, key=confirmed.__getitem__)
    why = (
        f"deeper layers confirm {told!r} {confirmed[told] / best:.2f} times as well as the best "
        f"confirmed layer ({ENOUGH} is enough)"
    )
    if not grainy:
        return names, f"layers: none sees only the grain of a texture: {why}"
    reason = f"as {told!r} sees only the grain of a texture"
    wide = wider(told, resolutions)
    if len(wide) < 2:
        return names, f"layers: all kept, {reason}, but fewer than two are much coarser: {why}"
    return leave_out(wide, resolutions, reason, why)


def descent(resolutions: Sizes) -> list[str]:
    """The layers before the first that is finer than the one before it.

    Examples::

        >>> descent({"down": (8, 8), "deep": (4, 4), "up": (8, 8)})
        ['down', 'deep']
    """
    names = list(resolutions)
    for i in range(1, len(names)):
        if octaves(resolutions[names[i]], resolutions[names[i - 1]]) > 0:
            return names[:i]
    return names


def wider(layer: str, resolutions: Sizes) -> list[str]:
    """The first layer whose cells are at least four times as wide as this layer's, and all after
    it, as a decoder's see what it sees."""
    names = list(resolutions)
    wide = (octaves(resolutions[layer], size) >= OCTAVES for size in resolutions.values())
    return names[next((i for i, is_wide in enumerate(wide) if is_wide), len(names)) :]


def leave_out(wide: list[str], sizes: Sizes, reason: str, why: str) -> tuple[list[str], str]:
    """The layers to keep, ``wide``, and a line with the ``reason`` and the figures behind it,
    ``why``."""
    left_out = ", ".join(name for name in sizes if name not in wide)
    return wide, f"layers: {left_out} left out, {reason}: {why}; solver='cascade' keeps them"


def octaves(fine: tuple[int, ...], coarse: tuple[int, ...]) -> int:
    """How often the cells' width doubles from one layer to the other: the mean over dimensions,
    rounded. A dimension with only one cell, as when a signal is given as an image, is left out."""
    doubled = [math.log2(a / b) for a, b in zip(fine, coarse, strict=True) if a > 1]
    return round(sum(doubled) / max(1, len(doubled)))
