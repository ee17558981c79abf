"""How much each layer of a cascade counts in the sum: confirmation times fineness, to some power.

Confirmation is how well the deeper layers' maps agree with the layer's map. Fineness is the layer's
rank, counted from the deepest. The power is one of ``POWERS``; ``steepest`` chooses it.
If fine layers have been left out, only confirmation counts.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from captum_hrcam import group
from captum_hrcam.calibration import calibrated
from captum_hrcam.cascade import BY_FINENESS, Cascade, Taught
from captum_hrcam.cells import varies
from captum_hrcam.discrimination import accuracy
from captum_hrcam.features import Features
from captum_hrcam.head import split_layers
from captum_hrcam.moments import Moments
from captum_hrcam.solvers import pattern

TOLERANCE = 0.02  # accuracy that each step to a sharper map may cost
MUTE = (
    "layers: {} left out: averaged over an image they tell nothing, as after a norm over each image"
)
CONSTANT = "layers: {} left out: their feature maps do not vary"
POWERS = {"by its root": 0.5, "as it is": 1.0, "squared": 2.0}


class LeftOut(NamedTuple):
    """Layers that get no weight, and lines for the report on why these, or why none."""

    layers: Sequence[str] = ()
    why: Sequence[str] = ()


def cascade_weight(
    cascade: Cascade,
    part: Features,
    moments: Moments,
    held: Features,
    of_all: Moments,
    channels: dict[str, int],
    loss: str,
) -> tuple[Tensor, list[str], LeftOut]:
    """Fit a cascade: the weights (K, N) of all layers, lines for the report on how they count, and
    the layers left out.

    The cascade starts from the last layer's pattern; ``steepest`` says how layers count. A class
    that only held-out images show takes its pattern from ``of_all``, as it would have no map
    otherwise. Deepest layers whose averages tell nothing, as after a norm over each image, have
    nothing to teach the others and are left out, too.
    """
    own, whole = (pattern(m) / m.scale for m in (moments, of_all))
    start = split_layers(torch.where(own.any(1, keepdim=True), own, whole), channels)
    rows = (split_layers(v[None], channels) for v in (moments.mean_z, moments.deviation))
    means, deviations = ({name: row[name][0] for name in cascade.resolutions} for row in rows)
    names, lines = _telling(start, means, deviations)
    means, deviations = ({name: of[name] for name in names} for of in (means, deviations))
    taught = cascade.fit(start[names[-1]], means, deviations)
    none = {name: torch.zeros_like(rows) for name, rows in start.items()}
    weight, how = _counted(taught, none, part, moments, held, loss)
    left_out = [name for name in channels if name not in taught.counts]
    return weight, lines + how, LeftOut(left_out, taught.why)


def _telling(
    start: Mapping[str, Tensor], means: Mapping[str, Tensor], deviations: Mapping[str, Tensor]
) -> tuple[list[str], list[str]]:
    """The layers that vary, down to the deepest that has something to teach, and lines for the
    report on the others.

    Args:
        start: layer name -> (K, C_l), its pattern.
        means: layer name -> (C_l,), its averages, shallow to deep.
        deviations: layer name -> (C_l,), over images and cells.
    """
    names = [n for n in means if varies(means[n], deviations[n]).any()] or list(means)
    constant, mute = [name for name in means if name not in names], list[str]()
    while len(names) > 1 and not start[names[-1]].any():
        mute.insert(0, names.pop())
    others = ((CONSTANT, constant), (MUTE, mute))
    return names, [line.format(", ".join(layers)) for line, layers in others if layers]


def _counted(
    taught: Taught,
    none: dict[str, Tensor],
    part: Features,
    moments: Moments,
    held: Features,
    loss: str,
) -> tuple[Tensor, list[str]]:
    """The weights (K, N) of all layers with the power that ``steepest`` chooses, and a line for the
    report; no line if only one layer counts.

    Args:
        taught: the layers' weights, and how much they count to the power of 1.
        none: layer name -> (K, C_l) zeros, of all layers in the order of the features.
        part: rows to scale the scores on.
        moments: the moments of these images.
        held: rows to measure accuracy on.
        loss: see ``labels.LOSSES``.
    """
    tried: dict[str, tuple[Tensor, float, float]] = {}
    for name, power in list(POWERS.items())[: 3 if taught.by == BY_FINENESS else 2]:
        counted = {n: taught.weights[n] * count**power for n, count in taught.counts.items()}
        weight = torch.cat(list((none | counted).values()), 1)
        candidate = calibrated(weight, -weight @ moments.mean_z, part, loss, per_class=True)
        scores, y = group.gather(held.scores(*candidate)), group.gather(held.y)
        tried[name] = weight, accuracy(scores, y, loss), taught.likeness(power)
    found, right, like = zip(*tried.values(), strict=True)
    best = steepest(right, like)
    if len(taught.counts) == 1:
        return found[best], []
    told = "; ".join(f"{name} {r:.3f}, {c:.3f}" for name, (_, r, c) in tried.items())
    return found[best], [
        f"layers count by {taught.by}, {list(tried)[best]}: held-out accuracy (before levels; a "
        f"loss of {TOLERANCE} is accepted) and correlation with what the layers agree on are {told}"
    ]


def steepest(right: Sequence[float], like: Sequence[float]) -> int:
    """The index of the power to use: start at the first of ``POWERS`` and step on while data allow.

    The root stays nearest to the model, as what fine layers say of all tissue blurs the score. Each
    step sharpens the map, and is taken if held-out accuracy falls by no more than the tolerance.
    The last step is for objects that the finest layers see whole. So it is taken only if it also
    makes the sum more like the fused map, which is high only where all layers are.

    Args:
        right: held-out accuracy with each power.
        like: correlation of the sum with the fused map, with each power.
    """
    best = 0
    for step in range(1, len(right)):
        if right[step] < right[best] - TOLERANCE or (step == 2 and like[2] <= like[1]):
            break
        best = step
    return best
