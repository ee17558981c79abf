"""How the cost of HR-CAM grows with image size, layers, channels, classes and images.

    make bench

Measures the seconds that maps take beside the forward pass, or that a pattern head takes beside the
frozen pass, and the memory of what is kept. Draws the times as ``benchmarks/growth.png``. A slope
of 1 in the logarithms is linear growth.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator
from results import table, write_section
from timing import machine, seconds

from captum_hrcam import solvers
from captum_hrcam.fusion import add_upsampled, contract
from captum_hrcam.moments import Moments

FOLDER = Path(__file__).parent
BASE = {"side": 128, "layers": 4, "channels": 128, "classes": 8}
VALUES = {
    "side": (64, 128, 256, 512),
    "layers": (2, 4, 8, 16),
    "channels": (64, 128, 256, 512),
    "classes": (16, 64, 256, 1024),
    "images": (2000, 4000, 8000, 16000),
}


class Case(NamedTuple):
    """A function to time, and the MiB that it keeps."""

    run: Callable[[], object]
    kept: float


def maps(side: int, layers: int, channels: int, classes: int) -> Case:
    """Contract each layer, upsample and add: what maps cost beside the forward pass."""
    features = [torch.rand(1, channels, side // 4, side // 4) for _ in range(layers)]
    weight = torch.rand(classes, channels)

    def run() -> object:
        return add_upsampled([contract(f, weight) for f in features], (side, side))

    return Case(run, 4 * classes * side**2 / 2**20)


def moments(images: int) -> Case:
    """Fit a pattern head on a thousand features, batch by batch: what a fit costs beside its
    pass."""
    z, y, within = torch.rand(64, 1000), torch.rand(64, 8), torch.rand(64, 1000)

    def run() -> Moments:
        total = Moments.zeros(1000, 8)
        for _ in range(images // 64):
            total = total + Moments.of(z, y, within)
        solvers.pattern(total)
        return total

    return Case(run, sum(v.nbytes for v in vars(run()).values() if torch.is_tensor(v)) / 2**20)


def measured(rounds: int) -> Iterator[dict[str, object]]:
    """A row for each quantity and value."""
    for quantity, values in VALUES.items():
        for value in values:
            case = moments(value) if quantity == "images" else maps(**(BASE | {quantity: value}))
            case.run()
            took = statistics.median(seconds(case.run) for _ in range(rounds))
            size = value**2 if quantity == "side" else value
            name = "pixels" if quantity == "side" else quantity
            yield {"quantity": name, "value": size, "seconds": took, "MiB": case.kept}


def slope(rows: pd.DataFrame, column: str) -> float:
    """The slope of the logarithms, by least squares."""
    return float(np.polyfit(np.log(rows["value"]), np.log(rows[column]), 1)[0])


def draw(frame: pd.DataFrame) -> Figure:
    """A panel for each quantity, both axes logarithmic."""
    quantities = list(dict.fromkeys(frame["quantity"]))
    figure = Figure(figsize=(11, 2.8), layout="constrained")
    axes = figure.subplots(1, len(quantities))
    for ax, quantity in zip(axes, quantities, strict=True):
        rows = frame[frame["quantity"] == quantity]
        ax.loglog(rows["value"], 1e3 * rows["seconds"], "o-", color="#0072B2")
        linear = rows["value"] / rows["value"].iloc[-1] * 1e3 * rows["seconds"].iloc[-1]
        ax.loglog(rows["value"], linear, ":", color="0.4")
        ax.set_xticks(rows["value"], [f"{v:,}" for v in rows["value"]], fontsize=7, rotation=30)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_title(f"{quantity}\nslope {slope(rows, 'seconds'):.2f}", fontsize=9)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("ms (dotted: linear)")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    frame = pd.DataFrame(measured(options.rounds))
    draw(frame).savefig(FOLDER / "growth.png", dpi=150)
    rows = [
        [
            quantity,
            " ".join(f"{v:,}" for v in rows["value"]),
            " ".join(f"{1e3 * v:.2g}" for v in rows["seconds"]),
            f"{slope(rows, 'seconds'):.2f}",
            " ".join(f"{v:.2g}" for v in rows["MiB"]),
        ]
        for quantity, rows in frame.groupby("quantity", sort=False)
    ]
    base = ", ".join(f"{value} {name}" for name, value in BASE.items())
    text = (
        f"## Growth\n\n`python benchmarks/growth.py`: milliseconds beside the forward pass, "
        f"medians of {options.rounds}; {base} where they stay (feature maps a quarter of it); "
        f"images: a pattern head of 1,000 features; {machine()}. In the logarithms a slope of 1 is "
        "linear.\n\n![growth](growth.png)\n\n"
        + table(["grows", "values", "ms", "slope", "MiB kept"], rows)
    )
    write_section(FOLDER / "RESULTS.md", "growth", text)


if __name__ == "__main__":
    main()
