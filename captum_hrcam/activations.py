"""The one place that registers hooks: feature maps are read while the model runs."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

ReshapeTransform = Callable[[Tensor], Tensor]
Read = Callable[[str, Tensor], None]  # gets a layer's name and its feature maps (N, C, *spatial)
Hook = Callable[..., None]

_LOCK = threading.RLock()  # over _LENT, and over torch's hook numbers, which it counts without one
_LENT: Counter[nn.Module] = Counter()  # modules put in eval mode -> contexts that still need it
_INNERMOST = threading.local()  # .context: the one whose hooks answer in this thread
SQUARES = 2**21  # values squared at a time: 8 MB, which an allocator keeps at hand
CANCELLED = 1e-3  # of a squared mean: a smaller variance has lost four of seven digits


@contextmanager
def eval_mode(*modules: nn.Module) -> Iterator[None]:
    """Put every submodule in eval mode; give each its own mode back, also after an error.

    Contexts may be nested and open in several threads: a mode comes back with the last of them.
    Until then it is eval for every thread, so a model must not be trained meanwhile.
    """
    lent: list[nn.Module] = []
    try:
        with _LOCK:
            for module in _every(modules):
                if module.training:
                    _LENT[module] = 1  # whatever a context that was interrupted has left there
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
                if _LENT[module] <= 0:  # below where a context inside has given it back already
                    del _LENT[module]
                    module.training = True


def _every(modules: Iterable[nn.Module]) -> set[nn.Module]:
    """The modules and all inside them."""
    every = set(modules)
    unvisited = list(every)
    while unvisited:
        # Not .modules(): on a network of hundreds it takes a tenth of what HR-CAM costs.
        for inside in unvisited.pop()._modules.values():
            if inside is not None and inside not in every:
                every.add(inside)
                unvisited.append(inside)
    return every


@contextmanager
def own_casts() -> Iterator[None]:
    """Leave no cast weight in autocast's cache: one cast without gradient would stay in use, and a
    training step around the call would get no gradients (torch 2.4 does so)."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast off, where it is on: entering it for nothing would cost as much as a small map."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def autocast_dtype(device: torch.device | None) -> str | None:
    """What models compute in under the caller's autocast; None where it is off."""
    kind = "cpu" if device is None else device.type
    return str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None


@contextmanager
def read_feature_maps(
    layers: Mapping[str, nn.Module],
    read: Read,
    *,
    from_input: bool = False,
    reshape_transform: ReshapeTransform | None = None,
) -> Iterator[None]:
    """Call ``read(name, f)`` with each layer's feature maps f, inside the forward hook.

    Autocast is the model's: what ``read`` computes keeps its digits.

    Inside the hook the value is the layer's own: an in-place operation that follows has not
    overwritten it yet, so nothing is cloned. Hooks exist only while the context is open and
    answer only to the thread that opened it, except in contexts opened inside.

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
    """Call ``enter(name, module, args, kwargs)`` and ``leave(name, module, args, output)`` around
    each run of each submodule; scripted ones, where hooks do not run, are passed over."""
    with _hooks(
        (module, partial(enter, name), partial(leave, name))
        for name, module in model.named_modules()
        if name and not isinstance(module, torch.jit.ScriptModule)
    ):
        yield


@contextmanager
def _hooks(wanted: Iterable[tuple[nn.Module, Hook | None, Hook | None]]) -> Iterator[None]:
    """Hooks (module, before its forward, after it) that answer to this context's own forward:
    not to another thread's, nor to one in a context inside, as of a call from a user's hook."""
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


def plain(x: Tensor) -> Tensor:
    """The same values without a subclass's ways: MONAI's MetaTensor refuses to be cut where its
    images come from several files."""
    return x if type(x) is Tensor else x.as_subclass(Tensor)


def accumulator_dtype(f: Tensor) -> torch.dtype:
    """float32 for half precisions, else the tensor's own: sums over maps must not lose digits."""
    return torch.float64 if f.dtype == torch.float64 else torch.float32


def gap(f: Tensor) -> Tensor:
    """Global average pooling, the paper's GAP: (N, C, *spatial) -> (N, C)."""
    return f.flatten(2).mean(2, dtype=accumulator_dtype(f))


def spatial_variance(f: Tensor, mean: Tensor) -> Tensor:
    """Variance of each feature map over its cells, (N, C): mean square less squared mean, or about
    the mean where that is large.

    Args:
        f: feature maps (N, C, *spatial).
        mean: their averages, ``gap(f)``.
    """
    cells, squared = f.flatten(2), mean**2
    variance = (_mean_square(cells, accumulator_dtype(f)) - squared).clamp(min=0)
    # The difference of what is nearly equal has no digits left: of these, about their mean.
    lost = variance < CANCELLED * squared
    if lost.any():
        about = cells[lost].to(mean.dtype) - mean[lost][:, None]
        variance[lost] = about.square().mean(1)
    return variance


def _mean_square(cells: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, C) of (N, C, cells)."""
    if cells.is_cuda or cells.stride(2) == 1:
        # The norm reads the maps once and writes nothing of their size: as cheap as the average.
        return torch.linalg.vector_norm(cells, dim=2, dtype=dtype) ** 2 / cells.shape[2]
    # Of channels_last it steps over all channels from cell to cell, and squares are faster.
    images = max(1, SQUARES // (cells.shape[1] * cells.shape[2]))
    return torch.cat([some.to(dtype).square().mean(2) for some in cells.split(images)])
