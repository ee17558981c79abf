"""One traced forward of a model: which modules ran, inside which others, and what they gave."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from captum_hrcam.activations import ReshapeTransform, trace_modules
from captum_hrcam.batch import copied
from captum_hrcam.modes import eval_mode

ShapeOf = Callable[[nn.Module, Any], tuple[int, ...]]

# Matched by class name, so that layers of timm, MONAI and users are known too.
_ADDS_NOTHING = re.compile("Pool|Pad|Drop|StochasticDepth|Identity|Flatten|Permute")
_BARE = re.compile("Conv|Norm|Linear")
MERGED = 4  # times that neighbouring tokens may be merged
PREFIX = 8  # further tokens that may stand beside those of the cells: class tokens, registers


def _bare(module: nn.Module) -> str:
    """Conv, Norm or Linear if a module is a bare one, else "". A Sequential of nothing but bare
    modules counts as its first."""
    inside = list(module.children())
    if not inside:
        found = _BARE.search(type(module).__name__)
        return found.group() if found else ""
    kinds = [_bare(m) for m in inside] if type(module) is nn.Sequential else [""]
    return kinds[0] if all(kinds) else ""


@dataclass
class Call:
    """One run of a module, with the runs inside it."""

    name: str
    module: nn.Module
    entry: tuple[int, ...] = ()  # its input's spatial size, () if that is not a map
    shape: tuple[int, ...] = ()  # its output's (C, *spatial), () if that is not a map
    given: tuple[int, ...] = ()  # its output's shape as it is, () if that is not a tensor
    gives_last: bool = False  # its output is the very tensor that the last run inside gave
    repeated: bool = False
    reaches: bool = True  # whether the model's scores depend on its output, as far as is known
    node: Any = None  # the node of autograd's graph that gave its output, if known
    inside: list["Call"] = field(default_factory=list)

    def __post_init__(self) -> None:
        kind = type(self.module).__name__
        self.learned = any(map(_has_weights, self.module.modules()))
        self.adds_nothing = not self.learned and bool(_ADDS_NOTHING.search(kind))
        self.bare = _bare(self.module)

    @property
    def is_channels_last(self) -> bool:
        """Whether its output has channels last, see ``_ends_in_channels``."""
        if not self.shape:
            return False
        runs = list(self.runs())
        givers = [run.module for run in runs if run.shape == self.shape]
        return _ends_in_channels(self.shape, givers, [run.module for run in runs])

    @property
    def size(self) -> tuple[int, ...]:
        return self.shape[1:]

    def feeds(self, other: "Call") -> bool:
        """Whether the other run's output is known to depend on this one's."""
        return self.node is not None and self.node in _behind([other.node])

    def runs(self) -> Iterator["Call"]:
        """This run and all runs inside it."""
        yield self
        for run in self.inside:
            yield from run.runs()

    def in_other_layouts(self) -> list["Call"]:
        """The outermost runs inside it whose output shows the image, but not as a map.

        Such an output has channels last, or is tokens (N, length, C): about as many as some map has
        cells or, if tokens were merged, as it would have with each side halved, or halved again.
        """
        sizes = {run.size for run in self.runs() if run.shape}
        cells = {math.prod(size) >> len(size) * k for size in sizes for k in range(MERGED + 1)}
        found, unseen = [], list(self.inside)
        while unseen:
            run = unseen.pop(0)
            if run.shape and not run.is_channels_last:
                continue
            length = run.given[1] if len(run.given) == 3 else 0
            if run.shape or any(n <= length <= n + PREFIX for n in cells if n > 1):
                found.append(run)
            else:
                unseen = run.inside + unseen
        return found


def _has_weights(module: nn.Module) -> bool:
    """Whether it has weights of its own; quantised layers pack them and give them by a method."""
    parameter = next(module.parameters(recurse=False), None)
    return parameter is not None or callable(getattr(module, "weight", None))


def n_weights(modules: Iterable[nn.Module]) -> int:
    """How many parameters the modules and all inside them have, each counted once."""
    weights = {p for module in modules for p in module.parameters()}
    return sum(p.numel() for p in weights if not is_lazy(p))


def holds_channels_last(module: nn.Module, f: Tensor) -> bool:
    """Whether f, the output of a module whose runs were not traced, has channels last."""
    if f.ndim < 4 or f.shape[1] == f.shape[-1]:
        return False
    inside = list(module.modules())
    return _ends_in_channels(tuple(f.shape[1:]), inside, inside)


def _ends_in_channels(
    axes: tuple[int, ...], givers: Iterable[nn.Module], inside: Iterable[nn.Module]
) -> bool:
    """Whether a tensor (N, *axes) ends in the features of a linear layer or a layer norm, and does
    not begin with the channels of a convolution.

    Args:
        axes: its shape without the batch.
        givers: modules that may have given it.
        inside: all modules that took part in it.
    """
    is_last = any(_last_axis(module) == axes[-1] for module in givers)
    return is_last and all(getattr(m, "out_channels", None) != axes[0] for m in inside)


def _last_axis(module: nn.Module) -> int | None:
    """The length of the last axis that a linear layer or a layer norm gives; None for others."""
    if isinstance(module, nn.Linear):
        return module.out_features
    shape = getattr(module, "normalized_shape", None)
    return shape[0] if isinstance(shape, tuple) and len(shape) == 1 else None


def trace(model: nn.Module, inputs: tuple[Any, ...], shape_of: ShapeOf) -> Call:
    """The model's own run, with all runs inside."""
    nodes, seen = _graph(model, inputs)  # first, so that what a model keeps is from the run below
    root = Call("", model)
    calls, running = [root], [root]
    last: list[Any] = [None]  # no other output is held: memory is that of a plain forward

    def enter(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        shapes = [shape_of(module, x)[1:] for x in (*args, *kwargs.values())]
        # The smallest of several maps: a block brings the others to its size first.
        entry = min(filter(None, shapes), key=math.prod, default=())
        running.append(Call(name, module, entry=entry))

    def leave(name: str, module: nn.Module, args: Any, output: Any) -> None:
        while (call := running.pop()).name != name:
            pass  # runs whose error the model caught
        call.shape, call.gives_last = shape_of(module, output), output is last[0]
        call.given = tuple(output.shape) if isinstance(output, Tensor) else ()
        last[0] = output
        calls.append(call)
        running[-1].inside.append(call)

    with trace_modules(model, enter, leave), _undisturbed(model), torch.no_grad():
        model(*copied(inputs))
    runs = Counter(call.name for call in calls)
    for call in calls:
        call.repeated = runs[call.name] > 1
        call.node = nodes.get(call.name)
        call.reaches = call.node is None or not seen or call.node in seen
    return root


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Set eval mode; modes and random state are restored afterwards."""
    devices = {p.device for p in model.parameters() if p.is_cuda}
    with eval_mode(model), torch.random.fork_rng(devices=list(devices)):
        yield


def _graph(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[dict[str, Any], set[Any]]:
    """The nodes of autograd's graph that gave modules' outputs, and all that the scores depend on.

    The graph keeps no tensor but what a Function puts on its context. Both are empty if the model
    does not run with gradients, for example because it changes its weights in place.
    """
    nodes: dict[str, Any] = {}

    def leave(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            # For a view, its base's node: an in-place operation replaces the view's own.
            nodes[name] = (output if output._base is None else output._base).grad_fn

    try:
        with (
            trace_modules(model, lambda *_: None, leave),
            _undisturbed(model),
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(lambda x: (), lambda x: x),
        ):
            output = model(*(_in_graph(x) for x in inputs))
    except Exception:
        return {}, set()
    finally:
        for buffer in model.buffers():
            if not is_lazy(buffer) and buffer.grad_fn is not None:  # changed by the features
                buffer.detach_()
    scores = (x for x in _tensors(output) if x.ndim and x.numel() == math.prod(x.shape[:2]))
    return nodes, _behind([x.grad_fn for x in scores])


def _in_graph(x: Any) -> Any:
    """The input, followed by autograd even if the model's parameters are frozen. It is not a leaf,
    as a model must not change a leaf in place."""
    floats = isinstance(x, Tensor) and x.is_floating_point()
    return x.detach().clone().requires_grad_().clone() if floats else copied(x)


def _behind(nodes: list[Any]) -> set[Any]:
    """These nodes of autograd's graph and all that they depend on."""
    unseen = list(nodes)
    seen: set[Any] = set()
    while unseen:
        node = unseen.pop()
        if node is not None and node not in seen:
            seen.add(node)
            unseen += [following for following, _ in node.next_functions]
    return seen


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a value: itself, or those in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def map_shapes(image: Tensor, reshape_transform: ReshapeTransform | None) -> ShapeOf:
    r"""A function that gives the (C, \*spatial) of feature maps of more than one cell, else ()."""

    def shape_of(module: nn.Module, value: Any) -> tuple[int, ...]:
        if isinstance(value, Tensor) and reshape_transform is not None:
            if "Conv" in type(module).__name__:
                return ()  # has its channels first, but the transform expects them last
            try:
                value = reshape_transform(value)
            except Exception:  # it is made for some layers, but tried here on all
                return ()
        if not isinstance(value, Tensor) or value.ndim != image.ndim or len(value) != len(image):
            return ()
        return tuple(value.shape[1:]) if value.numel() and max(value.shape[2:]) > 1 else ()

    return shape_of
