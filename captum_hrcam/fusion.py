"""Contract over channels, then upsample: the two linear maps of HR-CAM.

A^c = sum over l of up( sum over i in l of W[c, i] f_i )          (Shinde et al. 2021)
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_hrcam.activations import accumulator_dtype

LINEAR_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
INTERPOLATE_MODES = ("nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear")


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
    with torch.autocast(f.device.type, enabled=False):
        maps = torch.matmul(weight.to(dtype), pixels)  # (N, K, h*w)
    return maps.reshape(f.shape[0], -1, *f.shape[2:])


def upsample(maps: Tensor, size: Sequence[int], mode: str | None = None) -> Tensor:
    """Maps (N, K, *spatial) at another size; by default (bi, tri)linear, align_corners=False."""
    size = tuple(size)
    if tuple(maps.shape[2:]) == size:
        return maps
    mode = mode or LINEAR_MODES[len(size)]
    align_corners = None if mode.startswith("nearest") else False
    return F.interpolate(maps, size=size, mode=mode, align_corners=align_corners)


def add_upsampled(maps: Iterable[Tensor], size: Sequence[int], mode: str | None = None) -> Tensor:
    """sum over layers of up(map): layers of one size are added first, then upsampled once."""
    by_size: dict[torch.Size, Tensor] = {}
    for layer_map in maps:
        shape = layer_map.shape[2:]
        by_size[shape] = by_size[shape] + layer_map if shape in by_size else layer_map
    return torch.stack([upsample(m, size, mode) for m in by_size.values()]).sum(0)


def rectify(layer_map: Tensor, ordinary: Tensor) -> Tensor:
    """Evidence: what a layer says for the class beyond the ordinary, max(0, A_l - ordinary).

    Args:
        layer_map: (N, K, *spatial) at native resolution.
        ordinary: (K,), or (N, 1) with one target per image; the layer's mean over the training
            data plus t spatial standard deviations.
    """
    shape = ordinary.shape if ordinary.ndim == 2 else (1, *ordinary.shape)
    ordinary = ordinary.reshape(*shape, *[1] * (layer_map.ndim - 2))
    return (layer_map - ordinary).clamp(min=0)
