"""Class maps from a linear head on pooled feature maps: what HRCAM and CAM share."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from captum.attr import LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from captum_hrcam._captum import (
    TargetType,
    TensorOrTuple,
    as_tuples,
    format_output,
    target_classes,
)
from captum_hrcam.activations import Read, ReshapeTransform, read_feature_maps
from captum_hrcam.batch import copied
from captum_hrcam.checks import (
    failure_explained,
    in_eval_mode,
    on_device,
    one_row_per_image,
    same_channels,
)
from captum_hrcam.fusion import Fusion, contract
from captum_hrcam.head import Head, for_classes
from captum_hrcam.layers import module_behind, resolve_layers, unwrap
from captum_hrcam.modes import callers_tensors, eval_mode, own_casts
from captum_hrcam.placing import place
from captum_hrcam.pooling import gap

LayerLike = nn.Module | str | Sequence[nn.Module | str]


class HeadAttribution(LayerAttribution):
    r"""
    Class maps A^c = sum_l up( sum_i W[c, i] f_i ) from the feature maps f_l of one or more layers
    and a linear head (W, b) on their averages.

    Subclasses provide the head: :class:`~captum_hrcam.HRCAM` fits it, :class:`~captum_hrcam.CAM`
    takes the model's own.

    Args:
        forward_func (Callable): the model, or any function around it.
        layer (Module, str, or a sequence of either): layers, shallow to deep; dotted names are
            looked up in ``forward_func``.
        attribute_to_layer_input (bool): use the layers' inputs instead of their outputs.
        reshape_transform (Callable): turns a layer's tensor into (N, C, \*spatial), for tokens or
            channels-last layouts.
    """

    # The advice of the error about a layer that has other channels than the head.
    _remedy = "Use the model that the head was fitted on, or fit again."

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: LayerLike,
        *,
        attribute_to_layer_input: bool = False,
        reshape_transform: ReshapeTransform | None = None,
    ) -> None:
        if not callable(forward_func):
            raise TypeError(
                f"forward_func: got {type(forward_func).__name__}, expected a model or a function."
            )
        if reshape_transform is not None and not callable(reshape_transform):
            raise TypeError(
                f"reshape_transform: got {type(reshape_transform).__name__}, expected a function."
            )
        self.layers: dict[str, nn.Module] = resolve_layers(forward_func, layer)
        modules: Any = list(self.layers.values())  # for .layer, in Captum's form: one or a list
        one = isinstance(layer, (nn.Module, str))
        super().__init__(unwrap(forward_func), modules[0] if one else modules)
        self.attribute_to_layer_input = bool(attribute_to_layer_input)
        self.reshape_transform = reshape_transform

    @property
    def head(self) -> Head:
        """The linear head; subclasses provide it."""
        raise NotImplementedError

    @property
    def weights(self) -> dict[str, Tensor]:
        """The head's weights {layer name: (K, C_l)} on raw feature maps, float64."""
        return {name: weight.clone() for name, weight in self.head.weights.items()}

    @property
    def bias(self) -> Tensor:
        """The head's bias (K,), float64."""
        return self.head.bias.clone()

    @property
    def multiplies_by_inputs(self) -> bool:
        """False, as feature maps are weighted, not the input."""
        return False

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: TensorOrTuple,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        fusion: str = "sum",
        relu_attributions: bool = False,
        interpolate_mode: str | None = None,
        evidence_threshold: float = 0.5,
    ) -> TensorOrTuple:
        r"""
        The class map of each image: signed, not normalised, at the input's resolution.

        Args:
            inputs (Tensor or tuple[Tensor, ...]): (N, C, \*spatial) each.
            target (int, tuple, Tensor, or list): class index, in any of Captum's forms, one for
                all images or one for each. It may be None or 0 if the head has one output.
            additional_forward_args (Any): passed to ``forward_func`` after the inputs.
            fusion (str): how the layers' maps become one.
                "sum": the paper's, and complete: its mean over pixels plus the bias is the score.
                "evidence": the sum of what exceeds, in each layer's map, its mean over the training
                data by ``evidence_threshold`` spatial standard deviations; never negative, and not
                complete.
                "agreement": the harmonic mean of the layers' standardised maps, each weighted by
                its spread; high only where all layers with weight agree, and zero where all are
                ordinary; signed, and not complete. With a cascade this map is the sharper one (see
                the documentation, "Choosing the head"); do not use it with other heads.
            relu_attributions (bool): return the positive part of the map.
            interpolate_mode (str): of ``torch.nn.functional.interpolate``; default (bi, tri)linear.
            evidence_threshold (float): t of ``fusion="evidence"``.

        Returns:
            Tensor or tuple[Tensor, ...]: (N, 1, \*spatial) for each input, detached,
            contiguous, in float32 (float64 for float64 feature maps).

        Raises:
            AssertionError: Captum's, for a target out of range or missing.
            RuntimeError: not fitted; a layer did not run or ran twice; a function around a model
                that is in training mode.
            TypeError: a layer gave something other than one tensor.
            ValueError: another number of channels than the head's; an unknown option; inputs on
                another device, of another dtype than the model's weights, or without batch,
                channel or spatial axes; a fusion that the head has no statistics for, such as
                CAM's head.
        """
        fuse = Fusion(fusion, interpolate_mode, evidence_threshold)
        is_tuple, maps, sizes, spreads = self._fusable(
            inputs, target, additional_forward_args, fuse
        )
        fused = tuple(fuse(maps.values(), size, spreads) for size in sizes)
        return format_output(
            is_tuple, tuple(a.relu() for a in fused) if relu_attributions else fused
        )

    def layer_maps(
        self,
        inputs: TensorOrTuple,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        fusion: str = "sum",
        interpolate_mode: str | None = None,
        evidence_threshold: float = 0.5,
    ) -> dict[str, TensorOrTuple]:
        r"""
        Each layer's own map; together they add up to :meth:`attribute`.

        Args:
            inputs, target, additional_forward_args, fusion, interpolate_mode, evidence_threshold:
                as in :meth:`attribute`.

        Returns:
            *dict*: {layer name: (N, 1, \*spatial)}, each at the input's size (a tuple of maps
            where ``inputs`` is a tuple).

        Raises:
            AssertionError, RuntimeError, TypeError, ValueError: as :meth:`attribute`. "agreement"
                is refused, as it is not a sum over layers.
        """
        fuse = Fusion(fusion, interpolate_mode, evidence_threshold)
        if fuse.name == "agreement":
            raise ValueError(
                "fusion: 'agreement' is no sum over layers, so no layer has a part of it. Use "
                "'sum' or 'evidence'."
            )
        is_tuple, maps, sizes, _ = self._fusable(inputs, target, additional_forward_args, fuse)
        return {
            name: format_output(is_tuple, tuple(fuse([a], size) for size in sizes))
            for name, a in maps.items()
        }

    def class_maps(
        self,
        inputs: TensorOrTuple,
        additional_forward_args: object = None,
        *,
        fusion: str = "sum",
        interpolate_mode: str | None = None,
        evidence_threshold: float = 0.5,
    ) -> TensorOrTuple:
        r"""
        The maps of all classes, in one forward pass.

        Args:
            inputs, additional_forward_args, fusion, interpolate_mode, evidence_threshold:
                as in :meth:`attribute`.

        Returns:
            Tensor or tuple[Tensor, ...]: (N, K, \*spatial) for each input.

        Raises:
            RuntimeError, TypeError, ValueError: as :meth:`attribute`.
        """
        fuse = Fusion(fusion, interpolate_mode, evidence_threshold)
        is_tuple, maps, sizes, spreads = self._fusable(
            inputs, None, additional_forward_args, fuse, every_class=True
        )
        return format_output(is_tuple, tuple(fuse(maps.values(), size, spreads) for size in sizes))

    def native_maps(
        self,
        inputs: TensorOrTuple,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        fusion: str = "sum",
        evidence_threshold: float = 0.5,
    ) -> dict[str, Tensor]:
        r"""
        Each layer's map at the layer's own resolution, of one class or of all.

        Nothing is upsampled: for a thousand classes that would take more time and memory than the
        model.

        Args:
            inputs, additional_forward_args, fusion, evidence_threshold: as in :meth:`attribute`.
            target: as in :meth:`attribute`; None for all classes.

        Returns:
            *dict*: {layer name: (N, 1 or K, \*cells)}. With "sum", the maps' means over the cells,
            added up over the layers, plus the bias are exactly the head's scores. The maps
            upsampled to the input's size and added up are :meth:`attribute`'s map.

        Raises:
            AssertionError, RuntimeError, TypeError, ValueError: as :meth:`attribute`.
        """
        fuse = Fusion(fusion, None, evidence_threshold)
        head = self.head
        _, inputs, args = as_tuples(inputs, additional_forward_args)
        classes = None
        if target is not None:
            classes = target_classes(target, len(inputs[0]), head.n_outputs)
        return self._native_maps(head, inputs, args, classes, fuse)

    @torch.no_grad()
    def predict(self, inputs: TensorOrTuple, additional_forward_args: object = None) -> Tensor:
        r"""
        The head's scores s = W z + b.

        Args:
            inputs, additional_forward_args: as in :meth:`attribute`.

        Returns:
            *Tensor*: (N, K) logits (real values for ``loss="mse"``).

        Raises:
            RuntimeError, TypeError, ValueError: as :meth:`attribute`.
        """
        head = self.head
        _, inputs, args = as_tuples(inputs, additional_forward_args)
        pooled: dict[str, Tensor] = {}

        def read(name: str, f: Tensor) -> None:
            same_channels(name, f, head.weights[name], self._remedy)
            pooled[name] = gap(f)

        self._forward(inputs, args, read)
        return head.scores({name: pooled[name] for name in self.layers})

    # ---- one forward pass

    def _fusable(
        self,
        inputs: TensorOrTuple,
        target: TargetType,
        additional_forward_args: object,
        fuse: Fusion,
        *,
        every_class: bool = False,
    ) -> tuple[bool, dict[str, Tensor], list[tuple[int, ...]], list[Tensor]]:
        """What a fusion needs, as (whether inputs came as a tuple, native maps of the target or of
        every class, the sizes to upsample to, the layers' spreads if the fusion weighs by them)."""
        head = self.head
        is_tuple, inputs, args = as_tuples(inputs, additional_forward_args)
        sizes = fuse.sizes(inputs)
        classes = None
        if not every_class:
            classes = target_classes(target, len(inputs[0]), head.n_outputs)
        maps = self._native_maps(head, inputs, args, classes, fuse)
        weighed = self.layers if fuse.name == "agreement" else ()
        spreads = [for_classes(head.spread[name], classes) for name in weighed]
        return is_tuple, maps, sizes, spreads

    @torch.no_grad()
    def _native_maps(
        self,
        head: Head,
        inputs: tuple[Tensor, ...],
        args: tuple[Any, ...],
        classes: Tensor | None,
        fuse: Fusion,
    ) -> dict[str, Tensor]:
        """Each layer's map {layer: sum_i W[c, i] f_i} at the layer's own resolution, contracted
        inside the hooks and moved to where the layer's cells look."""
        weights = {name: for_classes(head.weights[name], classes) for name in self.layers}
        ordinary: dict[str, tuple[Tensor, Tensor]] = {}
        if fuse.name != "sum":
            if not head.spread:
                raise ValueError(
                    f"fusion: {fuse.name!r} needs what is ordinary in training data, which a fit "
                    f"stores; {self.get_name()} has none. Use fusion='sum'."
                )
            ordinary = {
                name: (
                    for_classes(head.mean_score[name], classes),
                    for_classes(head.spread[name], classes),
                )
                for name in self.layers
            }
        moves = {name: cells.tolist() for name, cells in head.displacement.items()}
        maps: dict[str, Tensor] = {}

        def read(name: str, f: Tensor) -> None:
            one_row_per_image(name, f, len(inputs[0]))
            same_channels(name, f, weights[name], self._remedy)
            a = contract(f, weights[name])
            if any(moves.get(name, ())):
                a = place(a, moves[name])
            maps[name] = fuse.layer(a, *ordinary[name]) if ordinary else a

        self._forward(inputs, args, read)
        return {name: maps[name].to(inputs[0].device) for name in self.layers}

    @torch.no_grad()
    def _forward(
        self,
        inputs: tuple[Tensor, ...],
        args: tuple[Any, ...],
        read: Read,
    ) -> Any:
        """Run one forward pass in eval mode, reading each layer's feature maps on the way."""
        model = module_behind(self.forward_func)
        if model is None:
            in_eval_mode(self.layers)
        modules = list(self.layers.values()) if model is None else [model]  # it holds the layers
        on_device("inputs", inputs, model)
        with (
            eval_mode(*modules),
            own_casts(),
            callers_tensors(),
            read_feature_maps(
                self.layers,
                read,
                from_input=self.attribute_to_layer_input,
                reshape_transform=self.reshape_transform,
            ),
            failure_explained("inputs", inputs, model),
        ):
            # Copies: a model may normalise its input in place, and images are read more than once.
            return self.forward_func(*copied(inputs), *copied(args))
