"""Heads from pooled features: pattern, ridge, and the paper's Adam; layer balance.

``pattern`` and ``ridge`` return weights (K, N) on *standardised* features, whose scores are then
calibrated. ``adam`` returns weights and bias on raw features, which are used as they are.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_hrcam import group
from captum_hrcam.calibration import rescale
from captum_hrcam.features import Features
from captum_hrcam.labels import loss_per_sample
from captum_hrcam.moments import Moments
from captum_hrcam.optimise import minimise

PENALTIES = [10.0**k for k in (3, 2.5, 2, 1.5, 1, 0.5, 0, -0.5, -1, -1.5, -2, -2.5, -3, -4)]


def pattern(moments: Moments) -> Tensor:
    """W = Cov(f, y) / Var(f) of each channel alone, over images and cells, for standardised f.

    This is what the class looks like in each channel (Haufe et al. 2014, NeuroImage 87:96-110), and
    the limit of ever stronger L2. The label is the same for all cells of an image, so Cov(f, y) is
    that of the averages, Cov(z, y). No iteration, O(N K) memory.

    Returns:
        (K, N).
    """
    weight = moments.covariance / moments.scale
    return torch.where(moments.informative, weight, torch.zeros_like(weight))


@dataclass
class RidgePath:
    """Held-out losses along the penalty path, from the strongest down."""

    penalties: list[float]
    losses: list[float]
    errors: list[float]
    chosen: float

    def rows(self) -> list[tuple[float, float, float]]:
        """(penalty, held-out loss, its standard error)."""
        return list(zip(self.penalties, self.losses, self.errors, strict=True))


Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]


def ridge(batches: Batches, n: int, loss: str, penalties: list[float]) -> list[Tensor]:
    """Minimise mean_n L(W x + b, y) + penalty / 2 ||W||^2, warm-started down the path of penalties.

    Args:
        batches: gives this rank's rows, some at a time: standardised features (m, N) in float32,
            targets (m, K). They are read once for each step of the solver; all ranks' rows count.
        n: the number of rows, of all ranks.
        loss: see ``labels.LOSSES``.
        penalties: from strong to weak.

    Returns:
        For each penalty the weights (K, N).
    """
    steepest = _steepest(batches, n)
    # Products in the features' precision, sums in double: steps too small for float32 count.
    weight = torch.zeros_like(steepest, requires_grad=True)
    bias = torch.zeros(len(weight), dtype=torch.float64, requires_grad=True)
    solutions = []
    for penalty in penalties:
        _ridge_step(batches, n, weight, bias, loss, penalty, steepest.abs().max().item())
        solutions.append(weight.detach().clone())
    return solutions


def _steepest(batches: Batches, n: int) -> Tensor:
    """Cov(y, x) (K, N), the loss's slope in the weights at 0."""
    total = sum((y.to(x).T @ x).double() for x, y in batches())
    return group.total(torch.as_tensor(total) / n)


def _ridge_step(
    batches: Batches,
    n: int,
    weight: Tensor,
    bias: Tensor,
    loss: str,
    penalty: float,
    steepest: float,
) -> None:
    """Solve for one penalty in place, starting from the given weight and bias."""
    # In this unit, neither the penalty's nor the loss's curvature is far from that in the bias.
    unit = 0.1 / max(1.0, penalty / 100) ** 0.5
    # If averages vary little, the slope is small from the start: no sign of having arrived.
    tolerance = min(1e-5, 1e-3 * unit * steepest)

    def parts() -> Iterator[Tensor]:
        for x, y in batches():
            # This order of the product, and of the one that differentiates it, is the fastest.
            scores = ((weight * unit).to(x) @ x.T).T.double() + bias
            yield loss_per_sample(scores, y, loss).sum() / n
        yield penalty / 2 * ((weight * unit) ** 2).sum() / group.size()

    with torch.no_grad():
        weight /= unit
    minimise(parts, [weight, bias], over_ranks=group.size() > 1, tolerance=tolerance)
    with torch.no_grad():
        weight *= unit


def ridge_path(x: Tensor, y: Tensor, held_x: Tensor, held_y: Tensor, loss: str) -> RidgePath:
    """Choose the penalty: the strongest within one standard error of the best held-out loss.

    Each candidate's scores are rescaled first, so that shrinkage alone is not punished.

    Args:
        x: (n, N) standardised features, of this rank.
        y: (n, K) targets.
        held_x: features of held-out images.
        held_y: their targets.
        loss: see ``labels.LOSSES``.
    """
    losses, errors = [], []
    all_y, all_held_y = group.gather(y.double()), group.gather(held_y.double())
    for weight in ridge(lambda: [(x, y)], len(all_y), loss, PENALTIES):
        scores, held_scores = (
            group.gather((part @ weight.T.to(part)).double()) for part in (x, held_x)
        )
        a, d = rescale(scores, all_y, loss)
        held = loss_per_sample(held_scores * a + d, all_held_y, loss)
        losses.append(held.mean().item())
        errors.append(held.std(correction=0).item() / len(held) ** 0.5)
    best = min(range(len(losses)), key=losses.__getitem__)
    chosen = next(i for i, value in enumerate(losses) if value <= losses[best] + errors[best])
    return group.from_first(RidgePath(PENALTIES, losses, errors, PENALTIES[chosen]))


def adam(
    features: Features, loss: str, *, epochs: int, batch_size: int, lr: float, seed: int
) -> tuple[Tensor, Tensor]:
    """The paper's head: a default-initialised linear layer on raw features, Adam, no penalty.

    Returns:
        weight (K, N) and bias (K,) on raw features.
    """
    z, y = features.z, features.y
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed all devices
        linear = torch.nn.Linear(z.shape[1], y.shape[1], dtype=torch.float32)
        optimiser = torch.optim.Adam(linear.parameters(), lr=lr)
        for _ in range(epochs):
            for batch in torch.randperm(len(z)).split(batch_size):
                optimiser.zero_grad()
                scores = linear(z[batch].float())
                loss_per_sample(scores, y[batch].float(), loss).mean().backward()
                optimiser.step()
    return linear.weight.detach().double(), linear.bias.detach().double()


def layer_norms(
    weight: Tensor, channels: dict[str, int], balance: str | None, information: dict[str, float]
) -> Tensor:
    """Factors (N,) that bring each layer's standardised weights to the wanted norm.

    A balance of None leaves the weights as they are, and "equal" gives every layer norm 1.
    "information" gives a layer the square root of what it tells alone on held-out data:
    1 - loss / loss of the mean, never below 0.
    """
    if balance is None:
        return torch.ones(weight.shape[1], dtype=weight.dtype)
    factors = []
    for name, part in zip(channels, weight.split(list(channels.values()), 1), strict=True):
        norm = part.norm().clamp(min=1e-300)
        wanted = 1.0 if balance == "equal" else information[name] ** 0.5
        factors.append((wanted / norm).expand(part.shape[1]) if part.any() else part[0])
    return torch.cat(factors)
