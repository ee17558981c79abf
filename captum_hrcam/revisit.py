"""Run a few images through the model again after the frozen pass: to fit a cascade, to measure how
maps usually vary, to choose between heads, and to place the layers' maps."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from captum_hrcam import cascade, choosing, edges, framing, group, placing, spread
from captum_hrcam.activations import Read
from captum_hrcam.asking import Asking, Inputs
from captum_hrcam.batch import score_rows, to_device
from captum_hrcam.cascade import Cascade
from captum_hrcam.choosing import Judge, Verdict
from captum_hrcam.features import OfEachClass, Sample
from captum_hrcam.few_images import in_batches
from captum_hrcam.fitting import Fitted
from captum_hrcam.frozen_pass import Forward
from captum_hrcam.fusion import Fusion, contract
from captum_hrcam.grain import Sizes
from captum_hrcam.head import Head
from captum_hrcam.labels import model_targets, present

SPREAD_IMAGES = 64
SHOWS = 2  # a class has a place if its map varies so many times as much in its images as in others


@dataclass
class Revisit:
    """The images sampled during the frozen pass, and what is measured on them afterwards.

    Args:
        forward: ``forward(inputs, args, read)`` runs the model and calls ``read(name, f)``.
        native_maps: ``native_maps(head, inputs, args, classes, fusion)`` gives each layer's map.
        device: where inputs go; None leaves them.
        solvers: the solvers to try. A cascade takes more images; several solvers need a choice.
        loss: see ``labels.LOSSES``.

    Attributes:
        images: a sample to fit a cascade, of each class in turn, and to measure spreads and
            displacements on.
        held: a sample to choose on, of images that no trial head has seen; None if there is nothing
            to choose.
    """

    forward: Forward
    native_maps: Callable[..., dict[str, Tensor]]
    device: torch.device | None
    solvers: list[str]
    loss: str
    images: Sample = field(init=False)
    held: Sample | None = field(init=False)
    _taken: int = field(init=False, default=0)
    _few: tuple[Tensor, ...] = field(init=False)  # inputs and targets of the spreads
    _autocast: bool = field(init=False)

    def __post_init__(self) -> None:
        self.images = Sample(group.part(SPREAD_IMAGES))
        if "cascade" in self.solvers:  # each class is learned from its own images, and may be rare
            self.images = OfEachClass(group.part(cascade.IMAGES), self.loss)
        self.held = None
        if len(self.solvers) > 1:
            self.held = OfEachClass(group.part(choosing.IMAGES), self.loss)
        self._autocast = torch.is_autocast_enabled("cpu")

    def _read(self, inputs: tuple[Tensor, ...], read: Read) -> Any:
        self._taken += len(inputs[0])
        # A cascade reads during a solve, for which the caller's autocast has been switched off.
        with torch.autocast("cpu", enabled=self._autocast):
            return self.forward(to_device(inputs, self.device), (), read)

    @property
    def forwards(self) -> int:
        """The number of forward passes of single images so far, over all ranks."""
        return group.count(self._taken)

    def cascade_of(self, resolutions: Sizes) -> Cascade | None:
        """A cascade of these layers, not yet fitted; None if no solver is one."""
        if "cascade" not in self.solvers:
            return None
        *inputs, y = self.images.rows()
        leaves_out = len(self.solvers) > 1
        asking = Asking(*self._asked(self.images, edges.IMAGES)) if leaves_out else None
        return Cascade(self._read, tuple(inputs), present(y, self.loss), resolutions, asking)

    def add_spreads(self, fits: Iterable[Fitted]) -> None:
        """Measure how far each head's maps vary over space, for its fusion and its report."""
        fits = list(fits)
        *inputs, y = self.images.rows()
        some = _spread_over(len(y), SPREAD_IMAGES)
        weights, *inputs, y = (x[some] for x in (self.images.weights(), *inputs, y))
        variances: list[dict[str, list[Tensor]]] = [
            {name: [] for name in fit.head.weights} for fit in fits
        ]

        def read(name: str, f: Tensor) -> None:
            for fit, of_head in zip(fits, variances, strict=True):
                of_head[name].append(spread.over_space(contract(f, fit.head.weights[name])))

        outputs = [
            score_rows(self._read(batch, read), len(batch[0])) for _, batch in in_batches(inputs)
        ]
        if y.shape[1] == 0:  # targets="model", with features from a cache: no outputs were seen
            y = model_targets(torch.cat(outputs), self.loss)
        self._few = (*inputs, y)
        for fit, of_head in zip(fits, variances, strict=True):
            by_layer = {name: torch.cat(rows) for name, rows in of_head.items()}
            fit.head.spread = {n: spread.typical(v, weights) for n, v in by_layer.items()}
            # A layer of a single cell shows no place.
            deepest = [n for n, deviation in fit.head.spread.items() if deviation.any()][-1:]
            fit.figures["contrast_layer"] = "".join(deepest)
            fit.figures["contrast"] = (
                spread.contrast(by_layer[deepest[0]], y) if deepest and self.loss != "mse" else None
            )

    def choose(self, trials: dict[str, Head]) -> Verdict:
        """Choose the head whose maps of held-out images mark what the model uses."""

        def attribute(head: Head, inputs: tuple[Tensor, ...], classes: Tensor) -> Tensor:
            return Fusion()(self._maps(head, inputs, classes).values(), inputs[0].shape[2:])

        assert self.held is not None, "there is one solver"
        judge = Judge(*self._asked(self.held, choosing.IMAGES))
        verdict = judge.choose({n: partial(attribute, head) for n, head in trials.items()})
        return group.from_first(verdict)  # further passes depend on it

    def _asked(
        self, sample: Sample, images: int
    ) -> tuple[Callable[[Inputs], Tensor], Inputs, Tensor, str]:
        """What ``Asking`` needs to ask the model about at most so many images of a sample."""

        def outputs(inputs: tuple[Tensor, ...]) -> Tensor:
            return score_rows(self._read(inputs, lambda name, f: None), len(inputs[0]))

        *inputs, y = sample.rows()
        some = _spread_over(len(y), images)
        *inputs, y = (rows[some] for rows in (*inputs, y))
        return outputs, tuple(inputs), y, self.loss

    def place(self, fitted: Fitted, resolutions: Sizes) -> None:
        """Measure how the layers of this head see the images, and where its maps lie beside what
        they mark, for its maps and its report.

        Args:
            fitted: the head that is kept.
            resolutions: layer name -> spatial size, shallow to deep.
        """
        fitted.figures["framing"] = self._framing(fitted.head, resolutions)
        fitted.head.displacement = self._displacement(fitted.head, fitted.figures["contrast"])

    def _framing(self, head: Head, resolutions: Sizes) -> list[framing.Seen]:
        """How the finest layer that counts sees the images; an empty list if it is too coarse, or
        noise cannot be added to the images."""
        finest = next((name for name in resolutions if head.weights[name].any()), None)
        first, *rest = (x[: framing.IMAGES] for x in self.images.rows()[:-1])
        coarse = finest is None or min(resolutions[finest]) < framing.LEAST_CELLS
        if coarse or not first.is_floating_point() or not len(first):
            return []
        found: list[Tensor] = []

        def read(name: str, f: Tensor) -> None:
            if name == finest:  # cloned, as it is used after the hooks
                found.append(f.clone())

        def features(images: Tensor) -> Tensor:
            self._read((images, *rest), read)
            return found.pop()

        return framing.framing(features, first)

    def _displacement(self, head: Head, contrast: Tensor | None) -> dict[str, Tensor]:
        """By how many cells each layer's map lies beside what it marks; an empty dict if the inputs
        have no spatial axes."""
        if self.images.rows()[0].ndim < 3:
            return {}
        inputs, classes, count = self._with_places(contrast)
        displacements = placing.Displacements(
            lambda x, rows: self._maps(head, x, classes[rows]), count
        )
        for rows, batch in in_batches(inputs):
            displacements.add(batch, rows)
        return displacements.found()

    def _with_places(self, contrast: Tensor | None) -> tuple[list[Tensor], Tensor, bool]:
        """The images to measure displacements on, as (inputs, their classes, whether they count).

        They are images of classes whose maps have a place, as far as is known; if there are none,
        images of any class; and if targets tell no class, all images. A rank without such images
        returns one that does not count.
        """
        *inputs, y = self.images.rows()
        if y.shape[1] == 0:  # as in add_spreads
            *inputs, y = self._few
        placed = y if contrast is None else y * ~(contrast < SHOWS)
        rows = torch.arange(len(y))
        for targets in [] if self.loss == "mse" else [placed, y]:
            of_class = (targets.amax(1) > 0.5).nonzero()[:, 0]
            if group.count(len(of_class)):
                y, rows = targets, of_class
                break
        count = len(rows) > 0
        n = min(len(rows), group.part(placing.IMAGES))
        rows = rows[torch.linspace(0, len(rows) - 1, n).long()] if count else torch.arange(1)
        return [x[rows] for x in inputs], y[rows].argmax(1), count

    def _maps(self, head: Head, inputs: tuple[Tensor, ...], classes: Tensor) -> dict[str, Tensor]:
        """Each layer's map of each image's class."""
        self._taken += len(inputs[0])
        return self.native_maps(head, to_device(inputs, self.device), (), classes, Fusion())


def _spread_over(n: int, images: int) -> slice:
    """Rows of a rank's n, evenly spaced, at most its part of so many images. Each rank begins
    elsewhere: in sorted data, the ranks' i-th rows are of the same class."""
    step = max(1, -(-n // group.part(images)))
    return slice(group.rank() % step, None, step)
