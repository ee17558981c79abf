"""Time of ``fit`` against one inference pass over the same images, and of the solve alone.

    make bench

The frozen pass is timed on a few images, side by side with inference; the solves are timed on the
features of all ``--images``. The ratio is that of pass and solve together, for that many images.
"""

import argparse
import statistics
import time
import warnings
from pathlib import Path

import torch
from results import table, verdict, write_section
from sklearn.linear_model import LogisticRegression
from timing import machine, seconds
from torch import Tensor, nn
from torchvision.models import get_model

from captum_hrcam import HRCAM, FitReport, find_layers, solvers
from captum_hrcam.labels import loss_per_sample
from captum_hrcam.optimise import minimise

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TARGETS = {"pattern": 1.05, "ridge": 1.05, "auto": 1.25}
PENALTIES = (1.0, 0.1, 0.01)
CLASSES = 8


class Features(nn.Module):
    """A network that costs nothing, with given channels, such as those of a ResNet-50's layers."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.channels = channels
        self.layers = nn.ModuleList(nn.Identity() for _ in channels)
        self.fc = nn.Linear(sum(channels), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.channels, 1)
        for layer, part in zip(self.layers, parts, strict=True):
            layer(part)
        return self.fc(x.flatten(1))


def features(y: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Features correlated like a network's: sixty causes, eight of which tell the class, and
    noise."""
    mixing = torch.randn(60, width, generator=torch.Generator().manual_seed(0)) / 8
    causes = torch.randn(len(y), 60, generator=generator)
    causes[:, :CLASSES] += nn.functional.one_hot(y, CLASSES)
    return causes @ mixing + 0.5 * torch.randn(len(y), width, generator=generator)


def fit_over_inference(options: argparse.Namespace) -> list[list[str]]:
    """A fit's time over that of one inference pass, a row for each solver."""
    torch.manual_seed(0)
    model = get_model("resnet50", weights=None, num_classes=CLASSES).eval().to(DEVICE)
    x = torch.randn(options.timed, 3, options.size, options.size)
    batches = list(zip(x.split(8), (torch.arange(len(x)) % CLASSES).split(8), strict=True))
    layers = find_layers(model, x[:1].to(DEVICE))

    @torch.no_grad()
    def infer() -> None:
        for images, _ in batches:
            model(images.to(DEVICE))

    hrcam = HRCAM(model, list(layers))
    infer()
    rounds = [
        (hrcam.fit(batches, solver="pattern").seconds_pass, seconds(infer))
        for _ in range(options.rounds)
    ]
    pooling = statistics.median(read / inferred for read, inferred in rounds)
    per_image = statistics.median(inferred for _, inferred in rounds) / len(x)
    channels = list(hrcam.report.channels.values())
    found = []
    for solver, target in TARGETS.items():
        report = fit_features(options.images, channels, solver)
        share = report.extra_forwards / options.images
        solve = report.seconds_solve / (per_image * options.images)
        ratio = pooling + share + solve
        cells = [f"{v:.3f}" for v in (pooling, share, solve, ratio)]
        found.append([solver, *cells, *verdict(ratio, target)])
        print(*found[-1], flush=True)
    return found


def fit_features(n: int, channels: list[int], solver: str) -> FitReport:
    """The report of a fit on features that have been computed already."""
    y = torch.arange(n) % CLASSES
    x = features(y, sum(channels), torch.Generator().manual_seed(1))
    model = Features(channels)
    hrcam = HRCAM(model, [f"layers.{i}" for i in range(len(channels))])
    maps = x[:, :, None, None]
    batches = list(zip(maps.split(64), y.split(64), strict=True))
    return hrcam.fit(batches, solver=solver)


def against_scikit_learn(options: argparse.Namespace, width: int) -> list[list[str]]:
    """The penalised losses that both reach, and the ratio of times, at three penalties."""
    y = torch.arange(options.images) % CLASSES
    x = features(y, width, torch.Generator().manual_seed(1))
    x = (x - x.mean(0)) / x.std(0)
    hot = nn.functional.one_hot(y, CLASSES).double()
    rows = []
    for penalty in PENALTIES:
        ours, theirs = [], []
        for _ in range(options.rounds // 3):
            begin = time.perf_counter()
            weight = solvers.ridge(lambda: [(x, hot)], len(x), "cross_entropy", [penalty])[0]
            ours.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            peer = LogisticRegression(C=1 / (penalty * len(x)), max_iter=1000)
            peer.fit(x.numpy(), y.numpy())
            theirs.append(time.perf_counter() - begin)
        losses = [
            penalised(x, hot, w, penalty) for w in (weight, torch.from_numpy(peer.coef_).double())
        ]
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        rows.append([f"{penalty:g}", *(f"{v:.6f}" for v in losses), f"{ratio:.2f}"])
        print(*rows[-1], flush=True)
    return rows


def penalised(x: Tensor, hot: Tensor, weight: Tensor, penalty: float) -> float:
    """The loss that both minimise, with the best bias."""
    scores = x.double() @ weight.T
    bias = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        return loss_per_sample(scores + bias, hot, "cross_entropy").mean()

    minimise(lambda: [loss()], [bias])
    return loss().item() + penalty / 2 * (weight**2).sum().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--timed", type=int, default=32, help="images that are read for the pass")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # random networks agree with nothing
    fits = fit_over_inference(options)
    peers = against_scikit_learn(options, 3904)
    text = [
        f"## Fitting\n\n`python benchmarks/fitting.py`: ResNet-50, {options.size} px, five layers, "
        f"{options.images} images; the pass timed on {options.timed} images, medians of "
        f"{options.rounds} interleaved rounds; {machine()}. Over the time of one inference pass: "
        "the frozen pass, the images that are read again, the solve.",
        table(["solver", "pass", "read again", "solve", "fit", "at most", "met"], fits),
        f'`solver="ridge"` for one penalty beside scikit-learn\'s LogisticRegression (its default '
        f"tolerance), {options.images} x 3,904 features; the penalised loss that each reaches, and "
        "the ratio of times.",
        table(["penalty", "our loss", "scikit-learn's loss", "time ratio"], peers),
    ]
    write_section(Path(__file__).with_name("RESULTS.md"), "fitting", "\n\n".join(text))


if __name__ == "__main__":
    main()
