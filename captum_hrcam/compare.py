"""Any Captum attribution beside ours: one map per method, all at the input's size."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from captum.attr import Attribution
from torch import Tensor, nn

from captum_hrcam._captum import TargetType, TensorOrTuple, as_tuples
from captum_hrcam.batch import copied, plain
from captum_hrcam.fusion import upsample
from captum_hrcam.layers import module_behind
from captum_hrcam.modes import eval_mode
from captum_hrcam.pooling import accumulator_dtype

Method: TypeAlias = Attribution | Callable[..., Any]
Methods: TypeAlias = Method | Sequence[Method] | Mapping[str, Method]


def compare(
    methods: Methods,
    inputs: TensorOrTuple,
    target: TargetType = None,
    additional_forward_args: object = None,
) -> dict[str, Tensor]:
    r"""
    The map of each method for the same images and target, upsampled to the input's size.

    Maps keep their sign and scale. An attribution with several channels at the input's size
    (gradients, say) is summed over channels, as in Captum's pictures. The methods' models run in
    eval mode.

    Args:
        methods (dict, list, or one): Captum attributions (HRCAM, CAM, LayerGradCam, Saliency, ...)
            or functions ``f(inputs, target=..., additional_forward_args=...)``. The names are the
            keys of a dict, otherwise each method's own.
        inputs (Tensor or tuple[Tensor, ...]): (N, C, \*spatial). For a tuple, the maps of the first
            input are compared.
        target (int, tuple, Tensor, or list): as for Captum's ``attribute``.
        additional_forward_args (Any): passed to each method.

    Returns:
        *dict*: {name: (N, 1, \*spatial)}, detached, in the order of ``methods``.

    Raises:
        TypeError: a method is neither an attribution nor a function, or does not give a tensor.
        ValueError: no method; a result that is not a map of the input.

    Examples::

        >>> import torch
        >>> from torch import nn
        >>> from captum.attr import LayerGradCam, Saliency
        >>> from captum_hrcam import CAM
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> methods = [CAM(model, "1"), LayerGradCam(model, model[1]), Saliency(model)]
        >>> maps = compare(methods, torch.randn(4, 3, 16, 16), target=1)
        >>> {name: tuple(a.shape) for name, a in maps.items()}
        {'CAM': (4, 1, 16, 16), 'Grad-CAM': (4, 1, 16, 16), 'Saliency': (4, 1, 16, 16)}
    """
    named = named_methods(methods)
    _, images, _ = as_tuples(inputs, additional_forward_args)
    maps = {}
    with eval_mode(*models_of(named)):
        for name, method in named.items():
            run = method.attribute if isinstance(method, Attribution) else method
            try:
                given = run(  # of copies: what a model does to its images is not for the next
                    copied(inputs),
                    target=target,
                    additional_forward_args=copied(additional_forward_args),
                )
            except Exception as error:
                if hasattr(error, "add_note"):  # from Python 3.11 on
                    error.add_note(f"methods: raised by {name!r}")
                raise
            maps[name] = _as_map(name, given, images[0])
    return maps


def named_methods(methods: Methods) -> dict[str, Method]:
    """{name: method}: a dict's keys, otherwise each method's own name; equal names are numbered."""
    if isinstance(methods, Mapping):
        items = [(str(name), method) for name, method in methods.items()]
    else:
        listed = list(methods) if isinstance(methods, Sequence) else [methods]
        items = [(_name(method), method) for method in listed]
    if not items:
        raise ValueError("methods: got none, expected at least one attribution.")
    named: dict[str, Method] = {}
    for name, method in items:
        if not (isinstance(method, Attribution) or callable(method)):
            raise TypeError(
                f"methods: {name!r} is {type(method).__name__}, expected a Captum attribution or "
                "a function f(inputs, target=..., additional_forward_args=...)."
            )
        numbered = (f"{name} #{n}" for n in itertools.count(2))
        free = itertools.chain([name], numbered)
        named[next(each for each in free if each not in named)] = method
    return named


def owner(method: Method) -> Any:
    """The attribution behind a bound method or a ``functools.partial`` of one, else the method."""
    while isinstance(method, functools.partial):
        method = method.func
    return getattr(method, "__self__", method)


def module_of(method: Method) -> nn.Module | None:
    """The module that an attribution explains; None if it is not known."""
    return module_behind(getattr(owner(method), "forward_func", None))


def models_of(methods: Mapping[str, Method]) -> list[nn.Module]:
    """The modules that the methods explain, as far as they are known."""
    return [model for model in map(module_of, methods.values()) if model is not None]


def _name(method: object) -> str:
    if isinstance(method, Attribution):
        name = method.get_name()
        # Captum's own name for the method that everybody calls Grad-CAM.
        return "Grad-CAM" if name == "Layer Grad Cam" else name
    return getattr(method, "__name__", type(method).__name__)


def _as_map(name: str, given: object, image: Tensor) -> Tensor:
    """One (N, 1, *spatial) map at the image's size from whatever a method returned."""
    first = given[0] if isinstance(given, tuple) and given else given
    if not isinstance(first, Tensor):
        raise TypeError(f"methods: {name!r} gave {type(first).__name__}, expected a tensor.")
    if first.ndim != image.ndim or len(first) != len(image):
        raise ValueError(
            f"methods: {name!r} gave shape {tuple(first.shape)} for inputs {tuple(image.shape)}, "
            "expected (N, C, *spatial). Choose a layer with as many spatial dimensions; in a "
            "function give map[:, None]."
        )
    if first.is_complex():
        raise TypeError(f"methods: {name!r} gave complex numbers, expected real ones.")
    with torch.no_grad():
        summed = first.detach().sum(1, keepdim=True, dtype=accumulator_dtype(first))
        return upsample(plain(summed), image.shape[2:], exact=True)
