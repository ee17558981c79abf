"""Modes set for a call and then restored: the model's eval mode, autocast, the default device."""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

_LOCK = threading.RLock()  # over _LENT
_LENT: Counter[nn.Module] = Counter()  # modules put in eval mode -> contexts that still need it
_CALLERS = threading.local()  # .device: where the caller's own code creates tensors


@contextmanager
def eval_mode(*modules: nn.Module) -> Iterator[None]:
    """Put every submodule in eval mode, then restore each one's own mode, also after an error.

    Contexts may be nested and open in several threads. A module's mode is restored when the last of
    them closes. Until then it is eval for every thread, so a model must not be trained meanwhile.
    """
    lent: list[nn.Module] = []
    try:
        with _LOCK:
            for module in _every(modules):
                if module.training:
                    _LENT[module] = 1  # whatever an interrupted context has left there
                elif module in _LENT:
                    _LENT[module] += 1
                else:
                    continue
                lent.append(module)
                # Not .eval(): a model may override train(), and only the flag is ours to lend.
                module.training = False
        yield
    finally:
        with _LOCK:
            for module in lent:
                _LENT[module] -= 1
                if _LENT[module] <= 0:  # below 0 if a context inside has restored it already
                    del _LENT[module]
                    module.training = True


def _every(modules: Iterable[nn.Module]) -> set[nn.Module]:
    """The modules and all inside them."""
    every = set(modules)
    unvisited = list(every)
    while unvisited:
        # Not .modules(): with hundreds of modules it takes a tenth of what HR-CAM costs.
        for inside in unvisited.pop()._modules.values():
            if inside is not None and inside not in every:
                every.add(inside)
                unvisited.append(inside)
    return every


@contextmanager
def own_casts() -> Iterator[None]:
    """Leave no cast weight in autocast's cache. A weight cast without gradient would stay in use,
    and a training step around the call would get no gradients (as in torch 2.4)."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off, if it is on: switching for nothing would cost as much as a small map."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def autocast_dtype(device: torch.device | None) -> str | None:
    """The dtype that models compute in under the caller's autocast; None if autocast is off."""
    kind = "cpu" if device is None else device.type
    return str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None


@contextmanager
def own_tensors() -> Iterator[None]:
    """Create tensors on the CPU, where heads are, whatever default device the caller has set."""
    device, before = torch.empty(0).device, getattr(_CALLERS, "device", None)
    if device.type == "cpu":  # already so; setting it again would slow down every call of torch
        yield
        return
    _CALLERS.device = device
    try:
        with torch.device("cpu"):
            yield
    finally:
        _CALLERS.device = before


def callers_tensors() -> AbstractContextManager[Any]:
    """Restore the caller's default device inside ``own_tensors``, for the model and the loader."""
    device: torch.device | None = getattr(_CALLERS, "device", None)
    return nullcontext() if device is None else device


def callers_batches(data: Iterable[Any]) -> Iterator[Any]:
    """Iterate over batches that are created under the caller's default device."""
    with callers_tensors():
        batches = iter(data)
    while True:
        with callers_tensors():
            try:
                batch = next(batches)
            except StopIteration:
                return
        yield batch
