"""HR-CAM: class activation maps from all layers of a frozen CNN (Shinde et al. 2021)."""

import os
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from captum_hrcam import group, storage
from captum_hrcam.activations import Read, ReshapeTransform
from captum_hrcam.attribution import HeadAttribution, LayerLike
from captum_hrcam.batch import device_of
from captum_hrcam.checks import batches, one_of, same_channels, whole
from captum_hrcam.features import FeatureCollector
from captum_hrcam.fewer_layers import fit_and_choose
from captum_hrcam.fingerprint import fingerprint, is_of_others
from captum_hrcam.fit_report import FitReport
from captum_hrcam.fitting import fit_heads
from captum_hrcam.frozen_pass import FrozenPass
from captum_hrcam.head import Head
from captum_hrcam.head_and_model import check_head
from captum_hrcam.labels import LOSSES
from captum_hrcam.layers import UnknownLayer
from captum_hrcam.modes import own_tensors
from captum_hrcam.reading import Reading, open_cache
from captum_hrcam.recipe import Recipe
from captum_hrcam.report import HeadReport
from captum_hrcam.revisit import Revisit


class HRCAM(HeadAttribution):
    r"""
    High-resolution class activation maps: one map per class from the feature maps of many layers.

    A trained CNN is frozen. The feature maps f_l of layers l = 1..L are averaged over space, and
    one linear layer, the head, is fitted on the concatenated averages::

        z   = concat over l of GAP(f_l)                          (N,)
        s   = W z + b                                            (K,)
        A^c = sum over l of up( sum over i in l of W[c, i] f_i ) (H, W)

    If :meth:`fit` measured that a layer's map is displaced from what the layer responds to, the map
    is shifted back before ``up``; its mean does not change (``place_layers``). Upsampling is
    linear, so channels are contracted first, inside the forward hook, and only one map per layer is
    upsampled. A map costs about one forward pass, without gradients. The mean of A^c over its
    pixels, plus b_c, is the head's score s_c if every upscale factor is a whole number (always, at
    native resolution).

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
        TypeError: ``forward_func`` is not callable, or a layer is neither a module nor a name.
        ValueError: a layer is not in the model, is listed twice, or cannot run hooks.

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

    report: FitReport | None = None
    _head: Head | None = None

    def __repr__(self) -> str:
        fit = "not fitted" if self._head is None else f"n_classes={self._head.n_outputs}"
        if self.report is not None:
            fit += f", solver={self.report.solver!r}"
        return f"{type(self).__name__}(layers={list(self.layers)}, {fit})"

    @classmethod
    def get_name(cls) -> str:
        """The method's name in tables and figures."""
        return "HR-CAM"

    @property
    def head(self) -> Head:
        """The fitted head.

        Raises:
            RuntimeError: there is none yet.
        """
        if self._head is None:
            raise RuntimeError("HR-CAM has no head yet: call fit or load first.")
        return self._head

    @torch.inference_mode(False)  # solvers need gradients, also under a caller's inference mode
    @own_tensors()
    def fit(
        self,
        train_data: Iterable[Any],
        *,
        val_data: Iterable[Any] | None = None,
        targets: str = "labels",
        loss: str = "cross_entropy",
        solver: str = "auto",
        penalty: float | str = "auto",
        balance_layers: str | None = "auto",
        standardize: bool = True,
        place_layers: bool | str = "auto",
        n_classes: int | None = None,
        n_passes: int = 1,
        cache: str | os.PathLike[str] | None = None,
        epochs: int = 100,
        batch_size: int = 32,
        lr: float = 1e-3,
        seed: int = 0,
        show_progress: bool = False,
    ) -> FitReport:
        r"""
        Fit the head: average feature maps in one frozen pass over the data, then solve for W and b.

        If the fit fails, an earlier head stays.

        Args:
            train_data (Iterable): batches ``(*inputs, label)``, as Captum's TracIn takes them. With
                ``targets="model"`` a batch may hold inputs only (a last item without spatial
                dimensions is taken for a label). Inputs are moved to the model's device.
            val_data (Iterable): like ``train_data``; choices and figures are made on it. Without
                it they are made on a fixed fifth of the training features, and the head is then
                solved on all of them.
            targets (str): "labels": class indices (n,), one-hot or soft rows (n, K), several labels
                per image (n, K), or real values; "model": the model's own predictions.
            loss (str): "cross_entropy", "binary_cross_entropy" (several labels per image, or one
                logit) or "mse".
            solver (str): how W is found.
                "pattern": W = Cov(f, y) / Var(f) for each channel alone, over images and cells
                (Haufe et al. 2014).
                "cascade": each layer learns where all deeper layers find evidence, from 160
                training images, drawn from each class in turn, that are read six times (for five
                layers).
                "ridge": penalised loss. "adam": the paper's head.
                "auto": fits "cascade" and "pattern". The cascade is kept if blurring away what its
                maps of 24 held-out images mark most costs the model more than blurring what they
                mark least (12 forward passes for each image). Otherwise both heads' maps are
                compared by blurring away what they mark and by showing it alone (21 more, and 11 if
                the pattern wins), and the pattern is taken if it is better in both by more than a
                standard error. Some layers get weights of zero, and the report names them: fine
                layers, where the finest marks things all over the image, such as a texture's grain
                or the edges in ultrasound (found in up to eight forward passes for each of 54
                training images, for each set of layers tried); deep layers whose maps do not mark
                what the model uses, as in transformers; and layers that do not vary, or whose
                averages tell nothing. With a ``penalty``, "auto" means "ridge"; with
                ``balance_layers``, or for "mse", it means "pattern". Nothing is then compared or
                left out.
            penalty (float or "auto"): ridge's penalty on standardised weights; "auto" takes the
                strongest within one standard error of the best held-out loss.
            balance_layers (str or None): for pattern and ridge. "equal" gives every layer the same
                standardised norm, "information" a norm according to what it tells alone. "auto" is
                "equal" for pattern, otherwise None.
            standardize (bool): for ridge, whose penalty depends on it: scale each channel by its
                standard deviation over images and cells in the solve. The scale is folded into the
                weights.
            place_layers (bool or "auto"): measure how far each layer's map is displaced from what
                it marks, and shift it back; ``report.displacement`` says by how much. It is
                measured on up to 48 training images and their mirror images, of classes whose maps
                mark a place if there are any. "auto" does so if a cascade is fitted: for "cascade",
                and for "auto" without a penalty or balance, but not for "mse".
            n_classes (int): the number of the head's outputs; by default the model's.
            n_passes (int): how often to read ``train_data``, for augmenting loaders. If they
                shuffle, pass ``val_data``, as otherwise an image is both fitted and held out.
            cache (str or PathLike): for ridge and adam, which need every image's features: a folder
                that keeps these on disk instead of in memory. A later fit of the same model, layers
                and images takes them from there, without a forward pass for each image. A model is
                known by its printed modules and its state, not by plain attributes or changed code.
                Without a folder, features go to a temporary file once they exceed a quarter of the
                machine's memory.
            epochs (int): for solver "adam".
            batch_size (int): for solver "adam".
            lr (float): for solver "adam".
            seed (int): for solver "adam".
            show_progress (bool): draw a progress bar.

        Returns:
            FitReport: figures, choices and warnings; ``print`` it.

        Raises:
            ValueError: an unknown option, an empty loader, labels or features out of range.
            TypeError: data that are not batches; a batch or label of the wrong type.
            RuntimeError: a layer did not run, or ran more than once; another rank failed.
            OSError: ``cache`` cannot be written, or the disk is full.
        """
        batches("train_data", train_data)
        if val_data is not None:
            batches("val_data", val_data)
        one_of("targets", targets, ("labels", "model"))
        recipe = Recipe(
            loss, solver, penalty, balance_layers, standardize, epochs, batch_size, lr, seed
        )
        one_of("place_layers", place_layers, ("auto", True, False))
        whole("n_passes", n_passes, 1)
        if n_classes is not None:
            whole("n_classes", n_classes, 1)

        recipes = recipe.candidates()
        solvers = [r.solver for r in recipes]
        has_cascade = "cascade" in solvers
        is_placed = has_cascade if place_layers == "auto" else place_layers
        frozen = self._frozen_pass(targets, loss, n_classes, in_order=has_cascade)
        revisit = Revisit(self._forward, self._native_maps, frozen.device, solvers, loss)
        begin = time.perf_counter()
        with group.in_step("reading the data"):
            options = (targets, loss, n_classes, n_passes)
            store = open_cache(cache, self, recipes[0], solver, options)
            keep_all = recipes[0].needs_all_rows
            reading = Reading(frozen, revisit, keep_all, n_passes, store, show_progress)
            train, val = reading.read(train_data, val_data)
        seconds = time.perf_counter() - begin

        fit = partial(fit_heads, train, val, frozen.channels, recipes)
        fitted = fit_and_choose(revisit, fit, frozen.resolutions)
        if is_placed:
            revisit.place(fitted, frozen.resolutions)

        fitted.figures["choices"] += reading.notes
        report = FitReport(
            **fitted.figures,
            displacement={n: d.clone() for n, d in fitted.head.displacement.items()},
            resolutions=frozen.resolutions,
            targets=targets,
            n_passes=n_passes,
            seconds_pass=seconds,
            extra_forwards=revisit.forwards,
            seconds_beside=time.perf_counter() - begin - seconds - fitted.figures["seconds_solve"],
        )
        head, report = group.from_first((fitted.head, report))
        for warning in report.warnings:  # before the head is kept: a caller may make them errors
            warnings.warn(warning, stacklevel=4)  # past the decorators, to the caller
        head.fingerprint = fingerprint(self.forward_func)
        self._head, self.report = head, report
        return report

    def _frozen_pass(
        self, targets: str, loss: str, n_classes: int | None, *, in_order: bool
    ) -> FrozenPass:
        """The pass of a fit. Layers that are read as they are show where their channels are."""
        is_bare = self.reshape_transform is None and not self.attribute_to_layer_input
        return FrozenPass(
            self._forward,
            list(self.layers),
            targets,
            loss,
            n_classes,
            device_of(self.forward_func),
            in_order,
            self.layers if is_bare else {},
        )

    @torch.inference_mode(False)
    @own_tensors()
    def check(
        self,
        data: Iterable[Any],
        *,
        targets: str = "labels",
        loss: str | None = None,
        show_progress: bool = False,
    ) -> HeadReport:
        r"""
        Report how the fitted head does on new data, and whether its maps can be trusted there.

        Args:
            data (Iterable): batches as for :meth:`fit`.
            targets (str): as for :meth:`fit`; with "model" the head is measured against the model.
            loss (str): by default that of the fit; "cross_entropy" for a head from a file of
                version 1 or 2.
            show_progress (bool): draw a progress bar.

        Returns:
            HeadReport: accuracy and AUROC of head and model, their agreement, the layers' shares
            of the score, and warnings, from one frozen pass.

        Raises:
            RuntimeError: not fitted; a layer did not run, or ran more than once.
            ValueError: an unknown option, an empty loader, other channels than the head's, labels
                or features out of range.
            TypeError: data that are not batches; a batch or label of the wrong type.
        """
        head = self.head
        batches("data", data)
        one_of("targets", targets, ("labels", "model"))
        loss = head.loss if loss is None else loss
        one_of("loss", loss, LOSSES)

        def forward(inputs: tuple[Tensor, ...], args: tuple[Any, ...], read: Read) -> Any:
            def of_this_head(name: str, f: Tensor) -> None:
                same_channels(name, f, head.weights[name], self._remedy)
                read(name, f)

            return self._forward(inputs, args, of_this_head)

        device = device_of(self.forward_func)
        frozen = FrozenPass(forward, list(self.layers), targets, loss, head.n_outputs, device)
        collector = FeatureCollector()
        with group.in_step("reading the data"), torch.random.fork_rng(devices=[]):
            frozen.read(data, "data", collector, progress="HR-CAM check" if show_progress else None)
        report = HeadReport(
            **check_head(head, collector, frozen.channels, loss),
            resolutions=frozen.resolutions,
            targets=targets,
        )
        for warning in report.warnings:
            warnings.warn(warning, stacklevel=4)  # past the decorators, to the caller
        return report

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Save the head (not the model) to a file, atomically.

        The file also holds one number for each of the model's tensors as they were in the fit, by
        which :meth:`load` recognises the model's weights.

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
            forward_func (Callable): the model that the head was fitted on.
            layer: the layers, in the order of the fit; by default found by their saved names.
            reshape_transform (Callable): as for the constructor; functions are not saved.

        Returns:
            HRCAM: ready for :meth:`attribute`.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a truncated or foreign file; other layers than the saved ones.

        Warns:
            UserWarning: the model's weights are clearly not those of the fit, but those of another
                training, for example. Weights rounded to half precision count as the same. There
                is no warning if this cannot be known: for a function around the model, sharded or
                quantised weights, and files of versions 1 to 3.
        """
        head, to_input = storage.load(path)
        try:
            loaded = cls(
                forward_func,
                list(head.weights) if layer is None else layer,
                attribute_to_layer_input=to_input,
                reshape_transform=reshape_transform,
            )
        except UnknownLayer as error:
            if layer is not None:
                raise
            raise ValueError(
                f"layer: the head of {os.fspath(path)!r} is of layers {', '.join(head.weights)}, "
                "of which forward_func lacks one or more. Name its layers, in this order, as "
                "layer=[...], or give them as modules."
            ) from error
        names = list(loaded.layers)
        if names != list(head.weights) and set(names) == set(head.weights):
            raise ValueError(
                f"layer: got the layers of {os.fspath(path)!r} in another order, "
                f"{', '.join(names)}, expected {', '.join(head.weights)}. Leave layer=None."
            )
        if len(loaded.layers) != len(head.weights):
            raise ValueError(
                f"layer: got {len(loaded.layers)} layers, but {os.fspath(path)!r} holds "
                f"{len(head.weights)}: {', '.join(head.weights)}."
            )
        loaded._head = head.renamed(names)
        if is_of_others(head.fingerprint, forward_func):
            warnings.warn(
                f"forward_func: its weights are not those that the head of {os.fspath(path)!r} was "
                "fitted on, and maps of other weights mean nothing. Load those into the model "
                "before HRCAM.load, or fit again.",
                stacklevel=2,
            )
        return loaded
