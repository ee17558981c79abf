"""A model's layers in the order they run, and random new parameters for them."""

from copy import deepcopy
from itertools import count
from typing import Any

import torch
from torch import nn

from captum_hrcam.activations import trace_modules
from captum_hrcam.batch import copied


@torch.no_grad()
def top_down(model: nn.Module, inputs: tuple[Any, ...]) -> list[str]:
    """All modules' names, the last to run first; a module comes after what is inside it.

    If a module runs several times, the last run counts. One that does not run as a module counts
    as run with the nearest module around it that does.

    Args:
        model: run once, in the mode it is in.
        inputs: what it is run on.

    Examples::

        >>> model = nn.Sequential(nn.Sequential(nn.Conv1d(1, 2, 1), nn.ReLU()), nn.Conv1d(2, 2, 1))
        >>> top_down(model, (torch.zeros(1, 1, 3),))
        ['1', '0.1', '0.0', '0', '']
    """
    clock = count(1)
    began = {"": 0}

    def enter(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        began[name] = next(clock)

    def leave(name: str, module: nn.Module, args: Any, output: Any) -> None:
        pass

    with trace_modules(model, enter, leave):
        model(*copied(inputs))

    def when(name: str) -> int:
        while name not in began:
            name = name.rpartition(".")[0]
        return began[name]

    names = [name for name, _ in model.named_modules()]
    order = sorted(enumerate(names), key=lambda item: (when(item[1]), item[0]), reverse=True)
    return [name for _, name in order]


def has_own_parameters(module: nn.Module) -> bool:
    """Whether the module holds parameters itself, not only through modules inside it."""
    return next(module.parameters(recurse=False), None) is not None


@torch.no_grad()
def draw_anew(module: nn.Module, seed: int, inside: bool = True) -> None:
    """Give a module random parameters; the global random state is left as it was.

    Each module's ``reset_parameters()`` is called; parameters that stay as they were are shuffled.

    Args:
        module: changed in place.
        seed: the same seed gives the same parameters, also on another device.
        inside: randomise the modules inside it, too.

    Examples::

        >>> a, b = nn.Linear(3, 2), nn.Linear(3, 2)
        >>> draw_anew(a, seed=0), draw_anew(b, seed=0)
        (None, None)
        >>> torch.equal(a.weight, b.weight)
        True
    """
    drawn = deepcopy(module).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed all devices
        for part in drawn.modules() if inside else [drawn]:
            if has_own_parameters(part):
                _reset(part)
    module.load_state_dict(drawn.state_dict())


def _reset(module: nn.Module) -> None:
    before = {name: p.clone() for name, p in module.named_parameters(recurse=False)}
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
    for name, p in module.named_parameters(recurse=False):
        if torch.equal(p, before[name]):
            p.copy_(p.flatten()[torch.randperm(p.numel())].view_as(p))
