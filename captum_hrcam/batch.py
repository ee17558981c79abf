"""What goes into a model and what comes out: a loader's batch is split, scores become rows."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from captum_hrcam.checks import brief

ALTER = "in a collate_fn or a generator around the loader"


def split_batch(batch: Any, argument: str, targets: str) -> tuple[tuple[Tensor, ...], Any]:
    """Check a batch (\\*inputs, label) and split it into (inputs, label).

    With ``targets="model"`` the label is None, and a last item without spatial dimensions is
    dropped, as it can only be a label.
    """
    if isinstance(batch, Mapping):
        keys = ", ".join(map(repr, batch))
        raise TypeError(
            f"{argument}: a batch is a {type(batch).__name__} of {keys}, expected (*inputs, label)."
            " Give tuples, as by the loader's collate_fn."
        )
    items = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    labels = None
    if targets == "labels":
        items, labels = _label_apart(items, argument)
    elif len(items) > 1 and not (isinstance(items[-1], Tensor) and items[-1].ndim > 2):
        items = items[:-1]
    _check_inputs(items, argument)
    return tuple(map(plain, items)), plain(labels) if isinstance(labels, Tensor) else labels


def _label_apart(items: tuple[Any, ...], argument: str) -> tuple[tuple[Any, ...], Any]:
    """A batch's inputs and its last item, refused if this is no label of a batch."""
    if len(items) < 2:
        raise TypeError(
            f"{argument}: a batch holds {len(items)} item, expected (*inputs, label). For data "
            "without labels use targets='model'."
        )
    *inputs, labels = items
    if _is_text(labels):
        raise TypeError(
            f"{argument}: the last item of a batch is text, {labels!r:.60}, expected the label "
            f"of (*inputs, label). Leave out file names and the like, {ALTER}."
        )
    if isinstance(labels, (int, float)) or getattr(labels, "ndim", 1) == 0:
        raise TypeError(
            f"{argument}: it gave one sample, with the label {labels!r:.40}, expected batches. "
            "Wrap it in torch.utils.data.DataLoader(..., batch_size=32); the label of a batch of "
            "one is label[None]."
        )
    return tuple(inputs), labels


def _check_inputs(items: tuple[Any, ...], argument: str) -> None:
    """Refuse inputs that are not tensors with a row for each of the same images."""
    # The first input holds images; the others may hold just one number for each image.
    is_fine = [
        isinstance(x, Tensor) and x.ndim >= (1 if i else 2) and 0 not in x.shape
        for i, x in enumerate(items)
    ]
    got = ", ".join(map(brief, items))
    if not is_fine or not all(is_fine):
        raise TypeError(
            f"{argument}: a batch must be (*inputs, label) with inputs (N, C, *spatial), "
            f"got inputs {got or 'nothing'}."
        )
    if len({len(x) for x in items}) > 1:
        raise ValueError(f"{argument}: a batch's inputs must hold the same images, got {got}.")


def not_taken(
    argument: str, inputs: tuple[Tensor, ...], labels: object, error: TypeError
) -> TypeError:
    """The error for a model that does not take as many inputs as a batch gave."""
    got = ", ".join(map(brief, inputs))
    label = "" if labels is None else f", and for the label its last item, {brief(labels)}"
    return TypeError(
        f"{argument}: the model does not take what a batch holds ({error}). For inputs were taken "
        f"{got}{label}. A batch is (*inputs, label) with what the model is called with and nothing "
        f"else; change it {ALTER}."
    )


def as_rows(output: Any, n: int) -> Tensor | None:
    """The model's output as (n, K'); None if it is not rows of scores."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    if output.ndim > 2 and output.shape[2:].numel() == 1:
        output = output.flatten(1)  # from a convolution used as classifier
    # A model that squeezes its output also squeezes away the axis of a batch of one.
    is_squeezed = n == 1 and output.ndim < 2
    fits = output.ndim <= 2 and (is_squeezed or (output.ndim > 0 and len(output) == n))
    return output.reshape(n, -1) if fits else None


def score_rows(output: Any, n: int) -> Tensor:
    """The model's output as (n, K'), float32 on the CPU; K' = 0 if it is not rows of scores."""
    rows = as_rows(output, n)
    # A copy: compiled models may reuse their output buffer.
    return torch.zeros(n, 0) if rows is None else rows.detach().to("cpu", torch.float32, copy=True)


def _is_text(x: object) -> bool:
    return isinstance(x, str) or (
        isinstance(x, (list, tuple)) and any(isinstance(item, str) for item in x)
    )


def device_of(module: object) -> torch.device | None:
    """The device of a module's first parameter; None if there is no parameter."""
    if isinstance(module, torch.nn.Module):
        return next((p.device for p in module.parameters()), None)
    return None


def to_device(inputs: tuple[Tensor, ...], device: torch.device | None) -> tuple[Tensor, ...]:
    """Move the inputs to the device, if they are not there already; None leaves them."""
    return inputs if device is None else tuple(x.to(device, non_blocking=True) for x in inputs)


def copied(given: Any) -> Any:
    """A copy of a tensor, or of each in a tuple, for a model that may change it in place."""
    if isinstance(given, tuple):
        return tuple(map(copied, given))
    if not isinstance(given, Tensor):
        return given
    return given.detach().clone().requires_grad_(given.requires_grad)


def plain(x: Tensor) -> Tensor:
    """The same values as a plain Tensor, without a subclass's behaviour: MONAI's MetaTensor refuses
    to be sliced if its images come from several files."""
    return x if type(x) is Tensor else x.as_subclass(Tensor)
