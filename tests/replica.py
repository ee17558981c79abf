"""The paper in slow, obviously right loops, float64: no contraction trick, no hook trick."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def feature_maps(model: nn.Module, layers: dict[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
    """Clones of every layer's output."""
    kept: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(
            lambda m, args, out, name=name: kept.__setitem__(name, out.detach().clone().double())
        )
        for name, module in layers.items()
    ]
    model.eval()
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return {name: kept[name] for name in layers}


def class_map(maps: dict[str, Tensor], weights: dict[str, Tensor], c: int, size) -> Tensor:
    """A^c = sum_i w_i^c up(f_i): every feature map upsampled by itself, then weighted."""
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    n = len(next(iter(maps.values())))
    total = torch.zeros(n, 1, *size, dtype=torch.float64)
    for name, f in maps.items():
        for i in range(f.shape[1]):
            up = F.interpolate(f[:, i : i + 1], size=tuple(size), mode=mode, align_corners=False)
            total += weights[name][c, i].double() * up
    return total


def scores(maps: dict[str, Tensor], weights: dict[str, Tensor], bias: Tensor) -> Tensor:
    """s_c = sum_i w_i^c mean(f_i) + b_c."""
    n, k = len(next(iter(maps.values()))), len(bias)
    result = torch.zeros(n, k, dtype=torch.float64)
    for image in range(n):
        for c in range(k):
            s = bias[c].double()
            for name, f in maps.items():
                for i in range(f.shape[1]):
                    s = s + weights[name][c, i].double() * f[image, i].mean()
            result[image, c] = s
    return result


def evidence_map(maps, training_maps, kept, weights, c: int, size, t: float) -> Tensor:
    """sum_l up(max(0, A_l - (w_l . mean z_l + t sd_l)))."""
    total = 0
    for name in maps:
        a, mean, spread = ordinary(maps, training_maps, kept, weights, c, name)
        total = total + up((a - mean - t * spread).clamp(min=0), size)
    return total


def agreement_map(maps, training_maps, kept, weights, c: int, size) -> Tensor:
    """sum_l sd_l / sum_l sd_l / log(1 + exp(up((A_l - mean) / sd_l))) - log 2."""
    doubt, total = 0, 0
    for name in maps:
        a, mean, spread = ordinary(maps, training_maps, kept, weights, c, name)
        if spread > 0:  # a layer of one cell has no variance over space
            told = torch.log1p(torch.exp(up((a - mean) / spread, size)))
            doubt = doubt + spread / told
            total += spread
    return total / doubt - math.log(2)


def ordinary(maps, training_maps, kept, weights, c: int, name: str):
    """A layer's map, its mean over the training data, and its root mean variance over space in
    those that are kept."""
    train = layer_map(training_maps[name], weights[name][c])
    mean = sum(image.mean() for image in train) / len(train)
    variance = sum(((train[i] - train[i].mean()) ** 2).mean() for i in kept) / len(kept)
    return layer_map(maps[name], weights[name][c]), mean, variance.sqrt()


def up(a: Tensor, size) -> Tensor:
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    return F.interpolate(a, size=tuple(size), mode=mode, align_corners=False)


def layer_map(f: Tensor, w: Tensor) -> Tensor:
    """sum_i w_i f_i at the layer's own resolution, (N, 1, *spatial)."""
    total = torch.zeros_like(f[:, :1])
    for i in range(f.shape[1]):
        total += w[i].double() * f[:, i : i + 1]
    return total
