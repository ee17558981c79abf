"""Edges: fine layers that mark every edge in the image, not just the object's.

In breast ultrasound they mark all bright tissue. The next layers see the same edges and confirm
them, and the tumour is lost in the sum. Two things tell such layers; no mask is needed.

The frozen model does not depend on what the finest layer marks. Blur away where its map is high,
and the class keeps most of its probability; blur as many pixels where layers with much wider cells
are high, and it loses more. And the finest layer's map is unlike theirs, which mark objects.

Neither does alone. Blurring an object exactly where it is may cost less than blurring all around
it, but then the maps are alike. And the wider layers may see a small object dimly or beside its
place, so that the maps are unlike, but then the model depends on what the finest layer marks. So
the ratio of the costs is multiplied by the maps' correlation.

A fine map's highest pixels lie scattered, and blurring these costs less than blurring as many in
one piece, even on the object. So the map is also averaged over the wider cells, and its cost and
its correlation are the means of both.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from captum_hrcam import group
from captum_hrcam.asking import Asking, Inputs
from captum_hrcam.cells import pool
from captum_hrcam.discrimination import correlation
from captum_hrcam.few_images import FewImages, maps_of
from captum_hrcam.fusion import upsample
from captum_hrcam.grain import Sizes, leave_out, wider

# Ratio times correlation. Ultrasound has up to .34; electrocardiograms have .40, lesions, digits,
# brains and squares .45 and more (documentation, "Choosing the head").
ENOUGH = 0.43
LITTLE = 0.01  # probability; a model that loses less depends on neither
FEW = 8  # images; fewer are too few
FRACTIONS = (0.02, 0.05)  # of the pixels, blurred away
IMAGES = 54


def without_edges(costs: Tensor, likeness: Tensor, resolutions: Sizes) -> tuple[list[str], str]:
    """The layers to keep, shallow to deep, and a line for the report that says why.

    If the finest layer marks edges, only the wider layers are kept, from the first on whose cells
    are at least four times as wide, as the next finer ones mark edges, too, only less. All are kept
    if fewer than two would be left.

    Args:
        costs, likeness: (n, 2) and (n,), see ``ask``.
        resolutions: layer name -> spatial size.

    Examples::

        >>> sizes = {"1": (64, 64), "2": (32, 32), "3": (16, 16), "4": (8, 8)}
        >>> costs = torch.tensor([[0.2, 0.3], [0.2, 0.4], [0.3, 0.4]]).repeat(3, 1)
        >>> unlike = torch.full((9,), 0.5)
        >>> without_edges(costs, unlike, sizes)[0]
        ['3', '4']
        >>> without_edges(costs.flip(1), unlike, sizes)[0]
        ['1', '2', '3', '4']
        >>> without_edges(costs, 2 * unlike, sizes)[0]
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
    own, of_wide, like, error = _weighted(costs, likeness)
    product = own / of_wide * like
    why = (
        f"blurring away what it marks most costs the class {own:.3f} of its probability, and what "
        f"{', '.join(wide)} mark most {of_wide:.3f}; the maps correlate {like:.2f}; the costs' "
        f"ratio times this is {product:.2f} ± {error:.2f} (on {len(costs)} images; less than "
        f"{ENOUGH} by more than this error would be edges)"
    )
    if not costs[:, 1].mean() >= LITTLE or math.isnan(product):  # a blurred image may give NaN
        return names, (
            f"layers: all kept, as blurring away what {', '.join(wide)} mark most costs the class "
            f"{of_wide:.3f} of its probability, which tells nothing of edges"
        )
    if product >= ENOUGH - error:
        return names, f"layers: {finest!r} does not mark edges all over the image: {why}"
    return leave_out(wide, resolutions, f"as {finest!r} marks edges all over the image", why)


def _weighted(costs: Tensor, likeness: Tensor) -> tuple[float, float, float, float]:
    """The mean costs, the mean likeness, and the standard error of their ratio times this. Each
    image counts by what all of its blurring costs: it says nothing where that is nothing, as in
    healthy images.

    Args:
        costs, likeness: (n, 2) and (n,).

    Examples::

        >>> costs = torch.tensor([[0.1, 0.2], [0.1, 0.2], [0.0, 0.0], [-0.2, 0.1]])
        >>> _weighted(costs, torch.tensor([0.5, 0.5, 0.0, 0.0]))
        (0.1..., 0.2..., 0.5, 0.0)
    """
    share = costs.sum(1).clamp(min=0)
    share = share / share.sum().clamp(min=1e-12)
    own, of_wide, like = (share @ torch.cat([costs, likeness[:, None]], 1)).tolist()
    of_wide, like = max(of_wide, 1e-12), max(like, 0.0)
    off = share * (like * costs[:, 0] - own / of_wide * like * costs[:, 1])
    return own, of_wide, like, torch.linalg.vector_norm(off).item() / of_wide


def ask(
    few: FewImages, head: Mapping[str, Tensor], resolutions: Sizes, asking: Asking
) -> tuple[Tensor, Tensor]:
    """What it costs the model to blur away what the finest layer's map marks most, and as many
    pixels of what the wider layers' maps mark most (see ``grain.wider``); and how alike the maps
    are. Of the finest layer it is the mean of two: of its map as it is, and averaged over the wider
    layers' cells.

    Args:
        few: reads the layers' channels.
        head: layer name -> (K, C_l) weights, whose maps have unit deviation, shallow to deep.
        resolutions: layer name -> spatial size, of the same layers.
        asking: asks the frozen model.

    Returns:
        The losses of probability of the classes in all ranks' images, (n, 2), and the correlation
        of the maps over each image, (n,); n = 0 if the model cannot be asked, or fewer than two
        layers are so wide.
    """
    finest = next(iter(head))
    wide = wider(finest, resolutions)
    if len(wide) < 2:
        return torch.zeros(0, 2), torch.zeros(0)
    likeness = [torch.zeros(0).double()]

    def attribute(inputs: Inputs, classes: Tensor) -> tuple[Tensor, ...]:
        maps = _maps_of_finest_and_wider(few, head, wide, inputs, classes)
        fine, averaged, of_wide = (a.flatten(1).T.cpu().double() for a in maps)
        likeness.append((correlation(fine, of_wide) + correlation(averaged, of_wide)) / 2)
        return maps

    fine, averaged, of_wide = asking.costs(attribute, 3, FRACTIONS).unbind(1)
    costs = torch.stack([(fine + averaged) / 2, of_wide], 1)
    return costs, group.gather(torch.cat(likeness))


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
