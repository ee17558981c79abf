"""One frozen pass over a loader: the layers' averages, and the targets they should predict."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_hrcam import group
from captum_hrcam.activations import Read
from captum_hrcam.batch import not_taken, score_rows, split_batch, to_device
from captum_hrcam.cache import DataDigest
from captum_hrcam.checks import (
    no_channels_last,
    one_row_per_image,
    same_axes,
    same_shape,
    shallow_to_deep,
)
from captum_hrcam.features import FeatureCollector, Sample, held_out
from captum_hrcam.labels import label_tensor, model_targets, n_label_columns, target_rows
from captum_hrcam.modes import callers_batches
from captum_hrcam.pooling import gap, spatial_variance
from captum_hrcam.tracing import holds_channels_last

Forward = Callable[[tuple[Tensor, ...], tuple[Any, ...], Read], Any]


@dataclass
class FrozenPass:
    """Reads loaders through a frozen model; pools inside its hooks and keeps no feature map.

    Args:
        forward: ``forward(inputs, args, read)`` runs the model and calls ``read(name, f)``.
        layers: the layers' names, in the order of the features.
        targets: "labels" or "model".
        loss: see ``labels.LOSSES``.
        n_classes: the number of the head's outputs; None takes the model's.
        device: where inputs go before the forward pass; None leaves them.
        in_order: whether the last of the layers is taken for the deepest.
        modules: layer name -> module, if the feature maps are the modules' unchanged outputs; empty
            if they are inputs or were reshaped.

    Attributes:
        channels: layer name -> C_l, once a batch has been read.
        resolutions: layer name -> native spatial size.
    """

    forward: Forward
    layers: list[str]
    targets: str
    loss: str
    n_classes: int | None
    device: torch.device | None = None
    in_order: bool = False
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    channels: dict[str, int] = field(default_factory=dict)
    resolutions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _first: dict[str, object] = field(default_factory=dict)

    def read(
        self,
        data: Iterable[Any],
        argument: str,
        collector: FeatureCollector,
        images: Sample | None = None,
        held: Sample | None = None,
        *,
        every: Sample | None = None,
        digest: DataDigest | None = None,
        progress: str | None = None,
    ) -> None:
        """Read all of ``data`` once into ``collector``, and rows of it into samples.

        Args:
            data: batches ``(*inputs, label)``.
            argument: what to call ``data`` in an error.
            collector: receives pooled features, target rows and the model's outputs.
            images: receives inputs and targets of the images that are not held out.
            held: receives inputs and targets of the images that are held out.
            every: receives inputs and targets of every image.
            digest: receives inputs and labels, to recognise the data later.
            progress: the progress bar's text; None draws none.
        """
        for inputs, labels, positions, is_first in self._batches(data, argument, progress):
            try:
                z, within, outputs = self._pool(inputs, argument, positions)
            except TypeError as error:
                if self.channels or "positional argument" not in str(error):
                    raise
                raise not_taken(argument, inputs, labels, error) from error
            y = self._target_rows(labels, outputs)
            if digest is not None:
                digest.add(inputs, labels)
            if not is_first.all():
                positions, z, within, outputs, y = (
                    v[is_first] for v in (positions, z, within, outputs, y)
                )
                inputs = tuple(x[is_first] for x in inputs)
            is_held = held_out(positions)
            collector.add(is_held, z, within, y, outputs)
            keep(images, ~is_held, inputs, y)
            keep(held, is_held, inputs, y)
            keep(every, torch.ones_like(is_held), inputs, y)

    def fingerprint(
        self,
        data: Iterable[Any],
        argument: str,
        digest: DataDigest,
        images: Sample,
        *,
        progress: str | None = None,
    ) -> None:
        """Read all of ``data`` into ``digest`` without the model, to tell if it was read before.

        Args:
            data, argument, progress: as for ``read``.
            digest: receives inputs and labels.
            images: receives inputs and labels, as they came, of the images that are not held out;
                for ``targets="model"`` the labels have no columns.
        """
        for inputs, labels, positions, is_first in self._batches(data, argument, progress):
            n = len(positions)
            y = torch.zeros(n, 0) if labels is None else label_tensor(labels, n)
            digest.add(inputs, labels)
            keep(images, is_first & ~held_out(positions), inputs, y)

    def _batches(
        self, data: Iterable[Any], argument: str, progress: str | None
    ) -> Iterator[tuple[tuple[Tensor, ...], Any, Tensor, Tensor]]:
        """Yield (inputs, labels, positions in all ranks' data, which images are not repeats).

        Positions alternate between ranks, as a DistributedSampler deals images out.
        """
        n, known = 0, group.n_unrepeated(data)
        for batch in callers_batches(tqdm(data, desc=progress, disable=progress is None)):
            inputs, labels = split_batch(batch, argument, self.targets)
            got = {f"of input {i}": tuple(x.shape[1:]) for i, x in enumerate(inputs)}
            same_shape("the shape", argument, got, self._first)
            positions = torch.arange(n, n + len(inputs[0])) * group.size() + group.rank()
            n += len(positions)
            yield inputs, labels, positions, positions < (2**62 if known is None else known)
        if n == 0:
            raise ValueError(
                f"{argument}: it gave no batch; expected at least one. A generator gives its "
                "batches once: make it anew, or pass what can be read again."
            )

    def _pool(
        self, inputs: tuple[Tensor, ...], argument: str, positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Averages and variances over cells (n, N), the model's outputs (n, K'), on the CPU."""
        n = len(inputs[0])
        pooled: dict[str, Tensor] = {}
        varied: dict[str, Tensor] = {}
        sizes: dict[str, tuple[int, ...]] = {}

        def read(name: str, f: Tensor) -> None:
            one_row_per_image(name, f, n)
            same_axes(argument, inputs[0].shape[2:], f.shape[2:], f"layer {name!r}")
            are_last = name in self.modules and holds_channels_last(self.modules[name], f)
            no_channels_last(name, f, inputs[0], are_last)
            same_shape("the channels of layer", argument, {name: f.shape[1]}, self._first)
            sizes[name] = tuple(f.shape[2:])
            pooled[name] = gap(f)
            varied[name] = spatial_variance(f, pooled[name])

        outputs = score_rows(self.forward(to_device(inputs, self.device), (), read), n)
        if self.in_order:
            shallow_to_deep(self.layers, sizes)
        # In the order in which layers were named: they may run in another, as coarse to fine.
        self.channels = {name: pooled[name].shape[1] for name in self.layers}
        self.resolutions = {name: sizes[name] for name in self.layers}
        z, within = (
            torch.cat([d[name].cpu() for name in self.layers], 1) for d in (pooled, varied)
        )
        finite = (torch.isfinite(z) & torch.isfinite(within)).all(1)
        if not finite.all():
            raise ValueError(
                f"{argument}: NaN or infinity in the pooled features, first of image "
                f"{positions[~finite][0]} (from 0). Check this input, and the model's weights."
            )
        return z, within, outputs

    def _target_rows(self, labels: object, outputs: Tensor) -> Tensor:
        """(n, K) of one batch, from its labels or from the model's own outputs."""
        k = self._n_outputs(labels, outputs)
        if self.targets == "model":
            if not torch.isfinite(outputs).all():
                raise ValueError(
                    "targets: NaN or infinity in the model's outputs. Check the inputs and the "
                    "model's weights."
                )
            return model_targets(outputs, self.loss)
        return target_rows(labels, len(outputs), k, self.loss)

    def _n_outputs(self, labels: object, outputs: Tensor) -> int:
        """K, the number of the head's outputs, as one batch tells it."""
        if self.targets == "model":
            if outputs.shape[1] == 0:
                raise ValueError(
                    "targets: 'model' needs a model whose output is a tensor of scores (N, K), or "
                    "(N,) for one output. Wrap the model in a function that returns it."
                )
            k = outputs.shape[1]
            if self.n_classes not in (None, k):
                raise ValueError(
                    f"targets: 'model' gives {k} scores an image, for a head of {self.n_classes} "
                    "outputs. Use targets='labels', or leave n_classes out of fit."
                )
        else:
            k = self.n_classes or outputs.shape[1] or n_label_columns(labels, self.loss)
        if k == 0:
            raise ValueError(
                "n_classes: the model's output is no row of scores (N, K), so the number of "
                "classes is unknown. Give HRCAM a function that picks the scores out, as lambda x: "
                "model(x).logits, and the layers as modules; or pass n_classes, and the head is "
                "compared with nothing."
            )
        if k == 1 and self.loss == "cross_entropy":
            raise ValueError(
                "loss: got 'cross_entropy' for a model of one output, which a softmax cannot use. "
                "Use loss='binary_cross_entropy' (one logit) or 'mse'."
            )
        return k


def keep(sample: Sample | None, rows: Tensor, inputs: tuple[Tensor, ...], y: Tensor) -> None:
    """Add some rows of a batch's inputs and targets to a sample, if there is one."""
    if sample is not None:
        sample.add(*(x.detach().cpu()[rows] for x in inputs), y[rows])
