"""The one place that registers hooks: feature maps are read while the model runs."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

ReshapeTransform = Callable[[Tensor], Tensor]


@contextmanager
def eval_mode(*modules: nn.Module) -> Iterator[None]:
    """Put every submodule in eval mode; give each its own mode back, also after an error."""
    training = {m for module in modules for m in module.modules() if m.training}
    for module in training:
        # Not .eval(): a model may override train(), and only the flag is ours to lend.
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def read_feature_maps(
    layers: Mapping[str, nn.Module],
    read: Callable[[str, Tensor], None],
    *,
    from_input: bool = False,
    reshape_transform: ReshapeTransform | None = None,
) -> Iterator[None]:
    """Call ``read(name, f)`` with each layer's feature maps f, inside the forward hook.

    Inside the hook the value is the layer's own: an in-place operation that follows has not
    overwritten it yet, so nothing is cloned. Hooks exist only while the context is open and
    answer only to the thread that opened it.

    Args:
        layers: layer name -> module.
        read: receives the layer's name and its feature maps of shape (N, C, *spatial).
        from_input: read the layer's input instead of its output.
        reshape_transform: turns the layer's tensor into (N, C, *spatial).

    Raises:
        RuntimeError: a layer ran more than once, or not at all.
        TypeError: a layer gave something else than a tensor.
        ValueError: a layer gave a tensor without spatial dimensions.
    """
    thread = threading.get_ident()
    seen: set[str] = set()

    def on_tensor(name: str, value: Any) -> None:
        if threading.get_ident() != thread:
            return
        if name in seen:
            raise RuntimeError(
                f"layer {name!r} ran more than once in one forward pass, so it has no single "
                "feature map. Choose the module around it (its block), which runs once."
            )
        seen.add(name)
        read(name, _spatial(name, value, reshape_transform))

    def hook(name: str) -> Any:
        if from_input:
            return lambda module, args, kwargs: on_tensor(name, _first(args, kwargs))
        return lambda module, args, output: on_tensor(name, output)

    handles = []
    try:
        for name, module in layers.items():
            if from_input:
                handles.append(module.register_forward_pre_hook(hook(name), with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(hook(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
    missing = [name for name in layers if name not in seen]
    if missing:
        raise RuntimeError(
            f"layer {missing[0]!r} did not run in the forward pass. Choose a layer that the "
            "model's forward calls as a module (scripted and traced models do not run hooks)."
        )


@contextmanager
def trace_modules(
    model: nn.Module,
    enter: Callable[[str, nn.Module, Any, Any], None],
    leave: Callable[[str, nn.Module, Any, Any], None],
) -> Iterator[None]:
    """Call ``enter(name, module, args, kwargs)`` and ``leave(name, module, args, output)`` around
    each run of each submodule; scripted ones, where hooks do not run, are passed over."""
    handles = []
    try:
        for name, module in model.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):
                before = module.register_forward_pre_hook(partial(enter, name), with_kwargs=True)
                handles += [before, module.register_forward_hook(partial(leave, name))]
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else next(iter(kwargs.values()), None)


def _spatial(name: str, value: Any, reshape_transform: ReshapeTransform | None) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"layer {name!r} gave {type(value).__name__}, expected one tensor (N, C, *spatial). "
            "Choose a layer with a single tensor as output."
        )
    value = value.detach()
    if reshape_transform is not None:
        value = reshape_transform(value)
    if value.ndim < 3 or value.ndim > 5 or 0 in value.shape:
        raise ValueError(
            f"layer {name!r} gave a tensor of shape {tuple(value.shape)}, expected "
            "(N, C, *spatial) with one to three spatial dimensions. Choose a convolutional layer "
            "or pass reshape_transform (for tokens or channels-last layouts)."
        )
    return value


def accumulator_dtype(f: Tensor) -> torch.dtype:
    """float32 for half precisions, else the tensor's own: sums over maps must not lose digits."""
    return torch.float64 if f.dtype == torch.float64 else torch.float32


def gap(f: Tensor) -> Tensor:
    """Global average pooling, the paper's GAP: (N, C, *spatial) -> (N, C)."""
    return f.flatten(2).mean(2, dtype=accumulator_dtype(f))


def spatial_variance(f: Tensor, mean: Tensor) -> Tensor:
    """Variance of each feature map over its cells, (N, C): mean square less squared mean.

    Args:
        f: feature maps (N, C, *spatial).
        mean: their averages, ``gap(f)``.
    """
    cells = f.flatten(2)
    # The norm reads the maps once and writes nothing of their size: as cheap as the average.
    norm = torch.linalg.vector_norm(cells, dim=2, dtype=accumulator_dtype(f))
    return (norm**2 / cells.shape[2] - mean**2).clamp(min=0)
