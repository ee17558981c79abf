"""Cascade: each layer learns locally, cell by cell, where all deeper layers find evidence.

An image's label alone says too little to a shallow layer: with ten classes, the layer's pattern
tells a 3 from an 8, not where the digit is. So the last layer is taught first, by the label. It
takes only the positive part of the averages' pattern, that is, what lights up for the class.
Otherwise a class told mainly by what stays dark would be marked everywhere except where it is.
Then, going down, layer l learns from the evidence of all deeper layers at the cells of layer l+1::

    e_c = max(0, sum over m > l of z_m^c),     z_m^c = (W_m[c] f_m - mean) / deviation
    W_l[c] = Cov(f_l, e_c) / Var(f_l)          over images and cells

Then every layer is solved once more, now with the covariance S of its channels, towards the fused
map of each image's own class, which is the harmonic mean of the layers' maps:
W_l = (S + diag S)^-1 Cov(f_l, map).

Last, the layers are weighted. In the sum, the weight of a layer is its confirmation (its map's
correlation with what all deeper layers say) times its place, counted from the deepest, or the root
or square of this product (see ``layer_counts``). In the harmonic mean above, it is the root of the
place. So a fine layer that the deeper ones do not confirm counts less. With ``leaves_out``, layers
do not count at all if the deeper ones hardly confirm them, as in textures (see ``grain``), or if
they mark edges everywhere (see ``edges``). The others then count in the sum by confirmation alone.
Neither masks nor gradients are involved. What was tried on the way is in ``docs/log.rst``.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_hrcam.activations import Read
from captum_hrcam.cells import LEAST, CellMoments, Covariances, MapMoments, pool, solve, unit
from captum_hrcam.edges import Seen, Told, without_edges
from captum_hrcam.fusion import agree, contract, upsample
from captum_hrcam.grain import Sizes, without_grain
from captum_hrcam.labels import PRESENT
from captum_hrcam.modes import full_precision

IMAGES = 160  # with a thousand instead of 200, no figure changed by more than .02
BATCH = 16
FAINT = 1e-6  # share of a layer's largest deviation

BY_PLACE = "confirmation times place"

Pairs = tuple[Tensor, ...]


class Measured(NamedTuple):
    """What the layers' maps say of each other: how well the deeper layers confirm each one, how
    much the deepest sees of each of the others, and how well it tells where they mark most; also
    the moments of all layers' maps and the fused map."""

    confirmed: dict[str, float]
    seen: dict[str, float]
    told: dict[str, float]
    moments: MapMoments


@dataclass
class Cascade:
    """Fits a cascade on a few training images, which it reads with the frozen model.

    Args:
        forward: ``forward(inputs, read)`` runs the model and calls ``read(name, f)``.
        images: this rank's inputs, (n, C, *spatial) each, on the CPU.
        y: (n, K) targets.
        resolutions: layer name -> spatial size.
        leaves_out: whether layers that see only a texture's grain, or mark edges everywhere, are
            left out, with zero weights.

    Attributes:
        gains: layer name -> (C_l,), the factors that standardise its channels.
        counts: layer name -> how much it counts in the sum, shallow to deep; only layers that are
            not left out.
        by: what layers count by, for the report.
        why: lines for the report on which layers were left out, or that none was; empty if
            ``leaves_out`` is False.
    """

    forward: Callable[[tuple[Tensor, ...], Read], Any]
    images: tuple[Tensor, ...]
    y: Tensor
    resolutions: Sizes
    leaves_out: bool = False
    means: dict[str, Tensor] = field(init=False)
    gains: dict[str, Tensor] = field(init=False)
    counts: dict[str, float] = field(init=False)
    by: str = field(init=False, default=BY_PLACE)
    why: list[str] = field(init=False, default_factory=list)
    _moments: MapMoments = field(init=False)  # of the layers' maps and the fused map

    def fit(
        self, start: Tensor, means: dict[str, Tensor], deviations: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Find the weights of all layers, starting from the last layer's pattern.

        Args:
            start: (K, C_L), the last layer's pattern.
            means: layer name -> (C_l,) averages over the training data, shallow to deep.
            deviations: layer name -> (C_l,) over images and cells; 0 where a channel does not vary.

        Returns:
            layer name -> (K, C_l) weights, whose maps have unit deviation over images and cells;
            0 for layers left out.
        """
        last = list(means)[-1]
        # Averages vary, but variances vanish in float32, and with them the start's weights.
        if start.any() and not deviations[last].float().square().any():
            raise ValueError(
                "train_data: solver 'cascade' finds no finite head, as the features of layer "
                f"{last!r} are too small for float32. Scale the inputs as in the model's training."
            )
        self.means = means
        self.gains = {name: gains(deviations[name]) for name in means}
        names = list(means)
        seen = Covariances({name: mean * self.gains[name] for name, mean in means.items()})
        # The first pass also collects covariances: a layer that teaches alone needs no scale.
        taught = {last: what_lights_up(start * deviations[last])}
        taught |= self._towards_evidence(names[-2:-1], taught, seen)
        covariance = seen.found()
        taught = {name: unit(weight, covariance[name]) for name, weight in taught.items()}
        for name in names[-3::-1]:
            weight = self._towards_evidence([name], taught)[name]
            taught[name] = unit(weight, covariance[name])
        taught = {name: taught[name] for name in names}
        head = self._towards_fused_map(taught, covariance)
        measured = self._measured(head)
        if self.leaves_out:
            kept = self._kept(measured)
            if len(kept) < len(names):
                self.by = "confirmation"
                head = self._towards_fused_map({name: taught[name] for name in kept}, covariance)
                measured = self._measured(head)
        self.counts, self._moments = measured.confirmed, measured.moments
        if self.by == BY_PLACE:  # next to grain or edges, a finer layer is not a better one
            places = zip(self.counts.items(), self._places(self.counts), strict=True)
            self.counts = {name: confirmed * place for (name, confirmed), place in places}
        none = {name: torch.zeros_like(taught[name]) for name in names}
        return {name: weight * self.gains[name] for name, weight in (none | head).items()}

    def likeness(self, power: float) -> float:
        """The fused map's correlation with the sum of layers that count by this power."""
        counts = torch.tensor([r**power for r in self.counts.values()], dtype=torch.float64)
        return self._moments.correlation(counts)

    def _kept(self, measured: Measured) -> list[str]:
        """The layers that are not left out, shallow to deep."""
        names = list(measured.confirmed)
        sizes = {name: self.resolutions[name] for name in names}
        kept, why = without_grain(dict(list(measured.confirmed.items())[:-1]), sizes)
        self.why = [why]
        if kept == names and len(names) > 1:
            kept, why = without_edges(measured.seen, measured.told, sizes)
            self.why.append(why)
        return kept

    def _places(self, layers: Iterable[str]) -> list[float]:
        """How much each of these layers counts by its place, shallow to deep."""
        return places(self.resolutions[name] for name in layers)

    def _towards_evidence(
        self, layers: list[str], head: dict[str, Tensor], seen: Covariances | None = None
    ) -> dict[str, Tensor]:
        """Teach a layer: Cov(f_l, e) / Var(f_l) over images and the cells of the next deeper layer.

        Args:
            layers: the layer to teach, or none.
            head: the weights of all deeper layers, the next deeper one last.
            seen: receives the channels of all layers, while their covariances are not known yet.

        Returns:
            layer name -> (K, C_l).
        """
        moments = {name: CellMoments(len(self.means[name]), self.y.shape[1]) for name in layers}
        for _rows, inputs in in_batches(self.images):
            pooled, evidence = self._pooled_and_evidence(inputs, layers, head, seen)
            for name, x in pooled.items():
                moments[name].add(x, evidence)
        for of_layer in moments.values():
            of_layer.over_ranks()
        return {name: of_layer.pattern() for name, of_layer in moments.items()}

    def _pooled_and_evidence(
        self,
        inputs: tuple[Tensor, ...],
        layers: list[str],
        head: dict[str, Tensor],
        seen: Covariances | None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """f_l (n, C, *size), and the evidence e of all deeper layers (n, K, *size)."""
        size = self.resolutions[list(head)[-1]]
        pooled: dict[str, Tensor] = {}
        said: list[Tensor] = []

        def read(name: str, f: Tensor) -> None:
            if name not in self.means or (seen is None and name not in [*layers, *head]):
                return
            x = self._standardised(name, f)
            if seen is not None:
                seen.add(name, x)
            if name in layers:
                pooled[name] = pool(x, size)
            elif name in head:
                said.append(upsample(contract(x, head[name]), size))

        self.forward(inputs, read)
        return pooled, torch.stack(said).sum(0).relu()

    def _towards_fused_map(
        self, head: dict[str, Tensor], covariance: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Solve every layer once more, towards the fused maps of the classes in each image."""
        moments = {name: CellMoments(w.shape[1], len(w)) for name, w in head.items()}
        for rows, inputs in in_batches(self.images):
            features = self._features(inputs, head)
            present = self._present(rows)
            maps = self._maps(features, present, head)
            fused = self._fused(maps, head, inputs[0].shape[2:])
            for name, x in features.items():
                # The target is 0 where a class is not in the image.
                target = fused.new_zeros(len(x), self.y.shape[1], *x.shape[2:])
                target[present] = pool(fused, tuple(x.shape[2:]))[:, 0]
                moments[name].add(x, target)
        for of_layer in moments.values():
            of_layer.over_ranks()
        fused_head = {}
        for name, taught in head.items():
            weight = unit(solve(covariance[name], moments[name].covariance), covariance[name])
            # A class that none of these few images shows keeps what the evidence has taught.
            fused_head[name] = torch.where(moments[name].tt[:, None] > 0, weight, taught)
        return fused_head

    def _measured(self, head: dict[str, Tensor]) -> Measured:
        """Measure what the layers' maps of the few images say of each other. The last layer has no
        deeper ones; its confirmation is 1."""
        moments = [CellMoments(1, 1) for _ in range(len(head) - 1)]
        with_fused = MapMoments(len(head))
        seen, told = Seen(list(head)), Told(list(head), self.y.shape[1])
        for rows, inputs in in_batches(self.images) if moments else ():
            present = self._present(rows)
            maps = self._maps(self._features(inputs, head), present, head)
            seen.add(maps)
            told.add(maps, present[1])
            for i, shallow in enumerate(moments):
                size = tuple(maps[i + 1].shape[2:])
                deeper = torch.stack([upsample(z, size) for z in maps[i + 1 :]]).sum(0)
                shallow.add(pool(maps[i], size), deeper)
            size = tuple(maps[0].shape[2:])
            raised = [upsample(z, size) for z in maps]
            with_fused.add(raised, self._fused(raised, head, size))
        for shallow in moments:
            shallow.over_ranks()
        with_fused.over_ranks()
        confirmed = [max(shallow.correlation, LEAST) for shallow in moments]
        confirmed_by_name = dict(zip(head, [*confirmed, 1.0], strict=True))
        return Measured(confirmed_by_name, seen.shares(), told.areas(), with_fused)

    def _fused(self, maps: list[Tensor], layers: Iterable[str], size: tuple[int, ...]) -> Tensor:
        """The harmonic mean of these layers' maps."""
        return agree(maps, [place**0.5 for place in self._places(layers)], size)

    def _present(self, rows: slice) -> Pairs:
        """The pairs (image, class) of the classes that are present in these rows."""
        return (self.y[rows] >= PRESENT).nonzero(as_tuple=True)

    def _maps(
        self, features: dict[str, Tensor], present: Pairs, head: dict[str, Tensor]
    ) -> list[Tensor]:
        """z_l of each pair of image and class, (pairs, 1, *cells), shallow to deep."""
        image, c = present
        maps = []
        for name, weight in head.items():
            f = features[name]
            with full_precision(f.device):  # hooks do this, but these maps are made after them
                maps.append(contract(f[image], weight[c][:, None]))
        return maps

    def _features(self, inputs: tuple[Tensor, ...], layers: Container[str]) -> dict[str, Tensor]:
        """The standardised channels of these layers, all kept: one batch of them fits in memory."""
        features: dict[str, Tensor] = {}

        def read(name: str, f: Tensor) -> None:
            if name in layers:
                features[name] = self._standardised(name, f)

        self.forward(inputs, read)
        return features

    def _standardised(self, name: str, f: Tensor) -> Tensor:
        """Channels less their averages, in deviations, so that products lose no digits."""
        mean, gain = (
            values[name].to(f.device, torch.float32).reshape(-1, *[1] * (f.ndim - 2))
            for values in (self.means, self.gains)
        )
        return (f.float() - mean) * gain


def in_batches(inputs: Sequence[Tensor]) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
    """Yield (which rows, these rows of each input), some rows at a time."""
    for start in range(0, len(inputs[0]), BATCH):
        rows = slice(start, start + BATCH)
        yield rows, tuple(x[rows] for x in inputs)


def gains(deviation: Tensor) -> Tensor:
    """The factors (C,) that standardise a layer's channels: one over their deviations. A channel
    that hardly varies gets 0, as one that is all but dead would explode once it fires.

    Examples::

        >>> gains(torch.tensor([4.0, 0.5, 1e-8, 0.0]))
        tensor([0.2500, 2.0000, 0.0000, 0.0000])
    """
    return torch.where(deviation > FAINT * deviation.max(), 1 / deviation, 0.0)


def what_lights_up(pattern: Tensor) -> Tensor:
    """The positive part of each class's row; the whole row if it has no positive part."""
    positive = pattern.clamp(min=0)
    return torch.where(positive.any(1, keepdim=True), positive, pattern)


def places(resolutions: Iterable[tuple[int, ...]]) -> list[float]:
    """How much each layer counts by its place, shallow to deep. A resolution's place is its rank,
    counted from the deepest. Its layers share the place, so that more of them make no map finer.

    Examples::

        >>> places([(64, 64), (32, 32), (16, 16)])
        [3.0, 2.0, 1.0]
        >>> places([(64, 64), (32, 32), (32, 32)])
        [2.0, 0.5, 0.5]
    """
    counts = [len(list(same)) for _, same in groupby(resolutions)]
    return [(len(counts) - i) / count for i, count in enumerate(counts) for _ in range(count)]
