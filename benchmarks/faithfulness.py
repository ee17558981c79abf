"""Do maps show what the model uses? Curves, ROAD and randomised weights, without any mask.

    make bench-faithfulness

Trains one small VGG on simulated lesions and writes two tables into ``benchmarks/RESULTS.md``.
"""

import argparse
import functools
import warnings
from pathlib import Path

import pandas as pd
from captum.attr import LayerGradCam
from images import KINDS
from networks import train
from results import table, write_section
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

from captum_hrcam import CAM, HRCAM, evaluate, find_layers
from captum_hrcam.faithfulness import (
    deletion,
    head_kept,
    head_refitted,
    infidelity,
    insertion,
    randomization,
    road,
    sensitivity_max,
)

HEADS = {
    "HR-CAM": {},
    "HR-CAM, pattern": {"solver": "pattern"},
    "HR-CAM, paper's head": {"solver": "adam"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1500, help="for training")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--tested", type=int, default=40)
    options = parser.parse_args()
    data = KINDS["lesions"](options.images, 0, False)
    x, y, _ = KINDS["lesions"](options.tested, 0, True)
    model = train("VGG", data.x, data.y, epochs=options.epochs, seed=0, turn=True)
    layers = find_layers(model, x[:1])
    loader = DataLoader(TensorDataset(data.x, data.y), batch_size=50)
    heads = {name: HRCAM(model, layers) for name in HEADS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name, fit in HEADS.items():
            heads[name].fit(loader, **fit)
    last, before = layers[-1], model.get_submodule(layers[-2])
    methods = {"CAM": CAM(model, last), "Grad-CAM": LayerGradCam(model, before), **heads}
    text = [
        "## Faithfulness",
        f"`python benchmarks/faithfulness.py`: a small VGG, {options.images} training images, maps "
        f"of {options.tested} lesions; no mask is used. Insertion and ROAD: more is better; "
        "deletion, infidelity and sensitivity: less.",
        figures(model, methods, x, y),
        "Similarity (SSIM) of maps to those of the trained network while its layers are drawn anew "
        "from the top down; it must fall (Adebayo et al. 2018).",
        randomised(model, heads["HR-CAM"], loader, x, y),
    ]
    write_section(Path(__file__).with_name("RESULTS.md"), "faithfulness", "\n\n".join(text))


def figures(model, methods, x, y) -> str:
    """A table of every figure of every method, and of the centred Gaussian."""
    seeing = {
        f.__name__: functools.partial(f, model) for f in (insertion, deletion, road, infidelity)
    }
    result = evaluate(methods, [(x, y)], metrics={}, faithfulness=seeing, show_progress=True)
    means = result.frame.groupby(["method", "metric"], sort=False)["value"].mean().unstack()
    for name, method in tqdm(methods.items(), desc="sensitivity"):
        means.loc[name, "sensitivity_max"] = sensitivity_max(method, x, y).mean()
    return markdown(means)


def randomised(model, hrcam, loader, x, y) -> str:
    """A table of SSIM after each block, of HR-CAM with its head kept and fitted anew, and of
    Grad-CAM."""
    before_last = list(hrcam.layers)[-2]
    builds = {
        "HR-CAM, head kept": head_kept(hrcam),
        "HR-CAM, head fitted anew": head_refitted(hrcam, loader, solver=hrcam.report.solver),
        "Grad-CAM": lambda copy: LayerGradCam(copy, copy.get_submodule(before_last)),
    }
    blocks = [*hrcam.layers, list(dict(model.named_children()))[-1]]
    frame = randomization(model, builds, x, y, layers=blocks)
    frame = frame[frame["metric"] == "ssim"]
    return markdown(frame.groupby(["method", "stage"], sort=False)["value"].mean().unstack())


def markdown(means: pd.DataFrame) -> str:
    """A Markdown table with three digits; cells of undefined figures are empty."""
    rows = [
        [name, *("" if pd.isna(v) else f"{v:.3f}" for v in row)]
        for name, row in zip(means.index, means.to_numpy(), strict=True)
    ]
    return table([means.index.name or "", *map(str, means.columns)], rows)


if __name__ == "__main__":
    main()
