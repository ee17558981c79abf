"""Between heads, without masks: whose maps mark what the frozen model uses?

Blur the marked pixels away, or show only them; a map is the truer the lower the first and the
higher the second leaves the model's probability of the class. Accuracy never tells a good map.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from captum_hrcam import group
from captum_hrcam.labels import PRESENT, model_targets
from captum_hrcam.perturbation import deletion_curve, insertion_curve

IMAGES = 24
BATCH = 8

Inputs: TypeAlias = tuple[Tensor, ...]
Attribute: TypeAlias = Callable[[Inputs, Tensor], Tensor]


@dataclass
class Verdict:
    """The candidate whose maps the model's own output speaks for.

    Attributes:
        name: of the candidate.
        why: one line for the report.
    """

    name: str
    why: str


@dataclass
class Trial:
    """Held-out images, and the frozen model's word on them.

    Args:
        outputs: inputs -> the model's scores (n, K), K' = 0 where it gives no row of scores.
        images: the inputs, (n, C, \\*spatial) each, on the CPU, this rank's; maps are of the first.
        y: (n, K) targets.
        loss: of the head, which says how the scores become probabilities.
    """

    outputs: Callable[[Inputs], Tensor]
    images: Inputs
    y: Tensor
    loss: str

    def choose(self, candidates: Mapping[str, Attribute]) -> Verdict:
        """The first candidate, or one that beats it in both tests, averaged over the images.

        Each test alone errs: a digit that lost one stroke is no digit, whatever the map.

        Args:
            candidates: two or more, name -> f(inputs, classes (n,)) that gives maps
                (n, 1, \\*spatial). The first is the one to doubt least.
        """
        names = list(candidates)
        image, label = self._present()
        n = group.count(len(image))
        if n == 0:
            return Verdict(names[0], f"{names[0]}: no held-out image has a class to judge by")
        if self.outputs(tuple(x[:1] for x in self.images)).shape[1] != self.y.shape[1]:
            return Verdict(names[0], f"{names[0]}: the model gives no score of each class")
        found = {
            name: group.gather(self._tests(attribute, image, label))
            for name, attribute in candidates.items()
        }
        first, *others = names
        best = first
        for name in others:
            if all(found[name].mean(0) > found[best].mean(0)):
                best = name
        return Verdict(best, self._why(best, found))

    def _why(self, best: str, found: dict[str, Tensor]) -> str:
        """The figures of all candidates, and the margins of the best with standard errors."""
        told = []
        for name, tests in found.items():
            inserted, deleted = tests.mean(0).tolist()
            told.append(f"{name} {inserted:.3f} and {-deleted:.3f}")
            if name != best:
                margin = found[best] - tests
                error = margin.std(0, correction=0) / max(len(margin) - 1, 1) ** 0.5
                told[-1] += " (margins " + ", ".join(
                    f"{m:.3f} ± {e:.3f}" for m, e in zip(margin.mean(0), error, strict=True)
                )
                told[-1] += ")"
        n = len(found[best])
        return (
            f"{best}: the model's probability after insertion (more is better) and deletion (less) "
            f"on {n} held-out images: {'; '.join(told)}"
        )

    def _present(self) -> tuple[Tensor, Tensor]:
        """(images with a class, the class of each): the most present one."""
        amount, label = self.y.max(1)
        image = (amount >= PRESENT).nonzero()[:, 0]
        return image, label[image]

    def _tests(self, attribute: Attribute, image: Tensor, label: Tensor) -> Tensor:
        """(n, 2): insertion, and deletion with its sign turned; means over the fractions."""
        found = [torch.zeros(0, 2)]
        for rows in torch.arange(len(image)).split(BATCH):
            inputs = tuple(x[image[rows]] for x in self.images)
            maps = attribute(inputs, label[rows]).cpu()
            first, *rest = inputs
            score = partial(self._score, first.dtype, rest, label[rows])
            first = first if first.is_floating_point() else first.float()
            curves = insertion_curve(score, first, maps), -deletion_curve(score, first, maps)
            found.append(torch.stack([curve.mean(1) for curve in curves], 1))
        return torch.cat(found).double()

    def _score(self, dtype: torch.dtype, rest: list[Tensor], label: Tensor, x: Tensor) -> Tensor:
        """The model's probability of each image's class; a model may scale whole numbers itself."""
        scores = self.outputs((x.to(dtype), *rest))
        return model_targets(scores, self.loss)[torch.arange(len(label)), label]
