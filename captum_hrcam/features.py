"""Pooled features of all images: their moments, and the rows kept (a fair sample, or all)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from captum_hrcam import group
from captum_hrcam.labels import present
from captum_hrcam.moments import Moments

GOLDEN = (5**0.5 - 1) / 2
MAX_SAMPLE = 10_000  # images used for choices, calibration and figures, over all ranks
CHUNK_BYTES = 2**24


class Kept(Protocol):
    """Keeps rows of several columns: a sample of them, or all, in memory or on disk. ``forget``
    releases what was read from disk; it is None for rows in memory."""

    def add(self, *rows: Tensor) -> None: ...

    def rows(self) -> tuple[Tensor, ...]: ...

    @property
    def forget(self) -> Callable[[], None] | None: ...


class Sample:
    """Keeps at most ``size`` rows, a fair random sample of all that were added, in their order.

    Every row draws a random key, and the rows with the smallest keys stay; the generator is the
    sample's own. Ranks draw apart, as their i-th rows may be neighbours in sorted data. Memory is
    at most twice ``size`` rows and a batch. A size of None keeps all rows. Any tensor with rows
    will do.
    """

    forget = None

    def __init__(self, size: int | None) -> None:
        self.size = size
        self._generator = torch.Generator().manual_seed(group.rank())
        self._batches: list[tuple[Tensor, ...]] = []
        self._held = 0

    def add(self, *rows: Tensor) -> None:
        """Take one batch: tensors, each with one row per image."""
        batch = len(rows[0])
        key = torch.rand(batch, generator=self._generator)
        self._batches.append((key, *rows))
        self._held += batch
        if self.size is not None and self._held > 2 * self.size:
            self._thin()

    def _thin(self) -> None:
        """Leave the rows that stay, as one batch. No more than twice ``size`` rows are held, so
        copies are made batch by batch: from the last, as the first is large and needs room."""
        sizes = [len(batch[0]) for batch in self._batches]
        if self.size is not None and sum(sizes) > self.size:
            stay = torch.zeros(sum(sizes), dtype=torch.bool)
            stay[self._order()[: self.size]] = True
            for i, rows in reversed(list(enumerate(stay.split(sizes)))):
                self._batches[i] = tuple(column[rows] for column in self._batches[i])
        if len(sizes) > 1:
            self._batches = [tuple(map(torch.cat, zip(*self._batches, strict=True)))]
        self._held = len(self._batches[0][0])

    def _order(self) -> Tensor:
        """The rows in the order in which they are kept."""
        return self._column(0).argsort()

    def _column(self, i: int) -> Tensor:
        return torch.cat([batch[i] for batch in self._batches])

    def rows(self) -> tuple[Tensor, ...]:
        """The rows kept, in the columns that were added; joined once, however often read."""
        self._thin()
        return self._batches[0][1:]

    def weights(self) -> Tensor:
        """How many of all rows each row kept stands for, up to a factor, (n,)."""
        return torch.ones(len(self.rows()[0]))


class OfEachClass(Sample):
    """Keeps rows of each class in turn: one of each, then a second of each, and so on, so that a
    rare class is seen. In a turn, each rank begins with the class that the rank before it ends
    with, so that all of them are seen where a rank has no room for one of each. Of several labels
    per image, each label is a class, and so is none of them; an image comes with whichever of its
    labels is first to want another.

    Args:
        size: rows to keep.
        loss: see ``labels.LOSSES``; the last column that is added are targets (n, K).
    """

    def __init__(self, size: int, loss: str) -> None:
        super().__init__(size)
        self._loss = loss
        self._counts: Tensor | int = 0  # of rows of each class, and of none

    def add(self, *rows: Tensor) -> None:
        """Take one batch: tensors, each with one row per image."""
        self._counts = self._counts + self._shown(rows[-1]).sum(0)
        super().add(*rows)

    def weights(self) -> Tensor:
        """How many of all rows each row kept stands for, (n,)."""
        self._thin()
        by_key, shown, turn = self._turns()
        # Of each class as many are kept as there were turns, and a row for any of its classes.
        of_class = (self._counts / turn.max()).clamp(min=1)
        weights = torch.empty(len(turn))
        weights[by_key] = torch.where(shown, of_class, torch.inf).amin(1)
        return weights

    def _shown(self, y: Tensor) -> Tensor:
        """Which classes a row shows, or that it shows none, (n, K + 1) bool."""
        shown = present(y, self._loss)
        return torch.cat([shown, ~shown.any(1, keepdim=True)], 1)

    def _turns(self) -> tuple[Tensor, Tensor, Tensor]:
        """The rows in the order of their keys; what they show, and in which turn each comes."""
        by_key = super()._order()
        shown = self._shown(self._column(-1)[by_key])
        return by_key, shown, shown.cumsum(0).masked_fill(~shown, len(shown)).amin(1)

    def _order(self) -> Tensor:
        by_key, shown, turn = self._turns()
        k, before = shown.shape[1], group.rank() * (self.size or 0)
        place = (torch.randperm(k, generator=torch.Generator().manual_seed(0)) - before) % k
        takes_turn = shown & (shown.cumsum(0) == turn[:, None])
        first = place.expand_as(shown).masked_fill(~takes_turn, k).amin(1)
        return by_key[(turn * (k + 1) + first).argsort(stable=True)]


@dataclass
class Features:
    """Rows of pooled features with their targets and the model's own outputs."""

    held: Tensor  # (n,) bool, held out
    z: Tensor  # (n, N)
    y: Tensor  # (n, K)
    outputs: Tensor  # (n, K'); K' = 0 if the model's output is not rows of scores
    forget: Callable[[], None] | None = None  # releases rows that were read from disk

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, rows: Tensor | slice) -> "Features":
        return Features(self.held[rows], self.z[rows], self.y[rows], self.outputs[rows])

    def chunks(self) -> Iterator["Features"]:
        """All rows, some megabytes at a time, so that no step copies everything."""
        step = max(1, CHUNK_BYTES // (4 * self.z.shape[1]))
        for start in range(0, max(1, len(self)), step):  # one empty chunk if there are no rows
            yield self[start : start + step]
            if self.forget is not None:
                self.forget()

    def less_mean(self, moments: Moments, *, scaled: bool) -> Iterator[Tensor]:
        """z less its mean, (n, N) in float32, some rows at a time; if ``scaled`` divided by its
        scale, and 0 where the average does not vary."""
        # Rounding the mean moves all rows alike, and the bias absorbs that.
        mean, factor = moments.mean_z.float(), torch.ones_like(moments.mean_z)
        if scaled:
            factor = moments.informative / moments.scale
        for part in self.chunks():
            yield (part.z.float() - mean).mul_(factor.float())

    def scores(self, weight: Tensor, bias: Tensor) -> Tensor:
        """W z + b in float64, (n, K)."""
        return torch.cat([part.z.double() @ weight.T + bias for part in self.chunks()])

    def layer_scores(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """w_l z_l of each layer, {layer: (n, K)}, in float64."""
        widths = [w.shape[1] for w in weights.values()]
        found: dict[str, list[Tensor]] = {name: [] for name in weights}
        for part in self.chunks():
            for (name, w), z in zip(weights.items(), part.z.split(widths, 1), strict=True):
                found[name].append(z.double() @ w.T)
        return {name: torch.cat(scores) for name, scores in found.items()}

    def sample(self, size: int) -> "Features":
        """At most ``size`` of the rows, drawn fairly, in their order."""
        if len(self) <= size:
            return self
        drawn = torch.zeros(len(self), dtype=torch.bool)
        drawn[torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:size]] = True
        parts, start = [], 0
        for part in self.chunks():  # not row by row: each row would map megabytes of a file
            parts.append(part[drawn[start : start + len(part)]])
            start += len(part)
        held, z, y, outputs = map(
            torch.cat, zip(*((p.held, p.z, p.y, p.outputs) for p in parts), strict=True)
        )
        return Features(held, z, y, outputs)


@dataclass
class FeatureCollector:
    """Collects batches of pooled features: the moments of all images, and the rows ``kept`` keeps.

    A fifth of the images, determined by their positions in the data, is held out.
    """

    kept: Kept = field(default_factory=lambda: Sample(group.part(MAX_SAMPLE)))
    by_part: dict[bool, Moments] = field(default_factory=dict)  # held out? -> moments

    def add(self, held: Tensor, z: Tensor, within: Tensor, y: Tensor, outputs: Tensor) -> None:
        """Take one batch.

        Args:
            held: (B,) bool, which images are held out.
            z: averages (B, N).
            within: variances over the cells (B, N).
            y: targets (B, K).
            outputs: the model's outputs (B, K').
        """
        for is_held, rows in ((False, ~held), (True, held)):
            if is_held not in self.by_part:
                self.by_part[is_held] = Moments.zeros(z.shape[1], y.shape[1])
            if rows.any():
                self.by_part[is_held] += Moments.of(z[rows], y[rows], within[rows])
        self.kept.add(held, z, y, outputs)

    @property
    def n(self) -> int:
        """Images taken so far."""
        return sum(moments.n for moments in self.by_part.values())

    def rows(self) -> Features:
        """Every row kept."""
        held, z, y, outputs = self.kept.rows()
        return Features(held, z, y, outputs, self.kept.forget)

    def moments(self) -> tuple[Moments, Moments]:
        """The moments of every image, and of those that are not held out, over all ranks."""
        fitted, held = (self.by_part[is_held].over_ranks() for is_held in (False, True))
        return fitted + held, fitted


def held_out(positions: Tensor) -> Tensor:
    """Which of the images at these positions in the data are held out, a fifth of them: (n,) bool.

    Multiples of the golden ratio spread evenly and follow no period. Every fifth image, by
    contrast, would come from just one or two classes wherever ten classes take turns.
    """
    return positions.double() * GOLDEN % 1 < 0.2
