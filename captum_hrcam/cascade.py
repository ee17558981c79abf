"""Cascade: each layer learns locally, cell by cell, where everything deeper finds evidence.

An image's label says too little to a shallow layer: with ten classes its pattern tells a 3 from an
8, not where the digit is. So the last layer takes the positive part of the averages' pattern, what
lights up for the class: a class told mainly by what stays dark would be marked everywhere but where
it is. Then, going down, layer l learns from the evidence of all deeper layers at the cells of layer
l+1::

    e_c = max(0, sum over m > l of z_m^c),     z_m^c = (W_m[c] f_m - mean) / deviation
    W_l[c] = Cov(f_l, e_c) / Var(f_l)          over images and cells

Then every layer is solved once more towards the fused map of each image's own class, the harmonic
mean of what the layers say, now with the covariance of its channels:
W_l = (S + diag S)^-1 Cov(f_l, map). Last, each layer's map is scaled by its correlation with what
all deeper layers say; in the sum it counts by this times its place from the deepest, or the root of
it (see ``fitting``), in the harmonic mean by the root. A fine layer that the deeper ones do not
confirm is heard less; with ``leaves_out`` one that they hardly confirm, as in textures, not at all
(see ``grain``). Neither masks nor gradients are involved. What was tried on the way is in the
documentation, "Choosing the head".
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_hrcam import group
from captum_hrcam.fusion import agree, contract, upsample
from captum_hrcam.grain import without_grain
from captum_hrcam.labels import PRESENT

IMAGES = 160  # a thousand instead of 200 changed no figure by more than .02
BATCH = 16
SHRINKAGE = 1.0  # of the covariance towards its diagonal, which alone would give a pattern
ROUNDING = 1e-6  # of a mean in float32
LEAST = 0.01  # of a correlation: a layer that is not confirmed fades, its map stays to be seen

POOL: dict[int, Any] = {
    3: F.adaptive_avg_pool1d,
    4: F.adaptive_avg_pool2d,
    5: F.adaptive_avg_pool3d,
}
Read = Callable[[str, Tensor], None]
Pairs = tuple[Tensor, ...]


class CellMoments:
    """Covariance of channels and targets over images and cells, channel variances; O(C K)."""

    def __init__(self, channels: int, k: int) -> None:
        self.n = 0
        self.x, self.t = torch.zeros(channels).double(), torch.zeros(k).double()
        self.xx, self.tt = torch.zeros(channels).double(), torch.zeros(k).double()
        self.tx = torch.zeros(k, channels).double()

    def add(self, x: Tensor, t: Tensor) -> None:
        """Channels (n, C, *cells) and targets (n, K, *cells)."""
        x, t = x.transpose(0, 1).flatten(1), t.transpose(0, 1).flatten(1)
        self.n += x.shape[1]
        self.x += x.double().sum(1).cpu()
        self.t += t.double().sum(1).cpu()
        self.xx += (x**2).double().sum(1).cpu()
        self.tt += (t**2).double().sum(1).cpu()
        self.tx += (t @ x.T).double().cpu()

    def over_ranks(self) -> None:
        """Add up what all ranks of a group have seen."""
        self.n = group.count(self.n)
        for name in ("x", "t", "xx", "tt", "tx"):
            setattr(self, name, group.total(getattr(self, name)))

    @property
    def variance(self) -> Tensor:
        """(C,)."""
        return self.xx / self.n - (self.x / self.n) ** 2

    @property
    def covariance(self) -> Tensor:
        """(K, C)."""
        return self.tx / self.n - self.t[:, None] * self.x / self.n**2

    @property
    def correlation(self) -> float:
        """Of one channel and one target; 0 where either does not vary."""
        of_target = (self.tt / self.n - (self.t / self.n) ** 2).item()
        product = max(self.variance.item(), 0.0) * max(of_target, 0.0)
        return self.covariance.item() / product**0.5 if product > 0 else 0.0

    def pattern(self) -> Tensor:
        """(K, C): Cov / Var, 0 where a channel does not vary."""
        return self.covariance / floored(self.variance)


@dataclass
class Cascade:
    """A few training images, and the frozen model to read them with.

    Args:
        forward: ``forward(inputs, read)`` runs the model and calls ``read(name, f)``.
        images: the inputs, (n, C, *spatial) each, on the CPU; this rank's.
        y: (n, K) targets.
        resolutions: layer name -> spatial size.
        leaves_out: whether layers that only see a texture's grain are left out, with zero weights.

    Attributes:
        kept: the layers that are not, shallow to deep.
        why: of these or of all, a line for the report; where it was to be looked at.
    """

    forward: Callable[[tuple[Tensor, ...], Read], Any]
    images: tuple[Tensor, ...]
    y: Tensor
    resolutions: dict[str, tuple[int, ...]]
    leaves_out: bool = False
    means: dict[str, Tensor] = field(init=False)
    kept: list[str] = field(init=False)
    why: list[str] = field(init=False, default_factory=list)

    def fit(self, start: Tensor, means: dict[str, Tensor]) -> dict[str, Tensor]:
        """From the last layer's pattern to the weights of all layers.

        Args:
            start: (K, C_L), the last layer's pattern.
            means: layer name -> (C_l,) averages over the training data; deep layers last.

        Returns:
            layer name -> (K, C_l), of maps whose deviations over images and cells are how well the
            deeper layers confirm them: 1 for the last, 0 for layers left out.
        """
        self.means = means
        names = list(means)
        covariance = self._covariances()
        if start.any() and not covariance[names[-1]].any():  # averages vary, squares are lost
            raise ValueError(
                "train_data: solver 'cascade' finds no finite head, as the features of layer "
                f"{names[-1]!r} are too small for float32. Scale the inputs as in the model's "
                "training."
            )
        taught = {names[-1]: unit(what_lights_up(start), covariance[names[-1]])}
        for name, deeper in zip(names[-2::-1], names[:0:-1], strict=True):
            taught[name] = unit(self._towards_evidence(name, deeper, taught), covariance[name])
        self.kept = names
        head, confirmed = self._together(taught, covariance)
        if self.leaves_out:
            by_name = dict(zip(names[:-1], confirmed, strict=False))
            self.kept, why = without_grain(by_name, {n: self.resolutions[n] for n in names})
            self.why = [why]
            if len(self.kept) < len(names):
                head, confirmed = self._together(taught, covariance)
        weights = {name: r * w for r, (name, w) in zip(confirmed, head.items(), strict=True)}
        return {name: weights.get(name, torch.zeros_like(taught[name])) for name in names}

    def _together(
        self, taught: dict[str, Tensor], covariance: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[float]]:
        """The kept layers' weights towards their fused map; how well each is then confirmed."""
        head = self._towards_fused_map({name: taught[name] for name in self.kept}, covariance)
        return head, self._confirmed(head)

    def _covariances(self) -> dict[str, Tensor]:
        """{layer: (C, C)} of the channels over images and cells; 0 of those that do not vary."""
        sums = {name: torch.zeros(len(m), len(m)).double() for name, m in self.means.items()}
        cells = dict.fromkeys(self.means, 0)

        def read(name: str, f: Tensor) -> None:
            x = self._centred(name, f).transpose(0, 1).flatten(1)  # (C, n h w)
            sums[name] += (x @ x.T).double().cpu()
            cells[name] += x.shape[1]

        for _rows, inputs in in_batches(self.images):
            self.forward(inputs, read)
        found = {}
        for name, n in cells.items():
            covariance = group.total(sums[name]) / group.count(n)
            # A constant that its mean only rounds seems to vary, and its weights would explode.
            varies = covariance.diagonal().sqrt() > ROUNDING * self.means[name].abs()
            found[name] = covariance * varies.outer(varies)
        return found

    def _towards_evidence(self, name: str, deeper: str, head: dict[str, Tensor]) -> Tensor:
        """Cov(f_l, e) / Var(f_l) over images and the cells of the next deeper layer, (K, C)."""
        moments = CellMoments(len(self.means[name]), self.y.shape[1])
        for _rows, inputs in in_batches(self.images):
            moments.add(*self._pooled_and_evidence(inputs, name, self.resolutions[deeper], head))
        moments.over_ranks()
        return moments.pattern()

    def _pooled_and_evidence(
        self, inputs: tuple[Tensor, ...], name: str, size: tuple[int, ...], head: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """f_l (n, C, *size), and what all deeper layers say (n, K, *size)."""
        found: dict[str, Tensor] = {}

        def read(layer: str, f: Tensor) -> None:
            if layer == name:
                found[layer] = pool(self._centred(layer, f), size)
            elif layer in head:
                found[layer] = upsample(self._standard_map(layer, f, head[layer]), size)

        self.forward(inputs, read)
        return found[name], torch.stack([found[layer] for layer in head]).sum(0).relu()

    def _towards_fused_map(
        self, head: dict[str, Tensor], covariance: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Every layer once more, towards the fused map of the classes that each image has."""
        moments = {name: CellMoments(w.shape[1], len(w)) for name, w in head.items()}
        for rows, inputs in in_batches(self.images):
            present = (self.y[rows] >= PRESENT).nonzero(as_tuple=True)  # (image, class) pairs
            self._learn(inputs, present, self._fused(inputs, present, head), moments)
        for of_layer in moments.values():
            of_layer.over_ranks()
        fused = {}
        for name, taught in head.items():
            weight = unit(solve(covariance[name], moments[name].covariance), covariance[name])
            # A class that none of these few images shows keeps what evidence has taught.
            fused[name] = torch.where(moments[name].tt[:, None] > 0, weight, taught)
        return fused

    def _confirmed(self, head: dict[str, Tensor]) -> list[float]:
        """The correlation of each layer's map with what the deeper ones say; 1 for the last."""
        moments = [CellMoments(1, 1) for _ in range(len(head) - 1)]
        for rows, inputs in in_batches(self.images):
            present = (self.y[rows] >= PRESENT).nonzero(as_tuple=True)
            maps = self._maps(inputs, present, head)
            for i, shallow in enumerate(moments):
                size = tuple(maps[i + 1].shape[2:])
                deeper = torch.stack([upsample(z, size) for z in maps[i + 1 :]]).sum(0)
                shallow.add(pool(maps[i], size), deeper)
        for shallow in moments:
            shallow.over_ranks()
        return [max(m.correlation, LEAST) for m in moments] + [1.0]

    def _fused(self, inputs: tuple[Tensor, ...], present: Pairs, head: dict[str, Tensor]) -> Tensor:
        """The map of each pair of image and class, (pairs, 1, *spatial) at the input's size."""
        maps = self._maps(inputs, present, head)
        weights = [place**0.5 for place in places(len(maps))]
        return agree(maps, weights, inputs[0].shape[2:])

    def _maps(
        self, inputs: tuple[Tensor, ...], present: Pairs, head: dict[str, Tensor]
    ) -> list[Tensor]:
        """z_l of each pair of image and class, (pairs, 1, *cells), shallow to deep."""
        image, c = present
        maps: dict[str, Tensor] = {}

        def read(layer: str, f: Tensor) -> None:
            if layer in head:
                maps[layer] = self._standard_map(layer, f[image], head[layer][c][:, None])

        self.forward(inputs, read)
        return [maps[name] for name in head]

    def _learn(
        self,
        inputs: tuple[Tensor, ...],
        present: Pairs,
        fused: Tensor,
        moments: dict[str, CellMoments],
    ) -> None:
        """Add to each layer's moments, with 0 as target where a class is not in the image."""

        def read(layer: str, f: Tensor) -> None:
            if layer not in moments:
                return
            target = fused.new_zeros(len(f), self.y.shape[1], *f.shape[2:])
            target[present] = pool(fused, tuple(f.shape[2:]))[:, 0]
            moments[layer].add(self._centred(layer, f), target)

        self.forward(inputs, read)

    def _standard_map(self, name: str, f: Tensor, weight: Tensor) -> Tensor:
        return contract(self._centred(name, f), weight)

    def _centred(self, name: str, f: Tensor) -> Tensor:
        """Channels less their averages, so that products keep their digits."""
        mean = self.means[name].to(f.device, torch.float32)
        return f.float() - mean.reshape(-1, *[1] * (f.ndim - 2))


def in_batches(inputs: Sequence[Tensor]) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
    """Which rows, and these rows of each input."""
    for start in range(0, len(inputs[0]), BATCH):
        rows = slice(start, start + BATCH)
        yield rows, tuple(x[rows] for x in inputs)


def what_lights_up(pattern: Tensor) -> Tensor:
    """The positive part of each class's row; the whole row where it has none."""
    positive = pattern.clamp(min=0)
    return torch.where(positive.any(1, keepdim=True), positive, pattern)


def places(n: int) -> list[int]:
    """Each layer's place from the deepest, shallow to deep: a fine layer counts more."""
    return list(range(n, 0, -1))


def floored(variance: Tensor) -> Tensor:
    """Variances that a division survives: at least a hundred-millionth of the largest."""
    return variance.clamp(min=max(1e-8 * variance.max().item(), 1e-300))


def solve(covariance: Tensor, with_target: Tensor) -> Tensor:
    """(S + shrinkage diag S)^-1 Cov(f, t), (K, C)."""
    ridge = SHRINKAGE * torch.diag(floored(covariance.diagonal()))
    return torch.linalg.solve(covariance + ridge, with_target.T).T


def unit(weight: Tensor, covariance: Tensor) -> Tensor:
    """Scaled so that each class's map has unit deviation over images and cells; a channel without
    variance has no weight."""
    weight = torch.where(covariance.diagonal() > 0, weight, torch.zeros_like(weight))
    variance = torch.einsum("kc,cd,kd->k", weight, covariance, weight)
    return weight / variance.clamp(min=1e-300).sqrt()[:, None]


def pool(f: Tensor, size: tuple[int, ...]) -> Tensor:
    """Average pooling to a coarser (or the same) size."""
    return f if tuple(f.shape[2:]) == tuple(size) else POOL[f.ndim](f, size)
