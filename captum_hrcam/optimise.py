"""L-BFGS on a sum too large for memory, or spread over the ranks of a group."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from captum_hrcam import group


def minimise(
    parts: Callable[[], Iterable[Tensor]],
    parameters: list[Tensor],
    *,
    over_ranks: bool = False,
    tolerance: float = 1e-7,
    steps: int = 200,
    history: int = 100,
) -> None:
    """Minimise a smooth sum by full-batch L-BFGS, changing the parameters in place.

    Args:
        parts: gives the terms of the sum; each is differentiated as it comes, so that only one
            needs memory.
        parameters: what the sum is minimised over; all of one dtype.
        over_ranks: add up the terms of all ranks of a group. The first rank steers, so that
            rounding never sends two ranks different ways; the others evaluate what it asks for.
        tolerance: stop once no element of the gradient exceeds this; also once a step changes
            hardly anything.
        steps: stop after so many.
        history: how many steps are remembered, each at twice the memory of the parameters.
    """

    def evaluate() -> Tensor:
        value = torch.zeros((), dtype=parameters[0].dtype)
        gradients = [torch.zeros_like(p) for p in parameters]
        for part in parts():
            found = torch.autograd.grad(part, parameters, allow_unused=True)
            for gradient, more in zip(gradients, found, strict=True):
                gradient += 0 if more is None else more
            value += part.detach()
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = group.total(gradient) if over_ranks else gradient
        return group.total(value) if over_ranks else value

    def closure() -> Tensor:
        if over_ranks:
            _ask(parameters, go_on=True)
        return evaluate()

    with torch.enable_grad():
        if not over_ranks or group.rank() == 0:
            optimiser = torch.optim.LBFGS(
                parameters,
                max_iter=steps,
                history_size=history,
                tolerance_grad=tolerance,
                # What the sum can still fall by once the gradient is that small.
                tolerance_change=min(1e-12, tolerance**2),
                line_search_fn="strong_wolfe",
            )
            optimiser.step(closure)
            if over_ranks:
                _ask(parameters, go_on=False)
        else:
            while _ask(parameters, go_on=True):
                evaluate()


@torch.no_grad()
def _ask(parameters: list[Tensor], *, go_on: bool) -> bool:
    """Send the first rank's parameters to all ranks, and whether they are to be evaluated."""
    flag = parameters[0].new_full((1,), float(go_on))
    flat = torch.cat([flag, *(p.flatten() for p in parameters)])
    flag, *parts = group.share_from_first(flat).split([1, *(p.numel() for p in parameters)])
    for p, part in zip(parameters, parts, strict=True):
        p.copy_(part.reshape(p.shape))
    return bool(flag)
