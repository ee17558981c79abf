"""Moments over images and cells, and the weights that follow from them. Cells are the positions of
a feature map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_hrcam import group
from captum_hrcam.modes import full_precision
from captum_hrcam.pooling import widest_dtype

SHRINKAGE = 1.0  # of the covariance towards its diagonal; the diagonal alone gives a pattern
ROUNDING = 1e-6  # share of a mean, in float32
LEAST = 0.01  # least correlation: a layer that is not confirmed fades, but its map stays visible


class Covariances:
    """Covariance of each layer's channels over images and cells.

    Args:
        means: layer name -> (C,) averages over the training data.
    """

    def __init__(self, means: dict[str, Tensor]) -> None:
        self.means = means
        self.sums = {name: torch.zeros(len(m), len(m)).double() for name, m in means.items()}
        self.cells = dict.fromkeys(means, 0)

    def add(self, name: str, x: Tensor) -> None:
        """Take a layer's channels less their means, (n, C, *cells)."""
        x = x.transpose(0, 1).flatten(1)
        self.sums[name] += (x @ x.T).cpu().double()
        self.cells[name] += x.shape[1]

    def found(self) -> dict[str, Tensor]:
        """The covariances {layer: (C, C)} over all ranks; 0 for channels that do not vary."""
        found = {}
        for name, n in self.cells.items():
            covariance = group.total(self.sums[name]) / group.count(n)
            varying = varies(self.means[name], covariance.diagonal().sqrt())
            found[name] = covariance * varying.outer(varying)
        return found


def varies(mean: Tensor, deviation: Tensor) -> Tensor:
    """Which channels vary. A constant whose mean is rounded seems to, and its weights would
    explode."""
    return deviation > ROUNDING * mean.abs()


class CellMoments:
    """Covariance of channels and targets over images and cells, and variances; O(C K) memory."""

    def __init__(self, channels: int, k: int) -> None:
        self.n = 0
        self.x, self.t = torch.zeros(channels).double(), torch.zeros(k).double()
        self.xx, self.tt = torch.zeros(channels).double(), torch.zeros(k).double()
        self.tx = torch.zeros(k, channels).double()

    def add(self, x: Tensor, t: Tensor) -> None:
        """Take channels (n, C, *cells) and targets (n, K, *cells)."""
        x, t = x.transpose(0, 1).flatten(1), t.transpose(0, 1).flatten(1)
        self.n += x.shape[1]
        with full_precision(x.device):
            self.x += _total(x)
            self.t += _total(t)
            self.xx += _total(x**2)
            self.tt += _total(t**2)
            self.tx += (t @ x.T).cpu().double()

    def over_ranks(self) -> None:
        """Add up what all ranks of a group have seen."""
        self.n = group.count(self.n)
        for name in ("x", "t", "xx", "tt", "tx"):
            setattr(self, name, group.total(getattr(self, name)))

    @property
    def variance(self) -> Tensor:
        """The channels' variances (C,)."""
        return self.xx / self.n - (self.x / self.n) ** 2

    @property
    def covariance(self) -> Tensor:
        """The covariance of targets and channels, (K, C)."""
        return self.tx / self.n - self.t[:, None] * self.x / self.n**2

    @property
    def correlation(self) -> float:
        """The correlation of one channel and one target; 0 if either does not vary."""
        of_target = (self.tt / self.n - (self.t / self.n) ** 2).item()
        product = max(self.variance.item(), 0.0) * max(of_target, 0.0)
        return self.covariance.item() / product**0.5 if product > 0 else 0.0

    def pattern(self) -> Tensor:
        """Cov / Var, (K, C); 0 where a channel does not vary."""
        return self.covariance / floored(self.variance)


def _total(values: Tensor) -> Tensor:
    """The sum of each row, in float64 on the CPU."""
    return values.to(widest_dtype(values.device)).sum(1).cpu().double()


class MapMoments:
    """Covariance over images and cells of a few maps with each other, and with one other map that
    they are all compared with."""

    def __init__(self, maps: int) -> None:
        self.n = 0
        self.sums = torch.zeros(maps + 1).double()
        self.products = torch.zeros(maps + 1, maps + 1).double()

    def add(self, maps: list[Tensor], other: Tensor) -> None:
        """Take maps and the other map, all of one size, (n, 1, *cells) each."""
        x = torch.stack([*maps, other]).flatten(1).cpu().double()
        self.n += x.shape[1]
        self.sums += x.sum(1)
        self.products += x @ x.T

    def over_ranks(self) -> None:
        """Add up what all ranks of a group have seen."""
        self.n = group.count(self.n)
        self.sums, self.products = group.total(self.sums), group.total(self.products)

    def correlation(self, factors: Tensor) -> float:
        """The correlation of the sum of the maps, each times its factor, with the other map; 0 if
        either does not vary."""
        mean = self.sums / self.n
        covariance = self.products / self.n - mean.outer(mean)
        of_sum = (factors @ covariance[:-1, :-1] @ factors).clamp(min=0)
        product = of_sum * covariance[-1, -1].clamp(min=0)
        return (factors @ covariance[:-1, -1] / product.sqrt()).item() if product > 0 else 0.0


def solve(covariance: Tensor, with_target: Tensor) -> Tensor:
    """The weights W = (S + shrinkage diag S)^-1 Cov(f, t), (K, C)."""
    ridge = SHRINKAGE * torch.diag(floored(covariance.diagonal()))
    return torch.linalg.solve(covariance + ridge, with_target.T).T


def unit(weight: Tensor, covariance: Tensor) -> Tensor:
    """The weights (K, C), scaled so that each class's map has unit deviation over images and cells;
    a channel without variance gets no weight."""
    weight = torch.where(covariance.diagonal() > 0, weight, torch.zeros_like(weight))
    variance = torch.einsum("kc,cd,kd->k", weight, covariance, weight)
    return weight / variance.clamp(min=1e-300).sqrt()[:, None]


def floored(variance: Tensor) -> Tensor:
    """Variances that are safe to divide by: at least a hundred-millionth of the largest."""
    return variance.clamp(min=max(1e-8 * variance.max().item(), 1e-300))


def pool(f: Tensor, size: tuple[int, ...]) -> Tensor:
    """Average pooling to a coarser (or the same) size."""
    return f if tuple(f.shape[2:]) == tuple(size) else F.interpolate(f, size, mode="area")
