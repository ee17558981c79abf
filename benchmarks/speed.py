"""Time of HR-CAM's maps against a bare forward pass and its peers, side by side in one run.

make bench
"""

import argparse
import functools
import itertools
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torchcam.methods
from captum.attr import LayerAttribution, LayerGradCam
from peers import of_grad_cam, of_torchcam
from pytorch_grad_cam import GradCAMPlusPlus
from results import table, verdict, write_section
from timing import interleaved, machine
from torch import Tensor, nn
from torchvision.models import get_model

from captum_hrcam import HRCAM, find_layers
from captum_hrcam.fusion import LINEAR_MODES

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLASSES = 8
CALLS = 20  # calls of a tiny network in one timing
# (what is timed, against what): the largest ratio allowed
TARGETS = {
    ("attribute", "bare forward"): 1.03,
    ("class_maps, 8 classes", "bare forward"): 1.06,
    ("native_maps, 1,000 classes", "bare forward"): 2.0,
    ("attribute", "Captum LayerGradCam, last layer"): 0.95,
    ("attribute", "torchcam LayerCAM, 4 layers fused"): 0.5,
    ("attribute", "grad-cam GradCAM++, 5 layers fused"): None,
    ("attribute", "Captum LayerGradCam, each of 5 layers"): None,
    ("hooks, products, upsampling alone", "bare forward"): None,
    ("attribute, evidence", "bare forward"): None,
    ("attribute, agreement", "bare forward"): None,
    ("attribute, tiny network", "bare forward, tiny network"): 2.0,
}


def fitted(model: nn.Module, layers: list, x: Tensor, classes: int) -> HRCAM:
    """HR-CAM with a head fitted on two images per class: what a head says does not change what it
    costs."""
    small = torch.randn(2 * classes, *x.shape[1:2], *[min(64, s) for s in x.shape[2:]])
    hrcam = HRCAM(model, layers)
    data = [(small, torch.arange(2 * classes) % classes)]
    hrcam.fit(data, solver="pattern", place_layers=True)  # the default's maps are placed
    return hrcam


def runs(name: str, batch: int, size: int) -> dict[str, Callable[[], Any]]:
    """The functions to time, on one of torchvision's networks and one batch."""
    torch.manual_seed(0)
    model = get_model(name, weights=None, num_classes=CLASSES).eval().to(DEVICE)
    x = torch.randn(batch, 3, size, size, device=DEVICE)
    y = torch.ones(batch, dtype=torch.int64, device=DEVICE)
    layers = find_layers(model, x[:1])
    modules = [model.get_submodule(layer) for layer in layers]
    return beside_captum(model, list(layers), x, y) | {
        "torchcam LayerCAM, 4 layers fused": lambda: of_torchcam(
            torchcam.methods.LayerCAM, model, list(layers)[-4:], x, y
        ),
        "grad-cam GradCAM++, 5 layers fused": lambda: of_grad_cam(
            GradCAMPlusPlus, model, modules, x, y
        ),
    }


def beside_captum(
    model: nn.Module, layers: list[str], x: Tensor, y: Tensor
) -> dict[str, Callable[[], Any]]:
    """HR-CAM, the bare forward pass and Captum's Grad-CAM, in any number of dimensions."""
    hrcam = fitted(model, layers, x, CLASSES)
    gradcams = [LayerGradCam(model, model.get_submodule(layer)) for layer in layers]
    rows = {name: weight[1:2].float().to(x.device) for name, weight in hrcam.weights.items()}
    mode = LINEAR_MODES[x.ndim - 2]

    def captums(which: list[LayerGradCam]) -> list[Tensor]:
        return [
            LayerAttribution.interpolate(method.attribute(x, y), tuple(x.shape[2:]), mode)
            for method in which
        ]

    return {
        "bare forward": lambda: bare(model, x),
        "hooks, products, upsampling alone": lambda: least(model, rows, x, mode),
        "attribute": lambda: hrcam.attribute(x, y),
        "attribute, evidence": lambda: hrcam.attribute(x, y, fusion="evidence"),
        "attribute, agreement": lambda: hrcam.attribute(x, y, fusion="agreement"),
        "class_maps, 8 classes": lambda: hrcam.class_maps(x),
        "Captum LayerGradCam, last layer": lambda: captums(gradcams[-1:]),
        "Captum LayerGradCam, each of 5 layers": lambda: captums(gradcams),
    }


def least(model: nn.Module, rows: dict[str, Tensor], x: Tensor, mode: str) -> Tensor:
    """The least work for such a map: no checks, no modes, no target, no dtype but float32."""
    maps: list[Tensor] = []

    def read(row: Tensor, module: nn.Module, args: tuple[Tensor, ...], f: Tensor) -> None:
        maps.append(torch.matmul(row, f.flatten(2)).unflatten(2, f.shape[2:]))

    hooks = [
        model.get_submodule(layer).register_forward_hook(functools.partial(read, row))
        for layer, row in rows.items()
    ]
    bare(model, x)
    for hook in hooks:
        hook.remove()
    return sum(nn.functional.interpolate(a, x.shape[2:], mode=mode) for a in maps)


def signal(batch: int) -> dict[str, Callable[[], Any]]:
    """A 1D CNN of five stages on ECG-like signals, 12 leads of 5,000 samples."""
    torch.manual_seed(0)
    widths = (12, 64, 128, 256, 512, 512)
    stages = [
        nn.Sequential(
            *(nn.Conv1d(before, width, 7, stride=2, padding=3), nn.BatchNorm1d(width), nn.ReLU()),
            *(nn.Conv1d(width, width, 7, padding=3), nn.BatchNorm1d(width), nn.ReLU()),
        )
        for before, width in itertools.pairwise(widths)
    ]
    head = [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(widths[-1], CLASSES)]
    model = nn.Sequential(*stages, *head).eval().to(DEVICE)
    x = torch.randn(batch, 12, 5000, device=DEVICE)
    y = torch.ones(batch, dtype=torch.int64, device=DEVICE)
    return beside_captum(model, [str(i) for i in range(5)], x, y)


def volume(batch: int) -> dict[str, Callable[[], Any]]:
    """torchvision's 3D ResNet-18 on volumes of 32 x 112 x 112 voxels."""
    torch.manual_seed(0)
    model = get_model("r3d_18", weights=None, num_classes=CLASSES).eval().to(DEVICE)
    x = torch.randn(batch, 3, 32, 112, 112, device=DEVICE)
    y = torch.ones(batch, dtype=torch.int64, device=DEVICE)
    return beside_captum(model, list(find_layers(model, x[:1])), x, y)


def many_classes(size: int) -> dict[str, Callable[[], Any]]:
    """A ResNet-50 of a thousand classes, one image, maps at the layers' own resolution."""
    model = get_model("resnet50", weights=None).eval().to(DEVICE)
    x = torch.randn(1, 3, size, size, device=DEVICE)
    hrcam = fitted(model, list(find_layers(model, x)), x, 1000)
    return {
        "bare forward": lambda: bare(model, x),
        "native_maps, 1,000 classes": lambda: hrcam.native_maps(x),
    }


def tiny(dims: int) -> dict[str, Callable[[], Any]]:
    """One image through a network so small that Python's share of the time shows."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    pool = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[dims - 1]
    blocks = [nn.Sequential(conv(c, 8, 3, padding=1), nn.ReLU(), pool(2)) for c in (1, 8, 8)]
    model = nn.Sequential(*blocks, nn.Flatten(), nn.LazyLinear(CLASSES)).eval().to(DEVICE)
    x = torch.randn(1, 1, *[32] * dims, device=DEVICE)
    bare(model, x)
    hrcam = fitted(model, ["0.1", "1.1", "2.1"], x, CLASSES)
    return {
        "bare forward, tiny network": lambda: [bare(model, x) for _ in range(CALLS)],
        "attribute, tiny network": lambda: [hrcam.attribute(x, 1) for _ in range(CALLS)],
    }


@torch.no_grad()
def bare(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def measured(options: argparse.Namespace) -> Iterator[list[str]]:
    """The table's rows."""
    cases = {
        (name, str(batch)): lambda n=name, b=batch: runs(n, b, options.size)
        for name in options.models
        for batch in options.batches
    }
    for batch in (1, 8):
        cases[("five stages, 1D", str(batch))] = lambda b=batch: signal(b)
    cases[("r3d_18, 3D", "1")] = lambda: volume(1)
    cases[("resnet50, 1,000 classes", "1")] = lambda: many_classes(options.size)
    for dims in (1, 2, 3):
        cases[(f"three convolutions, {dims}D", "1")] = lambda d=dims: tiny(d)
    for (name, batch), build in cases.items():
        timed = build()
        for (what, against), limit in TARGETS.items():
            if what in timed and against in timed and not (limit is None and int(batch) > 8):
                pairs = interleaved(timed[what], timed[against], options.rounds, options.seconds)
                cells = row(pairs, limit, CALLS if "tiny" in what else 1)
                print(name, batch, what, against, *cells, flush=True)
                yield [name, batch, what, against, *cells]


def row(pairs: list[tuple[float, float]], limit: float | None, calls: int) -> list[str]:
    """The ratio, its quartiles, the additional milliseconds per call, and the verdict.

    For a tiny network the milliseconds matter: at most one more is accepted in place of the ratio.
    """
    low, middle, high = statistics.quantiles((run / base for run, base in pairs), n=4)
    more = statistics.median(1e3 * (run - base) / calls for run, base in pairs)
    cells = [f"{middle:.2f}", f"{low:.2f} to {high:.2f}", f"{more:.1f}"]
    at_most, met = verdict(middle, limit)
    if limit is not None and calls > 1:
        at_most, met = f"{at_most}, or 1 ms", "yes" if met == "yes" or more <= 1 else "no"
    return [*cells, at_most, met]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["resnet50", "vgg19", "densenet121"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9, help="of each pair, at least")
    parser.add_argument("--seconds", type=float, default=6, help="for each pair, at least")
    options = parser.parse_args()
    columns = ["model", "batch", "time of", "over that of", "ratio", "quartiles", "ms more"]
    columns += ["at most", "met"]
    command = " ".join(["python benchmarks/speed.py", *sys.argv[1:]])
    text = (
        f"## Speed\n\n`{command}`: {options.size} px, five layers, medians of at least "
        f"{options.rounds} interleaved rounds, more where {options.seconds:g} seconds hold more; "
        f"{machine()}.\n\n" + table(columns, measured(options))
    )
    write_section(Path(__file__).with_name("RESULTS.md"), "speed", text)


if __name__ == "__main__":
    main()
