"""Which weights a head was fitted on: one number for each of the model's tensors."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_hrcam.layers import module_behind

READABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# How far rounding may move a number: bfloat16 rounds each value by 0.001 of it (root mean square),
# and float16 rounds values near zero by less than SUBNORMAL.
CLOSE, SUBNORMAL = 0.01, 2.0**-24
SIGNS = torch.tensor([1.0, -1.0], dtype=torch.float64, device="cpu").repeat(2**15)


def fingerprint(forward_func: Callable[..., Any]) -> Tensor:
    """The alternating sum x_0 - x_1 + x_2 - ... of each floating-point tensor in the model's state,
    in the state's order: (tensors,).

    It is empty if the model is not known, or cannot be read: lazy, sharded, quantised. Names,
    device and precision do not change it. A sum distinguishes weights that a norm does not, such as
    those of the same network after another training. The signs alternate because equal values
    would all be rounded in the same direction.
    """
    return _measured(forward_func)[0]


def is_of_others(known: Tensor, forward_func: Callable[..., Any]) -> bool:
    """Whether a fingerprint clearly belongs to other weights than the model has now."""
    sums, allowed = _measured(forward_func)
    if not len(known) or not len(sums):
        return False
    return len(known) != len(sums) or bool(((known - sums).abs() > allowed).any())


def _measured(forward_func: Callable[..., Any]) -> Tensor:
    """(2, tensors): the sums, and how far rounding may move them."""
    measures = [_measure(x) for x in _state(forward_func)]
    return torch.tensor(measures, dtype=torch.float64, device="cpu").reshape(-1, 2).T


def _state(forward_func: Callable[..., Any]) -> list[Tensor]:
    """The floating-point parameters and saved buffers; an empty list if one cannot be read."""
    model = module_behind(forward_func)
    state = {} if model is None else model.state_dict()
    floats = [x for x in state.values() if isinstance(x, Tensor) and x.is_floating_point()]
    for x in floats:
        # A subclass may hold something else: weights yet to come, shards, packed integers.
        is_plain = type(x) is Tensor and x.layout == torch.strided and not x.is_meta
        if not is_plain or x.dtype not in READABLE:
            return []
    return floats


def _measure(x: Tensor) -> tuple[float, float]:
    total, squares = 0.0, 0.0
    for part in x.cpu().flatten().split(len(SIGNS)):  # only one part at a time is in float64
        values = part.double()
        total += (values @ SIGNS[: len(values)]).item()
        squares += (values @ values).item()
    # A mask of infinities has no sum.
    total = total if abs(total) < torch.inf else 0.0
    return total, CLOSE * squares**0.5 + SUBNORMAL * x.numel() ** 0.5
