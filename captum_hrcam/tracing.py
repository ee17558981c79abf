"""One forward of a model, seen: which modules ran, inside which, and what they gave."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from captum_hrcam.activations import ReshapeTransform, eval_mode, trace_modules

ShapeOf = Callable[[nn.Module, Any], tuple[int, ...]]

# By class name, so that timm's, MONAI's and one's own layers are known too.
_ADDS_NOTHING = re.compile("Pool|Drop|StochasticDepth|Identity|Flatten|Permute")
_BARE = re.compile("Conv|Norm|Linear")


@dataclass
class Call:
    """One run of a module, with the runs inside it."""

    name: str
    module: nn.Module
    entry: tuple[int, ...] = ()  # its input's spatial size, () where that is no map
    shape: tuple[int, ...] = ()  # its output's (C, *spatial), () where that is no map
    given: tuple[int, ...] = ()  # its output's shape as it is, () where that is no tensor
    gives_last: bool = False  # its output is the very tensor that the last run inside gave
    repeated: bool = False
    inside: list["Call"] = field(default_factory=list)

    def __post_init__(self) -> None:
        kind = type(self.module).__name__
        self.learned = next(self.module.parameters(), None) is not None
        self.adds_nothing = not self.learned and bool(_ADDS_NOTHING.search(kind))
        bare = None if any(True for _ in self.module.children()) else _BARE.search(kind)
        self.bare = bare.group() if bare else ""

    @property
    def is_channels_last(self) -> bool:
        """Whether its last axis is what linear layers and layer norms in it work on, and its first
        is the channels of nothing in it."""
        last = {n for run in self.runs() for n in _last_axis(run.module)}
        first = {getattr(run.module, "out_channels", None) for run in self.runs()}
        return self.shape[-1] in last and self.shape[0] not in last | first

    @property
    def size(self) -> tuple[int, ...]:
        return self.shape[1:]

    def runs(self) -> Iterator["Call"]:
        """It and all inside."""
        yield self
        for run in self.inside:
            yield from run.runs()

    def outermost_tokens(self) -> Iterator["Call"]:
        """The runs in it that give (N, length, C) where the images have more dimensions; those are
        none that work on tokens and give a map."""
        for run in self.inside:
            if not run.shape and len(run.given) == 3:
                yield run
            elif not run.shape:
                yield from run.outermost_tokens()


def n_weights(module: nn.Module) -> int:
    """How many parameters it and all inside have."""
    return sum(p.numel() for p in module.parameters())


def _last_axis(module: nn.Module) -> tuple[int, ...]:
    """How long the last axis is that a linear layer or a layer norm gives; () of others."""
    if isinstance(module, nn.Linear):
        return (module.out_features,)
    shape = getattr(module, "normalized_shape", ())
    return tuple(shape) if len(shape) == 1 else ()


def trace(model: nn.Module, inputs: tuple[Any, ...], shape_of: ShapeOf) -> Call:
    """The model's own run, with all runs inside."""
    root = Call("", model)
    calls, running = [root], [root]
    last: list[Any] = [None]  # no other output is held: memory is that of a plain forward

    def enter(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        shapes = (shape_of(module, x) for x in (*args, *kwargs.values()))
        running.append(Call(name, module, entry=next(filter(None, shapes), ())[1:]))

    def leave(name: str, module: nn.Module, args: Any, output: Any) -> None:
        while (call := running.pop()).name != name:
            pass  # runs whose error the model caught
        call.shape, call.gives_last = shape_of(module, output), output is last[0]
        call.given = tuple(output.shape) if isinstance(output, Tensor) else ()
        last[0] = output
        calls.append(call)
        running[-1].inside.append(call)

    devices = {p.device for p in model.parameters() if p.is_cuda}
    with (
        trace_modules(model, enter, leave),
        eval_mode(model),
        torch.random.fork_rng(devices=list(devices)),
    ):
        model(*inputs)
    runs = Counter(call.name for call in calls)
    for call in calls:
        call.repeated = runs[call.name] > 1
    return root


def map_shapes(image: Tensor, reshape_transform: ReshapeTransform | None) -> ShapeOf:
    r"""A function that gives the (C, \*spatial) of feature maps with space, else ()."""

    def shape_of(module: nn.Module, value: Any) -> tuple[int, ...]:
        if isinstance(value, Tensor) and reshape_transform is not None:
            if "Conv" in type(module).__name__:
                return ()  # has its channels first, where the transform expects them last
            try:
                value = reshape_transform(value)
            except Exception:  # made for some layers, here tried on all
                return ()
        if not isinstance(value, Tensor) or value.ndim != image.ndim or len(value) != len(image):
            return ()
        return tuple(value.shape[1:]) if value.numel() and max(value.shape[2:]) > 1 else ()

    return shape_of
