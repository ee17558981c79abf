"""A few training images once more through the frozen model: a cascade, the ordinary, a choice."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from captum_hrcam import cascade, choosing, group, spread
from captum_hrcam.cascade import Cascade, in_batches
from captum_hrcam.choosing import Trial, Verdict
from captum_hrcam.features import Sample
from captum_hrcam.fitting import Fitted
from captum_hrcam.frozen_pass import Forward, Read, score_rows, to_device
from captum_hrcam.fusion import Fusion, contract
from captum_hrcam.head import Head
from captum_hrcam.labels import model_targets

SPREAD_IMAGES = 64


@dataclass
class Revisit:
    """Samples of the images, taken by the way in the frozen pass, and the model to read them with.

    Args:
        forward: ``forward(inputs, args, read)`` runs the model and calls ``read(name, f)``.
        native_maps: ``native_maps(head, inputs, args, classes, fusion)`` gives each layer's map.
        device: where inputs go; None leaves them.
        solvers: those to be tried; a cascade takes more images, several ask for a choice.
        loss: see ``labels.LOSSES``.

    Attributes:
        images: to fit a cascade and to measure spreads on.
        held: to choose on, images that no trial head has seen; None where nothing is chosen.
        local: what fits a cascade, once the images have been read; None without one.
    """

    forward: Forward
    native_maps: Callable[..., dict[str, Tensor]]
    device: torch.device | None
    solvers: list[str]
    loss: str
    images: Sample = field(init=False)
    held: Sample | None = field(init=False)
    local: Cascade | None = field(init=False, default=None)
    _taken: int = field(init=False, default=0)
    _autocast: bool = field(init=False)

    def __post_init__(self) -> None:
        is_local = "cascade" in self.solvers
        self.images = Sample(group.part(cascade.IMAGES if is_local else SPREAD_IMAGES))
        self.held = Sample(group.part(choosing.IMAGES)) if len(self.solvers) > 1 else None
        self._autocast = torch.is_autocast_enabled("cpu")

    def _read(self, inputs: tuple[Tensor, ...], read: Read) -> Any:
        self._taken += len(inputs[0])
        # A cascade reads in the midst of a solve, which has switched the caller's autocast off.
        with torch.autocast("cpu", enabled=self._autocast):
            return self.forward(to_device(inputs, self.device), (), read)

    @property
    def forwards(self) -> int:
        """Forward passes of single images taken so far, by all ranks."""
        return group.count(self._taken)

    def prepare(self, resolutions: dict[str, tuple[int, ...]]) -> None:
        """Have ``local`` ready, where a solver asks for it; the images have been read."""
        if "cascade" in self.solvers:
            *inputs, y = self.images.rows()
            is_a_choice = len(self.solvers) > 1
            self.local = Cascade(self._read, tuple(inputs), y, resolutions, is_a_choice)

    def add_spreads(self, fits: Iterable[Fitted]) -> None:
        """How far the maps of each head vary, for its fusion and for its report."""
        fits = list(fits)
        *inputs, y = self.images.rows()
        step = -(-len(y) // group.part(SPREAD_IMAGES))
        inputs, y = [x[::step] for x in inputs], y[::step]
        variances: list[dict[str, list[Tensor]]] = [
            {name: [] for name in fit.head.weights} for fit in fits
        ]

        def read(name: str, f: Tensor) -> None:
            for fit, of_head in zip(fits, variances, strict=True):
                of_head[name].append(spread.over_space(contract(f, fit.head.weights[name])))

        outputs = [
            score_rows(self._read(batch, read), len(batch[0])) for _, batch in in_batches(inputs)
        ]
        if y.shape[1] == 0:  # the model's own, and it has not run: the features came from a cache
            y = model_targets(torch.cat(outputs), self.loss)
        for fit, of_head in zip(fits, variances, strict=True):
            by_layer = {name: torch.cat(rows) for name, rows in of_head.items()}
            fit.head.spread = {name: spread.typical(v) for name, v in by_layer.items()}
            deepest = list(by_layer.values())[-1]
            is_real = self.loss == "mse"
            fit.figures["contrast"] = None if is_real else spread.contrast(deepest, y)

    def choose(self, trials: dict[str, Head]) -> Verdict:
        """The head whose maps of held-out images mark what the model uses."""

        def outputs(inputs: tuple[Tensor, ...]) -> Tensor:
            given = self._read(inputs, lambda name, f: None)
            return score_rows(given, len(inputs[0]))

        def attribute(head: Head, inputs: tuple[Tensor, ...], classes: Tensor) -> Tensor:
            fuse = Fusion()
            self._taken += len(inputs[0])
            maps = self.native_maps(head, to_device(inputs, self.device), (), classes, fuse)
            return fuse(maps.values(), inputs[0].shape[2:])

        assert self.held is not None, "there is one solver"
        *images, y = self.held.rows()
        trial = Trial(outputs, tuple(images), y, self.loss)
        return trial.choose({name: partial(attribute, head) for name, head in trials.items()})
