"""The table of small models that the identities run over."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
GAP = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


class VGGLike(nn.Module):
    """conv, in-place ReLU, pool, twice; ends in GAP and a linear layer."""

    def __init__(self, d: int, k: int = 3) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(CONV[d](2, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.pool1 = POOL[d](2)
        self.stage2 = nn.Sequential(CONV[d](4, 6, 3, padding=1, groups=2), nn.ReLU(inplace=True))
        self.pool2 = POOL[d](2)
        self.stage3 = nn.Sequential(CONV[d](6, 8, 3, padding=1), NORM[d](8), nn.ReLU(inplace=True))
        self.gap = nn.Sequential(GAP[d](1), nn.Flatten())
        self.fc = nn.Linear(8, k)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool2(self.stage2(self.pool1(self.stage1(x))))
        return self.fc(self.gap(self.stage3(x)))


class Residual(nn.Module):
    """Strided residual blocks whose sum is overwritten by an in-place ReLU."""

    def __init__(self, d: int, k: int = 3) -> None:
        super().__init__()
        self.stem = CONV[d](2, 4, 3, padding=1)
        self.conv = CONV[d](4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.down = CONV[d](4, 8, 3, stride=2, padding=1)
        self.gap = nn.Sequential(GAP[d](1), nn.Flatten())
        self.fc = nn.Linear(8, k)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.relu(self.conv(x) + x)
        return self.fc(self.gap(self.down(x).relu_()))


class Depthwise(nn.Module):
    """A strided, dilated, depthwise convolution between pointwise ones."""

    def __init__(self, d: int, k: int = 3) -> None:
        super().__init__()
        self.expand = nn.Sequential(CONV[d](2, 6, 1), nn.SiLU())
        self.depthwise = CONV[d](6, 6, 3, stride=2, dilation=2, groups=6, padding=2)
        self.project = nn.Sequential(nn.GELU(), CONV[d](6, 5, 1))
        self.gap = nn.Sequential(GAP[d](1), nn.Flatten())
        self.fc = nn.Linear(5, k)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.gap(self.project(self.depthwise(self.expand(x)))))


class TwoInputs(nn.Module):
    """Two images of different sizes, a vector and a scale; only the first image has layers."""

    def __init__(self, k: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU())
        self.side = nn.Conv2d(1, 6, 1)
        self.fc = nn.Linear(6, k)

    def forward(self, x: Tensor, side: Tensor, scale: float = 1.0) -> Tensor:
        pooled = self.conv2(self.conv1(x)) * scale
        return self.fc(pooled.mean((2, 3)) + self.side(side).mean((2, 3)))


class ImageAndTable(nn.Module):
    """An image, and a table of one row for each, (N,) or (N, F), by whose mean it is scaled."""

    def __init__(self, k: int = 3) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(6, k)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        assert len(table) == len(x)
        scale = table.reshape(len(x), -1).mean(1)
        return self.fc(self.conv(x * scale[:, None, None, None]).mean((2, 3)))


@dataclass(frozen=True)
class Case:
    """A model, its layers, and the size of its images (N, 2, *size)."""

    name: str
    build: Callable[[], nn.Module]
    layers: tuple[str, ...]
    size: tuple[int, ...]
    whole_factors: bool = True

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.build()

    def images(self, n: int = 4) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(n, 2, *self.size, generator=generator)


def _cases() -> list[Case]:
    sizes = {1: (16,), 2: (8, 12), 3: (8, 4, 4)}
    odd = {1: (13,), 2: (9, 11), 3: (5, 6, 7)}
    vgg, res = ("stage1", "stage2", "stage3"), ("stem", "conv", "down")
    depth = ("expand", "depthwise", "project")
    cases = []
    for d in (1, 2, 3):
        cases += [
            Case(f"vgg{d}d", lambda d=d: VGGLike(d), vgg, sizes[d]),
            Case(f"residual{d}d", lambda d=d: Residual(d), res, sizes[d]),
            Case(f"depthwise{d}d", lambda d=d: Depthwise(d), depth, sizes[d]),
            Case(f"vgg{d}d-odd", lambda d=d: VGGLike(d), vgg, odd[d], False),
        ]
    return cases


CASES = _cases()
