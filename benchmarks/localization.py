"""Which map finds the cause? HR-CAM against its peers on images whose masks are known.

Trains small CNNs, draws the maps of every method, and scores them against masks that no method
has seen. Writes ``benchmarks/localization.csv`` (a row per network, method and configuration) and
the tables in ``benchmarks/RESULTS.md``. Ratios are to the best of all configurations of all peers,
chosen for each column on the test masks.
"""

import argparse
import functools
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from images import KINDS, Images
from networks import NETWORKS, kept, train
from oracle import mask_fitted
from peers import SLOW, Attribute, gaussian, peers
from real import SETS, real
from results import table, write_section
from timing import seconds
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_hrcam import HRCAM, find_layers, metrics

FOLDER = Path(__file__).parent
COLUMNS = ["PxAP", "pixel AP", "IoU", "pointing"]
FULL = {
    "images": 2000,
    "epochs": 8,
    "tested": 200,
    "kinds": {"lesions": 3, "dark digits": 3, "gratings": 3},  # seeds of each
}
SOURCES = KINDS | {kind: functools.partial(real, kind) for kind in SETS}
MIRRORED = ["lesions", *SETS]  # kinds whose images may be mirrored in training
SIZES = {
    "quick": {"images": 1500, "epochs": 6, "tested": 30, "kinds": {"lesions": 1, "dark digits": 1}},
    "full": FULL,
    "fresh": FULL | {"tested": 60, "kinds": {"bright digits": 1, "weave": 1, "grain": 1}},
    "real": FULL | {"kinds": {"brain tumours": 1, "breast tumours": 2}},
}
BATCH = 50  # images that a fit or a method sees at once
SUBSET = 24  # images for the slow methods
ORACLE = "fitted on masks"


def main() -> None:
    options = parse()
    rows: list[dict] = []
    for kind, seeds in options.kinds.items():
        for seed in range(seeds):
            data = SOURCES[kind](options.images, seed, False)
            tested = SOURCES[kind](options.tested, seed, True)
            for name in options.networks:
                rows += cell(options, kind, name, seed, data, tested)
                frame = pd.DataFrame(rows)
                frame.round(4).to_csv(options.csv, index=False)
                print(ratios(frame).tail(1).to_string(header=False), flush=True)
    write_section(FOLDER / "RESULTS.md", options.csv.stem, report(frame, options))


def cell(
    options: argparse.Namespace, kind: str, name: str, seed: int, data: Images, tested: Images
) -> list[dict]:
    """The rows of all methods on one network and one kind of images."""
    model = network(options, kind, name, seed, data)
    with torch.no_grad():
        accuracy = (model(tested.x).argmax(1) == tested.y).float().mean().item()
    common = {"kind": kind, "network": name, "seed": seed, "accuracy": accuracy}
    runs = [seconds(lambda: _forward(model, tested.x)) for _ in range(3)]
    forward = statistics.median(runs) / len(tested.x)
    rows = []
    for method, attribute in methods(model, thinned(data, options.share)):
        family, configuration = method.split(" | ")
        n = SUBSET if family in SLOW else len(tested.x)
        x, y, masks = tested.x[:n], tested.y[:n], tested.masks[:n]
        begin = time.perf_counter()
        parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
        maps = torch.cat([attribute(*part) for part in parts])
        passes = (time.perf_counter() - begin) / n / forward
        about = {"method": family, "configuration": configuration, "passes": passes}
        rows.append(common | about | score(maps, masks) | {"n": n})
    return rows


def thinned(data: Images, share: float | None) -> Images:
    """Training images of which only this share is of the last class; None leaves all."""
    if share is None:
        return data
    last = data.y == data.y.max()
    rank = last.cumsum(0)  # 1, 2, ... over the images of the last class
    kept = ~last | (rank <= share / (1 - share) * (~last).sum())
    return Images(*(values[kept] for values in data))


def network(
    options: argparse.Namespace, kind: str, name: str, seed: int, data: Images
) -> nn.Module:
    """A trained network, or the one kept from an earlier run."""

    def build() -> nn.Module:
        model = NETWORKS[name](data.x.shape[1], int(data.y.max()) + 1)
        return model.to(memory_format=torch.channels_last)

    def trained() -> nn.Module:
        epochs = round(options.epochs * options.images / len(data.x))  # as many steps on small sets
        return train(name, data.x, data.y, epochs=epochs, seed=seed, turn=kind in MIRRORED)

    return kept(options, f"{kind}-{name}-{seed}", build, trained)


# Pairs of the options of a fit and its maps to score. The first fit is the default.
SUM, AGREEMENT, EVIDENCE = ({"fusion": name} for name in ("sum", "agreement", "evidence"))
POSITIVE = {"relu_attributions": True}  # peers' maps are positive parts by definition
OURS: list[tuple[dict, dict[str, dict]]] = [
    (
        {},
        {
            "default, sum": SUM,
            "default, sum, positive part": SUM | POSITIVE,
            "default, agreement": AGREEMENT,
            "default, agreement, positive part": AGREEMENT | POSITIVE,
        },
    ),
    ({"place_layers": False}, {"unplaced, sum": SUM, "unplaced, agreement": AGREEMENT}),
    ({"solver": "cascade"}, {"cascade of all layers, sum": SUM}),
    ({"solver": "pattern"}, {"pattern, sum": SUM, "pattern, evidence": EVIDENCE}),
    ({"solver": "ridge"}, {"ridge, sum": SUM}),
    ({"solver": "adam", "epochs": 50}, {"the paper's head, sum": SUM}),
]


def methods(model: nn.Module, data: Images) -> Iterator[tuple[str, Attribute]]:
    """Yield (name, function) for HR-CAM's maps, a baseline, a head fitted on masks, and peers."""
    layers = find_layers(model, data.x[:1])
    loader = DataLoader(TensorDataset(data.x, data.y), batch_size=BATCH)
    for fit, maps in OURS:
        hrcam = HRCAM(model, layers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # weak heads are fitted on purpose
            print(*hrcam.fit(loader, **fit).choices[:3], sep="\n")
        for name, options in maps.items():
            yield f"HR-CAM | {name}", functools.partial(_attribute, hrcam, options)
    yield "centred Gaussian | no model", gaussian
    modules = {name: model.get_submodule(name) for name in layers}
    yield f"{ORACLE} | no method", mask_fitted(model, modules, data)
    yield from peers(model, modules).items()


def _attribute(hrcam: HRCAM, options: dict, x: Tensor, y: Tensor) -> Tensor:
    return hrcam.attribute(x, target=y, **options)


def _forward(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        for part in x.split(BATCH):
            model(part)


def score(maps: Tensor, masks: Tensor) -> dict[str, float]:
    """The figures of the four columns; IoU is at the best common threshold, chosen on these
    masks."""
    threshold = metrics.oracle_threshold(maps, masks)
    return {
        "PxAP": float(metrics.pxap(maps, masks)),
        "pixel AP": float(metrics.pixel_average_precision(maps, masks).mean()),
        "IoU": float(metrics.iou(maps, masks, threshold).mean()),
        "pointing": float(metrics.pointing_game(maps, masks).mean()),
    }


def is_ours(frame: pd.DataFrame) -> pd.Series:
    """Whether a row is HR-CAM's."""
    return frame["method"] == "HR-CAM"


CELL = ["kind", "network", "seed", "accuracy"]
NET = ["kind", "network"]


def best_peer(frame: pd.DataFrame) -> pd.DataFrame:
    """Each column's best figure of any peer configuration, for each network."""
    rivals = frame[~is_ours(frame) & ~frame["method"].isin([*SLOW, ORACLE])]
    return rivals.groupby(CELL, sort=False)[COLUMNS].max()


def ratios(frame: pd.DataFrame, configuration: str = "default, sum") -> pd.DataFrame:
    """HR-CAM's figures over the best peer's, for each network."""
    mine = frame[is_ours(frame) & (frame["configuration"] == configuration)]
    return mine.set_index(CELL)[COLUMNS] / best_peer(frame)


def report(frame: pd.DataFrame, options: argparse.Namespace) -> str:
    """The section of RESULTS.md."""
    kinds = ", ".join(f"{kind} ({seeds})" for kind, seeds in options.kinds.items())
    which = options.csv.stem.removeprefix("localization").lstrip("-")
    rare = ""
    if options.share is not None:
        rare = f"heads fitted where the last class has {options.share:.0%} of the images; "
    text = [
        "## Localisation" + (f", {which}" if which else ""),
        f"`{options.command}`: {len(frame.groupby(CELL))} networks trained on up to "
        f"{options.images} images of {kinds} (seeds), maps of up to {options.tested} scored; "
        f"{rare}all figures in `benchmarks/{options.csv.name}`. PxAP, mean pixel AP, IoU at the "
        "best common threshold and pointing, against masks that no fit and no choice of a head "
        "reads. (The library's own constants were settled on images of these kinds, as "
        "docs/choosing_the_head.rst tells.)",
        "### HR-CAM's default map over the best peer",
        "The best of all configurations of all peers but ScoreCAM, chosen for each column on the "
        "test masks; mean over seeds, in brackets the worst seed.",
        ratio_table(ratios(frame)),
        "### The same with fusion='agreement'",
        "The default head; its maps fused by agreement, which gives up completeness.",
        ratio_table(ratios(frame, "default, agreement")),
        "### The same without placing",
        "The default head; its maps not moved to where the layers look, as no peer's are.",
        ratio_table(ratios(frame, "unplaced, sum")),
        "### With and without placing",
        "Mean pixel AP of the default's maps, moved to where the layers look and not moved.",
        placing_table(frame),
        "### Every method",
        "Means over all networks and kinds; for peers, the configuration that is best there. Cost "
        "is time over a bare forward pass of the same images; the fit, once for "
        "all images, is not in it.",
        method_table(frame),
    ]
    return "\n\n".join(text)


def ratio_table(found: pd.DataFrame) -> str:
    """A row for each network and kind of images, and one for all."""
    found = found.reset_index()

    def cells(part: pd.DataFrame) -> list[str]:
        return [f"{part[c].mean():.2f} ({part[c].min():.2f})" for c in COLUMNS]

    rows = [
        [kind, network, f"{part['accuracy'].mean():.2f}", *cells(part)]
        for (kind, network), part in found.groupby(NET, sort=False)
    ]
    rows.append(["all", "", "", *cells(found)])
    return table(["images", "network", "accuracy", *COLUMNS], rows)


def placing_table(frame: pd.DataFrame) -> str:
    """A row for each network and kind of images, and one for all."""
    shown = ["unplaced, sum", "default, sum", "unplaced, agreement", "default, agreement"]
    mine = frame[is_ours(frame)].pivot_table("pixel AP", NET, "configuration", sort=False)
    rows = [
        [*names, *(f"{value:.3f}" for value in values)]
        for names, values in zip(mine.index, mine[shown].to_numpy(), strict=True)
    ]
    means = frame[is_ours(frame)].groupby("configuration")["pixel AP"].mean()
    rows.append(["all", "", *(f"{means[name]:.3f}" for name in shown)])
    return table(
        ["images", "network", "sum, unplaced", "sum", "agreement, unplaced", "agreement"], rows
    )


def method_table(frame: pd.DataFrame) -> str:
    """A row for each of HR-CAM's maps, and for each peer at its best configuration."""
    means = frame.groupby(["method", "configuration"], sort=False)[[*COLUMNS, "passes"]].mean()
    means = means.reset_index()
    best = means.loc[means.groupby("method", sort=False)["pixel AP"].idxmax()]
    shown = pd.concat([means[is_ours(means)], best[~is_ours(best)]])
    rows = []
    for _, row in shown.iterrows():
        note = f" (first {SUBSET} images)" if row["method"] in SLOW else ""
        cells = [f"{row['passes']:.1f}", *(f"{row[c]:.3f}" for c in COLUMNS)]
        rows.append([row["method"], f"{row['configuration']}{note}", *cells])
    return table(["method", "configuration", "cost", *COLUMNS], rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="quick")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--kinds", nargs="+", choices=SOURCES)
    parser.add_argument("--seeds", type=int, help="for each kind")
    parser.add_argument("--images", type=int, help="for training")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--tested", type=int, help="images whose maps are scored")
    parser.add_argument("--share", type=float, help="of the last class among the images of a fit")
    parser.add_argument("--keep", type=Path, help="folder for the trained networks")
    parser.add_argument(
        "--csv",
        type=Path,
        help="every figure; by default in benchmarks/. Its name names the section of RESULTS.md",
    )
    options = parser.parse_args()
    options.command = shlex.join(["python", "benchmarks/localization.py", *sys.argv[1:]])
    # A quick run does not overwrite the table of a full one.
    name = "localization" if options.size == "full" else f"localization-{options.size}"
    options.csv = options.csv or FOLDER / f"{name}.csv"
    size = SIZES[options.size]
    for name in ("images", "epochs", "tested"):
        if getattr(options, name) is None:
            setattr(options, name, size[name])
    kinds = options.kinds or list(size["kinds"])
    options.kinds = {k: options.seeds or size["kinds"].get(k, 1) for k in kinds}
    return options


if __name__ == "__main__":
    main()
