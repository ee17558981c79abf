"""Ask the frozen model, without masks, what it makes of images of which a part is blurred."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from captum_hrcam import group
from captum_hrcam.labels import PRESENT, model_targets, present
from captum_hrcam.perturbation import Score, deletion_curve

BATCH = 8

Inputs: TypeAlias = tuple[Tensor, ...]
Attribute: TypeAlias = Callable[[Inputs, Tensor], Tensor]
Several: TypeAlias = Callable[[Inputs, Tensor], Sequence[Tensor]]
Curve: TypeAlias = Callable[..., Tensor]


@dataclass
class Asking:
    """Asks the frozen model for the probabilities of the classes that are in a few images.

    Args:
        outputs: inputs -> the model's outputs (n, K'); K' = 0 if they are not rows of scores.
        images: this rank's inputs, (n, C, \\*spatial) each, on the CPU; maps are of the first.
        y: (n, K) targets.
        loss: the head's loss, which determines how scores become probabilities.
    """

    outputs: Callable[[Inputs], Tensor]
    images: Inputs
    y: Tensor
    loss: str

    def costs(self, attribute: Several, k: int, fractions: Sequence[float]) -> Tensor:
        """What it costs the model to blur away what each of k maps of an image marks most.

        Args:
            attribute: f(inputs, classes (n,)) that gives k maps (n, 1, \\*spatial).
            k: how many.
            fractions: shares of the pixels; the costs are means over them.

        Returns:
            (n, k), losses of probability of the images' classes, of all ranks' images
            whose class the model sees; n = 0 if it gives no score of each class.
        """
        image, label = self.present()
        if self.is_mute():
            image, label = image[:0], label[:0]
        asked = (self._score_and_first(image[rows], label[rows]) for rows in batches(len(image)))
        whole = torch.cat([torch.zeros(0), *(score(first) for score, first in asked)])
        sees = whole >= PRESENT
        image, label = image[sees], label[sees]
        left = [torch.zeros(0, k)]
        for rows in batches(len(image)):
            score, first = self._score_and_first(image[rows], label[rows])
            maps = attribute(self._inputs(image[rows]), label[rows])
            each = [deletion_curve(score, first, m.cpu(), fractions).mean(1) for m in maps]
            left.append(torch.stack(each, 1))
        return group.gather((whole[sees, None] - torch.cat(left)).double())

    def is_mute(self) -> bool:
        """Whether the model gives no score of each class. A rank may have no images to ask it."""
        if len(self.y) == 0:
            return group.count(0) > 0
        one = tuple(x[:1] for x in self.images)
        return group.count(int(self.outputs(one).shape[1] != self.y.shape[1])) > 0

    def present(self) -> tuple[Tensor, Tensor]:
        """Pairs of an image and a class present in it, as (images, classes): at most as many pairs
        as images, spread over all classes, so that of several labels per image not just the first
        ones are judged."""
        label, image = present(self.y, self.loss).T.nonzero(as_tuple=True)
        some = torch.linspace(0, len(image) - 1, min(len(image), len(self.y))).long()
        some = some[image[some].argsort(stable=True)]
        return image[some], label[some]

    def maps(self, attribute: Attribute, image: Tensor, label: Tensor) -> Tensor:
        """The maps of these pairs, (n, 1, \\*spatial), on the CPU."""
        found = [torch.zeros(0, 1, *self.images[0].shape[2:])]
        for rows in batches(len(image)):
            found.append(attribute(self._inputs(image[rows]), label[rows]).cpu())
        return torch.cat(found)

    def tests(self, maps: Tensor, image: Tensor, label: Tensor, curves: Sequence[Curve]) -> Tensor:
        """Each curve's mean over its fractions, (n, curves)."""
        found = [torch.zeros(0, len(curves))]
        for rows in batches(len(image)):
            score, first = self._score_and_first(image[rows], label[rows])
            found.append(torch.stack([c(score, first, maps[rows]).mean(1) for c in curves], 1))
        return torch.cat(found).double()

    def _inputs(self, image: Tensor) -> Inputs:
        return tuple(x[image] for x in self.images)

    def _score_and_first(self, image: Tensor, label: Tensor) -> tuple[Score, Tensor]:
        """The model's probability of these pairs' classes, as a function of the first input, and
        that input."""
        first, *rest = self._inputs(image)
        score = partial(self._score, first.dtype, rest, label)
        is_whole = not (first.is_floating_point() or first.is_complex())
        return score, first.float() if is_whole else first

    def _score(self, dtype: torch.dtype, rest: list[Tensor], label: Tensor, x: Tensor) -> Tensor:
        """The model's probability of each image's class. Inputs keep their dtype, as a model that
        takes whole numbers may scale them itself."""
        scores = self.outputs((x.to(dtype), *rest))
        return model_targets(scores, self.loss)[torch.arange(len(label)), label]


def batches(n: int) -> Iterator[slice]:
    """Slices of n rows; none if n is 0, as a model may not take an empty batch."""
    return (slice(start, start + BATCH) for start in range(0, n, BATCH))
