"""What the experiments share: pictures at the network's size, training, scores, figures."""

import functools
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2

from paper import outcome
from paper.networks import Network, build
from paper.simulated import AUGMENT
from paper.training import train

# Mean and deviation of a channel: ImageNet's, as its weights were trained; else -1..1.
STANDARD = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


class Pictures(Dataset):
    """Items of a data set, transformed, each ``times`` times an epoch.

    Args:
        source: gives (image, label).
        transform: applied to each image when it is read.
        items: of the source; None for all.
        times: 10 with a random transform is the paper's tenfold augmentation.
    """

    def __init__(
        self,
        source: Dataset,
        transform: Callable,
        items: Sequence[int] | None = None,
        times: int = 1,
    ) -> None:
        self.source, self.transform, self.times = source, transform, times
        self.items = list(range(len(source)) if items is None else items)

    def __len__(self) -> int:
        return len(self.items) * self.times

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image, label = self.source[self.items[i % len(self.items)]]
        return self.transform(image), label


@dataclass
class Split:
    """Images to train on and to test on, and what to draw of the tests.

    Args:
        train: augmented.
        plain: the same without augmentation, each image once: the heads are fitted on it.
        test: neither augmented nor seen before.
        cases: (item of ``test``, the class whose map is drawn, caption).
        names: what each case is in the data set, for metrics.json.
        class_weights: (K,), of the loss.
        masks: (cases, H, W), outlined.
        subjects: of the two sides, where the split is by subject.
    """

    train: Pictures
    plain: Pictures
    test: Pictures
    classes: list[str]
    cases: list[tuple[int, int, str]]
    names: list[str]
    class_weights: Tensor | None = None
    masks: Tensor | None = None
    subjects: dict[str, list[str]] = field(default_factory=dict)


def to_pixels(size: int, *, gray: bool = False, augment: bool = False) -> v2.Compose:
    """Three channels in 0..1, squeezed to a square; flipped, turned and shifted at random.

    Args:
        size: pixels per side.
        gray: images are tensors (1, H, W) in 0..1, else PIL images in RGB.
        augment: the three of the paper, with black where the image ends.
    """
    resize = v2.Resize((size, size), antialias=True)
    to_tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    steps = [resize, v2.Grayscale(3)] if gray else [resize, *to_tensor]
    return v2.Compose([*steps, AUGMENT] if augment else steps)


def trained(
    data: Dataset,
    n_classes: int,
    options: Namespace,
    device: torch.device,
    checkpoint: Path,
    *,
    class_weights: Tensor | None = None,
    standardize: bool = False,
) -> Network:
    """The base network after training, or after the rest of it where a checkpoint was left."""
    torch.manual_seed(0)
    network = build(options.arch, n_classes, options.weights)
    if standardize:  # by what was asked for: a resumed run must not depend on what could be loaded
        _standardize(network.model, *STANDARD[options.weights])
    if checkpoint.exists():
        network.initialised = "checkpoint"
    train(
        network.model,
        data,
        epochs=options.epochs,
        batch_size=options.batch_size,
        device=device,
        checkpoint=checkpoint,
        lr=options.lr,
        workers=options.workers,
        class_weights=class_weights,
    )
    return network


def _standardize(model: nn.Module, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
    """Let the model take images in 0..1, so that what is drawn keeps its colours.

    In a hook rather than in a module of its own, which would be one more layer to find.
    """
    model.register_forward_pre_hook(functools.partial(_scale, mean=mean, deviation=deviation))


def _scale(
    module: nn.Module, inputs: tuple, mean: tuple[float, ...], deviation: tuple[float, ...]
) -> tuple[Tensor]:
    (x,) = inputs
    mean, deviation = (x.new_tensor(v)[:, None, None] for v in (mean, deviation))
    return ((x - mean) / deviation,)


def explain(
    network: Network, split: Split, options: Namespace, device: torch.device, out: Path, ran: dict
) -> dict:
    """Fit the heads; metrics.json and the three figures into ``out``; the metrics."""
    told = {
        "initialised": network.initialised,
        "images": {"train": len(split.plain), "test": len(split.test)},
        "drawn": split.names,
        "subjects": {side: len(names) for side, names in split.subjects.items()},
    }
    fitted = outcome.fit(network, split.plain, options.batch_size, device)
    found = outcome.write_scores(
        fitted, split.test, options.batch_size, device, out, {**ran, **told}
    )
    cases = [(split.test[i][0], label, caption) for i, label, caption in split.cases]
    cases = with_scores(network.model, cases, split.classes, device)
    outcome.write_figures(fitted, split.classes, cases, out, split.masks)
    return found


@torch.no_grad()
def with_scores(
    model: nn.Module, cases: list[tuple], classes: list[str], device: torch.device
) -> list[tuple]:
    """The model's probability of the drawn class below each caption."""
    images = torch.stack([image for image, _, _ in cases]).to(device)
    scores = model(images).softmax(1).cpu()
    return [
        (image, label, f"{caption}\n{classes[label]}: {score[label]:.2f}")
        for (image, label, caption), score in zip(cases, scores, strict=True)
    ]


def first_of_each(keys: Iterable, items: Iterable[int]) -> list[int]:
    """The first item of each key in the data set's order: no picture is picked for its looks."""
    found: dict = {}
    for key, i in zip(keys, items, strict=True):
        found.setdefault(key, i)
    return [found[key] for key in sorted(found)]


def add_common(parser: ArgumentParser, *, weights: str, lr: float, workers: int) -> None:
    """The options of every experiment."""
    add, default = parser.add_argument, "default %(default)s"
    add("--arch", choices=["resnet50", "vgg19"], default="resnet50", help=default)
    add("--weights", choices=["imagenet", "none"], default=weights, help=default)
    add("--image-size", type=int, default=224, help=default)
    add("--epochs", type=int, default=20, help=default)
    add("--batch-size", type=int, default=32, help=f"of all GPUs together; {default}")
    add("--lr", type=float, default=lr, help=f"largest of the one-cycle schedule; {default}")
    add("--workers", type=int, default=workers, help=f"processes reading to train; {default}")
    add("--checkpoint", type=Path, help="by default in --out")
    add("--out", type=Path, required=True, help="folder for figures, metrics and checkpoint")
