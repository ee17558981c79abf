"""Simulated lesions, compared with masks that nothing was fitted on: the paper's Figs. 2 and 3."""

import copy
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_curve
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from captum_hrcam import Evaluation, compare, evaluate
from captum_hrcam.datasets import SimulatedPathology
from captum_hrcam.visualize import boxes_figure, roc_figure
from paper.figures import save
from paper.options import at_least
from paper.outcome import Fitted, device_of
from paper.pictures import AUGMENT, Split

DRAWN = 6
RATES = [f"{rate} {t}" for t in (0.3, 0.5, 0.8) for rate in ("sensitivity", "specificity")]
RATES += ["sensitivity at specificity 0.90", "sensitivity at specificity 0.95", "pixel AP"]
TESTED = ["reference", "metric", "method", "mean_difference", "low", "high", "t_holm"]
TESTED += ["wilcoxon_holm"]
FALSE_POSITIVES = np.concatenate([[0], np.geomspace(1e-4, 1, 400)])


def add_options(parser: ArgumentParser) -> None:
    both = "for training, and a third of it for tests; default %(default)s"
    parser.add_argument("--images", metavar="N", type=at_least(30), default=6000, help=both)


def splits(options: Namespace) -> list[Split]:
    """Images drawn for training and for tests; the cases are the first lesions of the tests."""
    n, size = options.images, options.image_size
    train, test = Drawn(n, size, seed=0, transform=AUGMENT), Drawn(n // 3, size, seed=1)
    shown = list(range(1, n // 3, 2))[:DRAWN]
    kinds = [test.kind(i) for i in shown]
    return [
        Split(
            train,
            train.plain(),
            test,
            list(Drawn.classes),
            [(i, 1, kind) for i, kind in zip(shown, kinds, strict=True)],
            [f"image {i}, {kind}" for i, kind in zip(shown, kinds, strict=True)],
            masks=torch.stack([test.mask(i) for i in shown]),
            standardize=False,
        )
    ]


class Drawn(Dataset):
    """A simulated data set, drawn once and kept; three equal channels, zero mean.

    Args:
        n, size, seed: as for :class:`SimulatedPathology`.
        transform: applied to each image when it is read.
    """

    classes = SimulatedPathology.classes

    def __init__(
        self,
        n: int,
        size: int,
        seed: int,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.source, self.transform = SimulatedPathology(n, size, seed), transform
        self.items = list(range(n))
        drawn = tqdm(self.items, desc="drawing")
        self.images = torch.stack([self.source[i][0] for i in drawn]).half()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = self.images[i].float()
        image = self.transform(image) if self.transform else image
        return ((image - 0.3) / 0.3).expand(3, -1, -1), self.items[i] % 2

    def plain(self) -> "Drawn":
        """The same images without the transform."""
        other = copy.copy(self)
        other.transform = None
        return other

    def lesions(self) -> "Drawn":
        """The same images, only those with a lesion."""
        other = copy.copy(self)
        rows = [row for row, i in enumerate(self.items) if i % 2]
        other.items, other.images = [self.items[row] for row in rows], self.images[rows]
        return other

    def mask(self, i: int) -> Tensor:
        """The mask of the lesion's pixels."""
        return self.source.mask(self.items[i])

    def kind(self, i: int) -> str:
        """The image's kind: 'normative', 'localised' or 'diffuse'."""
        return self.source.kind(self.items[i])


def against_masks(fitted: Fitted, lesions: Drawn, out: Path) -> None:
    """Write boxes.png (Fig. 3), roc.png, and as CSV all figures, summaries, medians and tests."""
    result = evaluate(fitted.methods, lesions, batch_size=16, show_progress=True)
    print(result)
    figure, _ = boxes_figure(result)
    save(figure, out / "boxes.png")
    result.frame.round(5).to_csv(out / "figures.csv.gz", index=False)
    write_tables(result, out)
    save(_roc(fitted, lesions), out / "roc.png")


def write_tables(result: Evaluation, out: Path) -> None:
    """Write summaries, medians, and paired tests of both heads against the paper's two rivals."""
    summary = result.summary()
    summary.round(4).to_csv(out / "summary.csv", index=False)
    medians(summary).to_csv(out / "medians.csv", float_format="%.3f")
    tests = {head: result.tests(head, RATES) for head in ("HR-CAM", "HR-CAM, paper's head")}
    table = pd.concat(tests, names=["reference"]).reset_index("reference")
    # Only the paper's rivals are written, but p values are corrected for all methods.
    table = table[table["method"].isin(["CAM", "Grad-CAM"])]
    table[TESTED].to_csv(out / "tests.csv", index=False, float_format="%.3g")


def medians(summary: pd.DataFrame) -> pd.DataFrame:
    """A row for each metric, a column for each method."""
    table = summary.pivot(index="metric", columns="method", values="median")
    return table.loc[summary["metric"].unique(), summary["method"].unique()]


def _roc(fitted: Fitted, lesions: Drawn):
    """Pixel ROC, averaged over images at equal false positive rates."""
    rates: dict[str, list[np.ndarray]] = {}
    for start in tqdm(range(0, len(lesions), 16), desc="pixel ROC"):
        rows = range(start, min(start + 16, len(lesions)))
        x = torch.stack([lesions[i][0] for i in rows]).to(device_of(fitted.model))
        masks = [lesions.mask(i).flatten() for i in rows]
        for name, maps in compare(fitted.methods, x, 1).items():
            for mask, a in zip(masks, maps.cpu(), strict=True):
                fpr, tpr, _ = roc_curve(mask, a.flatten())
                rates.setdefault(name, []).append(np.interp(FALSE_POSITIVES, fpr, tpr))
    curves = {name: (FALSE_POSITIVES, np.mean(found, 0)) for name, found in rates.items()}
    return roc_figure(curves)[0]
