"""Levels: raise and lower each image's whole map, so that its mean tells the class.

A cascade learns where a class is, not whether it is there. But the mean of a map is the head's
score, and how high a map lies as a whole changes nothing of where it is highest. So together with
a temperature a and a bias d, the weights W of each class get a small change D::

    min  mean_n L(a (W + D) z_n + d, y_n) + STRENGTH / 2 sum_c |D_c|^2 / |W_c|^2

with features in deviations over images and cells, of channels whose averages vary; softened
targets; and one temperature for a softmax, one for each output otherwise. Averages vary most beside
cells in deep layers, so most of the change falls on these, whose maps are flat.

The sum is smooth, but not convex in a and D together; it is descended from the calibrated head.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from captum_hrcam import group
from captum_hrcam.calibration import softened
from captum_hrcam.features import Features
from captum_hrcam.labels import loss_per_sample
from captum_hrcam.moments import Moments
from captum_hrcam.optimise import minimise

STRENGTH = 10.0  # of the penalty; with 3, maps of a single logit lose .01 of pixel AP
TOLERANCE = 1e-5
STEPS = 30
HISTORY = 10  # steps that L-BFGS remembers: for a thousand classes each takes 60 MB
LEAST = -1.0  # log of a; a class that nothing tells would fade from the maps


def levelled(
    weight: Tensor, bias: Tensor, sample: Features, moments: Moments, loss: str
) -> tuple[Tensor, Tensor]:
    """Change calibrated weights and bias by little, so that they predict the targets best.

    Args:
        weight: (K, N) on raw features. A feature that no class uses stays unused.
        bias: (K,).
        sample: this rank's rows; those of all ranks count.
        moments: of the features.
        loss: "cross_entropy" or "binary_cross_entropy".

    Returns:
        The new weights and bias.
    """
    used = weight.any(0) & moments.informative
    size = (weight * moments.deviation * used).norm(dim=1)  # |W_c|
    x = [part.mul_(used) for part in sample.less_mean(moments, scaled=True)]  # (n, N) in all
    scores, all_y = sample.scores(weight, bias), group.gather(sample.y.double())
    y, mean = softened(sample.y.double(), all_y, loss), group.gather(scores).mean(0)
    change = torch.zeros_like(weight, requires_grad=True)  # D_c / |W_c|
    # Of a softmax, all classes share a: with two, one class could take over from the other.
    log_a = torch.zeros(1 if loss == "cross_entropy" else len(mean), dtype=torch.float64)
    shift = torch.zeros_like(mean)
    # In these units the sum is about as curved as in the change, which spares half of the steps.
    of_log_a, of_shift = 4.0, (STRENGTH * len(mean)) ** 0.5

    def a_and_d() -> tuple[Tensor, Tensor]:
        return (of_log_a * log_a).clamp(LEAST, 10).exp(), mean + of_shift * shift

    def parts() -> Iterator[Tensor]:
        moved = torch.cat([(change.to(part) @ part.T).T for part in x]).double() * size
        a, d = a_and_d()
        yield loss_per_sample((scores - mean + moved) * a + d, y, loss).sum() / len(all_y)
        yield STRENGTH / 2 * (change**2).sum() / group.size()

    minimise(
        parts,
        [change, log_a.requires_grad_(), shift.requires_grad_()],
        over_ranks=group.size() > 1,
        tolerance=TOLERANCE,
        steps=STEPS,
        history=HISTORY,
    )
    with torch.no_grad():
        a, d = a_and_d()
        added = change * size[:, None] / moments.scale  # D, on raw features
        return (weight + added) * a[:, None], (bias - mean - added @ moments.mean_z) * a + d
