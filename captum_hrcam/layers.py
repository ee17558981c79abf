"""Which layers: names looked up, and one layer per resolution found by a traced forward."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_hrcam.activations import ReshapeTransform, eval_mode


def unwrap(forward_func: Callable[..., Any]) -> Callable[..., Any]:
    """The module inside ``torch.compile``'s wrapper: compiled code may skip late hooks."""
    return getattr(forward_func, "_orig_mod", forward_func)


def resolve_layers(
    forward_func: Callable[..., Any], layer: nn.Module | str | Sequence[nn.Module | str]
) -> dict[str, nn.Module]:
    """{name: module} for modules or dotted names, checked against the model."""
    if isinstance(forward_func, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ValueError(
            f"forward_func: got {type(forward_func).__name__}, which splits a batch over copies of "
            "the model. Pass the model itself, forward_func.module."
        )
    model = unwrap(forward_func)
    model = getattr(model, "__self__", model)  # a bound method's module
    named = dict(model.named_modules()) if isinstance(model, nn.Module) else None
    names = {id(module): name for name, module in (named or {}).items()}
    wanted = [layer] if isinstance(layer, (nn.Module, str)) else list(layer)
    if not wanted:
        raise ValueError("layer: got an empty list, expected at least one layer.")
    resolved: dict[str, nn.Module] = {}
    for i, item in enumerate(wanted):
        name, module = _resolve(item, i, named, names)
        if module in resolved.values():
            raise ValueError(f"layer: {name!r} is listed twice; list each layer once.")
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"layer: {name!r} is a scripted or traced module, where hooks do not run. Use the "
                "model before torch.jit.script or torch.jit.trace."
            )
        resolved[name] = module
    return resolved


def _resolve(
    item: nn.Module | str, i: int, named: dict[str, nn.Module] | None, names: dict[int, str]
) -> tuple[str, nn.Module]:
    if isinstance(item, str):
        if named is None:
            raise ValueError(
                f"layer: got the name {item!r}, but forward_func is no module to look it up in. "
                "Pass the module itself."
            )
        if item not in named:
            raise ValueError(
                f"layer: the model has no layer {item!r}. See "
                "[name for name, _ in model.named_modules()], or use find_layers."
            )
        return item, named[item]
    if not isinstance(item, nn.Module):
        raise TypeError(
            f"layer: got {type(item).__name__}, expected a module, a dotted name, or a sequence of "
            "these."
        )
    item = unwrap(item)  # type: ignore[assignment]
    if named is None:
        return f"layer{i}", item
    if id(item) not in names:
        raise ValueError(
            f"layer: the given {type(item).__name__} is not in the model. Pass one of its own "
            "submodules, or its dotted name."
        )
    return names[id(item)], item


class FoundLayers(list[str]):
    """Layer names from ``find_layers``; prints with channels and resolution.

    Attributes:
        shapes: name -> shape of the layer's feature maps without the batch, (C, \\*spatial).
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__(shapes)
        self.shapes = shapes

    def __str__(self) -> str:
        width = max(map(len, self))
        return "\n".join(
            f"{name:<{width}}  {shape[0]:>5} channels  {'x'.join(map(str, shape[1:]))}"
            for name, shape in self.shapes.items()
        )


@torch.no_grad()
def find_layers(
    model: nn.Module,
    example_inputs: Tensor | tuple[Any, ...],
    *,
    reshape_transform: ReshapeTransform | None = None,
) -> FoundLayers:
    r"""
    One layer per resolution, the deepest before each downsampling, by one traced forward.

    The paper's pre-max-pooling layers: for ResNet relu, layer1..layer4; for VGG the ReLU before
    each pool. A layer that runs several times in a forward is never chosen.

    Args:
        model (Module): a CNN in 1D, 2D or 3D.
        example_inputs (Tensor or tuple): what the model is called with, (N, C, \*spatial).
        reshape_transform (Callable): as for :class:`~captum_hrcam.HRCAM`.

    Returns:
        FoundLayers: dotted names, shallow to deep, a list that prints as a table.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: no layer gives spatial feature maps.

    Examples::

        >>> from torch import nn, randn
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        ...     nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> find_layers(model, randn(1, 1, 16, 16))
        ['1', '4']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, expected a torch.nn.Module.")
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    ndim = max((x.ndim for x in inputs if isinstance(x, Tensor)), default=0)
    trace: list[tuple[str, tuple[int, ...]]] = []
    handles = []

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, args: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                trace.append((name, ()))
                return
            if reshape_transform is not None and output.ndim > 2:
                output = reshape_transform(output)
            trace.append((name, tuple(output.shape[1:]) if output.ndim == ndim else ()))

        return record

    model = unwrap(model)  # type: ignore[assignment]
    try:
        handles = [m.register_forward_hook(hook(name)) for name, m in model.named_modules() if name]
        with eval_mode(model):
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    shapes = _deepest_of_each_size(trace)
    if not shapes:
        raise ValueError(
            "model: no layer gives feature maps (N, C, *spatial) that run once in the forward. "
            "Name the layers yourself, with reshape_transform for tokens."
        )
    return FoundLayers(shapes)


def _deepest_of_each_size(
    trace: list[tuple[str, tuple[int, ...]]],
) -> dict[str, tuple[int, ...]]:
    runs: dict[str, int] = {}
    for name, _ in trace:
        runs[name] = runs.get(name, 0) + 1
    maps = [(n, s) for n, s in trace if len(s) > 1 and runs[n] == 1 and max(s[1:]) > 1]
    chosen: dict[tuple[int, ...], tuple[str, tuple[int, ...]]] = {}
    for name, shape in maps:
        chosen[shape[1:]] = (name, shape)  # the latest of each size
    return dict(chosen.values())
