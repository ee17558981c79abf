"""A few training images once more through the frozen model: a cascade, the ordinary, a choice."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from captum_hrcam import cascade, choosing, group
from captum_hrcam.cascade import Cascade
from captum_hrcam.choosing import Trial, Verdict
from captum_hrcam.features import Sample
from captum_hrcam.frozen_pass import Forward, Read, score_rows, to_device
from captum_hrcam.fusion import Fusion, contract
from captum_hrcam.head import Head

SPREAD_IMAGES = 64
BATCH = 16


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

    def __post_init__(self) -> None:
        is_local = "cascade" in self.solvers
        self.images = Sample(group.part(cascade.IMAGES if is_local else SPREAD_IMAGES))
        self.held = Sample(group.part(choosing.IMAGES)) if len(self.solvers) > 1 else None

    def _read(self, inputs: tuple[Tensor, ...], read: Read) -> Any:
        self._taken += len(inputs[0])
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

    def add_spreads(self, heads: Iterable[Head]) -> None:
        """Give each head its maps' spread, the root mean spatial variance of each layer's map."""
        heads = list(heads)
        *inputs, _ = self.images.rows()
        step = -(-len(inputs[0]) // group.part(SPREAD_IMAGES))
        inputs = [x[::step] for x in inputs]

        def read(name: str, f: Tensor) -> None:
            for head in heads:
                maps = contract(f, head.weights[name]).flatten(2).double()
                total = maps.var(2, correction=0).sum(0).cpu()
                head.spread[name] = head.spread.get(name, 0) + total

        for batch in _split(inputs):
            self._read(batch, read)
        n = group.count(len(inputs[0]))
        for head in heads:
            head.spread = {name: (group.total(v) / n).sqrt() for name, v in head.spread.items()}

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


def _split(inputs: list[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    for rows in torch.arange(len(inputs[0])).split(BATCH):
        yield tuple(x[rows] for x in inputs)
