"""Contract over channels, then upsample: the two linear maps of HR-CAM.

A^c = sum over l of up( sum over i in l of W[c, i] f_i )          (Shinde et al. 2021)
"""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_hrcam.checks import CHANNEL_AXIS, is_number, one_of, same_axes
from captum_hrcam.pooling import accumulator_dtype, widest_dtype

FUSIONS = ("sum", "evidence", "agreement")
LINEAR_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
INTERPOLATE_MODES = {
    1: (None, "linear", "nearest", "nearest-exact", "area"),
    2: (None, "bilinear", "bicubic", "nearest", "nearest-exact", "area"),
    3: (None, "trilinear", "nearest", "nearest-exact", "area"),
}


def contract(f: Tensor, weight: Tensor) -> Tensor:
    """sum_i W[c, i] f_i.

    Args:
        f: feature maps (N, C, *spatial).
        weight: (K, C), one row per map; or (N, 1, C), each image with its own target.

    Returns:
        Maps (N, K, *spatial), accumulated in float32 or better.
    """
    dtype = accumulator_dtype(f)
    # A view also for channels_last: its two spatial strides merge.
    pixels = f.flatten(2).to(dtype)  # (N, C, h*w)
    on_device = weight.to(dtype).to(f.device, non_blocking=True)  # without waiting for a GPU
    maps = torch.matmul(on_device, pixels)  # (N, K, h*w)
    return maps.reshape(*maps.shape[:2], *f.shape[2:])


def upsample(
    maps: Tensor, size: Sequence[int], mode: str | None = None, *, exact: bool = False
) -> Tensor:
    """Resize maps (N, K, *spatial); by default (bi, tri)linear, align_corners=False.

    Rounding breaks ties: the one value of a flat map becomes many, which metrics would rank.
    ``exact`` computes in float64, which keeps ties.
    """
    size = tuple(size)
    same_axes("inputs", size, maps.shape[2:])
    if tuple(maps.shape[2:]) == size:
        return maps
    mode = mode or LINEAR_MODES[len(size)]
    align_corners = False if mode.endswith(("linear", "cubic")) else None
    values = maps.to(widest_dtype(maps.device)) if exact else maps
    return F.interpolate(values, size=size, mode=mode, align_corners=align_corners).to(maps.dtype)


def add_upsampled(maps: Iterable[Tensor], size: Sequence[int], mode: str | None = None) -> Tensor:
    """sum over layers of up(map). Maps of one size are added first and upsampled once. If there is
    only one size, it is upsampled exactly; sums over several sizes have no ties to keep."""
    by_size: dict[torch.Size, Tensor] = {}
    for layer_map in maps:
        shape = layer_map.shape[2:]
        by_size[shape] = by_size[shape] + layer_map if shape in by_size else layer_map
    total: Tensor | None = None
    for layer_map in by_size.values():
        raised = upsample(layer_map, size, mode, exact=len(by_size) == 1)
        if total is None:
            total = raised.clone() if raised is layer_map else raised
        else:
            total += raised  # in place: a second sum of this size would cost more than the maps
    assert total is not None, "there is a layer"
    return total


def rectify(layer_map: Tensor, ordinary: Tensor) -> Tensor:
    """Evidence: how far a layer's map exceeds its ordinary value, max(0, A_l - ordinary).

    Args:
        layer_map: (N, K, *spatial) at native resolution.
        ordinary: (K,), or (N, 1) with one target per image: the layer's mean over the training
            data plus t spatial standard deviations.
    """
    return (layer_map - _over_space(ordinary, layer_map)).clamp(min=0)


def agree(
    maps: Sequence[Tensor],
    weights: Sequence[float | Tensor],
    size: Sequence[int],
    mode: str | None = None,
) -> Tensor:
    """Weighted harmonic mean of the layers' maps: high only where all layers with weight agree.

    1 / sum_l (w_l / softplus(up(z_l))), with the w_l divided by their sum.

    Args:
        maps: z_l (N, K, *spatial), standardised; see ``standardise``.
        weights: w_l, a number for each layer, or one for each map, (N, K, 1, ...).
        size: the result's spatial size.
        mode: the interpolation mode.

    Returns:
        (N, K, *size), positive; log 2 where every z_l is 0.
    """
    doubts = (
        weight / F.softplus(upsample(z, size, mode)).clamp(min=1e-30)
        for weight, z in zip(weights, maps, strict=True)
    )
    return sum(weights) / functools.reduce(torch.add, doubts)


def standardise(layer_map: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """z_l = (A_l - mean) / spread; shapes as in ``rectify``."""
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    return (layer_map - _over_space(mean, layer_map)) / _over_space(spread, layer_map)


def shares_of_largest(spreads: Sequence[Tensor]) -> Tensor:
    """Each layer's spread as a share of the largest, (L, *shape of each); 1 if all are 0."""
    each = torch.stack(list(spreads))
    largest = each.amax(0)
    return torch.where(largest > 0, each / largest, torch.ones_like(each))


def _over_space(values: Tensor, layer_map: Tensor) -> Tensor:
    """Values (K,), or (N, 1) with one target per image, shaped to broadcast over a layer's maps."""
    shape = values.shape if values.ndim == 2 else (1, *values.shape)
    values = values.reshape(*shape, *[1] * (layer_map.ndim - 2))
    return values.to(layer_map, non_blocking=True)


@dataclass(frozen=True)
class Fusion:
    """How the layers' maps become one map at the input's size.

    Args:
        name: "sum", the paper's; "evidence", the sum of each layer's positive evidence;
            "agreement", the harmonic mean of the layers' standardised maps, each weighted by the
            spread that its map has in the sum.
        interpolate_mode: of ``torch.nn.functional.interpolate``; None is (bi, tri)linear.
        threshold: t of "evidence", in spatial standard deviations.

    Raises:
        ValueError: an unknown name, or a threshold that is not a finite number.
    """

    name: str = "sum"
    interpolate_mode: str | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        one_of("fusion", self.name, FUSIONS)
        if not is_number(self.threshold) or not math.isfinite(self.threshold):
            raise ValueError(f"evidence_threshold: got {self.threshold!r}, expected a number.")

    def sizes(self, inputs: Sequence[Tensor]) -> list[tuple[int, ...]]:
        """The maps' sizes, one for each input, checked against the interpolation mode."""
        for i, x in enumerate(inputs):
            if not 3 <= x.ndim <= 5:
                is_image = i == 0 and x.ndim == 2
                remedy = CHANNEL_AXIS if is_image else "Pass it as additional_forward_args."
                raise ValueError(
                    f"inputs: got one of shape {tuple(x.shape)}, expected (N, C, *spatial) with "
                    f"one to three spatial dimensions. {remedy}"
                )
            one_of("interpolate_mode", self.interpolate_mode, INTERPOLATE_MODES[x.ndim - 2])
        return [tuple(x.shape[2:]) for x in inputs]

    def layer(self, layer_map: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        """What a layer contributes, at its own resolution, given its ordinary mean and spread."""
        if self.name == "evidence":
            return rectify(layer_map, mean + self.threshold * spread)
        if self.name == "agreement":
            return standardise(layer_map, mean, spread)
        return layer_map

    def __call__(
        self, maps: Iterable[Tensor], size: Sequence[int], spreads: Sequence[Tensor] = ()
    ) -> Tensor:
        """Fuse native layer maps (N, K, *spatial), shallow to deep, into (N, K, *size).

        Args:
            maps: what ``layer`` returned for each layer.
            size: the result's spatial size.
            spreads: each layer map's spread, for "agreement"; shapes as in ``rectify``.
        """
        if self.name == "agreement":
            maps = list(maps)
            weights = [
                _over_space(w, a) for w, a in zip(shares_of_largest(spreads), maps, strict=True)
            ]
            # Zero where every layer is ordinary, so that a picture shows what is beyond it.
            fused = agree(maps, weights, size, self.interpolate_mode)
            return fused.sub_(math.log(2)).contiguous()
        return add_upsampled(maps, size, self.interpolate_mode).contiguous()
