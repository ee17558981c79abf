"""Time of HR-CAM against a bare forward pass and Captum's Grad-CAM, side by side in one run.

    make bench

Every figure is the median of ratios over interleaved rounds, so that what else the machine does
falls on both sides alike.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import captum
import torch
from captum.attr import LayerAttribution, LayerGradCam
from results import write_section
from torch import Tensor, nn
from torchvision.models import get_model

from captum_hrcam import HRCAM, find_layers


def seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def ratios(run: Callable[[], object], base: Callable[[], object], rounds: int) -> list[float]:
    """Time of ``run`` over time of ``base``, one figure per round, who goes first in turn."""
    run(), base()
    found = []
    for i in range(rounds):
        pair = [run, base] if i % 2 else [base, run]
        times = {f: seconds(f) for f in pair}
        found.append(times[run] / times[base])
    return found


def methods(name: str, batch: int, size: int) -> tuple[Callable[[], object], dict[str, Callable]]:
    """The bare forward pass, and what is timed against it."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: nn.Module = get_model(name, weights=None, num_classes=8).eval().to(device)
    x: Tensor = torch.randn(batch, 3, size, size, device=device)
    layers = find_layers(model, x[:1])
    hrcam = HRCAM(model, layers)
    images = torch.randn(16, 3, 64, 64)
    hrcam.fit([(images, torch.arange(16) % 8)])
    gradcam = LayerGradCam(model, model.get_submodule(layers[-1]))

    def forward() -> Tensor:
        with torch.no_grad():
            return model(x)

    return forward, {
        "`attribute`": lambda: hrcam.attribute(x, 1),
        '`attribute`, fusion="evidence"': lambda: hrcam.attribute(x, 1, fusion="evidence"),
        "`class_maps`, 8 classes": lambda: hrcam.class_maps(x),
        "Captum LayerGradCam, last layer, upsampled": lambda: LayerAttribution.interpolate(
            gradcam.attribute(x, 1), (size, size), "bilinear"
        ),
    }


def table(names: list[str], batches: list[int], size: int, rounds: int) -> str:
    lines = ["| model | batch | what | time / bare forward | quartiles |", "|---|---|---|---|---|"]
    for name in names:
        for batch in batches:
            forward, timed = methods(name, batch, size)
            for what, run in timed.items():
                found = ratios(run, forward, rounds)
                low, middle, high = statistics.quantiles(found, n=4)
                lines.append(
                    f"| {name} | {batch} | {what} | {middle:.2f} | {low:.2f} to {high:.2f} |"
                )
                print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["resnet50", "vgg19", "densenet121"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    text = (
        f"## Speed\n\n`python benchmarks/speed.py`: {options.size} px, medians of "
        f"{options.rounds} interleaved rounds; {machine}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, captum {captum.__version__}.\n\n"
        + table(options.models, options.batches, options.size, options.rounds)
    )
    write_section(Path(__file__).with_name("RESULTS.md"), "speed", text)


if __name__ == "__main__":
    main()
