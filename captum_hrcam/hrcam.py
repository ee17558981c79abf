"""HR-CAM: class activation maps from all layers of a frozen CNN (Shinde et al. 2021)."""

import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from captum.attr import LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from captum_hrcam import _captum, fusion, storage
from captum_hrcam._captum import TargetType
from captum_hrcam.activations import ReshapeTransform, eval_mode, gap, read_feature_maps
from captum_hrcam.features import FeatureCollector, Sample
from captum_hrcam.fitting import BALANCES, MAX_PATTERN_ROWS, SOLVERS, fit_head, report_from
from captum_hrcam.head import Head
from captum_hrcam.labels import LOSSES, model_targets, target_rows
from captum_hrcam.layers import resolve_layers, unwrap
from captum_hrcam.report import FitReport

FUSIONS = ("sum", "evidence")
SPREAD_IMAGES = 64
TensorOrTuple = Tensor | tuple[Tensor, ...]
LayerLike = nn.Module | str | Sequence[nn.Module | str]


class HRCAM(LayerAttribution):
    r"""
    High-resolution class activation maps: one map per class from the feature maps of many layers.

    A trained CNN is frozen. The feature maps f_l of layers l = 1..L are averaged over space,
    concatenated, and one linear layer, the head, is fitted on these averages::

        z   = concat over l of GAP(f_l)                          (N,)
        s   = W z + b                                            (K,)
        A^c = sum over l of up( sum over i in l of W[c, i] f_i ) (H, W)

    Upsampling is linear, so channels are contracted first, inside the forward hook, and one map
    per layer is upsampled: a map costs about one forward pass, without gradients. The mean of
    A^c over its pixels, plus b_c, is the head's score s_c when every upscale factor is a whole
    number (always, at native resolution).

    Source: Shinde et al. 2021, PeerJ Computer Science 7:e622,
    https://doi.org/10.7717/peerj-cs.622.

    Args:
        forward_func (Callable): the model, or any function around it.
        layer (Module, str, or a sequence of either): layers whose feature maps are used, shallow
            to deep; dotted names are looked up in ``forward_func``. See
            :func:`~captum_hrcam.find_layers`.
        attribute_to_layer_input (bool): use the layers' inputs instead of their outputs.
        reshape_transform (Callable): turns a layer's tensor into (N, C, \*spatial), for tokens or
            channels-last layouts.

    Raises:
        TypeError: ``forward_func`` is not callable, or a layer is neither module nor name.
        ValueError: a layer is not in the model, listed twice, or cannot run hooks.

    Examples::

        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        ...     nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> images, labels = torch.randn(20, 1, 16, 16), torch.arange(20) % 2
        >>> hrcam = HRCAM(model, ["1", "4"])
        >>> report = hrcam.fit([(images, labels)])
        >>> hrcam.attribute(images, target=1).shape
        torch.Size([20, 1, 16, 16])
    """

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
        self.layers: dict[str, nn.Module] = resolve_layers(forward_func, layer)
        super().__init__(unwrap(forward_func), list(self.layers.values()))
        self.attribute_to_layer_input = attribute_to_layer_input
        self.reshape_transform = reshape_transform
        self._head: Head | None = None
        self.report: FitReport | None = None

    @classmethod
    def get_name(cls) -> str:
        """The method's name in tables and figures."""
        return "HR-CAM"

    @property
    def multiplies_by_inputs(self) -> bool:
        return False

    @property
    def head(self) -> Head:
        """The fitted head.

        Raises:
            RuntimeError: there is none yet.
        """
        if self._head is None:
            raise RuntimeError(f"{self.get_name()} has no head yet: call fit or load first.")
        return self._head

    @property
    def weights(self) -> dict[str, Tensor]:
        """{layer name: (K, C_l)}, on raw feature maps."""
        return {name: weight.clone() for name, weight in self.head.weights.items()}

    @property
    def bias(self) -> Tensor:
        """(K,)."""
        return self.head.bias.clone()

    # ---- fit

    def fit(
        self,
        train_data: Iterable[Any],
        *,
        val_data: Iterable[Any] | None = None,
        targets: str = "labels",
        loss: str = "cross_entropy",
        solver: str = "pattern",
        penalty: float | str = "auto",
        balance_layers: str | None = "auto",
        standardize: bool = True,
        n_classes: int | None = None,
        n_passes: int = 1,
        epochs: int = 100,
        batch_size: int = 32,
        lr: float = 1e-3,
        seed: int = 0,
        show_progress: bool = False,
    ) -> FitReport:
        r"""
        Fit the head in one frozen pass over the data.

        Args:
            train_data (Iterable): batches ``(*inputs, label)``, as Captum's TracIn takes them; with
                ``targets="model"`` a batch may hold inputs only.
            val_data (Iterable): like ``train_data``; choices and figures come from it. Without it
                they come from a fixed fifth of the training features, and the head is then solved
                on all of them.
            targets (str): "labels", or "model" for the model's own predictions.
            loss (str): "cross_entropy", "binary_cross_entropy" (several labels per image, or one
                logit) or "mse".
            solver (str): "pattern", W = Cov(z, y) / Var(z) per channel; "ridge", penalised loss;
                "adam", the paper's head.
            penalty (float or "auto"): ridge's penalty on standardised weights; "auto" takes the
                strongest within one standard error of the best held-out loss.
            balance_layers (str or None): "equal" gives every layer the same standardised norm,
                "information" one by what it tells alone; "auto" is "equal" for pattern, None else.
            standardize (bool): standardise features for the fit; folded into the weights.
            n_classes (int): the head's outputs; by default those of the model.
            n_passes (int): how often to read ``train_data``, for augmenting loaders.
            epochs, batch_size, lr, seed: of solver "adam".
            show_progress (bool): draw a progress bar.

        Returns:
            FitReport: figures, choices and warnings; ``print`` it.

        Raises:
            ValueError: an unknown option, an empty loader, labels or features out of range.
            TypeError: a batch or label of the wrong type.
            RuntimeError: a layer did not run, or ran more than once.

        A failed fit leaves the earlier head.
        """
        _one_of("targets", targets, ("labels", "model"))
        _one_of("loss", loss, LOSSES)
        _one_of("solver", solver, SOLVERS)
        _one_of("balance_layers", balance_layers, BALANCES)
        _check_penalty(penalty)
        if n_passes < 1:
            raise ValueError(f"n_passes: got {n_passes}, expected 1 or more.")
        begin = time.perf_counter()
        train = FeatureCollector(MAX_PATTERN_ROWS if solver == "pattern" else None)
        images = Sample(SPREAD_IMAGES)
        resolutions: dict[str, tuple[int, ...]] = {}
        channels: dict[str, int] = {}
        how = (targets, loss, n_classes, channels, resolutions)
        with torch.random.fork_rng(devices=[]):
            for i in range(n_passes):
                note = f"HR-CAM pass {i + 1}/{n_passes}" if n_passes > 1 else "HR-CAM pass"
                self._collect(train_data, "train_data", train, images, how, show_progress, note)
            val = None
            if val_data is not None:
                val = FeatureCollector(None)
                self._collect(val_data, "val_data", val, None, how, show_progress, "validation")
        seconds = time.perf_counter() - begin
        if train.n < 5:
            raise ValueError(f"train_data: got {train.n} images, expected at least 5.")
        head, figures = fit_head(
            train,
            val,
            channels,
            loss=loss,
            solver=solver,
            penalty=penalty,
            balance_layers=balance_layers,
            standardize=standardize,
            adam={"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed},
        )
        head.spread = self._spread(head, images.rows()[1:])
        report = report_from(figures, resolutions=resolutions, seconds_pass=seconds)
        for warning in report.warnings:
            warnings.warn(warning, stacklevel=2)
        self._head, self.report = head, report
        return report

    def _collect(
        self,
        data: Iterable[Any],
        argument: str,
        collector: FeatureCollector,
        images: Sample | None,
        how: tuple[str, str, int | None, dict[str, int], dict[str, tuple[int, ...]]],
        show_progress: bool,
        description: str,
    ) -> None:
        """One frozen pass: pool inside the hooks, keep features, targets and outputs."""
        targets, loss, n_classes, channels, resolutions = how
        n_before = collector.n
        for batch in _progress(data, show_progress, description):
            inputs, labels = _split_batch(batch, argument, targets)
            pooled: dict[str, Tensor] = {}
            sizes: dict[str, tuple[int, ...]] = {}

            def read(name: str, f: Tensor, pooled: Any = pooled, sizes: Any = sizes) -> None:
                pooled[name] = gap(f)
                sizes[name] = tuple(f.shape[2:])

            output = self._forward(inputs, (), read)
            n = len(inputs[0])
            found = {name: z.shape[1] for name, z in pooled.items()}
            _check_batch(pooled, n, found, channels)
            channels.update({name: found[name] for name in self.layers})
            resolutions.update({k: sizes[k] for k in self.layers if k not in resolutions})
            outputs = _score_rows(output, n)
            k = n_classes or outputs.shape[1]
            if k == 0:
                raise ValueError(
                    "n_classes: the model's output is not (N, K) scores, so the number of classes "
                    "is unknown. Pass n_classes."
                )
            if loss == "cross_entropy" and k == 1:
                raise ValueError(
                    "loss: the model has one output, which a softmax cannot use. Use "
                    "loss='binary_cross_entropy' (one logit) or 'mse'."
                )
            if targets == "labels":
                y = target_rows(labels, n, k, loss)
            else:
                y = model_targets(outputs, loss)
            z = torch.cat([pooled[name] for name in self.layers], 1).cpu()
            if not torch.isfinite(z).all():
                raise ValueError(
                    f"{argument}: NaN or infinity in the pooled features of a batch. Check the "
                    "inputs and the model's weights."
                )
            collector.add(z, y, outputs.cpu())
            if images is not None:
                images.add(*inputs)
        if collector.n == n_before:
            raise ValueError(f"{argument}: it gave no batch; expected at least one.")

    @torch.no_grad()
    def _spread(self, head: Head, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """{layer: (K,)}: root mean spatial variance of each layer's native map."""
        variance = {name: torch.zeros_like(head.bias) for name in self.layers}
        n = len(inputs[0])
        for rows in torch.arange(n).split(16):
            maps = self._native_maps(tuple(x[rows] for x in inputs), (), head.weights)
            for name, a in maps.items():
                variance[name] += a.flatten(2).double().var(2, correction=0).sum(0).cpu()
        return {name: (v / n).sqrt() for name, v in variance.items()}

    # ---- maps

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
            target (int, tuple, Tensor, or list): class index, in any of Captum's forms; one for
                all images or one for each. None or 0 where the head has one output.
            additional_forward_args (Any): passed to ``forward_func`` after the inputs.
            fusion (str): "sum", the paper's and complete: mean over pixels plus bias is the score.
                "evidence": of each layer's map the part that exceeds its mean over the training
                data by ``evidence_threshold`` spatial standard deviations; never negative, not
                complete.
            relu_attributions (bool): return the positive part of the map.
            interpolate_mode (str): of ``torch.nn.functional.interpolate``; default (bi, tri)linear.
            evidence_threshold (float): t of ``fusion="evidence"``.

        Returns:
            *Tensor* or *tuple[Tensor, ...]*: (N, 1, \*spatial) for each input, detached.

        Raises:
            AssertionError: Captum's, for a target out of range or missing.
            RuntimeError: not fitted; a layer did not run or ran twice.
            ValueError: another number of channels than fitted; an unknown option.
        """
        maps, sizes, is_tuple = self._target_maps(
            inputs, target, additional_forward_args, fusion, interpolate_mode, evidence_threshold
        )
        fused = tuple(_fused(maps, size, interpolate_mode) for size in sizes)
        if relu_attributions:
            fused = tuple(a.relu() for a in fused)
        return _captum.format_output(is_tuple, tuple(a.contiguous() for a in fused))

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
        Each layer's own map; together they add up to ``attribute``.

        Args:
            inputs, target, additional_forward_args, fusion, interpolate_mode, evidence_threshold:
                as in :meth:`attribute`.

        Returns:
            {layer name: (N, 1, \*spatial)}, upsampled to the input.
        """
        maps, sizes, is_tuple = self._target_maps(
            inputs, target, additional_forward_args, fusion, interpolate_mode, evidence_threshold
        )
        return {
            name: _captum.format_output(
                is_tuple, tuple(_fused({name: a}, size, interpolate_mode) for size in sizes)
            )
            for name, a in maps.items()
        }

    @torch.no_grad()
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
            inputs, additional_forward_args, fusion, interpolate_mode, evidence_threshold: as in
                :meth:`attribute`.

        Returns:
            *Tensor* or *tuple[Tensor, ...]*: (N, K, \*spatial) for each input.
        """
        head = self.head
        _check_fusion(fusion, interpolate_mode)
        is_tuple, inputs_tuple, args = _as_tuples(inputs, additional_forward_args)
        maps = self._native_maps(inputs_tuple, args, head.weights)
        if fusion == "evidence":
            maps = _evidence(maps, head, evidence_threshold, None)
        sizes = _sizes(inputs_tuple, maps)
        fused = tuple(_fused(maps, size, interpolate_mode).contiguous() for size in sizes)
        return _captum.format_output(is_tuple, fused)

    @torch.no_grad()
    def predict(self, inputs: TensorOrTuple, additional_forward_args: object = None) -> Tensor:
        r"""
        The head's scores s = W z + b.

        Args:
            inputs, additional_forward_args: as in :meth:`attribute`.

        Returns:
            *Tensor*: (N, K) logits (real values for ``loss="mse"``).
        """
        head = self.head
        _, inputs_tuple, args = _as_tuples(inputs, additional_forward_args)
        pooled: dict[str, Tensor] = {}

        def read(name: str, f: Tensor) -> None:
            _check_channels(name, f, head.weights[name])
            pooled[name] = gap(f)

        self._forward(inputs_tuple, args, read)
        return head.scores(pooled)

    @torch.no_grad()
    def _target_maps(
        self,
        inputs: TensorOrTuple,
        target: TargetType,
        additional_forward_args: object,
        fusion: str,
        interpolate_mode: str | None,
        t: float,
    ) -> tuple[dict[str, Tensor], list[tuple[int, ...]], bool]:
        """Native maps (N, 1, *spatial) of the target, the sizes wanted, and tuple or not."""
        head = self.head
        _check_fusion(fusion, interpolate_mode)
        is_tuple, inputs_tuple, args = _as_tuples(inputs, additional_forward_args)
        classes = _target_classes(target, len(inputs_tuple[0]), head.n_outputs)
        weights = {name: w[classes] for name, w in head.weights.items()}
        if len(classes) > 1:
            weights = {name: w[:, None] for name, w in weights.items()}  # (N, 1, C_l)
        maps = self._native_maps(inputs_tuple, args, weights)
        if fusion == "evidence":
            maps = _evidence(maps, head, t, classes)
        return maps, _sizes(inputs_tuple, maps), is_tuple

    def _native_maps(
        self, inputs: tuple[Tensor, ...], args: tuple[Any, ...], weights: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """{layer: sum_i W[c, i] f_i} at the layers' own resolution, in one forward pass."""
        maps: dict[str, Tensor] = {}
        n = len(inputs[0])

        def read(name: str, f: Tensor) -> None:
            _check_channels(name, f, weights[name])
            if len(f) != n:
                raise ValueError(
                    f"layer {name!r} gave {len(f)} feature maps for {n} images, expected one for "
                    "each. Choose a layer whose first dimension is the batch."
                )
            maps[name] = fusion.contract(f, weights[name].to(f.device))

        self._forward(inputs, args, read)
        return {name: maps[name] for name in self.layers}

    @torch.no_grad()
    def _forward(
        self,
        inputs: tuple[Tensor, ...],
        args: tuple[Any, ...],
        read: Callable[[str, Tensor], None],
    ) -> Any:
        """One forward pass in eval mode, each layer's feature maps read by the way."""
        owner = getattr(self.forward_func, "__self__", self.forward_func)
        modules = [m for m in (owner, *self.layers.values()) if isinstance(m, nn.Module)]
        with (
            eval_mode(*modules),
            read_feature_maps(
                self.layers,
                read,
                from_input=self.attribute_to_layer_input,
                reshape_transform=self.reshape_transform,
            ),
        ):
            return self.forward_func(*inputs, *args)

    # ---- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Save the head (not the model) to a file, atomically.

        Args:
            path (str or PathLike): the file to write.

        Raises:
            RuntimeError: not fitted.
            OSError: the folder cannot be written; an earlier file stays as it was.
        """
        storage.save(path, self.head, self.attribute_to_layer_input)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        forward_func: Callable[..., Any],
        layer: LayerLike | None = None,
        *,
        reshape_transform: ReshapeTransform | None = None,
    ) -> "HRCAM":
        """
        Load a head that :meth:`save` wrote.

        Args:
            path (str or PathLike): the file.
            forward_func (Callable): the model that it was fitted on.
            layer: the layers, in the order of the fit; by default found by their saved names.
            reshape_transform (Callable): as for the constructor; functions are not saved.

        Returns:
            HRCAM: ready for :meth:`attribute`.

        Raises:
            FileNotFoundError: no such file.
            ValueError: truncated or foreign file; other layers than saved.
        """
        head, to_input = storage.load(path)
        loaded = cls(
            forward_func,
            list(head.weights) if layer is None else layer,
            attribute_to_layer_input=to_input,
            reshape_transform=reshape_transform,
        )
        if len(loaded.layers) != len(head.weights):
            raise ValueError(
                f"layer: got {len(loaded.layers)} layers, but {os.fspath(path)!r} holds "
                f"{len(head.weights)}: {', '.join(head.weights)}."
            )
        renamed = dict(zip(head.weights, loaded.layers, strict=True))
        for by_layer in ("weights", "mean_score", "spread"):
            values = getattr(head, by_layer)
            setattr(head, by_layer, {renamed[name]: values[name] for name in renamed})
        loaded._head = head
        return loaded


def _fused(maps: Mapping[str, Tensor], size: Sequence[int], mode: str | None) -> Tensor:
    return fusion.add_upsampled(maps.values(), size, mode)


def _evidence(
    maps: dict[str, Tensor], head: Head, t: float, classes: Tensor | None
) -> dict[str, Tensor]:
    rectified = {}
    for name, a in maps.items():
        ordinary = head.ordinary(name, t).to(a)
        if classes is not None:
            ordinary = ordinary[classes.to(a.device)]
            ordinary = ordinary[:, None] if len(ordinary) > 1 else ordinary
        rectified[name] = fusion.rectify(a, ordinary)
    return rectified


def _target_classes(target: TargetType, n: int, n_outputs: int) -> Tensor:
    """The class of each image, or a single one for all, through Captum's own selection."""
    if n_outputs == 1 and target is None:
        target = 0
    assert target is not None, (
        f"target: got None, but the head has {n_outputs} outputs. Pass the class to explain."
    )
    table = torch.arange(n_outputs).expand(n, n_outputs)
    classes = _captum.select_targets(table, target).reshape(-1)
    return classes[:1] if bool((classes == classes[0]).all()) else classes


def _as_tuples(
    inputs: TensorOrTuple, additional_forward_args: object
) -> tuple[bool, tuple[Tensor, ...], tuple[Any, ...]]:
    is_tuple = isinstance(inputs, tuple)
    inputs_tuple = _captum.format_tensor_into_tuples(inputs)
    args = _captum.format_additional_forward_args(additional_forward_args) or ()
    for x in inputs_tuple:
        if not isinstance(x, Tensor) or x.ndim == 0 or 0 in x.shape:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"inputs: got {got}, expected tensors (N, C, *spatial), none empty.")
    return is_tuple, inputs_tuple, args


def _sizes(inputs: tuple[Tensor, ...], maps: Mapping[str, Tensor]) -> list[tuple[int, ...]]:
    ndim = next(iter(maps.values())).ndim
    for x in inputs:
        if x.ndim != ndim:
            raise ValueError(
                f"inputs: got one of shape {tuple(x.shape)}, but the layers' maps have {ndim - 2} "
                "spatial dimensions. Pass inputs without such space as additional_forward_args."
            )
    return [tuple(x.shape[2:]) for x in inputs]


def _check_channels(name: str, f: Tensor, weight: Tensor) -> None:
    if f.shape[1] != weight.shape[-1]:
        raise ValueError(
            f"layer {name!r} gave {f.shape[1]} channels, but the head was fitted on "
            f"{weight.shape[-1]}. Use the model that was fitted, or fit again."
        )


def _check_batch(
    pooled: Mapping[str, Tensor], n: int, found: dict[str, int], known: dict[str, int]
) -> None:
    for name, z in pooled.items():
        if len(z) != n:
            raise ValueError(
                f"layer {name!r} gave {len(z)} feature maps for {n} images, expected one for each. "
                "Choose a layer whose first dimension is the batch."
            )
        if known and found[name] != known[name]:
            raise ValueError(
                f"layer {name!r} gave {found[name]} channels in one batch and {known[name]} before."
            )


def _score_rows(output: Any, n: int) -> Tensor:
    """The model's output as (n, K'); K' = 0 where it is no row of scores."""
    if isinstance(output, Tensor) and output.is_floating_point() and len(output) == n:
        if output.ndim == 1:
            return output[:, None].float()
        if output.ndim == 2:
            return output.float()
    return torch.zeros(n, 0)


def _split_batch(batch: Any, argument: str, targets: str) -> tuple[tuple[Tensor, ...], Any]:
    """(*inputs, label) -> (inputs, label); with targets="model" tensors with space are inputs."""
    items = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    if targets == "model":
        inputs = tuple(x for x in items if isinstance(x, Tensor) and x.ndim > 2)
        labels = None
    else:
        if len(items) < 2:
            raise TypeError(
                f"{argument}: a batch holds {len(items)} item, expected (*inputs, label). For data "
                "without labels use targets='model'."
            )
        *rest, labels = items
        inputs = tuple(rest)
    if not inputs or not all(isinstance(x, Tensor) and x.ndim > 0 for x in inputs):
        raise TypeError(
            f"{argument}: a batch must hold tensors (*inputs, label), got {batch!r:.200}."
        )
    return inputs, labels


def _progress(data: Iterable[Any], show: bool, description: str) -> Iterable[Any]:
    if not show:
        return data
    from tqdm.auto import tqdm  # a dependency of captum

    return tqdm(data, desc=description)


def _one_of(argument: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise ValueError(
            f"{argument}: got {value!r}, expected one of {', '.join(map(repr, allowed))}."
        )


def _check_fusion(fusion: str, interpolate_mode: str | None) -> None:
    _one_of("fusion", fusion, FUSIONS)
    if interpolate_mode is not None:
        _one_of("interpolate_mode", interpolate_mode, _INTERPOLATE_MODES)


_INTERPOLATE_MODES = fusion.INTERPOLATE_MODES


def _check_penalty(penalty: float | str) -> None:
    if penalty == "auto":
        return
    if isinstance(penalty, str) or not 0 <= penalty < float("inf"):
        raise ValueError(f"penalty: got {penalty!r}, expected 'auto' or a finite number >= 0.")
