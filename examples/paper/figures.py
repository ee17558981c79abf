"""Draws comparison.png (the paper's Figs. 2, 4, 5, 6A), layers.png and weights.png (6B, 6C)."""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from captum_hrcam import compare
from captum_hrcam.visualize import comparison_figure, layers_figure, weights_figure
from paper.outcome import Outcome, device_of

DPI = 200
LAYER_ROWS, WEIGHT_PANELS = 3, 8


def write_figures(outcomes: list[Outcome], classes: list[str], out: Path) -> None:
    """Write the three figures, each once for all folds. Each case is explained by the network that
    was not trained on it."""
    drawn = [fold for fold in outcomes if fold.cases]
    captions = [caption for fold in drawn for _, _, caption in fold.cases]
    images = torch.cat([_images(fold) for fold in drawn])
    masks = None if drawn[0].masks is None else torch.cat([fold.masks for fold in drawn])
    maps = _joined([compare(fold.fitted.methods, *_on_device(fold)) for fold in drawn])
    titles = ["image", *(name.replace(", ", ",\n") for name in maps)]
    figure, _ = comparison_figure(
        images, maps, masks=masks, captions=captions, titles=titles, colorbar=True
    )
    save(figure, out / "comparison.png")

    layers = _joined([fold.fitted.hrcam.layer_maps(*_on_device(fold)) for fold in drawn])
    few = slice(LAYER_ROWS)
    figure, _ = layers_figure(
        images[few],
        {name: a[few] for name, a in layers.items()},
        masks=None if masks is None else masks[few],
        captions=captions[few],
        resolutions=drawn[0].fitted.hrcam.report.resolutions,
    )
    save(figure, out / "layers.png")

    weights, panels = _weights(outcomes[:WEIGHT_PANELS], classes)
    figure, _ = weights_figure(weights, classes=panels)
    save(figure, out / "weights.png")


def _weights(folds: list[Outcome], classes: list[str]) -> tuple[dict[str, Tensor], list[str]]:
    """What weights_figure draws: {layer: (panels, C)}, and the panels' names.

    With more than two classes, the first head has a panel for each class. With two, only the
    abnormal class is drawn, in one panel for each fold's head.
    """
    heads = [fold.fitted.hrcam.weights for fold in folds]
    if len(classes) > 2:
        return heads[0], classes
    of_one = {layer: torch.stack([head[layer][1] for head in heads]) for layer in heads[0]}
    if len(folds) == 1:
        return of_one, classes[1:]
    return of_one, [f"{classes[1]}, fold {k}" for k in range(1, len(folds) + 1)]


def _images(fold: Outcome) -> Tensor:
    return torch.stack([image for image, _, _ in fold.cases])


def _on_device(fold: Outcome) -> tuple[Tensor, Tensor]:
    """Images and classes of the cases, on the device of the fold's network."""
    device = device_of(fold.fitted.model)
    return _images(fold).to(device), torch.tensor([c for _, c, _ in fold.cases], device=device)


def _joined(folds: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([fold[name].cpu() for fold in folds]) for name in folds[0]}


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DPI)
    print(f"wrote {path}")
