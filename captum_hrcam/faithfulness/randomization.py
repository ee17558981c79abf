"""Does a map depend on what the model learned? Randomise its layers from the top down and see.

Source: Adebayo et al. 2018, Sanity Checks for Saliency Maps, https://arxiv.org/abs/1810.03292.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from captum_hrcam._captum import TargetType, TensorOrTuple, as_tuples
from captum_hrcam.compare import Method, compare, module_of
from captum_hrcam.faithfulness.reset import draw_anew, has_own_parameters, top_down
from captum_hrcam.faithfulness.similarity import rank_correlation, ssim
from captum_hrcam.layers import unwrap
from captum_hrcam.metrics.extras import require

SIMILARITIES = {"ssim": ssim, "rank_correlation": rank_correlation}

Build: TypeAlias = Callable[[nn.Module], Method]


def randomization(
    model: nn.Module,
    methods: Build | Mapping[str, Build],
    inputs: TensorOrTuple,
    target: TargetType = None,
    *,
    layers: Sequence[str] | None = None,
    additional_forward_args: object = None,
    seed: int = 0,
) -> Any:
    r"""
    How similar maps stay to the model's own as its layers are randomised, from the output down.

    Layers are randomised one after the other and stay so (cascading). If a method shows what the
    model learned, its maps become dissimilar; no value is a pass mark, the curve is the result.
    Stage 0 builds the method a second time on the model as it is: the similarity is 1, unless the
    method itself is random.

    All of this happens on a copy of the model, in eval mode. A layer is randomised by its
    ``reset_parameters()``, which also resets BatchNorm's running statistics. Parameters of a layer
    without that method, or that it leaves as they were (attention's projections, class tokens,
    weight norm), are shuffled; if all their values are equal (a scale of ones), they stay. The
    running statistics of a BatchNorm without parameters (``affine=False``) stay, too.

    Args:
        model (Module): never changed.
        methods (Callable or dict): ``build(copy)``, which gives a Captum attribution (or a function
            as :func:`~captum_hrcam.compare` takes them) on the copy of the model; or {name: build}.
            For HRCAM see :func:`head_kept` and :func:`head_refitted`.
        inputs (Tensor or tuple[Tensor, ...]): (N, C, \*spatial), as for ``compare``.
        target (int, tuple, Tensor, or list): as for Captum's ``attribute``.
        layers (Sequence[str]): dotted names, in any order; each is one stage, with all that is
            inside it. Stages are sorted by when the layers run, last first. By default each module
            with parameters of its own is one. A module that is used without being run (the module
            around it reads its weight) counts as run with the nearest module around it that is run.
        additional_forward_args (Any): passed to the model after the inputs.
        seed (int): the seed of the random weights, which are the same for all methods and on all
            devices.

    Returns:
        *pandas.DataFrame*: one row per method, stage, image and metric: "method", "stage" (layers
        randomised so far), "layer" (the last of them; "" at stage 0), "image" (its number),
        "metric" ("ssim" or "rank_correlation"), "value" (NaN: the correlation of a constant map).

    Raises:
        TypeError: ``model`` is not a module; a method is not callable.
        ValueError: no method; a layer that is not in the model or has no parameters; a method
            built on the model instead of its copy.
        ImportError: scipy or pandas, of the extra ``eval``, is not installed.

    Examples::

        >>> import torch
        >>> from captum.attr import Saliency
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ...     nn.Linear(4, 2))
        >>> table = randomization(model, {"gradient": Saliency}, torch.randn(3, 1, 8, 8), target=1)
        >>> list(dict.fromkeys(table["layer"]))
        ['', '4', '0']
        >>> curve = table.groupby(["method", "stage", "metric"])["value"].mean()
        >>> float(curve["gradient", 0, "ssim"].round(6))
        1.0
    """
    frame = require("pandas").DataFrame
    require("scipy.stats")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, expected a torch.nn.Module.")
    model = unwrap(model)  # type: ignore[assignment]
    builds = _named(methods)
    _check_layers(model, layers)
    _, images, args = as_tuples(inputs, additional_forward_args)

    def maps(name: str) -> Tensor:
        method = builds[name](copy)
        _check_on_copy(name, method, model)
        return compare({name: method}, inputs, target, additional_forward_args)[name]

    rows: list[dict[str, Any]] = []
    with torch.random.fork_rng(devices=list({x.device for x in images if x.is_cuda})):
        copy = deepcopy(model).eval()
        stages = _stages(copy, (*images, *args), layers)
        seeds = torch.randint(2**31, (len(stages),), generator=torch.Generator().manual_seed(seed))
        own = {name: maps(name) for name in builds}
        for stage, layer in enumerate([None, *stages]):
            if layer is not None:
                draw_anew(
                    copy.get_submodule(layer), int(seeds[stage - 1]), inside=layers is not None
                )
            for name in builds:
                about = {"method": name, "stage": stage, "layer": layer or ""}
                rows += _rows(about, own[name], maps(name))
    return frame(rows)


def _stages(model: nn.Module, inputs: tuple[Any, ...], layers: Sequence[str] | None) -> list[str]:
    order = top_down(model, inputs)
    if layers is not None:
        return [name for name in order if name in layers]
    return [name for name in order if has_own_parameters(model.get_submodule(name))]


def _rows(about: dict[str, Any], own: Tensor, maps: Tensor) -> list[dict[str, Any]]:
    return [
        {**about, "image": image, "metric": metric, "value": float(value)}
        for metric, similarity in SIMILARITIES.items()
        for image, value in enumerate(similarity(own, maps))
    ]


def _named(methods: Build | Mapping[str, Build]) -> dict[str, Build]:
    if isinstance(methods, Mapping):
        named = dict(methods)
    else:
        named = {getattr(methods, "__name__", type(methods).__name__): methods}
    if not named:
        raise ValueError("methods: got none, expected at least one function of the model's copy.")
    for name, build in named.items():
        if not callable(build):
            raise TypeError(
                f"methods: {name!r} is {type(build).__name__}, expected a function that builds "
                "the method on a copy of the model, as lambda copy: Saliency(copy)."
            )
    return named


def _check_layers(model: nn.Module, layers: Sequence[str] | None) -> None:
    modules = dict(model.named_modules())
    if isinstance(layers, str) or (layers is not None and not layers):
        raise ValueError(f"layers: got {layers!r}, expected a list of dotted names, or None.")
    for name in layers or []:
        if name not in modules or next(modules[name].parameters(), None) is None:
            raise ValueError(
                f"layers: the model has no layer {name!r} with parameters. See "
                "[name for name, _ in model.named_modules()]."
            )


def _check_on_copy(name: str, method: object, model: nn.Module) -> None:
    if module_of(method) is model:
        raise ValueError(
            f"methods: {name!r} was built on the model itself, expected on the copy that the "
            "function is given, as lambda copy: Saliency(copy)."
        )
