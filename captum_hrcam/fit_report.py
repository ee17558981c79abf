"""The report of a fit: how the head does on data, and how the head came about."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from captum_hrcam.choosing import ENOUGH, doubtful
from captum_hrcam.framing import Seen
from captum_hrcam.report import HeadReport

FAR_LESS = 0.3  # share of the median class's contrast; lost classes had up to .23, others from .32
FAINT = 0.05  # in probability; CNNs of the benchmark have several times as much
FAINTLY = (
    "the model's outputs say little of the maps: on held-out images the class's probability "
    "differs by {:.3f} only between blurring away what they mark most and what they mark least."
)
UNTOLD = (
    "whether the maps mark what the model uses is not known: too few held-out images change in "
    "their class's probability where these are blurred. Give more images of each class, or some "
    "with val_data."
)


@dataclass(kw_only=True)
class FitReport(HeadReport):
    """The outcome of ``HRCAM.fit``: a :class:`HeadReport`, and how the head came about.

    ``n`` and ``class_counts`` count each training image once in every pass. Figures are made on
    images that the head they belong to has not seen.

    Attributes:
        solver: the solver used.
        balance_layers: the balancing used.
        penalty: ridge's chosen penalty; otherwise None.
        penalty_path: (penalty, held-out loss, its standard error), from strong to weak.
        choices: what was chosen automatically, and why.
        support: for ``solver="auto"``, otherwise None: how clearly held-out images speak for the
            summed maps, from -1 to 1. For each image, take the class's probability after blurring
            what its map marks least, less that after blurring what it marks most. The support is
            the sum of these differences over the sum of their sizes, for the class where it is
            largest. NaN if too few images say anything.
        change: the mean size of these differences over that class's images, in probabilities. It
            says how much the support is worth.
        seconds_pass: seconds for the frozen pass.
        seconds_solve: seconds for the solve.
        extra_forwards: forward passes of single images after the frozen pass: up to 64 to measure
            how maps usually vary, and more for a cascade, a choice, and placing layers.
        contrast: (K,), how much more a class's map of one layer varies over space in images of the
            class than in others: a ratio of deviations over up to 64 images. NaN if
            fewer than four images are of either kind; None for real values. A class told by what is
            absent, such as the healthy one, is near 1 or below: its maps mark no place.
        contrast_layer: that layer, the deepest that has weight and more than one cell; "" if there
            is none.
        displacement: layer name -> (axes,), by how many of its cells the layer's map lies beside
            what it marks, and is moved back; empty if it was not measured (``place_layers``).
        framing: for each axis of the image, how the finest layer sees it, as scale and offset, in
            sides: (1, 0) as it was given, (-1, 0) flipped, (0, 0) along another axis. Empty if it
            was not measured (as ``displacement``, or with fewer than 24 cells), or the layer does
            not tell, as in a U-Net whose cells change all over the image.
        seconds_beside: seconds for all else: the heads that were not chosen, how maps usually vary,
            the choice, and placing layers.

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
        >>> report.n, report.channels, report.resolutions
        (20, {'1': 4}, {'1': (6, 6)})
    """

    solver: str
    balance_layers: str | None
    penalty: float | None
    penalty_path: list[tuple[float, float, float]]
    choices: list[str]
    support: float | None = None
    change: float | None = None
    seconds_pass: float
    seconds_solve: float
    extra_forwards: int
    contrast: Tensor | None
    contrast_layer: str
    displacement: dict[str, Tensor]
    framing: list[Seen] = field(default_factory=list)
    seconds_beside: float

    _of_few: ClassVar[str] = "what its map shows may be these images' alone."
    _order_of_head: ClassVar[str] = ""  # these labels are those of the fit

    def _warnings(self) -> list[str]:
        n_features = sum(self.channels.values())
        found = super()._warnings()
        weak = self.solver == "adam" or (self.penalty is not None and self.penalty < 0.1)
        if weak and n_features > self.n / 10:
            found.append(
                f"a weakly penalised head on {n_features} features of {self.n} images uses "
                "channels that cancel noise: expect poor maps. Use solver='pattern' for maps."
            )
        return found + self._of_maps() + self._of_frames()

    @property
    def _is_supported(self) -> bool:
        return self.support is not None and self.support >= ENOUGH  # not if it is NaN

    def _unlike(self, how: str) -> str:
        if self.solver != "cascade" or not self._is_supported:
            return super()._unlike(how)
        return (
            f"the maps explain the head{how} the model. The model's outputs speak for the places "
            f"that they mark (support {self.support:.2f}), but a place may matter more or less to "
            "the model than to the head. solver='ridge' gives scores nearer to the model's, and "
            "worse maps"
        )

    @property
    def _at_chance(self) -> str:
        if not self._is_supported:
            return super()._at_chance
        return (
            "its scores mean nothing, though the model's outputs speak for its maps (support "
            f"{self.support:.2f}), as where a model takes maxima over space, not averages"
        )

    def _of_maps(self) -> list[str]:
        """A warning about maps that the model's outputs do not speak for, or of which they cannot
        tell."""
        if self.support is not None and math.isnan(self.support):
            return [UNTOLD]
        if not doubtful(self.support):
            faint = self.change is not None and self.change < FAINT
            return [FAINTLY.format(self.change)] if faint else []
        return [
            "the model's outputs do not speak for the maps: on held-out images blurring what the "
            "summed maps mark most does not clearly take more of the class's probability than "
            f"blurring what they mark least (support {self.support:.2f}, {ENOUGH} is enough). Is "
            "the class in any one place? In a transformer, try shallower layers."
        ]

    def _of_frames(self) -> list[str]:
        """A warning about a model that does not see the picture that maps are drawn over."""
        off = [
            f"axis {axis} at {seen.scale:+.2f} of its length, {seen.offset:+.2f} of a side aside"
            for axis, seen in enumerate(self.framing)
            if seen.is_off
        ]
        if not off:
            return []
        return [
            f"the model does not see the image as it was given: {'; '.join(off)}. Maps are drawn "
            "over the image and lie beside what they mark. Does the model pad, crop, flip or turn "
            "in its forward? Do that in the data's transform. (Convolutions without padding, or "
            "on one side only, do the same at the edges.)"
        ]

    def _of_classes(self) -> list[str]:
        found = super()._of_classes()
        if self.contrast is not None:
            for c in without_a_place(self.contrast):
                found.append(
                    f"class {c} is told by what is absent: its map of layer "
                    f"{self.contrast_layer!r} varies {self.contrast[c]:.1f} times as much in its "
                    f"images as in others "
                    f"(median class {self.contrast.nanmedian():.1f}), so its maps mark no place."
                )
        return found

    def __str__(self) -> str:
        views = "" if self.n_passes == 1 else f"{self.n} views of "
        n_images = self.n // self.n_passes
        lines = [f"HR-CAM head, solver {self.solver}, fitted on {views}{n_images} images"]
        lines += [f"  {choice}" for choice in self.choices + self._places()]
        lines += self._layer_table() + self._contrasts() + self._figures()
        lines.append(
            f"pass {self.seconds_pass:.1f} s, solve {self.seconds_solve:.1f} s, all else "
            f"{self.seconds_beside:.1f} s; further forward passes of single images: "
            f"{self.extra_forwards}"
        )
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])

    def _places(self) -> list[str]:
        """A line on how maps were moved, if displacements were measured."""
        if not self.displacement:
            return []
        moves = {
            name: (-cells).round(decimals=2) + 0.0 for name, cells in self.displacement.items()
        }
        told = [
            f"{name} ({', '.join(f'{cells:+.2f}' for cells in by.tolist())})"
            for name, by in moves.items()
            if by.any()
        ]
        if not told:
            return ["no layer's map is moved: none was found clearly displaced"]
        return [f"maps moved to where their layers look, in cells: {', '.join(told)}"]

    def _contrasts(self) -> list[str]:
        if self.contrast is None or self.contrast.isnan().all():
            return []
        told = " ".join(f"{value:.1f}" for value in self.contrast[:8].tolist()).replace("nan", "-")
        more = " ..." if len(self.contrast) > 8 else ""
        return [
            f"map of each class at {self.contrast_layer!r}: varies {told}{more} times as much in "
            "its images as in others"
        ]


def without_a_place(contrast: Tensor) -> list[int]:
    """Classes with far less contrast than the median class. Of two classes, none is listed: that
    one may be just what the other is not goes without saying.

    Examples::

        >>> import torch
        >>> without_a_place(torch.tensor([7.8, 7.1, 0.6, 7.3]))
        [2]
        >>> without_a_place(torch.tensor([0.9, 1.6]))
        []
    """
    return (contrast < FAR_LESS * contrast.nanmedian()).nonzero()[:, 0].tolist()
