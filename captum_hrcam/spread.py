"""How much a head's maps vary over space: in all images, and in a class's images against others.

A class that a model tells by what it does not find, the last of four textures or the healthy one,
has no place: its map is flat in its own images and dips in the others', where their evidence lies.
Its score is as good as any. Without masks it is given away by the deviation over space of its map
in the deepest layer, hardly larger in images of the class than in others. (Finer layers also mark
what all images have, which hides the difference.)
"""

import torch
from torch import Tensor

from captum_hrcam import group

FEW = 4  # images of a class, or of others: too few to compare


def over_space(maps: Tensor) -> Tensor:
    """Variance of each map (n, K, *cells) over its cells, (n, K), in float64 on the CPU."""
    return maps.flatten(2).double().var(2, correction=0).cpu()


def typical(variance: Tensor) -> Tensor:
    """(K,), the root of the mean over images of a layer's variances (n, K); of all ranks."""
    return (group.total(variance.sum(0)) / group.count(len(variance))).sqrt()


def contrast(variance: Tensor, y: Tensor) -> Tensor:
    """(K,), the deviation over space of a class's maps in images of the class, of that in others.

    Args:
        variance: (n, K), the deepest layer's; this rank's images.
        y: (n, K), their targets from 0 to 1; a half counts half in both.

    Returns:
        Ratios, of all ranks; NaN where there are too few images of either kind.

    Examples::

        >>> y = torch.tensor([[1.0]] * 8 + [[0.0]] * 8)
        >>> contrast(4 * y + 1, y)
        tensor([2.2361], dtype=torch.float64)
    """
    kinds = torch.stack([y, 1 - y]).double()  # (2, n, K): of the class, of others
    counts = group.total(kinds.sum(1))
    own, others = group.total((kinds * variance).sum(1)) / counts
    ratio = (own / others.clamp(min=1e-300)).sqrt()
    return torch.where(counts.amin(0) >= FEW, ratio, torch.nan)
