"""What a head is trained towards: labels turned into target rows, and their loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

LOSSES = ("cross_entropy", "binary_cross_entropy", "mse")
PRESENT = 0.5  # see ``present``


def label_tensor(labels: object, n: int) -> Tensor:
    """One batch of labels, (n, ...) on the CPU; TypeError or ValueError for anything else."""
    if not isinstance(labels, Tensor) and hasattr(labels, "to_numpy"):
        labels = labels.to_numpy()  # a pandas object's rows are known by its index
    try:
        y = torch.as_tensor(labels).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"labels: got {type(labels).__name__}, expected a tensor or numbers. The loader must "
            "yield (*inputs, label)."
        ) from error
    if y.ndim == 0 or y.shape[0] != n:
        raise ValueError(
            f"labels: got shape {tuple(y.shape)} for a batch of {n} images, expected {n} labels. "
            "The loader must yield (*inputs, label)."
        )
    return y


def target_rows(labels: object, n: int, n_classes: int, loss: str) -> Tensor:
    """Check one batch of labels and return it as rows of targets.

    Args:
        labels: class indices (n,), one-hot or soft rows (n, K); for binary cross-entropy 0/1 rows
            (n, K) or (n,) with K = 1; for mse real values (n,) or (n, K).
        n: the number of images in the batch.
        n_classes: K.
        loss: one of ``LOSSES``.

    Returns:
        (n, K), float64, on the CPU.

    Raises:
        TypeError: labels are not a tensor or numbers.
        ValueError: wrong length, range or NaN; the message says which value.
    """
    y = label_tensor(labels, n)
    if y.ndim == 2 and y.shape[1] == 1 and not (loss == "cross_entropy" and n_classes == 1):
        y = y[:, 0]
    if y.ndim == 1 and loss == "cross_entropy":
        return _one_hot(y, n_classes)
    # A copy: a loader may fill the same buffer again.
    rows = (y[:, None] if y.ndim == 1 else y).to(torch.float64, copy=True)
    if rows.shape != (n, n_classes):
        raise ValueError(
            f"labels: got shape {tuple(y.shape)}, expected ({n}, {n_classes}): one column for each "
            "of the head's outputs."
        )
    missing = ""
    if loss == "binary_cross_entropy":
        head = "the head" if n_classes == 1 else "a head for each label"
        missing = f"missing, fit {head} from the images that have it"
    if not torch.isfinite(rows).all():
        told = f" Where a label is {missing}." if missing else ""
        raise ValueError("labels: NaN or infinity among them; remove or mend these samples." + told)
    outside = rows[(rows < 0) | (rows > 1)]
    if loss != "mse" and len(outside):
        remedy = "For real-valued labels use loss='mse'."
        if missing and (outside == -1).all():  # as a real value, it would be fitted
            remedy = f"Where -1 means {missing}; where it means no, write 0."
        raise ValueError(
            f"labels: values from {rows.min():g} to {rows.max():g}, expected 0 to 1 for "
            f"loss={loss!r}. {remedy}"
        )
    rounding = n_classes * torch.finfo(y.dtype).eps if y.is_floating_point() else 0.0
    if loss == "cross_entropy" and (rows.sum(1) - 1).abs().max() > max(1e-3, rounding):
        raise ValueError(
            "labels: rows do not sum to 1, expected one-hot or soft rows for "
            "loss='cross_entropy'. For several labels an image use loss='binary_cross_entropy'."
        )
    return rows


def n_label_columns(labels: object, loss: str) -> int:
    """K of label rows (n, K); 0 if labels are one number each, which does not reveal K."""
    if not isinstance(labels, Tensor) or labels.ndim != 2:
        return 0
    is_index = labels.shape[1] == 1 and loss == "cross_entropy"
    return 0 if is_index else labels.shape[1]


def _one_hot(y: Tensor, n_classes: int) -> Tensor:
    if y.is_floating_point():
        if not torch.isfinite(y).all():
            raise ValueError("labels: NaN or infinity among them; remove or mend these samples.")
        if (y != y.round()).any():
            raise ValueError(
                "labels: non-integer values, expected class indices for loss='cross_entropy'. "
                "For real-valued labels use loss='mse'."
            )
    y = y.long()
    if y.numel() and (y.min() < 0 or y.max() >= n_classes):
        bad = int(y.min() if y.min() < 0 else y.max())
        raise ValueError(
            f"labels: {bad} is outside 0..{n_classes - 1}, the classes of the model's output. "
            "Number the classes from 0 or pass n_classes."
        )
    return F.one_hot(y, n_classes).double()


def check_classes(mean: Tensor, loss: str) -> None:
    """Refuse targets in which a class never, or only ever, occurs.

    Args:
        mean: (K,) the mean target row.
        loss: one of ``LOSSES``.
    """
    if loss == "mse":
        return
    absent, always = (which.nonzero().flatten().tolist() for which in (mean <= 0, mean >= 1))
    found = []
    if absent:
        found.append(f"no sample in train_data has class {listed(absent)}")
    if always:
        found.append(f"every sample has class {listed(always)}")
    if found:
        raise ValueError(
            f"labels: {'; '.join(found)} (of {len(mean)}, counted from 0), expected samples with "
            f"and without each. {_remedy(absent, len(mean), loss)}"
        )


def _remedy(absent: list[int], k: int, loss: str) -> str:
    """What to do about classes that never, or always, occur."""
    others, n = "", k - len(absent)
    if loss == "binary_cross_entropy" and k > 1:
        others = "leave these columns out of labels and scores, as lambda x: model(x)[:, kept], "
    elif absent and 1 < n == absent[0]:  # the classes after the first n
        others = f"pass n_classes={n}, "
    return f"Add samples, {others}or use targets='model'."


def listed(classes: list[int]) -> str:
    """Class numbers for a message, the first eight of them."""
    return ", ".join(map(str, classes[:8])) + (", ..." if len(classes) > 8 else "")


def model_targets(outputs: Tensor, loss: str) -> Tensor:
    """The model's own predictions as target rows, (n, K): no label is needed."""
    outputs = outputs.detach().cpu().double()
    if loss == "cross_entropy":
        return outputs.softmax(1)
    return outputs.sigmoid() if loss == "binary_cross_entropy" else outputs


def present(rows: Tensor, loss: str) -> Tensor:
    """Which classes are in each image, bool (n, K): those with a target of at least 1/2. Where
    classes exclude each other, an image has at least one, the likeliest: of many hesitant
    probabilities none may reach 1/2.

    Examples::

        >>> rows = torch.tensor([[0.2, 0.3, 0.5], [0.4, 0.3, 0.3]])
        >>> present(rows, "cross_entropy").int().tolist()
        [[0, 0, 1], [1, 0, 0]]
        >>> present(rows, "binary_cross_entropy").int().tolist()
        [[0, 0, 1], [0, 0, 0]]
    """
    found = rows >= PRESENT
    if loss == "cross_entropy" and rows.shape[1]:
        found[torch.arange(len(rows)), rows.argmax(1)] = True
    return found


def loss_per_sample(scores: Tensor, rows: Tensor, loss: str) -> Tensor:
    """(n, K) scores and targets -> (n,) losses, summed over outputs."""
    if loss == "cross_entropy":
        return -(rows * F.log_softmax(scores, 1)).sum(1)
    if loss == "binary_cross_entropy":
        return F.binary_cross_entropy_with_logits(scores, rows, reduction="none").sum(1)
    return ((scores - rows) ** 2).sum(1) / 2
