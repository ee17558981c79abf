"""Find layers by tracing a model: one per resolution, the deepest before each downsampling."""

import math
import warnings
from typing import Any

from torch import Tensor, nn

from captum_hrcam.activations import ReshapeTransform
from captum_hrcam.checks import CHANNEL_AXIS, failure_explained
from captum_hrcam.layers import refuse_parallel, refuse_scripted, unwrap
from captum_hrcam.tracing import Call, map_shapes, n_weights, trace


class FoundLayers(list[str]):
    """Layer names from ``find_layers``; prints with channels and resolution.

    Attributes:
        shapes: name -> shape of the layer's feature maps without the batch, (C, \\*spatial).
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__(shapes)
        self.shapes = shapes

    def __str__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(
            f"{name:<{width}}  {shape[0]:>5} channels  {'x'.join(map(str, shape[1:]))}"
            for name, shape in self.shapes.items()
        )


def find_layers(
    model: nn.Module,
    example_inputs: Tensor | tuple[Any, ...],
    *,
    reshape_transform: ReshapeTransform | None = None,
) -> FoundLayers:
    r"""
    Find one layer per resolution, the deepest before each downsampling, by two traced forwards.

    These are the paper's pre-max-pooling layers: relu and layer1..layer4 of a ResNet, the ReLU
    before each pool of a VGG. The rule:

    - A downsampling is where a side of the maps is halved from one layer to the next. The loss of
      a few pixels in an unpadded convolution is not one.
    - A module that downsamples at most once is one layer, whatever it holds: a block, a stage, a
      transition. One that downsamples more often is opened. One that ends in a pooling stands
      for the layer that it pools.
    - At each resolution the last layer is chosen, an activation or a block rather than a bare
      convolution or normalisation.
    - Some layers are never chosen: those that only pass maps on (pooling, dropout, flattening, and
      what follows a pooling without a convolution), those that run several times, the classifier,
      auxiliary classifiers, and layers that the scores (N, K) in the model's output do not depend
      on, such as a decoder beside them. Nor are layers whose output is not one tensor
      (N, C, \*spatial), such as tokens or channels-last maps; a warning is given if most of the
      model works on these.

    Branches and functional operations between modules are invisible to the trace, so print and read
    what it found. If the network upsamples again before its scores, only layers of the ascent are
    found, with a warning. The model runs in eval mode and is left as it was.

    Args:
        model (Module): a CNN in 1D, 2D or 3D.
        example_inputs (Tensor or tuple): what the model is called with, (N, C, \*spatial), on the
            model's device.
        reshape_transform (Callable): as for :class:`~captum_hrcam.HRCAM`; a layer that it cannot
            reshape is skipped.

    Returns:
        FoundLayers: dotted names, shallow to deep, a list that prints as a table.

    Raises:
        TypeError: ``model`` is not a module, or ``example_inputs`` is neither tensor nor tuple.
        ValueError: no input is (N, C, \*spatial), or the model fails on images without their batch
            or channel axis, or of another dtype; no layer gives such feature maps.

    Examples::

        >>> from torch import nn, randn
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        ...     nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> layers = find_layers(model, randn(1, 1, 16, 16))
        >>> layers
        ['1', '4']
        >>> print(layers)
        1      4 channels  16x16
        4      8 channels  8x8
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, expected a torch.nn.Module.")
    refuse_parallel("model", unwrap(model))
    refuse_scripted("model", model)
    if not isinstance(example_inputs, (Tensor, tuple)):
        raise TypeError(
            f"example_inputs: got {type(example_inputs).__name__}, expected a tensor "
            "(N, C, *spatial), or a tuple of all that the model is called with."
        )
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    images = [x for x in inputs if isinstance(x, Tensor) and 3 <= x.ndim <= 5 and x.numel()]
    if not images:
        got = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in inputs]
        raise ValueError(
            f"example_inputs: got {str(got)[1:-1] or 'an empty tuple'}, expected a tensor "
            f"(N, C, *spatial) with one to three spatial dimensions, not empty. {CHANNEL_AXIS}"
        )
    image = max(images, key=lambda x: x.ndim)
    model = unwrap(model)  # type: ignore[assignment]
    with failure_explained("example_inputs", inputs, model):
        run = trace(model, inputs, map_shapes(image, reshape_transform))
    layers = _layers_in(run, [])
    # The scores depend on none of them if the model detaches its features.
    found = _last_of_each_resolution([layer for layer in layers if layer.reaches] or layers)
    other = _other_layout(run)
    if not found:
        remedy = _several_runs(run) or (
            f". Name the layers yourself, with reshape_transform for tokens. {CHANNEL_AXIS}"
        )
        raise ValueError(
            "model: no layer that runs once gives feature maps (N, C, *spatial) of as many spatial "
            f"dimensions as the input, {image.ndim - 2}" + (f": {other}" if other else remedy)
        )
    for told in filter(None, (other, _descent_passed_over(layers, found))):
        warnings.warn(f"find_layers: {told}", stacklevel=2)
    return FoundLayers({layer.name: layer.shape for layer in found})


def _several_runs(run: Call) -> str:
    """What to do if layers run once for each of several inputs; "" if none does."""
    names = [call.name for call in run.runs() if call.repeated and call.shape]
    if not names:
        return ""
    return (
        f"; {len(set(names))} run several times, as {names[-1]!r}. Where a model takes several "
        "images, explain one of them: pass a module of that image alone, what the others give kept."
    )


def _other_layout(run: Call) -> str:
    """What to say if most of the model works on tokens or channels-last maps; "" if not."""
    others = run.in_other_layouts()
    if n_weights(call.module for call in others) <= n_weights([run.module]) / 2:
        return ""
    last = others[-1]
    layout = "channels that come last" if last.is_channels_last else "tokens"
    return (
        f"most of the model's weights work on {layout}, as layer {last.name!r} gives "
        f"(N, {', '.join(map(str, last.given[1:]))}), where no map is seen. Pass a "
        "reshape_transform that gives (N, C, *spatial), here and to HRCAM."
    )


def _descent_passed_over(layers: list[Call], found: list[Call]) -> str:
    """What to do if the scores come after an ascent, as at the end of a U-Net; "" if not.

    After an ascent, the last layer depends on a layer of fewer cells.
    """
    end = found[-1]
    before = [layer for layer in layers[: layers.index(end)] if layer.feeds(end)]
    bottom = min(before, key=lambda layer: math.prod(layer.size), default=end)
    if not _halved(end.size, bottom.size):
        return ""
    descent = _last_of_each_resolution(before[: before.index(bottom) + 1])
    names = [layer.name for layer in [*descent, *found]]
    return (
        f"the model upsamples again before its scores, and {bottom.name!r}, its coarsest layer, is "
        "not among those found. Maps of the ascent alone may lie around what they should mark: "
        f"name those of the descent, too, {names}."
    )


def _halvings(before: tuple[int, ...], after: tuple[int, ...]) -> list[bool]:
    """Which sides are halved: to half, rounded up, or to 0.65, as padding may add a little."""
    sides = zip(before, after, strict=False)  # () where a size is unknown
    return [b < a and b <= max((a + 1) // 2, 0.65 * a) for a, b in sides]


def _halved(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    return any(_halvings(before, after))


def _halves_twice(a: tuple[int, ...], b: tuple[int, ...], c: tuple[int, ...]) -> bool:
    """Whether one side is halved from a to b and again from b to c."""
    return any(map(all, zip(_halvings(a, b), _halvings(b, c), strict=False)))


def _layers_in(call: Call, before: list[Call]) -> list[Call]:
    """The layers to choose from inside a call, in the order they ran, given those before it."""
    inside: list[Call] = []
    for run in call.inside:
        inside += _layers_in(run, before + inside)
    if not call.name:
        return inside
    if call.repeated or call.adds_nothing or call.is_channels_last:
        return []
    entry = call.entry or (inside[0].size if inside else ())
    if not call.shape:  # it gave several tensors, or vectors: a classifier, or a wrapped network
        goes_on = not before or any(_halved(before[-1].size, run.size) for run in inside)
        return inside if goes_on or not call.given else []
    # Whether the layer before it has its input's resolution: not so if a pooling comes between.
    preceded = bool(before) and not _halved(before[-1].size, entry)
    if not preceded and (not call.learned or call.bare == "Norm"):
        return []  # an activation on pooled maps, a normalisation of the image
    if any(_halves_twice(entry, run.size, call.size) for run in inside):
        return inside
    if inside and all(_halved(run.size, call.size) for run in inside):
        return inside[-1:]  # the layer that is pooled at the end, by a module or a function
    if call.gives_last and call.inside and call.inside[-1].bare == "Norm":
        # A transformer's closing normalisation is left out; a convolution's belongs to it.
        return inside[-2:-1] if len(inside) > 1 and not inside[-2].bare else [call]
    if isinstance(call.module, nn.Sequential) and _halved(entry, call.size) and not preceded:
        # Layers inside at its input's resolution are the only ones there: choose among them.
        return inside if any(not _halved(entry, run.size) for run in inside) else [call]
    # The outermost of the modules that give this tensor: "layer1" names ResNet's stage at any
    # depth, where "layer1.1" and "layer1.2" depend on how many blocks it has.
    return [call]


def _last_of_each_resolution(layers: list[Call]) -> list[Call]:
    resolutions: list[list[Call]] = []  # from deep to shallow, as are the layers of each
    for layer in reversed(layers):
        after = resolutions[-1][-1].size if resolutions else layer.size
        if any(a < b for a, b in zip(layer.size, after, strict=True)):
            continue  # smaller than what follows: a side branch, such as an auxiliary classifier
        if not resolutions or _halved(layer.size, after):
            resolutions.append([])
        resolutions[-1].append(layer)
    return [
        next((layer for layer in same if not layer.bare), same[0]) for same in resolutions[::-1]
    ]
