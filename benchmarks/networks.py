"""Four small CNNs of the usual families, trained here."""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2
from tqdm.auto import tqdm

WIDTHS = (16, 32, 64, 128)


def conv(n_in: int, n_out: int, stride: int = 1, groups: int = 1, k: int = 3) -> nn.Sequential:
    """Convolution, normalisation, ReLU."""
    layer = nn.Conv2d(n_in, n_out, k, stride, k // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """relu(x + conv conv x), as in ResNet-18."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(n_in, n_out, stride), conv(n_out, n_out)[:2])
        change = stride > 1 or n_in != n_out
        self.skip = conv(n_in, n_out, stride, k=1)[:2] if change else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.skip(x) + self.body(x)).relu_()


class Inverted(nn.Module):
    """Expand, convolve depthwise, project without ReLU, as in MobileNetV2; maps have both signs."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        wide = 3 * n_in
        self.body = nn.Sequential(
            conv(n_in, wide, k=1), conv(wide, wide, stride, groups=wide), conv(wide, n_out, k=1)[:2]
        )
        self.is_residual = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.is_residual else self.body(x)


class Dense(nn.Module):
    """Each layer sees all earlier layers of its block, as in DenseNet."""

    def __init__(self, n_in: int, growth: int, n: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(conv(n_in + i * growth, growth) for i in range(n))

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = torch.cat([x, step(x)], 1)
        return x


def vgg(n_in: int, n_out: int) -> nn.Sequential:
    """Pairs of convolutions, with pooling between the pairs."""
    stages: list[nn.Module] = []
    for a, b in zip((n_in, *WIDTHS), WIDTHS, strict=False):
        stages += [nn.Sequential(conv(a, b), conv(b, b)), nn.MaxPool2d(2)]
    return _classifier(nn.Sequential(*stages[:-1]), WIDTHS[-1], n_out)


def residual(n_in: int, n_out: int) -> nn.Sequential:
    """A stem, then stages of residual blocks at 1/1, 1/2, 1/4 and 1/8."""
    stages: list[nn.Module] = [conv(n_in, 16)]
    for a, b, stride in zip((16, *WIDTHS), WIDTHS, (1, 2, 2, 2), strict=False):
        more = [Residual(b, b, 1)] if stride > 1 else []
        stages.append(nn.Sequential(Residual(a, b, stride), *more))
    return _classifier(nn.Sequential(*stages), WIDTHS[-1], n_out)


def mobile(n_in: int, n_out: int) -> nn.Sequential:
    """Inverted residual blocks; the last layer is a 1x1 convolution with ReLU."""
    stages: list[nn.Module] = [conv(n_in, 12)]
    for a, b in zip((12, 24, 48), (24, 48, 96), strict=True):
        stages.append(nn.Sequential(Inverted(a, b, 2), Inverted(b, b, 1)))
    stages[-1].append(conv(96, 160, k=1))
    return _classifier(nn.Sequential(*stages), 160, n_out)


def dense(n_in: int, n_out: int) -> nn.Sequential:
    """Dense blocks of three layers; between blocks, size and channels are halved."""
    width, growth = 16, 12
    stages: list[nn.Module] = [conv(n_in, width)]
    for i in range(4):
        if i:
            stages.append(nn.Sequential(conv(width, width // 2, k=1), nn.AvgPool2d(2)))
            width //= 2
        stages.append(Dense(width, growth * (i + 1), 3))
        width += 3 * growth * (i + 1)
    return _classifier(nn.Sequential(*stages), width, n_out)


def _classifier(features: nn.Sequential, width: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, n_out))


NETWORKS = {"VGG": vgg, "ResNet": residual, "MobileNet": mobile, "DenseNet": dense}


def train(
    name: str, x: Tensor, y: Tensor, *, epochs: int, seed: int, turn: bool, batch_size: int = 40
) -> nn.Module:
    """Train a network of this name with AdamW under a one-cycle schedule.

    Args:
        turn: whether images may be mirrored (lesions may, digits may not).
    """
    torch.manual_seed(seed)
    model = NETWORKS[name](x.shape[1], int(y.max()) + 1).to(memory_format=torch.channels_last)
    flip = v2.RandomHorizontalFlip(0.5 if turn else 0.0)
    steps = epochs * (len(x) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    with tqdm(total=steps, desc=f"training {name}") as bar:
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(batch_size)[: len(x) // batch_size]:
                batch = flip(shifted(x[rows])).to(memory_format=torch.channels_last)
                loss = F.cross_entropy(model(batch), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
            bar.set_postfix(loss=f"{loss.item():.2f}")
    return model.eval()


def shifted(x: Tensor) -> Tensor:
    """The whole batch moved by up to 4 pixels, edges mirrored."""
    dy, dx = torch.randint(9, (2,)).tolist()
    return F.pad(x, (4, 4, 4, 4), mode="reflect")[..., dy : dy + x.shape[2], dx : dx + x.shape[3]]


def kept(
    options: argparse.Namespace,
    name: str,
    build: Callable[[], nn.Module],
    train: Callable[[], nn.Module],
) -> nn.Module:
    """Train a network, or read it from ``--keep`` if an earlier run of the same size left it there.

    Args:
        name: the file's name, to which the size is added.
        build: returns the untrained network, to load the file into.
        train: returns the trained network.
    """
    if not options.keep:
        return train()
    options.keep.mkdir(parents=True, exist_ok=True)
    path = options.keep / f"{name.replace(' ', '_')}-{options.images}x{options.epochs}.pt"
    if path.exists():
        model = build()
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    model = train()
    torch.save(model.state_dict(), path)
    return model
