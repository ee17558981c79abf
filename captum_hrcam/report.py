"""A report of how a head does on data, with warnings where its maps would mislead."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from captum_hrcam.labels import listed

FEW_IMAGES = 10  # of a class; fewer get a warning
ALIKE = 0.9  # R^2 of log-odds; above it, mainly their scale and threshold can differ
A_GUESS = "a guess. Are its trained weights loaded, the images prepared as for its training?"
CONTRARY = "so it orders the images the other way round."
ORDER = "Are the labels in the order and of the sign of the model's outputs?"
MORE_IMAGES = "Check the labels, or fit on more images."
ORDER_OF_FIT = "Are the labels in the order and of the sign of those of the fit?"


@dataclass(kw_only=True)
class HeadReport:
    """How a head does on data; ``print`` it.

    Attributes:
        n: number of images.
        class_counts: (K,), the number of images of each class (sums of soft labels); None for real
            values.
        channels: layer name -> C_l.
        resolutions: layer name -> native spatial size.
        shares: layer name -> (K,), the layer's share of the variance of each class's score; the
            shares of a class add up to 1.
        figures_from: the data that the figures below were computed on.
        n_figures: the number of images in these data.
        head_accuracy: the share of images whose class the head gets right; with
            ``loss="binary_cross_entropy"`` the share of all images' outputs. NaN if undefined.
        model_accuracy: the same for the model.
        head_auroc: the head's area under ROC of each class against the rest, averaged.
        model_auroc: the same for the model.
        agreement: the share of images to which head and model give the same class; with
            ``loss="binary_cross_entropy"`` the share of all images' outputs that they decide alike.
        r_squared: squared correlation of the head's and the model's log-odds (of their outputs, for
            real values), averaged over outputs.
        slope: slope of the head's log-odds over the model's, all outputs together: 1 if head and
            model are equally sure, below 0 if the head says the contrary.
        says_contrary: whether the head clearly says the contrary.
        divergence: Kullback-Leibler divergence of the model's probabilities from the head's, in
            nats per image; NaN for real values.
        head_by_class: (K,), the head's AUROC of each class, or the correlation of each output with
            its real-valued labels; NaN where undefined.
        model_by_class: the same for the model.
        alone_by_class: (K,), for a softmax, the AUROC of each class's own score, which is the mean
            of its map plus the bias (``head_by_class`` is that of its odds against the others).
            Otherwise None.
        by_chance: (K,), what ``head_by_class`` and ``model_by_class`` hardly exceed by guessing
            (1.7 standard errors); NaN for a class if fewer than ten images have it, or lack it.
        has_model: whether the model's output is a score for each of the head's outputs. If not,
            there is nothing to compare with, and the figures that need the model are NaN.
        n_broken: the number of images for which the model's output is NaN or infinite. If there are
            any, the figures that need the model are NaN.
        n_passes: how often the images were read.
        gives_probabilities: whether the model's outputs are probabilities already, although the
            loss expects logits.
        targets: what the figures take for the truth: "labels", or the "model" itself.
        warnings: what a reader of the maps should know.

    Examples::

        >>> import torch
        >>> from torch import nn
        >>> from captum_hrcam import HRCAM
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ...     nn.Linear(4, 2))
        >>> batches = [(torch.randn(20, 1, 8, 8), torch.arange(20) % 2)]
        >>> hrcam = HRCAM(model, "1")
        >>> report = hrcam.fit(batches)
        >>> hrcam.check(batches).n_figures
        20
    """

    n: int
    class_counts: Tensor | None
    channels: dict[str, int]
    resolutions: dict[str, tuple[int, ...]]
    shares: dict[str, Tensor]
    figures_from: str
    n_figures: int
    head_accuracy: float
    model_accuracy: float
    head_auroc: float
    model_auroc: float
    agreement: float
    r_squared: float
    slope: float
    divergence: float
    says_contrary: bool
    head_by_class: Tensor
    model_by_class: Tensor
    by_chance: Tensor
    has_model: bool
    gives_probabilities: bool
    alone_by_class: Tensor | None = None
    n_broken: int = 0
    n_passes: int = 1
    targets: str = "labels"
    warnings: list[str] = field(default_factory=list)

    _of_few: ClassVar[str] = "its figures here say little."
    _order_of_head: ClassVar[str] = ORDER_OF_FIT

    def __post_init__(self) -> None:
        self.warnings += self._warnings()

    def _warnings(self) -> list[str]:
        """What a reader of the maps should know."""
        return (
            self._of_outputs()
            + self._of_agreement()
            + self._of_chance()
            + self._of_layers()
            + self._of_classes()
            + self._of_guesses()
        )

    def _of_outputs(self) -> list[str]:
        """Warnings about a model whose outputs are not scores to compare with."""
        found = []
        if not self.has_model:
            found.append(
                "the model's output is no score for each of the head's outputs, so the head was "
                "compared with nothing. Give HRCAM a function that picks the scores out, as "
                "lambda x: model(x).logits."
            )
        if self.n_broken:
            found.append(
                f"the model's output is NaN or infinite for {self.n_broken} of {self.n_figures} "
                "images, so the head was compared with nothing. Check these inputs, and the "
                "model's weights."
            )
        if self.gives_probabilities:
            found.append(
                "the model's outputs are probabilities, where scores as before a softmax or "
                "sigmoid are expected: its figures here, and what is chosen by them, are wrong. "
                "Give HRCAM the model without its last activation."
            )
        return found

    def _of_agreement(self) -> list[str]:
        """The gravest warning about a head that is far from the model, if any."""
        if self.says_contrary:
            return [
                f"the head's scores fall where the model's rise (slope {self.slope:.2f}): its maps "
                "show the contrary. Do the labels have the sign and order of the model's outputs?"
            ]
        if self.agreement < 0.9 and self.r_squared >= ALIKE:
            return [
                f"head and model agree on only {self.agreement:.1%} of their decisions, but order "
                f"the images alike (R^2 {self.r_squared:.2f}): one of them decides at another "
                "threshold, and no threshold is in a map. Is the model's right for these images?"
            ]
        if self.agreement < 0.9:
            return [
                f"head and model agree on only {self.agreement:.1%} of their decisions: "
                f"{self._unlike(', not')}."
            ]
        if self.r_squared < 0.5:
            return [
                f"R^2 of the head's and the model's scores is {self.r_squared:.2f}: "
                f"{self._unlike(' more than')}."
            ]
        return []

    def _unlike(self, how: str) -> str:
        """What it means that a head's scores are not the model's."""
        return f"the map explains the head{how} the model. More layers may help{self._remedy}"

    @property
    def _at_chance(self) -> str:
        """What it means that a head is no better than chance."""
        return "its maps mean nothing"

    @property
    def _remedy(self) -> str:
        """What else may bring the head closer to the model."""
        real = ", or solver='ridge'" if self.class_counts is None else ""
        labels = ", or targets='model' where the model does not follow the labels"
        return real + (labels if self.targets == "labels" else "")

    @property
    def _chance(self) -> float:
        """What the AUROC of a guess hardly exceeds, averaged over classes."""
        # About 1.7 standard errors, if classes are of equal size.
        return min(1.0, 0.5 + self.n_figures**-0.5)

    def _of_chance(self) -> list[str]:
        """Warnings about a head or a model that guesses, or orders the images the other way."""
        at_chance = f"no better than chance: {self._at_chance}."
        told = (
            ("the model's own", self.model_auroc, A_GUESS, ORDER),
            ("the head's", self.head_auroc, f"{at_chance} {MORE_IMAGES}", self._order_of_head),
        )
        found = []
        for whose, value, guess, order in told:
            so = f"{CONTRARY} {order}" if order and value < 1 - self._chance else guess
            if value < self._chance:
                found.append(f"{whose} AUROC is {value:.2f} on {self.n_figures} images, {so}")
        return found

    def _of_guesses(self) -> list[str]:
        """Warnings about single classes that head or model guess, or order the other way, if
        overall they do neither."""
        no_better = f"not clearly better than chance: {self._at_chance}. {MORE_IMAGES}"
        hardly = f"hardly more than a guess. {ORDER}"
        told = (
            ("the head's", self.head_by_class, self.head_auroc, no_better, self._order_of_head),
            ("the model's own", self.model_by_class, self.model_auroc, hardly, ORDER),
        )
        mirrored = -self.by_chance if self.class_counts is None else 1 - self.by_chance
        found = []
        for whose, values, overall, guess, order in told:
            if not overall < self._chance:
                is_contrary = (values < mirrored) & bool(order)
                is_guess = (values < self.by_chance) & ~is_contrary
                found += self._of_single(whose, values, is_guess, guess)
                found += self._of_single(whose, values, is_contrary, f"{CONTRARY} {order}")
        return found

    def _of_single(self, whose: str, values: Tensor, rows: Tensor, so: str) -> list[str]:
        """A warning about the classes in ``rows``, (K,) bool, if there are any."""
        classes = rows.nonzero()[:, 0].tolist()
        if not classes:
            return []
        is_real, many = self.class_counts is None, len(classes) > 1
        figure = "correlation with the labels" if is_real else "AUROC"
        kind = (("output", "outputs") if is_real else ("class", "classes"))[many]
        return [
            f"{kind} {listed(classes)}: {whose} {figure} is {values[classes].max():.2f}"
            f"{' at most' if many else ''}, {so}"
        ]

    def _of_layers(self) -> list[str]:
        means = {name: share.mean().item() for name, share in self.shares.items()}
        most = max(means, key=means.__getitem__)
        if len(means) == 1 or means[most] < 0.9:
            return []
        size = "x".join(map(str, self.resolutions[most]))
        return [
            f"layer {most!r} carries nearly all of the score (share of its variance "
            f"{means[most]:.2f}): the map is hardly finer than its {size} cells."
        ]

    def _of_classes(self) -> list[str]:
        """Warnings about single classes."""
        if self.class_counts is None:
            return []
        found: list[str] = []
        for counts, has in ((self.class_counts, "has"), (self.n - self.class_counts, "is not in")):
            counts = (counts / self.n_passes).round(decimals=6)  # n times a mean is not exact
            few = ((counts > 0) & (counts < FEW_IMAGES)).nonzero()[:, 0].tolist()
            if few and not found:
                low, high = (f"{end(counts[few]):.3g}" for end in (min, max))
                whose = f"class {few[0]}" if len(few) == 1 else f"each of classes {listed(few)}"
                number = low if low == high else f"{low} to {high}"
                images = "image" if number == "1" else "images"
                by = "by the model's probabilities" if self.targets == "model" else "by soft labels"
                soft = "" if counts[few].eq(counts[few].round()).all() else f", {by}"
                found.append(f"{whose} {has} {number} {images}{soft}: {self._of_few}")
        return found

    def __str__(self) -> str:
        lines = [f"HR-CAM head on {self.n} images", *self._layer_table(), *self._figures()]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])

    def _figures(self) -> list[str]:
        lines = [
            f"  accuracy   head {self.head_accuracy:.3f}   model {self.model_accuracy:.3f}",
            f"  AUROC      head {self.head_auroc:.3f}   model {self.model_auroc:.3f}",
            f"  head and model agree on {self.agreement:.1%}; log-odds: R^2 {self.r_squared:.3f}, "
            f"slope {self.slope:.2f}; divergence {self.divergence:.3f}",
        ]
        if self.alone_by_class is not None:
            alone = " ".join(f"{value:.3f}" for value in self.alone_by_class[:8].tolist())
            alone += " ..." if len(self.alone_by_class) > 8 else ""
            lines.insert(
                2, f"  AUROC of each class's score alone, its map's mean plus bias: {alone}"
            )
        if self.class_counts is None:
            head, model = (v.nanmean().item() for v in (self.head_by_class, self.model_by_class))
            lines = [
                f"  correlation with the labels   head {head:.3f}   model {model:.3f}",
                f"  head and model: R^2 {self.r_squared:.3f}, slope {self.slope:.2f}",
            ]
        truth = ", the model's own outputs taken for the truth" if self.targets == "model" else ""
        lines.insert(0, f"on {self.figures_from}{truth}:")
        return [line.replace("nan%", "-").replace("nan", "-") for line in lines]

    def _layer_table(self) -> list[str]:
        width = max(5, *(len(name) for name in self.channels))
        lines = [f"{'layer':<{width}}  channels  resolution   share of each class's score variance"]
        for name, channels in self.channels.items():
            size = "x".join(map(str, self.resolutions[name]))
            share = " ".join(f"{value:6.1%}" for value in self.shares[name][:8].tolist())
            more = " ..." if len(self.shares[name]) > 8 else ""
            lines.append(f"{name:<{width}}  {channels:>8}  {size:>10}   {share}{more}")
        return lines
