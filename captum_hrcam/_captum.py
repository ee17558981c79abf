"""Captum's calling conventions, and the only place that imports its private names."""

from typing import Any

import numpy as np
import torch
from captum._utils.common import (
    _format_additional_forward_args,
    _format_tensor_into_tuples,
    _select_targets,
)
from captum._utils.common import _format_output as format_output
from captum._utils.typing import TargetType
from torch import Tensor

from captum_hrcam.batch import plain

__all__ = [
    "TargetType",
    "TensorOrTuple",
    "as_tuples",
    "format_output",
    "forward_args",
    "target_classes",
]

TensorOrTuple = Tensor | tuple[Tensor, ...]


def as_tuples(
    inputs: TensorOrTuple, additional_forward_args: object
) -> tuple[bool, tuple[Tensor, ...], tuple[Any, ...]]:
    """Check the inputs and bring both arguments to tuples, as Captum does.

    Returns:
        Whether the inputs came as a tuple; the inputs as plain tensors; the additional arguments.
    """
    is_tuple = isinstance(inputs, tuple)
    inputs_tuple = _format_tensor_into_tuples(inputs)
    args = forward_args(additional_forward_args)
    for i, x in enumerate(inputs_tuple):
        if not isinstance(x, Tensor) or x.ndim < 2 or 0 in x.shape:
            got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            remedy = " Pass what has no space as additional_forward_args." if i else ""
            raise ValueError(
                f"inputs: got {got}, expected tensors (N, C, *spatial), none empty.{remedy}"
            )
        if len(x) != len(inputs_tuple[0]):
            raise ValueError(
                f"inputs: got batches of {len(inputs_tuple[0])} and {len(x)}, expected the same "
                "number of images in each. Pass what has no batch as additional_forward_args."
            )
    return is_tuple, tuple(map(plain, inputs_tuple)), args


def forward_args(additional_forward_args: object) -> tuple[Any, ...]:
    """The arguments that the model takes after the inputs, as a tuple; an empty one for None."""
    return _format_additional_forward_args(additional_forward_args) or ()


def target_classes(target: TargetType, n: int, n_outputs: int) -> Tensor:
    """The class of each image (n,), or (1,) if all share one, by Captum's own selection.

    Raises:
        AssertionError: the target is missing or out of range, as in Captum.
    """
    if n_outputs == 1 and target is None:
        target = 0
    if target is None:  # not an assert statement, which python -O would skip
        raise AssertionError(
            f"target: got None, but the head has {n_outputs} outputs. Pass the class to explain."
        )
    if isinstance(target, Tensor):
        target = plain(target.detach()).cpu()
        is_whole = not target.is_floating_point() and target.dtype != torch.bool
        target = target.long() if is_whole else target  # of uint8 as of any other
    if isinstance(target, (np.integer, np.ndarray)):
        target = target.tolist()
    table = torch.arange(n_outputs, device="cpu").expand(n, n_outputs)
    try:
        classes = _select_targets(table, target)
    except (AssertionError, IndexError, RuntimeError, TypeError) as error:
        raise AssertionError(_expected(target, n, n_outputs)) from error
    if classes.shape != (n,):
        raise AssertionError(_expected(target, n, n_outputs))
    return classes[:1] if bool((classes == classes[0]).all()) else classes


def _expected(target: TargetType, n: int, n_outputs: int) -> str:
    if isinstance(target, Tensor):  # each class once, as far as there is one for each image
        target = (target.unique() if target.shape == (n,) else target).tolist()
    if n_outputs == 1:
        return (
            f"target: got {target!r:.80} for {n} images, expected 0, the only output, or None. A "
            "label of 0 or 1 says whether that output's class is there, not which to explain."
        )
    return (
        f"target: got {target!r:.80} for {n} images, expected a class in 0..{n_outputs - 1}, "
        "or one for each image."
    )
