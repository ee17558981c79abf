"""Checks shared by the public functions: each names the argument, what came, and the remedy."""

import itertools
import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeGuard

from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
CHANNEL_AXIS = (
    "If the model adds the channel axis itself, give images one, (N, 1, *spatial), and let a "
    "module or function around the model remove it, as model(x[:, 0])."
)


def one_of(argument: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value that is not among ``allowed``."""
    if value not in allowed:
        raise ValueError(
            f"{argument}: got {value!r}, expected one of {', '.join(map(repr, allowed))}."
        )


def is_number(value: object) -> TypeGuard[float]:
    """Whether the value is a real number, also one of NumPy's; True and False are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def positive(argument: str, value: float) -> None:
    """Refuse anything but a finite number above 0."""
    if not is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{argument}: got {value!r}, expected a finite number above 0.")


def not_negative(argument: str, value: float) -> None:
    """Refuse anything but a finite number of at least 0."""
    if not is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"{argument}: got {value!r}, expected a finite number >= 0.")


def whole(argument: str, value: int, least: int) -> None:
    """Refuse anything but a whole number of at least ``least``."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{argument}: got {value!r}, expected a whole number >= {least}.")


def batches(argument: str, data: object) -> None:
    """Refuse what cannot be read batch by batch, and a batch (inputs, label) that is in no list."""
    if isinstance(data, (tuple, list)) and len(data) > 1 and _is_one_batch(data[0], data[-1]):
        raise TypeError(
            f"{argument}: got one batch, {brief(data[0])} to {brief(data[-1])}, expected batches. "
            f"Put it into a list, {argument}=[(x, y)]."
        )
    if not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
        raise TypeError(
            f"{argument}: got {type(data).__name__}, expected batches (*inputs, label), as a "
            "DataLoader gives them."
        )


def _is_one_batch(first: object, last: object) -> bool:
    """Whether these are images, and labels of as many; not two batches of images without labels."""
    is_label = not isinstance(last, tuple) and getattr(last, "ndim", 1) < 3
    if not isinstance(first, Tensor) or first.ndim < 3 or not is_label:
        return False
    return hasattr(last, "__len__") and len(last) == len(first)


def on_device(argument: str, inputs: Sequence[Tensor], model: object) -> None:
    """Refuse inputs on a device where a module has no parameter. A function is not checked: it may
    move its inputs itself."""
    if not isinstance(model, nn.Module):
        return
    first = next(model.parameters(), None)
    for device in {x.device for x in inputs}:
        # In most calls the first parameter is on this device, and no other is looked at.
        if first is not None and all(p.device != device for p in model.parameters()):
            raise ValueError(
                f"{argument}: got tensors on {device}, but the model is on {first.device}. Move "
                f"them there, .to({str(first.device)!r})."
            )


@contextmanager
def failure_explained(
    argument: str, inputs: Sequence[object], model: nn.Module | None
) -> Iterator[None]:
    """If the model fails on images that lack an axis or are of another dtype than its weights, say
    so. If it runs, it may have added the axis or converted them itself."""
    try:
        yield
    except Exception as error:
        modules = () if model is None else model.modules()
        first = next((m for m in modules if isinstance(m, CONVOLUTIONS)), None)
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        causes = [] if first is None else [_cause(x, first, error) for x in tensors]
        if not any(causes):
            raise
        raise ValueError(f"{argument}: got {next(filter(None, causes))}") from error


def _cause(x: Tensor, first: nn.Conv1d | nn.Conv2d | nn.Conv3d, error: Exception) -> str:
    """What the model's first convolution cannot take of an input, and what to do; "" for nothing.

    An input is taken for one image if it has the axes and channels that are expected of one.
    """
    shape, n, c = tuple(x.shape), len(first.kernel_size) + 1, first.in_channels
    dtype = first.weight.dtype
    said = str(error) if isinstance(error, RuntimeError) else ""
    takes = (
        f"shape {shape}, on which the model fails; its first convolution takes (N, {c}, *spatial)"
    )
    if x.ndim == n and len(x) == c:
        return f"{takes}. Give one image as a batch of one, image[None]."
    if x.ndim == n and "channels" in said:
        return f"{takes}. Give images their channel axis, images[:, None] for one channel."
    if x.ndim == n + 1 and "type" in said and x.dtype != dtype:
        return (
            f"{x.dtype}, but the model's weights are {dtype}. Convert the images as for its "
            f"training, at last .to({dtype})."
        )
    return ""


def one_row_per_image(layer: str, f: Tensor, n: int) -> None:
    """Refuse feature maps whose first dimension is not the batch."""
    if len(f) != n:
        raise ValueError(
            f"layer {layer!r} gave {len(f)} feature maps for {n} images, expected one for each. "
            "Choose a layer whose first dimension is the batch, and give the inputs one, too."
        )


def in_eval_mode(layers: Mapping[str, nn.Module]) -> None:
    """Refuse layers in training mode if a function hides the model: its other modules cannot be
    switched to eval mode from here, and would update their statistics or drop values at random."""
    training = [name for name, layer in layers.items() if layer.training]
    if training:
        raise RuntimeError(
            f"forward_func: got a function, and layer {training[0]!r} of the model behind it is in "
            "training mode: BatchNorm would update, Dropout drop at random. Call model.eval(), or "
            "pass the model itself."
        )


def shallow_to_deep(named: Sequence[str], ran: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse layers named from coarse to fine that run from fine to coarse.

    Args:
        named: the layers as they were given.
        ran: layer name -> its spatial size, in the order in which they ran.
    """
    cells = {name: math.prod(size) for name, size in ran.items()}
    for before, after in itertools.pairwise(named):
        runs_later = list(ran).index(before) > list(ran).index(after)
        if runs_later and cells[before] < cells[after]:
            raise ValueError(
                f"layer: {before!r} {ran[before]} is named before {after!r} {ran[after]}, which "
                "runs before it; a cascade takes the last one named for the deepest. Name layers "
                f"shallow to deep, as {', '.join(map(repr, ran))}, or use solver='pattern'."
            )


def same_axes(
    argument: str, image: Sequence[int], maps: Sequence[int], which: str = "the layers"
) -> None:
    """Refuse images and feature maps with other numbers of spatial dimensions.

    Args:
        argument: what holds the images.
        image, maps: their spatial sizes.
        which: the layers that gave the maps.
    """
    if len(image) == len(maps):
        return
    remedy = "Pass a reshape_transform that gives (N, C, *spatial)."
    if len(image) < len(maps):
        remedy = f"{CHANNEL_AXIS} If it makes images of signals, make them in the data's transform."
    if not image:
        remedy += " If the first input is a table, give the images first."
    raise ValueError(
        f"{argument}: got images (N, C, *spatial) of spatial size {tuple(image)}, but the feature "
        f"maps of {which} have {tuple(maps)}, expected as many dimensions. {remedy}"
    )


def no_channels_last(layer: str, f: Tensor, x: Tensor, are_told: bool) -> None:
    """Refuse feature maps (N, *spatial, C), whose channels come last.

    They are recognised by their axes: the image's sides divided by one stride come first, and then
    more channels than the image is wide. If ``are_told``, because the layer itself shows where its
    channels are, their number does not matter.
    """
    if f.ndim != x.ndim or f.ndim == 3:
        return
    strides = [n / cells for n, cells in zip(x.shape[2:], f.shape[1:-1], strict=True)]
    is_even = min(strides) >= 1 and max(strides) < 1.1 * min(strides)
    is_wide = f.shape[-1] > x.shape[-1] and min(strides) >= 2
    if is_even and (is_wide or are_told):
        raise ValueError(
            f"layer {layer!r} gave {tuple(f.shape)} for images {tuple(x.shape)}, expected "
            "(N, C, *spatial). Where the channels come last, pass "
            "reshape_transform=lambda f: f.movedim(-1, 1)."
        )


def same_channels(layer: str, f: Tensor, weight: Tensor, remedy: str) -> None:
    """Refuse feature maps whose number of channels is not that of the head's weights."""
    if f.shape[1] != weight.shape[-1]:
        raise ValueError(
            f"layer {layer!r} gave {f.shape[1]} channels, but the head has weights for "
            f"{weight.shape[-1]}. {remedy}"
        )


def same_shape(
    what: str, argument: str, got: Mapping[str, object], seen: dict[str, object]
) -> None:
    """Refuse a batch that differs from the first one; remember the first."""
    for name, value in got.items():
        if seen.setdefault(name, value) != value:
            raise ValueError(
                f"{argument}: {what} {name} is {value} in one batch and {seen[name]} in the first. "
                "Bring all images to one size and channel count, in the data set's transform."
            )


def brief(x: object) -> str:
    """What a value is, in few words, for an error.

    Examples::

        >>> brief(Tensor(2, 3)), brief([1, 2]), brief(None)
        ('a tensor (2, 3)', 'a list of 2', 'NoneType')
    """
    if isinstance(x, Tensor):
        return f"a tensor {tuple(x.shape)}"
    return f"a {type(x).__name__} of {len(x)}" if hasattr(x, "__len__") else type(x).__name__
