"""Streaming means and covariances of pooled features and targets."""

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_hrcam import group


@dataclass
class Moments:
    """Streaming means and (co)variances of features z and targets y, in float64.

    Batches are merged by their means (Chan's update), so no digits are lost on long data, and two
    ``Moments`` can be added. Memory is O(N K) whatever the number of images.

    Examples::

        >>> z, y, within = torch.randn(100, 6), torch.rand(100, 2), torch.rand(100, 6)
        >>> whole = Moments.of(z, y, within)
        >>> first, rest = slice(30), slice(30, None)
        >>> parts = [Moments.of(z[r], y[r], within[r]) for r in (first, rest)]
        >>> torch.allclose(whole.covariance, (parts[0] + parts[1]).covariance)
        True
    """

    n: int
    mean_z: Tensor  # (N,)
    mean_y: Tensor  # (K,)
    zz: Tensor  # (N,), sum of squared deviations
    yz: Tensor  # (K, N), sum of products of deviations
    within: Tensor  # (N,), mean variance inside an image

    @classmethod
    def zeros(cls, n_features: int, n_targets: int) -> "Moments":
        """The moments of no image."""
        n, k = n_features, n_targets
        shapes = ((n,), (k,), (n,), (k, n), (n,))
        return cls(0, *(torch.zeros(shape, dtype=torch.float64) for shape in shapes))

    @classmethod
    def of(cls, z: Tensor, y: Tensor, within: Tensor) -> "Moments":
        """The moments of averages z (n, N), targets y (n, K) and variances over cells (n, N)."""
        z, y = z.double(), y.double()
        dz, dy = z - z.mean(0), y - y.mean(0)
        inside = within.double().mean(0)
        return cls(len(z), z.mean(0), y.mean(0), (dz**2).sum(0), dy.T @ dz, inside)

    def __add__(self, other: "Moments") -> "Moments":
        n = self.n + other.n
        if n == 0:
            return self
        dz, dy = other.mean_z - self.mean_z, other.mean_y - self.mean_y
        share = self.n * other.n / n
        # In place: for a thousand classes each (K, N) is 31 MB, and this runs for every batch.
        yz = (self.yz + other.yz).addr_(dy * share, dz)
        return Moments(
            n,
            self.mean_z + dz * (other.n / n),
            self.mean_y + dy * (other.n / n),
            self.zz + other.zz + dz**2 * share,
            yz,
            self.within + (other.within - self.within) * (other.n / n),
        )

    def over_ranks(self) -> "Moments":
        """The moments of all ranks' images, by Chan's update of all ranks at once."""
        if group.size() == 1:
            return self
        n = group.count(self.n)
        mean_z, mean_y, within = (
            group.total(mean * (self.n / max(n, 1)))
            for mean in (self.mean_z, self.mean_y, self.within)
        )
        dz, dy = self.mean_z - mean_z, self.mean_y - mean_y
        zz = group.total(self.zz + self.n * dz**2)
        yz = group.total(self.yz + self.n * dy[:, None] * dz)
        return Moments(n, mean_z, mean_y, zz, yz, within)

    @property
    def deviation(self) -> Tensor:
        """(N,) standard deviations over images and cells.

        The variance is that between images plus that inside them. A channel that varies inside
        every image (edges, anatomy) marks those places whatever the label; its average hides that.
        """
        return (self.zz / self.n + self.within).sqrt()

    @property
    def scale(self) -> Tensor:
        """(N,) the deviation; 1 where the average is constant."""
        return torch.where(self.informative, self.deviation, torch.ones_like(self.within))

    @property
    def informative(self) -> Tensor:
        """(N,) bool: whether the average varies between images beyond the rounding of its sum.

        After a normalisation over each image's own cells it does not, however much these differ.
        """
        sd = (self.zz / self.n).sqrt()
        return sd > 1e-6 * (self.mean_z.abs() + self.within.sqrt() + sd.max() * 1e-3)

    @property
    def covariance(self) -> Tensor:
        """(K, N) covariance of targets and features."""
        return self.yz / self.n
