"""A small CNN, methods on it, and simulated images with masks that they are evaluated on."""

import itertools

import numpy as np
import torch
from captum.attr import LayerGradCam, Saliency
from torch import nn

from captum_hrcam.datasets import SimulatedPathology
from captum_hrcam.evaluation import Evaluation

N = 12
# In float64, convolutions of other batch sizes do not move a pixel across a threshold.
DATA = SimulatedPathology(N, 32, transform=torch.Tensor.double)


def cnn(seed: int = 0) -> nn.Sequential:
    """Two layers of the same channels, the deeper one before global average pooling."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(6, 2),
    ).double()


def methods_of(model: nn.Sequential) -> dict[str, object]:
    return {"Grad-CAM": LayerGradCam(model, model[3]), "gradients": Saliency(model)}


def whole() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
    """All images, labels, masks and kinds."""
    images, labels = zip(*(DATA[i] for i in range(N)), strict=True)
    masks = torch.stack([DATA.mask(i) for i in range(N)])
    return torch.stack(images), torch.tensor(labels), masks, [DATA.kind(i) for i in range(N)]


def batches(*sizes: int) -> list[tuple[object, ...]]:
    """The same in batches of these sizes."""
    images, labels, masks, kinds = whole()
    edges = [0, *np.cumsum(sizes).tolist()]
    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    return [(images[p], labels[p], masks[p], kinds[p]) for p in parts]


def of_set(result: Evaluation, method: str) -> dict[str, float]:
    rows = result.pooled[result.pooled["method"] == method]
    return dict(zip(rows["metric"], rows["value"], strict=True))


def same(a: Evaluation, b: Evaluation) -> None:
    """Equal but for the rounding of convolutions over another batch."""
    for name in ("frame", "pooled"):
        x, y = getattr(a, name), getattr(b, name)
        keys = [column for column in x.columns if column != "value"]
        assert x[keys].equals(y[keys])
        np.testing.assert_allclose(x["value"], y["value"], atol=1e-6)
