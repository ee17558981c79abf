"""The paper in slow, obviously right loops, float64: no contraction trick, no hook trick."""

import itertools
import math
from typing import Any

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


def peaks(a: Tensor) -> Tensor:
    """((A - mean A)+)^2, without its mean and of norm 1."""
    above = torch.zeros_like(a)
    for place in itertools.product(*map(range, a.shape)):
        above[place] = max(0.0, (a[place] - a.mean()).item()) ** 2
    above -= above.mean()
    return above / (above**2).sum().sqrt()


def placed_maps(hrcam: Any, x: Tensor) -> dict[str, Tensor]:
    """Feature maps, each read where its layer's displacement says, its mean as before."""
    maps = feature_maps(hrcam.forward_func, hrcam.layers, x)
    found = hrcam.head.displacement
    return {name: moved(f, found[name].tolist()) if found else f for name, f in maps.items()}


def moved(f: Tensor, cells: list[float]) -> Tensor:
    """f(q + cells), between the corners around that place; beyond an edge, its outermost cell."""
    result = torch.zeros_like(f)
    for q in itertools.product(*map(range, f.shape[2:])):
        at = [i + d for i, d in zip(q, cells, strict=True)]
        for corner in itertools.product(*[(math.floor(a), math.floor(a) + 1) for a in at]):
            share = math.prod(1 - abs(a - i) for a, i in zip(at, corner, strict=True))
            inside = [min(max(i, 0), n - 1) for i, n in zip(corner, f.shape[2:], strict=True)]
            result[(..., *q)] += share * f[(..., *inside)]
    space = tuple(range(2, f.ndim))
    return result + f.mean(space, keepdim=True) - result.mean(space, keepdim=True)


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
