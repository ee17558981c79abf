"""Edges: fine layers that mark every edge in the image, not just the object's.

In breast ultrasound they mark all bright tissue. The next layers see the same edges and confirm
them, and the tumour is lost in the sum. The frozen model tells such layers, and no mask is needed.
Blur away where the finest layer's map is high, and the class keeps most of its probability; blur as
many pixels where layers with much wider cells are high, and it loses more. If the finest layer
marks the object, it loses as much or more, as that layer hits the object more exactly.

A fine map's highest pixels lie scattered, and blurring these costs less than blurring as many in
one piece, even on the object. So the map is also averaged over the wider cells, and what it costs
is the mean of both.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from captum_hrcam.asking import Asking, Inputs
from captum_hrcam.cells import pool
from captum_hrcam.few_images import FewImages, maps_of
from captum_hrcam.fusion import upsample
from captum_hrcam.grain import Sizes, leave_out, wider

# Of what the wider layers' maps cost. Ultrasound has up to .75, and lesions, digits and brains have
# .85 and more (documentation, "Choosing the head").
ENOUGH = 0.8
CLEAR = 2  # standard errors of the difference
LITTLE = 0.01  # probability; a model that loses less depends on neither
FEW = 8  # images; fewer are too few
FRACTIONS = (0.02, 0.05)  # of the pixels, blurred away
IMAGES = 54


def without_edges(costs: Tensor, resolutions: Sizes) -> tuple[list[str], str]:
    """The layers to keep, shallow to deep, and a line for the report that says why.

    If the finest layer marks edges, only the wider layers are kept, from the first on whose cells
    are at least four times as wide, as the next finer ones mark edges, too, only less. All are kept
    if fewer than two would be left.

    Args:
        costs: (n, 2), see ``costs_of_blurring``.
        resolutions: layer name -> spatial size.

    Examples::

        >>> sizes = {"1": (64, 64), "2": (32, 32), "3": (16, 16), "4": (8, 8)}
        >>> costs = torch.tensor([[0.1, 0.3], [0.0, 0.4], [0.2, 0.4]]).repeat(3, 1)
        >>> without_edges(costs, sizes)[0]
        ['3', '4']
        >>> without_edges(costs.flip(1), sizes)[0]
        ['1', '2', '3', '4']
    """
    names = list(resolutions)
    finest, wide = names[0], wider(names[0], resolutions)
    if len(wide) < 2:
        return names, f"layers: all kept, as fewer than two are much coarser than {finest!r}"
    if len(costs) < FEW:
        return names, (
            f"layers: all kept, as of only {len(costs)} images the model gives a score of each "
            "class and sees theirs: too few to tell whether a layer marks edges"
        )
    (own, of_wide), error = weighted(costs)
    why = (
        f"blurring away what it marks most costs the class {own:.3f} of its probability, and what "
        f"{', '.join(wide)} mark most {of_wide:.3f} (± {error:.3f} of the difference, on "
        f"{len(costs)} images; {ENOUGH} times as much is enough)"
    )
    is_clear = of_wide - own > CLEAR * error and costs[:, 1].mean() >= LITTLE
    if not (is_clear and own < ENOUGH * of_wide):  # also if a blurred image gives NaN
        return names, f"layers: {finest!r} does not mark edges all over the image: {why}"
    return leave_out(wide, resolutions, f"as {finest!r} marks edges all over the image", why)


def weighted(costs: Tensor) -> tuple[list[float], float]:
    """The mean costs, and the standard error of their difference. Each image counts by what all of
    its blurring costs: it says nothing where that is nothing, as in healthy images.

    Args:
        costs: (n, 2).

    Examples::

        >>> weighted(torch.tensor([[0.1, 0.3], [0.1, 0.3], [0.0, 0.0], [-0.2, 0.1]]))
        ([0.1..., 0.3...], 0.0)
    """
    share = costs.sum(1).clamp(min=0)
    share = share / share.sum().clamp(min=1e-12)
    means = share @ costs
    off = share * (costs[:, 1] - costs[:, 0] - (means[1] - means[0]))
    return means.tolist(), torch.linalg.vector_norm(off).item()


def costs_of_blurring(
    few: FewImages, head: Mapping[str, Tensor], resolutions: Sizes, asking: Asking
) -> Tensor:
    """What it costs the model to blur away what the finest layer's map marks most (the mean of the
    map as it is, and averaged over the wider layers' cells), and as many pixels of what the wider
    layers mark most (see ``grain.wider``).

    Args:
        few: reads the layers' channels.
        head: layer name -> (K, C_l) weights, whose maps have unit deviation, shallow to deep.
        resolutions: layer name -> spatial size, of the same layers.
        asking: asks the frozen model.

    Returns:
        (n, 2), losses of probability of the classes in all ranks' images; n = 0 if the model cannot
        be asked, or fewer than two layers are so wide.
    """
    finest = next(iter(head))
    wide = wider(finest, resolutions)
    if len(wide) < 2:
        return torch.zeros(0, 2)
    attribute = partial(_maps_of_finest_and_wider, few, head, wide)
    fine, averaged, of_wide = asking.costs(attribute, 3, FRACTIONS).unbind(1)
    return torch.stack([(fine + averaged) / 2, of_wide], 1)


def _maps_of_finest_and_wider(
    few: FewImages, head: Mapping[str, Tensor], wide: list[str], inputs: Inputs, classes: Tensor
) -> tuple[Tensor, ...]:
    """The map of each image's class in the finest layer, the same averaged over the wider cells,
    and the sum of those in the wider layers, (n, 1, *spatial) each."""
    size, each = tuple(inputs[0].shape[2:]), (torch.arange(len(classes)), classes)
    part = {name: head[name] for name in (next(iter(head)), *wide)}
    finest, *others = maps_of(few.features(inputs, part), each, part)
    averaged = pool(finest, tuple(others[0].shape[2:]))
    of_wide = torch.stack([upsample(z, size) for z in others]).sum(0)
    return upsample(finest, size), upsample(averaged, size), of_wide
