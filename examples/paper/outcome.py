"""From a trained network to its heads, predictions and maps."""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from captum_hrcam import CAM, HRCAM, find_layers
from paper import scores
from paper.networks import Network
from paper.pictures import Split

Load = Callable[[Dataset], DataLoader]


@dataclass
class Fitted:
    """A trained network and the methods that explain it.

    Args:
        model: the classifier, frozen.
        hrcam: HR-CAM with the library's default head.
        paper: HR-CAM with the paper's own head (Adam, no penalty).
        methods: CAM on the last block and Grad-CAM on the one before it, as in the paper; HR-CAM
            with each of the two heads; and the default head's other fusion.
    """

    model: nn.Module
    hrcam: HRCAM
    paper: HRCAM
    methods: dict[str, object]


@dataclass
class Outcome:
    """The results of one network on images that it was not trained on.

    Args:
        fitted: the network and the methods that explain it.
        metrics: for metrics.json.
        probability: {"model", "head", "paper_head": class probabilities (n, K)}.
        y: (n,) labels.
        cases: the cases to draw, (image, class, caption) each.
        masks: (cases, H, W), to be outlined.
    """

    fitted: Fitted
    metrics: dict
    probability: dict[str, np.ndarray]
    y: np.ndarray
    cases: list[tuple[Tensor, int, str]]
    masks: Tensor | None


def explain(network: Network, split: Split, load: Load) -> Outcome:
    """Fit the heads on one side of the split, and apply them to the other."""
    fitted = fit(network, *for_fit(split, load))
    probability, y = predictions(fitted, load(split.test))
    metrics = scores.scores(probability, y, split.classes)
    for name, hrcam in (("head", fitted.hrcam), ("paper_head", fitted.paper)):
        report = hrcam.report
        metrics[name] |= {
            "solver": report.solver,
            "choices": report.choices,
            "shares": {layer: share.tolist() for layer, share in report.shares.items()},
            "displacement": {layer: by.tolist() for layer, by in report.displacement.items()},
        }
    metrics |= {
        "initialised": network.initialised,
        "images": {"train": len(split.plain), "test": len(split.test)},
        "subjects": {side: len(names) for side, names in split.subjects.items()},
        "drawn": split.names,
    }
    cases = [
        (split.test[i][0], c, f"{caption}\n{split.classes[c]}: {probability['model'][i, c]:.2f}")
        for i, c, caption in split.cases
    ]
    return Outcome(fitted, metrics, probability, y, cases, split.masks)


def for_fit(split: Split, load: Load) -> tuple[DataLoader, DataLoader | None]:
    """The training images without augmentation, as (to solve on, to choose on)."""
    if not split.held:
        return load(split.plain), None
    held = set(split.held)
    others = [i for i in range(len(split.plain)) if i not in held]
    return load(Subset(split.plain, others)), load(Subset(split.plain, split.held))


def fit(network: Network, images: DataLoader, held: DataLoader | None) -> Fitted:
    """Fit both heads, each in one pass over the training images, without augmentation."""
    model = network.model
    first, _ = images.dataset[0]
    layers = find_layers(model, first[None].to(device_of(model)))
    hrcam, paper = HRCAM(model, layers), HRCAM(model, layers)
    print(hrcam.fit(images, val_data=held, show_progress=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # this head is here for comparison
        print(paper.fit(images, val_data=held, solver="adam", show_progress=True))
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


@torch.no_grad()
def predictions(fitted: Fitted, images: DataLoader) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """{"model", "head", "paper_head": class probabilities (n, K)} and the labels (n,).

    A head's prediction runs the model, so a hook keeps the model's own scores from that run.
    """
    found: dict[str, list[Tensor]] = {"model": [], "head": [], "paper_head": []}
    labels, given = [], {}
    heads = {"head": fitted.hrcam, "paper_head": fitted.paper}
    device = device_of(fitted.model)
    with fitted.model.register_forward_hook(lambda *ran: given.update(model=ran[-1])):
        for x, y in tqdm(images, desc="predicting"):
            given |= {name: head.predict(x.to(device)) for name, head in heads.items()}
            for name, rows in found.items():
                rows.append(given[name].softmax(1).cpu())
            labels.append(y)
    return {k: torch.cat(v).double().numpy() for k, v in found.items()}, torch.cat(labels).numpy()


def device_of(model: nn.Module) -> torch.device:
    """The device of the model, where its inputs must be."""
    return next(model.parameters()).device
