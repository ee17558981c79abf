"""Batches read from a data set that knows its images' masks."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import Subset, default_collate

from captum_hrcam.checks import brief

EXPECTED = "(inputs, target, mask) or (inputs, target, mask, kind)"
ONE_SIZE = "Give tensors of one size, in the data set's transform, or use batch_size=1."
AS_IMAGES = (
    "An image's transform is not applied to its mask. Resize and crop each mask as its image "
    "(nearest neighbour): with mask_transform= where the data set has it, else override mask(i)."
)


def read_dataset(data: Any, batch_size: int, need_masks: bool) -> Iterator[Any]:
    """Batches (images, labels, masks, kinds); masks and kinds are None if they are not read.

    Args:
        data: a data set of (image, label) with a method ``mask(i)`` and perhaps ``kind(i)``, or a
            ``Subset`` of one.
        batch_size: images in a batch.
        need_masks: refuse images without a mask; otherwise masks are not read.

    Raises:
        TypeError: the data set has no masks, or an item is of another form.
        ValueError: an item without a mask; items that do not form a batch.
    """
    mask, kind = _by_index(data, "mask"), _by_index(data, "kind")
    if mask is None and need_masks:
        raise TypeError(
            f"data: {type(data).__name__} has no method mask(i). Add one that gives the mask of "
            f"item i, or pass a loader of batches {EXPECTED}."
        )
    return _read(data, batch_size, mask if need_masks else None, kind)


def _by_index(data: Any, name: str) -> Callable[[int], Any] | None:
    """The method ``name`` of a data set, also through a Subset's indices; None if it has none."""
    if isinstance(data, Subset):
        inner = _by_index(data.dataset, name)
        return None if inner is None else lambda i: inner(data.indices[i])
    method = getattr(data, name, None)
    return method if callable(method) else None


def _read(
    data: Any,
    batch_size: int,
    mask: Callable[[int], Any] | None,
    kind: Callable[[int], Any] | None,
) -> Iterator[Any]:
    # No DataLoader: it draws from the global random state, which is the user's.
    for start in range(0, len(data), batch_size):
        index = range(start, min(start + batch_size, len(data)))
        images, labels = zip(*(_item(data, i) for i in index), strict=True)
        masks = [_mask(mask, i) for i in index] if mask else None
        yield (
            _stacked(images, "images", index, ONE_SIZE),
            list(labels),
            None if masks is None else _stacked(masks, "masks", index, AS_IMAGES),
            [kind(i) for i in index] if kind else None,
        )


def _item(data: Any, i: int) -> tuple[Any, Any]:
    item = data[i]
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise TypeError(
            f"data: item {i} is {brief(item)}, expected (image, label). Several inputs go in a "
            "tuple, ((image, other), label)."
        )
    return item[0], item[1]


def _mask(mask: Callable[[int], Any], i: int) -> Any:
    given = mask(i)
    if given is None:
        raise ValueError(
            f"data: item {i} has no mask, mask({i}) gave None. Take the items that have one, as "
            "torch.utils.data.Subset(data, data.masked), or metrics={} for none that needs masks."
        )
    return given


def _stacked(items: Iterable[Any], what: str, index: range, remedy: str) -> Any:
    try:
        return default_collate(list(items))
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"data: the {what} of items {index[0]} to {index[-1]} do not form a batch ({error}). "
            f"{remedy}"
        ) from error
