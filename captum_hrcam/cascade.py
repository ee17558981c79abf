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

Last, the layers are weighted by what their maps say of each other, and with ``asking`` some are
left out (see ``confirming``). Neither masks nor gradients are involved. What was tried on the way
is in ``docs/log.rst``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from captum_hrcam.asking import Asking
from captum_hrcam.cells import CellMoments, Covariances, MapMoments, pool, solve, unit
from captum_hrcam.confirming import confirm, fineness, fused, kept
from captum_hrcam.few_images import FewImages, ReadModel, gains, maps_of
from captum_hrcam.fusion import contract, upsample
from captum_hrcam.grain import Sizes

IMAGES = 160  # of all classes together; with 1,000 instead of 200, no figure changes by over .02

BY_FINENESS = "confirmation times fineness"
Weights = dict[str, Tensor]  # layer name -> (K, C_l), shallow to deep


class Taught(NamedTuple):
    """What a cascade has learned.

    Attributes:
        weights: layer name -> (K, C_l), whose maps have unit deviation over images and cells,
            shallow to deep; only layers that are not left out.
        counts: layer name -> how much it counts in the sum, likewise.
        by: what layers count by, for the report.
        why: lines for the report on which layers were left out, or that none was; empty if none
            could be.
        moments: of the layers' maps and the fused map.
    """

    weights: Weights
    counts: dict[str, float]
    by: str
    why: list[str]
    moments: MapMoments

    def likeness(self, power: float) -> float:
        """The fused map's correlation with the sum of layers that count by this power."""
        counts = torch.tensor([r**power for r in self.counts.values()], dtype=torch.float64)
        return self.moments.correlation(counts)


@dataclass(frozen=True)
class Cascade:
    """Fits a cascade on a few training images, which it reads with the frozen model.

    Args:
        forward: ``forward(inputs, read)`` runs the model and calls ``read(name, f)``.
        images: this rank's inputs, (n, C, *spatial) each, on the CPU.
        present: (n, K), whether a class is in an image.
        resolutions: layer name -> spatial size.
        asking: asks the frozen model, so that layers which see only a texture's grain, or mark
            edges everywhere, are left out; None keeps all.
    """

    forward: ReadModel
    images: tuple[Tensor, ...]
    present: Tensor
    resolutions: Sizes
    asking: Asking | None = None

    def fit(
        self, start: Tensor, means: Mapping[str, Tensor], deviations: Mapping[str, Tensor]
    ) -> Taught:
        """Find the weights of all layers, starting from the last layer's pattern.

        Args:
            start: (K, C_L), the last layer's pattern.
            means: layer name -> (C_l,) averages over the training data, shallow to deep.
            deviations: layer name -> (C_l,) over images and cells; 0 where a channel does not vary.
        """
        last = list(means)[-1]
        # Averages vary, but variances vanish in float32, and with them the start's weights.
        if start.any() and not deviations[last].float().square().any():
            raise ValueError(
                "train_data: solver 'cascade' finds no finite head, as the features of layer "
                f"{last!r} are too small for float32. Scale the inputs as in the model's training."
            )
        of_layers = {name: gains(deviations[name]) for name in means}
        few = FewImages(self.forward, self.images, self.present, means, of_layers)
        taught, covariance = _downwards(
            few, what_lights_up(start * deviations[last]), self.resolutions
        )
        head = _towards_fused_map(few, taught, covariance)
        found, by, why = confirm(few, head), BY_FINENESS, list[str]()
        if self.asking is not None:
            sizes = {name: self.resolutions[name] for name in head}
            layers, why = kept(found.confirmed, few, head, sizes, self.asking)
            if len(layers) < len(head):  # next to grain or edges, a finer layer is not a better one
                by = "confirmation"
                head = _towards_fused_map(few, {name: taught[name] for name in layers}, covariance)
                found = confirm(few, head)
        counts = found.confirmed
        if by == BY_FINENESS:
            ranks = fineness(self.resolutions[name] for name in counts)
            counts = {n: r * rank for (n, r), rank in zip(counts.items(), ranks, strict=True)}
        weights = {name: weight * few.gains[name] for name, weight in head.items()}
        return Taught(weights, counts, by, why, found.moments)


def _downwards(few: FewImages, start: Tensor, resolutions: Sizes) -> tuple[Weights, Weights]:
    """Teach the layers one after the other, the last by its pattern: the weights of all layers and
    the covariances of their standardised channels."""
    names = list(few.means)
    seen = Covariances({name: mean * few.gains[name] for name, mean in few.means.items()})
    # The first pass also collects covariances: a layer that teaches alone needs no scale.
    taught = {names[-1]: start}
    taught |= _towards_evidence(few, names[-2:-1], taught, resolutions[names[-1]], seen)
    covariance = seen.found()
    taught = {name: unit(weight, covariance[name]) for name, weight in taught.items()}
    for i in range(len(names) - 3, -1, -1):
        weight = _towards_evidence(few, [names[i]], taught, resolutions[names[i + 1]])[names[i]]
        taught[names[i]] = unit(weight, covariance[names[i]])
    return {name: taught[name] for name in names}, covariance


def _towards_evidence(
    few: FewImages,
    layers: Sequence[str],
    head: Weights,
    size: tuple[int, ...],
    seen: Covariances | None = None,
) -> Weights:
    """Teach a layer: Cov(f_l, e) / Var(f_l) over images and the cells of the next deeper layer.

    Args:
        few: the images.
        layers: the layer to teach, or none.
        head: the weights of all deeper layers.
        size: the resolution of the next deeper layer.
        seen: receives the channels of all layers, while their covariances are not known yet.
    """
    moments = {name: CellMoments(len(few.means[name]), few.present.shape[1]) for name in layers}
    for inputs, _ in few.batches():
        pooled, evidence = _pooled_and_evidence(few, inputs, layers, head, size, seen)
        for name, x in pooled.items():
            moments[name].add(x, evidence)
    for of_layer in moments.values():
        of_layer.over_ranks()
    return {name: of_layer.pattern() for name, of_layer in moments.items()}


def _pooled_and_evidence(
    few: FewImages,
    inputs: tuple[Tensor, ...],
    layers: Sequence[str],
    head: Weights,
    size: tuple[int, ...],
    seen: Covariances | None,
) -> tuple[dict[str, Tensor], Tensor]:
    """f_l (n, C, *size), and the evidence e of all deeper layers (n, K, *size)."""
    pooled: dict[str, Tensor] = {}
    said: list[Tensor] = []

    def read(name: str, f: Tensor) -> None:
        if name not in few.means or (seen is None and name not in [*layers, *head]):
            return
        x = few.standardised(name, f)
        if seen is not None:
            seen.add(name, x)
        if name in layers:
            pooled[name] = pool(x, size)
        elif name in head:
            said.append(upsample(contract(x, head[name]), size))

    few.forward(inputs, read)
    return pooled, torch.stack(said).sum(0).relu()


def _towards_fused_map(few: FewImages, head: Weights, covariance: Weights) -> Weights:
    """Solve every layer once more, towards the fused maps of the classes in each image."""
    moments = {name: CellMoments(w.shape[1], len(w)) for name, w in head.items()}
    for inputs, present in few.batches():
        features = few.features(inputs, head)
        target = fused(maps_of(features, present, head), tuple(inputs[0].shape[2:]))
        for name, x in features.items():
            # The target is 0 where a class is not in the image.
            of_class = target.new_zeros(len(x), few.present.shape[1], *x.shape[2:])
            of_class[present] = pool(target, tuple(x.shape[2:]))[:, 0]
            moments[name].add(x, of_class)
    for of_layer in moments.values():
        of_layer.over_ranks()
    fused_head = {}
    for name, taught in head.items():
        weight = unit(solve(covariance[name], moments[name].covariance), covariance[name])
        # A class that none of these few images shows keeps what the evidence has taught.
        fused_head[name] = torch.where(moments[name].tt[:, None] > 0, weight, taught)
    return fused_head


def what_lights_up(pattern: Tensor) -> Tensor:
    """The positive part of each class's row; the whole row if it has no positive part."""
    positive = pattern.clamp(min=0)
    return torch.where(positive.any(1, keepdim=True), positive, pattern)
