"""The few images that a cascade learns from, read again each time, a batch at once."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_hrcam.activations import Read
from captum_hrcam.fusion import contract
from captum_hrcam.modes import full_precision

BATCH = 16
FAINT = 1e-6  # share of a layer's largest deviation

Present = tuple[Tensor, ...]  # the image and the class of each pair
ReadModel = Callable[[tuple[Tensor, ...], Read], Any]


@dataclass(frozen=True)
class FewImages:
    """A few images, their layers' standardised channels, and maps of the classes in them.

    Args:
        forward: ``forward(inputs, read)`` runs the model and calls ``read(name, f)``.
        inputs: this rank's inputs, (n, C, *spatial) each, on the CPU.
        present: (n, K), whether a class is in an image.
        means: layer name -> (C_l,) averages over the training data, shallow to deep.
        gains: layer name -> (C_l,), the factors that standardise its channels.
    """

    forward: ReadModel
    inputs: tuple[Tensor, ...]
    present: Tensor
    means: Mapping[str, Tensor]
    gains: Mapping[str, Tensor]

    def batches(self) -> Iterator[tuple[tuple[Tensor, ...], Present]]:
        """Yield (inputs, the pairs of an image and a class that is present in it), some images at a
        time."""
        for rows, inputs in in_batches(self.inputs):
            yield inputs, self.present[rows].nonzero(as_tuple=True)

    def features(self, inputs: tuple[Tensor, ...], layers: Container[str]) -> dict[str, Tensor]:
        """The standardised channels of these layers, all kept: one batch of them fits in memory."""
        features: dict[str, Tensor] = {}

        def read(name: str, f: Tensor) -> None:
            if name in layers:
                features[name] = self.standardised(name, f)

        self.forward(inputs, read)
        return features

    def standardised(self, name: str, f: Tensor) -> Tensor:
        """Channels less their averages, in deviations, so that products lose no digits."""
        mean, gain = (
            values[name].to(f.device, torch.float32).reshape(-1, *[1] * (f.ndim - 2))
            for values in (self.means, self.gains)
        )
        return (f.float() - mean) * gain


def maps_of(
    features: Mapping[str, Tensor], present: Present, head: Mapping[str, Tensor]
) -> list[Tensor]:
    """Each layer's map of each pair of image and class, (pairs, 1, *cells), shallow to deep.

    Args:
        features: layer name -> (n, C_l, *cells), standardised channels.
        present: the pairs.
        head: layer name -> (K, C_l) weights, shallow to deep.
    """
    image, c = present
    maps = []
    for name, weight in head.items():
        f = features[name]
        with full_precision(f.device):  # hooks do this, but these maps are made after them
            maps.append(contract(f[image], weight[c][:, None]))
    return maps


def in_batches(inputs: Sequence[Tensor]) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
    """Yield (which rows, these rows of each input), some rows at a time."""
    for start in range(0, len(inputs[0]), BATCH):
        rows = slice(start, start + BATCH)
        yield rows, tuple(x[rows] for x in inputs)


def gains(deviation: Tensor) -> Tensor:
    """The factors (C,) that standardise a layer's channels: one over their deviations. A channel
    that hardly varies gets 0, as one that is all but dead would explode once it fires.

    Examples::

        >>> gains(torch.tensor([4.0, 0.5, 1e-8, 0.0]))
        tensor([0.2500, 2.0000, 0.0000, 0.0000])
    """
    return torch.where(deviation > FAINT * deviation.max(), 1 / deviation, 0.0)
