"""Which classes' maps mark no place? Compares what the report says with what masks say.

On the networks and images of localization.py, measures for each class the contrast that the report
of the default fit gives, whether the report warns of the class, and the pixel AP of its maps.
Writes ``benchmarks/classes.csv`` and a section of ``benchmarks/RESULTS.md``.
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from images import KINDS
from localization import FOLDER, SIZES, network
from networks import NETWORKS
from results import table, write_section
from torch.utils.data import DataLoader, TensorDataset

from captum_hrcam import HRCAM, find_layers, metrics
from captum_hrcam.fit_report import FAR_LESS, without_a_place

TESTED = 160
SEEDS = SIZES["full"]["kinds"] | SIZES["fresh"]["kinds"]


def main() -> None:
    options = parse()
    rows: list[dict] = []
    for kind, seeds in options.kinds.items():
        for seed in range(seeds):
            for name in options.networks:
                rows += classes(options, kind, name, seed)
                frame = pd.DataFrame(rows)
                frame.round(4).to_csv(options.csv, index=False)
                print(frame.tail(1).round(2).to_string(header=False), flush=True)
    write_section(FOLDER / "RESULTS.md", "classes", report(frame, options))


def classes(options: argparse.Namespace, kind: str, name: str, seed: int) -> Iterator[dict]:
    """A row for each class that has masks."""
    data, tested = KINDS[kind](options.images, seed, False), KINDS[kind](TESTED, seed, True)
    model = network(options, kind, name, seed, data)
    hrcam = HRCAM(model, find_layers(model, data.x[:1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the classes they name are in the table
        fit = hrcam.fit(DataLoader(TensorDataset(data.x, data.y), batch_size=50))
    named = without_a_place(fit.contrast)
    ap = metrics.pixel_average_precision(hrcam.attribute(tested.x, tested.y), tested.masks)
    for c in sorted(set(tested.y.tolist())):
        yield {
            "kind": kind,
            "network": name,
            "seed": seed,
            "class": c,
            "contrast": fit.contrast[c].item(),
            "of the median class": (fit.contrast[c] / fit.contrast.nanmedian()).item(),
            "named": c in named,
            "support": fit.support,
            "pixel AP": float(ap[(tested.y == c).numpy()].mean()),
        }


def report(frame: pd.DataFrame, options: argparse.Namespace) -> str:
    """The section of RESULTS.md."""
    kinds = ", ".join(f"{kind} ({seeds})" for kind, seeds in options.kinds.items())
    n = len(frame.groupby(["kind", "network", "seed"]))
    named, others = frame[frame["named"]], frame[~frame["named"]]
    columns = ["kind", "network", "seed", "class", "contrast", "of the median class", "pixel AP"]
    rows = [
        [f"{v:.2f}" if isinstance(v, float) else str(v) for v in row]
        for row in named[columns].itertuples(index=False)
    ]
    ratio = others["of the median class"]
    return "\n\n".join(
        [
            "## Classes without a place",
            f"`python benchmarks/classes.py`: {n} networks of `localization.py`, {kinds} (seeds); "
            f"all figures in `benchmarks/{options.csv.name}`. Classes whose maps mark no place, "
            "says the report of the default fit (the deepest layer's map varies, in images of the "
            f"class over others, less than {FAR_LESS} times as much as the median class's), and "
            f"what masks of {TESTED} test images say.",
            table(["images", *columns[1:]], rows),
            f"The other {len(others)} classes: pixel AP {others['pixel AP'].min():.2f} to "
            f"{others['pixel AP'].max():.2f}, mean {others['pixel AP'].mean():.2f}; contrast "
            f"{ratio.min():.2f} times that of the median class or more.",
            "The models' outputs speak for the default's maps: the least support of these "
            f"networks is {frame['support'].min():.2f} (1: what the maps mark counts for more than "
            "what they mark least in every held-out image of a class).",
        ]
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(SEEDS))
    parser.add_argument("--seeds", type=int, help="for each kind")
    parser.add_argument("--images", type=int, default=SIZES["full"]["images"], help="for training")
    parser.add_argument("--epochs", type=int, default=SIZES["full"]["epochs"])
    parser.add_argument("--keep", type=Path, help="folder for the trained networks")
    parser.add_argument("--csv", type=Path, default=FOLDER / "classes.csv", help="every figure")
    options = parser.parse_args()
    options.kinds = {k: options.seeds or SEEDS.get(k, 1) for k in options.kinds}
    return options


if __name__ == "__main__":
    main()
