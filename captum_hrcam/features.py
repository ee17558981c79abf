"""One frozen pass over the data: pooled features, their moments, the model's outputs."""

from dataclasses import dataclass

import torch
from torch import Tensor

GOLDEN = (5**0.5 - 1) / 2


@dataclass
class Moments:
    """Streaming means and (co)variances of features z and targets y, in float64.

    Chan's update: batches are merged by their means, so no digits are lost on long data, and two
    ``Moments`` add up. Memory is O(N K) whatever the number of images.

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
    def of(cls, z: Tensor, y: Tensor, within: Tensor) -> "Moments":
        """Of averages z (n, N), targets y (n, K) and variances over the cells (n, N)."""
        z, y = z.double(), y.double()
        dz, dy = z - z.mean(0), y - y.mean(0)
        inside = within.double().mean(0)
        return cls(len(z), z.mean(0), y.mean(0), (dz**2).sum(0), dy.T @ dz, inside)

    def __add__(self, other: "Moments") -> "Moments":
        n = self.n + other.n
        dz, dy = other.mean_z - self.mean_z, other.mean_y - self.mean_y
        share = self.n * other.n / n
        return Moments(
            n,
            self.mean_z + dz * (other.n / n),
            self.mean_y + dy * (other.n / n),
            self.zz + other.zz + dz**2 * share,
            self.yz + other.yz + dy[:, None] * dz * share,
            self.within + (other.within - self.within) * (other.n / n),
        )

    @property
    def scale(self) -> Tensor:
        """(N,) standard deviations over images and cells; 1 where a feature is constant.

        Variance between images plus variance inside them: a channel that varies inside every
        image (edges, anatomy) marks these places whatever the label, and its average hides that.
        """
        sd = (self.zz / self.n + self.within).sqrt()
        return torch.where(self.informative, sd, torch.ones_like(sd))

    @property
    def informative(self) -> Tensor:
        """(N,) bool: the average varies between images at all, beyond rounding."""
        sd = (self.zz / self.n).sqrt()
        return sd > 1e-6 * (self.mean_z.abs() + sd.max() * 1e-3)

    @property
    def covariance(self) -> Tensor:
        """(K, N), of targets and features."""
        return self.yz / self.n


class Sample:
    """At most ``size`` rows, a fair random sample of all that came, in their order.

    Every row draws a random key and the smallest keys stay; the generator is the sample's own.
    Memory is at most twice ``size`` rows; None keeps all. Tensors may be anything with rows.
    """

    def __init__(self, size: int | None) -> None:
        self.size = size
        self.n = 0
        self._generator = torch.Generator().manual_seed(0)
        self._batches: list[tuple[Tensor, ...]] = []
        self._held = 0

    def add(self, *rows: Tensor) -> None:
        """Take one batch: tensors with one row per image each."""
        batch = len(rows[0])
        key = torch.rand(batch, generator=self._generator)
        self._batches.append((key, *rows))
        self.n += batch
        self._held += batch
        if self.size is not None and self._held > 2 * self.size:
            self._batches = [self._thin()]
            self._held = self.size

    def _thin(self) -> tuple[Tensor, ...]:
        columns = self._batches[0]
        if len(self._batches) > 1:
            columns = tuple(torch.cat(column) for column in zip(*self._batches, strict=True))
        if self.size is None or len(columns[0]) <= self.size:
            return columns
        keep = columns[0].argsort()[: self.size].sort().values
        return tuple(column[keep] for column in columns)

    def rows(self) -> tuple[Tensor, ...]:
        """What was kept, as it was added; put together once, however often it is read."""
        self._batches = [self._thin()]
        self._held = len(self._batches[0][0])
        return self._batches[0][1:]


@dataclass
class Features:
    """Rows of pooled features with their targets and the model's own outputs."""

    z: Tensor  # (n, N)
    y: Tensor  # (n, K)
    outputs: Tensor  # (n, K'); K' = 0 where the model's output is no row of scores

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, rows: Tensor) -> "Features":
        return Features(self.z[rows], self.y[rows], self.outputs[rows])


class FeatureCollector:
    """Takes batches of pooled features: moments of all, at most ``max_rows`` rows kept.

    A fifth of the images, fixed by their positions in the data, is held out.
    """

    def __init__(self, max_rows: int | None = None) -> None:
        self._sample = Sample(max_rows)
        self._moments: dict[bool, Moments] = {}  # held out? -> moments

    @property
    def n(self) -> int:
        """Images taken so far."""
        return self._sample.n

    def add(self, z: Tensor, within: Tensor, y: Tensor, outputs: Tensor, *, position: int) -> None:
        """Take one batch, its first image at ``position`` in the data.

        Args:
            z: averages (B, N).
            within: variances over the cells (B, N).
            y: targets (B, K).
            outputs: the model's (B, K').
            position: of the first image.
        """
        held = held_out(position, len(z))
        for is_held, rows in ((False, ~held), (True, held)):
            if rows.any():
                moments = Moments.of(z[rows], y[rows], within[rows])
                known = self._moments.get(is_held)
                self._moments[is_held] = moments if known is None else known + moments
        self._sample.add(held, z, y, outputs)

    def all(self) -> tuple[Features, Moments]:
        """Every row kept, and the moments of every image seen."""
        parts = list(self._moments.values())
        moments = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return Features(*self._sample.rows()[1:]), moments

    def split(self) -> tuple[Features, Moments, Features]:
        """(rows to fit on, their moments, held-out rows)."""
        held, *rows = self._sample.rows()
        features = Features(*rows)
        return features[~held], self._moments[False], features[held]


def held_out(position: int, n: int) -> Tensor:
    """(n,) bool: which of the images from ``position`` on are held out, a fifth of the data.

    Multiples of the golden ratio spread evenly and follow no period: every fifth image would be of
    one or two classes wherever ten classes take turns.
    """
    places = torch.arange(position, position + n, dtype=torch.float64)
    return places * GOLDEN % 1 < 0.2
