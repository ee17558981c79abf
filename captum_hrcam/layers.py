"""Which layers: modules and dotted names looked up in the model."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn


class UnknownLayer(ValueError):
    """A name that cannot be looked up: the model has no such layer, or is not known."""


def unwrap(forward_func: Callable[..., Any]) -> Callable[..., Any]:
    """The module inside ``torch.compile``'s wrapper: compiled code may skip late hooks."""
    return getattr(forward_func, "_orig_mod", forward_func)


def module_behind(forward_func: object) -> nn.Module | None:
    """The module that a function runs: itself, or that of a bound method or ``functools.partial``;
    None if it is not known."""
    inner = forward_func
    while isinstance(inner, functools.partial):
        inner = inner.func
    inner = unwrap(inner)  # type: ignore[arg-type]
    inner = getattr(inner, "__self__", inner)
    return inner if isinstance(inner, nn.Module) else None


def resolve_layers(
    forward_func: Callable[..., Any], layer: nn.Module | str | Sequence[nn.Module | str]
) -> dict[str, nn.Module]:
    """{name: module} for modules or dotted names, checked against the model."""
    model = module_behind(forward_func)
    refuse_parallel("forward_func", model)
    # A module used in two places has a name for each, and is found by both.
    named = None if model is None else dict(model.named_modules(remove_duplicate=False))
    names = {id(module): name for name, module in reversed((named or {}).items())}
    if not isinstance(layer, (nn.Module, str, Iterable)):
        raise TypeError(_expected(layer))
    wanted = [layer] if isinstance(layer, (nn.Module, str)) else list(layer)
    if not wanted:
        raise ValueError("layer: got an empty list, expected at least one layer.")
    resolved: dict[str, nn.Module] = {}
    for i, item in enumerate(wanted):
        name, module = _resolve(item, i, named, names)
        if module in resolved.values():
            raise ValueError(f"layer: {name!r} is listed twice; list each layer once.")
        refuse_scripted(f"layer: {name!r}", module)
        resolved[name] = module
    return resolved


def refuse_scripted(argument: str, module: nn.Module) -> None:
    """Refuse scripted and traced modules, in which hooks do not run."""
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(
            f"{argument} is a scripted or traced module, where hooks do not run. Use the model "
            "before torch.jit.script or torch.jit.trace."
        )


def refuse_parallel(argument: str, model: Any) -> None:
    """Refuse wrappers that run copies of the model, whose hooks see parts of a batch."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ValueError(
            f"{argument}: got {type(model).__name__}, which splits a batch over copies of the "
            f"model. Pass the model itself, {argument}.module."
        )


def _resolve(
    item: nn.Module | str, i: int, named: dict[str, nn.Module] | None, names: dict[int, str]
) -> tuple[str, nn.Module]:
    if isinstance(item, str):
        if named is None:
            raise UnknownLayer(
                f"layer: got the name {item!r}, but forward_func is no module to look it up in. "
                "Pass the module itself."
            )
        if item not in named:
            raise UnknownLayer(
                f"layer: the model has no layer {item!r}. See "
                "[name for name, _ in model.named_modules()], or use find_layers."
            )
        return item, named[item]
    if not isinstance(item, nn.Module):
        raise TypeError(_expected(item))
    item = unwrap(item)  # type: ignore[assignment]
    if named is None:
        return f"layer{i}", item
    if id(item) not in names:
        raise ValueError(
            f"layer: the given {type(item).__name__} is not in the model. Pass one of its own "
            "submodules, or its dotted name."
        )
    return names[id(item)], item


def _expected(item: object) -> str:
    return (
        f"layer: got {type(item).__name__}, expected a module, a dotted name, or a sequence of "
        "these."
    )
