"""What the model says about a target, and checks of the inputs and maps it is compared with."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_hrcam._captum import TargetType, forward_args, target_classes
from captum_hrcam.batch import as_rows, copied, plain
from captum_hrcam.discrimination import are_probabilities
from captum_hrcam.layers import module_behind
from captum_hrcam.pooling import accumulator_dtype, widest_dtype

Forward = Callable[..., Any]


def checked(forward_func: Forward, inputs: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    r"""Check inputs and maps, and return them as plain tensors.

    Args:
        forward_func: the model, or any function around it.
        inputs: (N, C, \*spatial), one to three spatial dimensions.
        maps: (N, 1, \*spatial), one per image, at the image's size.

    Returns:
        The inputs; the maps as floats (N, 1, \*spatial), detached, on the inputs' device.

    Raises:
        TypeError: ``forward_func`` is not callable; ``inputs`` is not a tensor.
        ValueError: other sizes; integers for inputs; NaN or infinity in a map.
    """
    if not callable(forward_func):
        raise TypeError(
            f"forward_func: got {type(forward_func).__name__}, expected a model or a function."
        )
    inputs, maps = checked_images(inputs), plain(torch.as_tensor(maps)).detach()
    expected = (len(inputs), 1, *inputs.shape[2:])
    if tuple(maps.shape) != expected:
        raise ValueError(
            f"maps: got shape {tuple(maps.shape)} for inputs {tuple(inputs.shape)}, expected "
            f"{expected}. captum_hrcam.compare gives maps of any attribution in this shape."
        )
    if not maps.isfinite().all():
        raise ValueError(
            "maps: got NaN or infinity, expected finite numbers. Leave these images out or "
            "repair what made them."
        )
    return inputs, maps.to(inputs.device, accumulator_dtype(maps))


def checked_images(inputs: Tensor) -> Tensor:
    r"""The inputs as a plain tensor, refused unless finite floats (N, C, \*spatial), not empty."""
    if not isinstance(inputs, Tensor):
        raise TypeError(
            f"inputs: got {type(inputs).__name__}, expected one tensor (N, C, *spatial). Pass what "
            "else the model takes as additional_forward_args."
        )
    if inputs.ndim not in (3, 4, 5) or 0 in inputs.shape or not inputs.is_floating_point():
        raise ValueError(
            f"inputs: got shape {tuple(inputs.shape)} of {inputs.dtype}, expected floats "
            "(N, C, *spatial) with one to three spatial dimensions, none empty."
        )
    if not torch.isfinite(inputs).all():
        raise ValueError("inputs: NaN or infinity among the values. Mend or leave out the images.")
    return plain(inputs)


def modules_of(forward_func: object) -> list[nn.Module]:
    """The model that must be in eval mode while ``forward_func`` runs, where it can be found."""
    model = module_behind(forward_func)
    return [] if model is None else [model]


def outputs_of(
    forward_func: Forward, images: Tensor, additional_forward_args: object = None
) -> Tensor:
    """The model's scores as (N, K), of any form that a fit takes; (N,) becomes (N, 1).

    Args:
        forward_func: the model, or any function around it.
        images: (N, C, \\*spatial).
        additional_forward_args: what the model takes after the images.

    Raises:
        ValueError: the output is not a tensor with one row of scores per image.
    """
    args = forward_args(additional_forward_args)
    given = forward_func(copied(images), *copied(args))  # it may change them in place
    scores = as_rows(given, len(images))
    if scores is None:
        got = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(
            f"forward_func: gave {got} for {len(images)} images, expected logits (N, K). Pass a "
            "function that picks them out of what the model returns."
        )
    return scores


def probability(scores: Tensor, target: TargetType) -> Tensor:
    """The target's probability: softmax, or sigmoid where the model has one output.

    Args:
        scores: (N, K) logits.
        target: in any of Captum's forms.

    Returns:
        (N,) float64; float32 on MPS, which has no float64.

    Raises:
        AssertionError: Captum's, for a target out of range or missing.

    Examples::

        >>> probability(torch.tensor([[0.0, 0.0], [0.0, 50.0]]), target=1).tolist()
        [0.5, 1.0]
        >>> probability(torch.zeros(2, 1), target=None).tolist()
        [0.5, 0.5]
    """
    classes = target_classes(target, *scores.shape).expand(len(scores))
    scores = scores.to(widest_dtype(scores.device))
    shares = scores.sigmoid() if scores.shape[1] == 1 else scores.softmax(1)
    return shares.gather(1, classes.to(scores.device)[:, None])[:, 0]


def warn_of_probabilities(given: Sequence[Tensor], stacklevel: int) -> None:
    """Warn of outputs, each (N, K), whose softmax or sigmoid is taken though they have one."""
    outputs = torch.cat(list(given))
    is_one = outputs.shape[1] == 1
    if are_probabilities(outputs, "binary_cross_entropy" if is_one else "cross_entropy"):
        again, inverse = ("sigmoid", "logit") if is_one else ("softmax", "log")
        warnings.warn(
            f"forward_func: its outputs are probabilities, where scores as before a {again} are "
            f"expected: another {again} is taken, so the figures say little. Pass the model "
            f"without its last activation, or lambda x: model(x).{inverse}().",
            stacklevel=stacklevel + 1,
        )
