"""The one place that registers hooks: feature maps are read while the model runs."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from captum_hrcam.modes import full_precision

ReshapeTransform = Callable[[Tensor], Tensor]
Read = Callable[[str, Tensor], None]  # gets a layer's name and its feature maps (N, C, *spatial)
Hook = Callable[..., None]

_LOCK = threading.RLock()  # guards torch's hook ids, which torch counts without a lock
_INNERMOST = threading.local()  # .context: the context whose hooks run in this thread


@contextmanager
def read_feature_maps(
    layers: Mapping[str, nn.Module],
    read: Read,
    *,
    from_input: bool = False,
    reshape_transform: ReshapeTransform | None = None,
) -> Iterator[None]:
    """Call ``read(name, f)`` with each layer's feature maps f, inside the forward hook.

    Autocast applies to the model only: it is off in ``read``, which computes in full precision.

    Inside the hook, a later in-place operation has not yet overwritten the layer's value, so
    nothing is cloned. The hooks exist only while the context is open. They respond only to forward
    passes in the thread that opened it, and not to those in a context nested inside.

    Args:
        layers: layer name -> module.
        read: receives the layer's name and its feature maps of shape (N, C, *spatial).
        from_input: read the layer's input instead of its output.
        reshape_transform: turns the layer's tensor into (N, C, *spatial).

    Raises:
        RuntimeError: a layer ran more than once, or not at all.
        TypeError: a layer gave something other than a tensor.
        ValueError: a layer gave a tensor without spatial dimensions, with more than three, or an
            empty one.
    """
    seen: set[str] = set()

    def on_tensor(name: str, value: Any) -> None:
        if name in seen:
            raise RuntimeError(
                f"layer {name!r} ran more than once in one forward pass, so it has no single "
                "feature map. Choose the module around it (its block), which runs once."
            )
        seen.add(name)
        f = _spatial(name, value, reshape_transform)
        with full_precision(f.device):
            read(name, f)

    def before(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        on_tensor(name, _first(args, kwargs))

    def after(name: str, module: nn.Module, args: Any, output: Any) -> None:
        on_tensor(name, output)

    if from_input:
        hooks = _hooks((module, partial(before, name), None) for name, module in layers.items())
    else:
        hooks = _hooks((module, None, partial(after, name)) for name, module in layers.items())
    with hooks:
        yield
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
    """Call ``enter(name, module, args, kwargs)`` before and ``leave(name, module, args, output)``
    after each run of each submodule. Scripted submodules are skipped: hooks do not run in them."""
    with _hooks(
        (module, partial(enter, name), partial(leave, name))
        for name, module in model.named_modules()
        if name and not isinstance(module, torch.jit.ScriptModule)
    ):
        yield


@contextmanager
def _hooks(wanted: Iterable[tuple[nn.Module, Hook | None, Hook | None]]) -> Iterator[None]:
    """Register hooks (module, before its forward, after it) for this context's own forward passes.

    They ignore forward passes of other threads, and those in a context nested inside, such as a
    call from a user's hook.
    """
    context, around = object(), getattr(_INNERMOST, "context", None)

    def own(hook: Hook) -> Hook:
        def answer(*args: Any) -> None:
            if getattr(_INNERMOST, "context", None) is context:
                hook(*args)

        return answer

    handles = []
    _INNERMOST.context = context
    try:
        with _LOCK:
            for module, before, after in wanted:
                if before is not None:
                    handles.append(module.register_forward_pre_hook(own(before), with_kwargs=True))
                if after is not None:
                    handles.append(module.register_forward_hook(own(after)))
        yield
    finally:
        _INNERMOST.context = around
        with _LOCK:
            for handle in handles:
                handle.remove()


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else next(iter(kwargs.values()), None)


def _spatial(name: str, value: Any, reshape_transform: ReshapeTransform | None) -> Tensor:
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]  # as Captum does; Hugging Face's blocks return such tuples
    if not isinstance(value, Tensor):
        raise TypeError(
            f"layer {name!r} gave {type(value).__name__}, expected one tensor (N, C, *spatial). "
            "Choose a layer with a single tensor as output."
        )
    value = value.detach()
    if value.is_quantized:
        value = value.dequantize()
    if reshape_transform is not None:
        value = reshape_transform(value)
    if value.ndim < 3 or value.ndim > 5 or 0 in value.shape:
        raise ValueError(
            f"layer {name!r} gave a tensor of shape {tuple(value.shape)}, expected "
            "(N, C, *spatial) with one to three spatial dimensions. Choose a convolutional layer "
            "or pass reshape_transform (for tokens or channels-last layouts)."
        )
    return value
