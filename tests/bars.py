"""A network whose layers show what a head has learned, and images for it."""

import torch
from torch import nn

LAYERS = ["first", "second"]


class Bars(nn.Module):
    """Two layers whose channels are the image's rows and columns: what is learned can be read."""

    def __init__(self, k: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.second = nn.AvgPool2d(2)
        self.fc = nn.Linear(3, k)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(3)[:, :, None, None])
            self.first.bias.zero_()
            self.fc.weight.copy_(3 * torch.eye(k, 3))
            self.fc.bias.zero_()

    def forward(self, x):
        return self.fc(self.second(self.first(x)).mean((2, 3)))


def bars(n: int = 200, k: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise; channel c bright in images of class c. Returns images and one-hot labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % k
    x = torch.randn(n, 3, 4, 4, generator=generator)
    hot = nn.functional.one_hot(labels, k)
    x[:, :k] += 1.5 * hot[:, :, None, None]
    return x, hot
