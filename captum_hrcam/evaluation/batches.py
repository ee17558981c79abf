"""Batches of images with targets, masks and kinds, from a loader or a data set; checked."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from captum_hrcam._captum import TensorOrTuple, as_tuples
from captum_hrcam.batch import plain, to_device
from captum_hrcam.checks import brief
from captum_hrcam.evaluation.masked_dataset import AS_IMAGES, EXPECTED, read_dataset

ALL = "all"  # the kind of images whose kind is not known


@dataclass(frozen=True)
class MaskedBatch:
    r"""One batch: inputs (N, C, \*spatial), targets (N,), masks (N, \*spatial), kinds; and args,
    the ``additional_forward_args``, one row for each image."""

    inputs: TensorOrTuple
    targets: Tensor
    masks: Tensor | None  # on the CPU, bool; None where no metric needs them
    kinds: list[str]
    args: tuple[Tensor, ...] = ()

    @property
    def images(self) -> Tensor:
        """The first input: maps have its size."""
        return self.inputs[0] if isinstance(self.inputs, tuple) else self.inputs

    def on(self, device: torch.device | None) -> "MaskedBatch":
        """The batch with inputs, args and targets on the model's device; None leaves them."""
        moved = to_device(as_tuples(self.inputs, None)[1], device)
        inputs = moved if isinstance(self.inputs, tuple) else moved[0]
        # Captum selects outputs by an index on their device.
        targets = self.targets.to(moved[0].device)
        return replace(self, inputs=inputs, targets=targets, args=to_device(self.args, device))


def masked_batches(
    data: Any, *, target: int | None = None, batch_size: int = 32, need_masks: bool = True
) -> tuple[Iterator[MaskedBatch], int | None]:
    """Batches of ``data``, each checked before it is yielded, and how many there are, if known.

    Args:
        data: an iterable of batches (inputs, target, mask) or (inputs, target, mask, kind),
            several inputs as a tuple; or a data set of (image, label) with a method ``mask(i)``
            and perhaps ``kind(i)``, or a ``Subset`` of one.
        target: the class of all images; None takes each image's label.
        batch_size: for a data set; a loader has its own.
        need_masks: refuse images without a mask, and those that are neither 2D nor 3D.

    Raises:
        TypeError: ``data`` or a batch is of another kind.
        ValueError: no target, no mask, or one of another size; not one of each per image.
    """
    is_dataset = isinstance(data, Dataset) and not isinstance(data, IterableDataset)
    if is_dataset or hasattr(data, "mask"):
        batches: Iterable[Any] = read_dataset(data, batch_size, need_masks)
        total: int | None = -(-len(data) // batch_size)
    elif isinstance(data, Iterable):
        batches, total = data, None
        with suppress(TypeError, NotImplementedError):  # a loader of an IterableDataset has none
            total = len(data)  # type: ignore[arg-type]
    else:
        raise TypeError(
            f"data: got {type(data).__name__}, expected an iterable of batches {EXPECTED}, or a "
            "data set with a method mask(i)."
        )
    return (_checked(batch, target, need_masks) for batch in batches), total


def _checked(batch: Any, target: int | None, need_masks: bool) -> MaskedBatch:
    least = 3 if need_masks else 2
    if not isinstance(batch, (tuple, list)) or not least <= len(batch) <= 4:
        raise TypeError(
            f"data: a batch is {brief(batch)}, expected {EXPECTED}. Pass the data set itself "
            "where it has a method mask(i), or a loader that gives masks too."
        )
    given, labels, mask, kind = (*batch, None, None)[:4]
    inputs, args = _inputs(given)
    images = inputs[0] if isinstance(inputs, tuple) else inputs
    return MaskedBatch(
        inputs,
        _targets(labels, target, len(images)),
        _masks(mask, images) if need_masks else None,
        _kinds(kind, len(images)),
        args,
    )


def _inputs(given: Any) -> tuple[TensorOrTuple, tuple[Tensor, ...]]:
    """Split a batch's inputs: (those before the first without spatial dimensions, that one and all
    after it). The model gets them in this order.

    A single image tensor is returned without a tuple, also if it came with such inputs.
    """
    items = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    flat = [i for i, x in enumerate(items) if i and isinstance(x, Tensor) and x.ndim < 3]
    n = flat[0] if flat else len(items)
    inputs = as_tuples(items[:n], None)[1]
    is_tuple = n > 1 or (isinstance(given, (tuple, list)) and not flat)
    return inputs if is_tuple else inputs[0], _rows(items[n:], n, len(inputs[0]))


def _rows(args: tuple[Any, ...], first: int, n: int) -> tuple[Tensor, ...]:
    """The inputs after the images, as plain tensors; ``first`` is the position of the first one."""
    for i, x in enumerate(args, start=first):
        if not isinstance(x, Tensor) or x.ndim == 0 or len(x) != n:
            raise ValueError(
                f"data: input {i} of a batch is {brief(x)}, expected a tensor with one row for "
                f"each of {n} images, ({n},) or ({n}, F). What is the same for all goes into a "
                "function around the model."
            )
    return tuple(map(plain, args))


def _targets(labels: Any, target: int | None, n: int) -> Tensor:
    if target is not None:
        return torch.full((n,), target)
    if labels is None or (isinstance(labels, list) and None in labels):
        raise ValueError(
            "data: a batch has no target (None). Give each image's class, or one for all as "
            "target=."
        )
    y = plain(torch.as_tensor(labels))
    if y.shape != (n,) or y.is_floating_point() or (y < 0).any():
        raise ValueError(
            f"data: targets of shape {tuple(y.shape)} and {y.dtype} for {n} images, expected one "
            f"class index from 0 for each, ({n},). Several inputs go in a tuple, "
            "((x, other), target, mask); for one class for all images use target=."
        )
    return y.long()


def _masks(mask: Any, images: Tensor) -> Tensor:
    n, space = len(images), tuple(images.shape[2:])
    if len(space) not in (2, 3):
        raise ValueError(
            f"data: inputs of shape {tuple(images.shape)}, expected (N, C, H, W) or "
            "(N, C, D, H, W). Use metrics={} for figures that need no mask."
        )
    if mask is None:
        raise ValueError(
            f"data: a batch has no mask (None), expected {(n, *space)}. Leave these images out, "
            "or use metrics={} for figures that need no mask."
        )
    try:
        m = plain(torch.as_tensor(mask)).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"data: masks are {brief(mask)}, expected one tensor {(n, *space)} of 0 and 1. Stack "
            "those of single images, torch.stack(masks)."
        ) from error
    m = m[:, 0] if m.shape == (n, 1, *space) else m
    if m.shape != (n, *space):
        raise ValueError(
            f"data: masks of shape {tuple(m.shape)} for inputs of shape {tuple(images.shape)}, "
            f"expected {(n, *space)}. {AS_IMAGES}"
        )
    if not ((m == 0) | (m == 1)).all():
        raise ValueError(
            f"data: masks hold values from {m.min():g} to {m.max():g}, expected only 0 and 1. "
            "Threshold them, for instance mask > 0."
        )
    return m.bool()


def _kinds(kind: Any, n: int) -> list[str]:
    if kind is None:
        return [ALL] * n
    named = isinstance(kind, (tuple, list)) and all(isinstance(k, str) for k in kind)
    if not named or len(kind) != n:
        raise ValueError(
            f"data: kinds are {brief(kind)}, expected a list of {n} names, one for each image."
        )
    return [str(k) for k in kind]
