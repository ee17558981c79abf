"""From a trained network to the paper's figures: heads, scores, comparison, weights, layers."""

import functools
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from captum.attr import LayerGradCam
from matplotlib.figure import Figure
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from captum_hrcam import CAM, HRCAM, FitReport, compare, find_layers
from captum_hrcam.visualize import comparison_figure, layers_figure, weights_figure
from paper.networks import Network

DPI = 200


@dataclass
class Fitted:
    """A trained network and what explains it.

    Args:
        model: the classifier, frozen.
        hrcam: with the library's default head.
        paper: with the paper's own head (Adam, no penalty).
        methods: CAM on the last block, Grad-CAM on the one before it, as the paper has them, the
            two heads, and the default head's other fusion.
    """

    model: nn.Module
    hrcam: HRCAM
    paper: HRCAM
    methods: dict[str, object]


def fit(network: Network, train_set: Dataset, batch_size: int, device: torch.device) -> Fitted:
    """Fit both heads on the training images, read once each, without augmentation."""
    model = network.model
    loader = DataLoader(train_set, batch_size)
    layers = find_layers(model, next(iter(loader))[0][:1].to(device))
    hrcam, paper = HRCAM(model, layers), HRCAM(model, layers)
    print(hrcam.fit(loader, show_progress=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it is here to be compared
        print(paper.fit(loader, solver="adam", show_progress=True))
    before_last = model.get_submodule(list(layers)[-2])
    methods = {
        "CAM": CAM(model, list(layers)[-1], network.classifier),
        # With its ReLU, as Selvaraju et al. define it; Captum's default leaves it out.
        "Grad-CAM": functools.partial(
            LayerGradCam(model, before_last).attribute, relu_attributions=True
        ),
        "HR-CAM, paper's head": paper,
        "HR-CAM": hrcam,
        "HR-CAM, agreement": functools.partial(hrcam.attribute, fusion="agreement"),
    }
    return Fitted(model, hrcam, paper, methods)


def predictions(
    predict: Mapping[str, Callable[[Tensor], Tensor]],
    data: Dataset,
    batch_size: int,
    device: torch.device,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """{name: class probabilities (N, K)} in one pass over the data, and the labels (N,)."""
    scores: dict[str, list[Tensor]] = {name: [] for name in predict}
    labels = []
    with torch.no_grad():
        for images, y in tqdm(DataLoader(data, batch_size), desc="predicting"):
            labels.append(y)
            for name, of in predict.items():
                scores[name].append(of(images.to(device)).softmax(1).cpu())
    return {k: torch.cat(v).double().numpy() for k, v in scores.items()}, torch.cat(labels).numpy()


def classification(probability: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy, F1 and AUROC, by scikit-learn."""
    guess, k = probability.argmax(1), probability.shape[1]
    present = len(set(y)) == k
    if k == 2:
        auroc = roc_auc_score(y, probability[:, 1]) if present else float("nan")
    else:
        sure = probability / probability.sum(1, keepdims=True)  # as float64, to a hair
        auroc = roc_auc_score(y, sure, multi_class="ovr") if present else float("nan")
    return {
        "accuracy": accuracy_score(y, guess),
        "balanced_accuracy": balanced_accuracy_score(y, guess),
        "f1_micro": f1_score(y, guess, average="micro"),
        "f1_macro": f1_score(y, guess, average="macro"),
        "auroc": auroc,
    }


def write_scores(
    fitted: Fitted, data: Dataset, batch_size: int, device: torch.device, out: Path, extra: dict
) -> dict:
    """metrics.json: model and heads on the test images, their agreement, the layers' shares."""
    predict = {
        "model": fitted.model,
        "head": fitted.hrcam.predict,
        "paper_head": fitted.paper.predict,
    }
    probability, y = predictions(predict, data, batch_size, device)
    found: dict = {name: classification(p, y) for name, p in probability.items()}
    model = probability["model"].argmax(1)
    for name in ("head", "paper_head"):
        found[name]["agreement_with_model"] = float((probability[name].argmax(1) == model).mean())
    for name, hrcam in (("head", fitted.hrcam), ("paper_head", fitted.paper)):
        report: FitReport = hrcam.report
        found[name]["solver"] = report.solver
        found[name]["choices"] = report.choices
        found[name]["shares"] = {k: v.tolist() for k, v in report.shares.items()}
    found |= extra
    (out / "metrics.json").write_text(json.dumps(found, indent=2) + "\n")
    return found


def write_figures(
    fitted: Fitted,
    classes: list[str],
    cases: list[tuple[Tensor, int, str]],
    out: Path,
    masks: Tensor | None = None,
) -> None:
    """comparison.png (Figs. 2, 4, 5, 6A), layers.png and weights.png (6B, 6C).

    Args:
        cases: (image, class, caption) each.
        masks: (n, H, W), outlined.
    """
    device = next(fitted.model.parameters()).device
    x = torch.stack([image for image, _, _ in cases]).to(device)
    y = torch.tensor([label for _, label, _ in cases], device=device)
    captions = [caption for _, _, caption in cases]
    maps = compare(fitted.methods, x, y)
    figure, _ = comparison_figure(x.cpu(), maps, masks=masks, captions=captions)
    save(figure, out / "comparison.png")
    few = slice(0, 3)
    layers = fitted.hrcam.layer_maps(x[few], y[few])
    figure, _ = layers_figure(
        x[few].cpu(),
        layers,
        masks=None if masks is None else masks[few],
        captions=captions[few],
        resolutions=fitted.hrcam.report.resolutions,
    )
    save(figure, out / "layers.png")
    told = 1 if len(classes) == 2 else None  # of two classes the abnormal one says it all
    figure, _ = weights_figure(fitted.hrcam.weights, classes=classes, target=told)
    save(figure, out / "weights.png")


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DPI)
    print(f"wrote {path}")
