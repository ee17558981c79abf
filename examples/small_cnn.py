"""
The small network of these examples
===================================

This is not an example, but the data, network and training that the examples share, so that each of
them shows its subject alone. Any trained network of yours will do as well.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from captum_hrcam.datasets import SimulatedPathology

PARTS = {
    1: (nn.Conv1d, nn.BatchNorm1d, nn.MaxPool1d, nn.AdaptiveAvgPool1d),
    2: (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d),
    3: (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d, nn.AdaptiveAvgPool3d),
}


def lesions(n: int, seed: int, contrast: float = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Simulated brain slices (n, 1, 64, 64), labels (n,), masks (n, 64, 64).

    Every second slice has a lesion. Nothing is trained or fitted on masks.
    """
    data = SimulatedPathology(n, size=64, seed=seed, contrast=contrast)
    images = torch.stack([data[i][0] for i in range(n)])
    return images, torch.arange(n) % 2, torch.stack([data.mask(i) for i in range(n)])


def small_cnn(n_out: int, widths: tuple[int, ...] = (8, 16, 32, 64), ndim: int = 2) -> nn.Module:
    """Stages of convolution, normalisation and ReLU, each at half the resolution of the one before.

    Args:
        n_out: the number of outputs.
        widths: the number of channels of each stage.
        ndim: the number of spatial dimensions, 1 to 3.
    """
    conv, norm, pool, average = PARTS[ndim]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (a, b) in enumerate(zip((1, *widths), widths, strict=False), start=1):
        if i > 1:
            layers[f"pool{i - 1}"] = pool(2)
        convolution = conv(a, b, 3, padding=1, bias=False)
        layers[f"stage{i}"] = nn.Sequential(convolution, norm(b), nn.ReLU())
    layers |= {"gap": average(1), "flatten": nn.Flatten()}
    layers["classifier"] = nn.Linear(widths[-1], n_out)
    model = nn.Sequential(layers)
    # Small convolutions are twice as fast on a CPU with the channels last.
    return model.to(memory_format=torch.channels_last) if ndim == 2 else model


def train(
    model: nn.Module, x: Tensor, y: Tensor, epochs: int = 12, batch_size: int = 40, lr: float = 1e-2
) -> nn.Module:
    """Train with AdamW under a one-cycle schedule. If ``y`` holds rows of floats, these are several
    labels per image."""
    several = y.is_floating_point()
    criterion = nn.BCEWithLogitsLoss() if several else nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    steps = len(x) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch_size)[:steps]:
            loss = criterion(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()
