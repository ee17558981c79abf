"""The head: one linear layer on pooled features, and what its maps are measured against."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from captum_hrcam.modes import full_precision


@dataclass
class Head:
    """s = W z + b on the concatenated averages z of all layers.

    Attributes:
        weights: layer name -> (K, C_l), float64 on the CPU.
        bias: (K,).
        mean_score: layer name -> (K,), what the layer gives each class on average over the
            training data, w_l . mean(z_l).
        spread: layer name -> (K,), typical standard deviation of the layer's map over space,
            before the map is moved back by its displacement.
        displacement: layer name -> (axes,), by how many cells the layer's map lies beside what it
            marks; an empty dict if it was not measured.
        centred: whether weights are centred over classes.
        loss: the loss it was fitted with, which determines what its scores mean.
        fingerprint: (tensors,), of the model that it was fitted on; empty if that is not known.
    """

    weights: dict[str, Tensor]
    bias: Tensor
    mean_score: dict[str, Tensor] = field(default_factory=dict)
    spread: dict[str, Tensor] = field(default_factory=dict)
    displacement: dict[str, Tensor] = field(default_factory=dict)
    centred: bool = False
    loss: str = "cross_entropy"
    fingerprint: Tensor = field(default_factory=lambda: torch.zeros(0, device="cpu"))

    @property
    def n_outputs(self) -> int:
        """K."""
        return len(self.bias)

    def scores(self, z: Mapping[str, Tensor]) -> Tensor:
        """{layer: (N, C_l)} -> (N, K); the layers' products are added in the features' dtype."""
        first = next(iter(z.values()))
        total = self.bias.to(first)
        with full_precision(first.device):
            for name, weight in self.weights.items():
                total = total + (z[name] @ weight.to(z[name]).T).to(first)
        return total

    def renamed(self, layers: list[str]) -> "Head":
        """The same head under other layer names, in order."""
        old = list(self.weights)

        def rename(values: dict[str, Tensor]) -> dict[str, Tensor]:
            return {new: values[name] for new, name in zip(layers, old, strict=True) if values}

        return replace(
            self,
            weights=rename(self.weights),
            mean_score=rename(self.mean_score),
            spread=rename(self.spread),
            displacement=rename(self.displacement),
        )


def for_classes(values: Tensor, classes: Tensor | None) -> Tensor:
    """Rows of (K, ...): all for None; (1, ...) for one class; (N, 1, ...) for one per image."""
    if classes is None:
        return values
    return values[classes] if len(classes) == 1 else values[classes][:, None]


def fold(weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """W (z - mean) / scale + b as W' z + b', so that the map uses raw feature maps."""
    folded = weight / scale
    return folded, bias - folded @ mean


def centre(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract the mean over classes: a softmax is unchanged, its maps become unique."""
    return weight - weight.mean(0), bias - bias.mean()


def split_layers(weight: Tensor, channels: Mapping[str, int]) -> dict[str, Tensor]:
    """(K, N) -> {layer: (K, C_l)}."""
    parts = torch.split(weight, list(channels.values()), dim=1)
    return {name: part.contiguous() for name, part in zip(channels, parts, strict=True)}
