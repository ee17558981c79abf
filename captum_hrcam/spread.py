"""How much a head's maps vary over space: in all images, and in a class's images against others.

A model may recognise a class by what it does not find: the last of four textures, or the healthy
class. Such a class has no place. Its map is flat in its own images and dips in the others', where
their evidence lies; its score is as good as any. What gives it away without masks is the deviation
over space of its map in the deepest layer, which is hardly larger in images of the class than in
others. (Finer layers also mark what all images have, which hides the difference.)
"""

import torch
from torch import Tensor

from captum_hrcam import group
from captum_hrcam.pooling import widest_dtype

FEW = 4  # images of a class, or of others; fewer are too few to compare


def over_space(maps: Tensor) -> Tensor:
    """Variance of each map (n, K, *cells) over its cells, (n, K), in float64 on the CPU."""
    cells = maps.flatten(2).to(widest_dtype(maps.device))
    return cells.var(2, correction=0).cpu().double()


def typical(variance: Tensor, weights: Tensor) -> Tensor:
    """(K,), the root of the mean of a layer's variances (n, K) over the images of all ranks, each
    weighted by how many it stands for (n,)."""
    weights = weights.double()
    return (group.total(weights @ variance) / group.total(weights.sum())).sqrt()


def contrast(variance: Tensor, y: Tensor) -> Tensor:
    """(K,), the ratio of a map's deviation over space in images of its class to that in others.

    Args:
        variance: (n, K), of the deepest layer's maps of this rank's images.
        y: (n, K), the images' targets from 0 to 1; at 1/2 an image counts half as either kind.

    Returns:
        Ratios of deviations, over all ranks; NaN where there are too few images of either kind.

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
