"""Many processes as one: sums, rows and failures shared over a ``torch.distributed`` group.

Without an initialised group there is one process, and values are returned as they are.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

T = TypeVar("T")


def size() -> int:
    """The number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's place among them, from 0."""
    return dist.get_rank() if size() > 1 else 0


def size_on_machine() -> int:
    """The number of ranks on this machine, as torchrun says it; all ranks where it is not known."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", size())) if size() > 1 else 1


def total(value: Tensor) -> Tensor:
    """The sum over all ranks, the same on each."""
    if size() == 1:
        return value
    summed = value.to(_device(), copy=True).contiguous()
    dist.all_reduce(summed)
    return summed.to(value.device)


def count(n: int) -> int:
    """The sum of a number over all ranks."""
    return int(total(torch.tensor(n)))


def part(n: int) -> int:
    """One rank's part of ``n``, rounded up."""
    return -(-n // size())


def gather(rows: Tensor) -> Tensor:
    """The rows (n_r, ...) of all ranks, in the order of ranks, on every rank; n_r may differ."""
    if size() == 1:
        return rows
    counts = torch.zeros(size(), dtype=torch.int64)
    counts[rank()] = len(rows)
    counts = total(counts)
    sent = torch.zeros(int(counts.max()), *rows.shape[1:], dtype=rows.dtype, device=_device())
    sent[: len(rows)] = rows
    received = [torch.empty_like(sent) for _ in range(size())]
    dist.all_gather(received, sent)
    parts = [part[:n] for part, n in zip(received, counts.tolist(), strict=True)]
    return torch.cat(parts).to(rows.device)


def from_first(value: T) -> T:
    """The first rank's value, on every rank."""
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, device=_device())
    return box[0]


def share_from_first(value: Tensor) -> Tensor:
    """The first rank's tensor, on every rank; all ranks pass a tensor of the same shape."""
    shared = value.to(_device(), copy=True)
    dist.broadcast(shared, 0)
    return shared.to(value.device)


@contextmanager
def in_step(what: str) -> Iterator[None]:
    """Make all ranks leave this block together: if one fails, the others raise instead of hanging.

    A rank whose process dies is noticed by the group itself: at once with gloo, after the group's
    timeout at the latest.

    Args:
        what: what is being done, for the error message.

    Raises:
        RuntimeError: another rank failed.
    """
    failed = torch.zeros(size(), dtype=torch.int64)
    try:
        yield
    except BaseException:  # also an interrupt from the keyboard
        failed[rank()] = 1
        total(failed)
        raise
    ranks = total(failed).nonzero()[:, 0].tolist()
    if ranks:
        raise RuntimeError(
            f"{what} failed on rank {', '.join(map(str, ranks))} of {size()}; its own error says "
            "why. No rank has a new head."
        )


def n_unrepeated(data: Any) -> int | None:
    """How many different images a loader's DistributedSampler deals out, or None if it repeats
    none. To give each rank equally many, it repeats the first images, and the repeats come last."""
    sampler = getattr(data, "sampler", None)
    if isinstance(sampler, DistributedSampler) and not sampler.drop_last:
        return len(sampler.dataset)  # type: ignore[arg-type]
    return None


def _device() -> torch.device:
    """Where the group's backend wants its tensors."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
