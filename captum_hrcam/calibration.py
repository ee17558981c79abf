"""Calibration: scores s become a s + d, with the temperatures a and biases d that predict best.

Maps stay complete: they are scaled by a, and their means with them. Classes' a and d minimise
mean_n L(a s_n + d, y_n), which is convex. Newton's method takes ten to thirty steps to the minimum,
unless scores are extreme.
"""

import torch
from torch import Tensor

from captum_hrcam import group
from captum_hrcam.features import Features
from captum_hrcam.labels import loss_per_sample

TOLERANCE = 1e-10  # what the loss can still fall by
STEPS = 100
ROWS = 4096  # that are differentiated at once: for a thousand classes this takes 200 MB
HALVINGS = 40
RIDGE = 1e-9  # of the curvature; a bias added to all classes of a softmax changes nothing
ROUNDING = 1e-6  # maps have unit deviation over cells, so scores that vary less tell nothing
LEAST = 0.01  # of the largest temperature: a class with less would vanish from the maps
LOWEST = 4.5e-5  # of scores of unit deviation, so that no head is blank where all scores mislead


def calibrated(
    weight: Tensor, bias: Tensor, sample: Features, loss: str, per_class: bool = False
) -> tuple[Tensor, Tensor]:
    """W (K, N) and b (K,), rescaled to predict the targets of all ranks' samples best."""
    scores, y = group.gather(sample.scores(weight, bias)), group.gather(sample.y)
    a, d = rescale(scores, y, loss, per_class=per_class)
    return weight * a[:, None], bias * a + d


def rescale(
    scores: Tensor, y: Tensor, loss: str, *, per_class: bool = False
) -> tuple[Tensor, Tensor]:
    """The temperature a and bias d with which a s + d predicts best.

    A softmax has one temperature unless ``per_class``; with other losses each output has its own.
    Targets are softened, so that separable data keep a finite temperature.

    Args:
        scores: (n, K).
        y: (n, K) targets.
        loss: see ``labels.LOSSES``.
        per_class: give each class of a softmax its own temperature. So that no class's map
            vanishes, each, times the deviation of its scores, is at least a hundredth of what is
            the largest without this bound.

    Returns:
        a (K,) and d (K,); a is never negative but for "mse".
    """
    scores, y = scores.double(), y.double()
    if loss == "mse":
        return _least_squares(scores, y)
    if loss == "cross_entropy":  # rounded probabilities may miss 1, and then no bias is the best
        y = y / y.sum(1, keepdim=True)
    y, mean = softened(y, y, loss), scores.mean(0)
    unit = (scores - mean).std(0, correction=0)
    if loss == "cross_entropy" and not per_class:
        unit = unit.mean(0, keepdim=True)  # one temperature for all classes
    told = unit >= (ROUNDING if per_class else 1e-12)
    unit = unit.where(told, 1.0)
    z = (scores - mean) * told / unit
    a, d = _newton(z, y, loss, torch.ones_like(unit), torch.zeros_like(mean), LOWEST)
    if per_class and (a < LEAST * a.max()).any():
        a, d = _newton(z, y, loss, a, d, LEAST * a.max().item())
    if loss == "cross_entropy":
        d = d - d.mean()
    a = (a / unit).expand_as(mean).clone()
    return a, d - a * mean


def softened(y: Tensor, all_y: Tensor, loss: str) -> Tensor:
    """Targets of "cross_entropy" drawn a little towards their mean, those of
    "binary_cross_entropy" towards a half (Platt 1999).

    Args:
        y: (n, K) targets of this rank.
        all_y: (m, K) targets of all ranks.
        loss: see ``labels.LOSSES``.
    """
    towards = all_y.mean(0) if loss == "cross_entropy" else 0.5
    return (len(all_y) * y + towards) / (len(all_y) + 1)


def _least_squares(scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The slopes and intercepts of y over the scores."""
    z = scores - scores.mean(0)
    variance = (z**2).sum(0)
    slope = (z * (y - y.mean(0))).sum(0) / variance.clamp(min=1e-300)
    a = torch.where(variance > 0, slope, torch.zeros_like(slope))
    return a, y.mean(0) - a * scores.mean(0)


def _newton(
    z: Tensor, y: Tensor, loss: str, a: Tensor, d: Tensor, least: float
) -> tuple[Tensor, Tensor]:
    """Minimise mean L(a z + d, y) over a >= least and d by Newton's method, projected (Bertsekas
    1982, SIAM J. Control Optim. 20:221-246).

    Args:
        z: (n, K).
        y: (n, K) targets.
        loss: "cross_entropy" or "binary_cross_entropy".
        a: where to start, (K,), or (1,) if all classes share it.
        d: (K,).
        least: the lower bound of a.

    Returns:
        a and d.
    """

    def value(x: Tensor) -> Tensor:
        return loss_per_sample(z * x[: len(a)] + x[len(a) :], y, loss).mean()

    bound = torch.cat([torch.full_like(a, least), torch.full_like(d, -torch.inf)])
    x = torch.cat([a, d]).maximum(bound)
    now = value(x)
    for _ in range(STEPS):
        parts = [_derivatives(*p, loss, x) for p in zip(z.split(ROWS), y.split(ROWS), strict=True)]
        slope, curvature = (sum(part) / len(z) for part in zip(*parts, strict=True))
        free = (x > bound) | (slope < 0)
        slope, curvature = slope * free, curvature * free * free[:, None]
        curvature.diagonal().mul_(1 + RIDGE).add_(1e-12)  # where it is 0, so is the slope
        step = torch.linalg.solve(curvature, slope)
        if slope @ step / 2 < TOLERANCE:
            break
        for halving in range(HALVINGS):
            tried = (x - step / 2**halving).maximum(bound)
            then = value(tried)
            if then < now - 1e-4 * (slope @ (x - tried)).clamp(min=0):
                x, now = tried, then
                break
        else:  # what is left is rounding
            break
    return x[: len(a)], x[len(a) :]


def _derivatives(z: Tensor, y: Tensor, loss: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """The slope and curvature of sum L(a z + d, y) in x = (a, d), of which classes may share a."""
    k = z.shape[1]
    scores = z * x[:-k] + x[-k:]
    p = scores.softmax(1) if loss == "cross_entropy" else scores.sigmoid()
    slope = torch.cat([(z * (p - y)).sum(0), (p - y).sum(0)])
    weight = p if loss == "cross_entropy" else p * (1 - p)
    aa, ad, dd = ((factor * weight).sum(0).diag() for factor in (z * z, z, 1))
    curvature = torch.cat([torch.cat([aa, ad], 1), torch.cat([ad, dd], 1)])
    if loss == "cross_entropy":
        moved = torch.cat([z * p, p], 1)
        curvature -= moved.T @ moved
    if len(x) < 2 * k:
        slope, curvature = _shared(slope, k), _shared(_shared(curvature, k).T, k)
    return slope, curvature


def _shared(rows: Tensor, k: int) -> Tensor:
    """The first k rows added up, as one unknown stands for all of them; then the others."""
    return torch.cat([rows[:k].sum(0, keepdim=True), rows[k:]])
