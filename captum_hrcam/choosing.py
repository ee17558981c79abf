"""Choose between heads without masks: whose maps mark what the frozen model uses?

A head's accuracy says nothing about its maps. So the model is asked whether a head's maps mark what
it uses at all: blurring what they mark least must cost less probability than blurring what they
mark most. In layers that mix all places, such as a transformer's deep ones, the evidence may lie
anywhere but at the object.

If the maps do not, two tests compare them with another head's: blur away what a map marks
(deletion), or show nothing else (insertion). The better map leaves the class a lower probability in
the first test and a higher one in the second.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from captum_hrcam import group
from captum_hrcam.asking import Asking, Attribute
from captum_hrcam.labels import PRESENT
from captum_hrcam.perturbation import Score, deletion_curve, insertion_curve

IMAGES = 24
TRIFLE = 0.01  # in probability; an image where less changes says nothing about its map
FEW = 4  # fewer images that say something are too few
ENOUGH = 0.5  # support, which is 1.00 for the CNNs of the benchmark
SAY = 0.25  # of the largest change; a class with less says too little to outweigh another
GOOD = torch.tensor([1.0, -1.0])  # more is better in insertion, less in deletion


def unchanged(score: Score, images: Tensor, maps: Tensor) -> Tensor:
    """The score of the images as they are, (N, 1), in the form of the two curves."""
    return score(images)[:, None]


CURVES = (insertion_curve, deletion_curve)


@dataclass
class Verdict:
    """The candidate that was chosen, and how clearly the model's outputs speak for its maps.

    Attributes:
        name: the candidate's name.
        why: one line for the report.
        support: from -1 to 1, see ``Judge.choose``; NaN if too few images say anything.
        change: the mean size of the differences behind the support, in probabilities.
        margin: the sum of these differences over the images of all classes, in probabilities.
    """

    name: str
    why: str
    support: float = math.nan
    change: float = math.nan
    margin: float = 0.0


class Judge(Asking):
    """Judges heads by what the frozen model makes of held-out images."""

    def choose(self, candidates: Mapping[str, Attribute]) -> Verdict:
        """Choose the first candidate, or a better one if the outputs do not speak for its maps.

        Support says how clearly the model's outputs speak for a candidate's maps. For each image
        whose class the model sees, take the class's probability after blurring what the map marks
        least, less that after blurring what it marks most. The support is the sum of these
        differences over the sum of their sizes, for the class where it is largest (of two classes,
        one may be just what the other is not). Classes whose differences are less than a
        quarter of another's have no say, as on their maps little depends.

        Another candidate must be better in both tests, averaged over the images, by more than a
        standard error. Each test alone can mislead: a digit that lost one stroke is no digit,
        whatever the map. And both tests favour a map that marks much: in brains, a tumour with all
        that is around it over the tumour alone, which is what masks show. So they are used only if
        the first candidate's maps do not mark what the model uses.

        Args:
            candidates: two or more, name -> f(inputs, classes (n,)) that gives maps
                (n, 1, \\*spatial). The first is the one to doubt least.
        """
        first, *others = candidates
        image, label = self.present()
        if group.count(len(image)) == 0:
            return Verdict(first, f"{first}: no held-out image has a class to judge by")
        if self.is_mute():
            return Verdict(first, f"{first}: the model gives no score of each class")
        maps = {first: self.maps(candidates[first], image, label)}
        kept = self._verdict(first, maps[first], image, label)
        if not doubtful(kept.support):
            return kept
        maps |= {name: self.maps(candidates[name], image, label) for name in others}
        tests = {name: self.tests(m, image, label, CURVES) for name, m in maps.items()}
        found, best = {name: group.gather(rows) for name, rows in tests.items()}, first
        for name in others:
            if all(m > error for m, error in _margins(found[name], found[best])):
                best = name
        if best != first:
            kept = self._verdict(best, maps[best], image, label)
        return replace(kept, why=f"{kept.why}; {_compared(best, found)}")

    def _verdict(self, name: str, maps: Tensor, image: Tensor, label: Tensor) -> Verdict:
        """How clearly the outputs speak for a candidate's maps, if it is chosen."""
        most, whole = group.gather(self.tests(maps, image, label, (deletion_curve, unchanged))).T
        (least,) = group.gather(self.tests(-maps, image, label, (deletion_curve,))).T
        sees = whole >= PRESENT
        margins = (least - most)[sees]
        support, change = _support(margins, group.gather(label)[sees])
        few = math.isnan(support)
        supported = "too few images tell its support" if few else f"support {support:.2f} of 1"
        why = (
            f"{name}: {supported} ({ENOUGH} is enough; on {len(most)} held-out images the model's "
            f"probability is {most.mean():.3f} after blurring what its maps mark most, "
            f"{least.mean():.3f} after blurring what they mark least)"
        )
        return Verdict(name, why, support, change, margins.sum().item())


def _compared(best: str, found: Mapping[str, Tensor]) -> str:
    """The figures of all candidates in both tests, and the margins of the best with standard
    errors."""
    told = []
    for name, tests in found.items():
        told.append("{} {:.3f} and {:.3f}".format(name, *tests.mean(0).tolist()))
        if name != best:
            margins = (f"{m:.3f} ± {error:.3f}" for m, error in _margins(found[best], tests))
            told[-1] += f" (margins {', '.join(margins)})"
    return f"insertion (more is better) and deletion (less): {'; '.join(told)}"


def _margins(of_one: Tensor, of_other: Tensor) -> list[tuple[float, float]]:
    """By how much the one is better in each test, as (mean over images, its standard error)."""
    better = GOOD * (of_one - of_other)
    error = better.std(0, correction=0) / (len(better) - 1) ** 0.5  # NaN if there is one image
    return list(zip(better.mean(0).tolist(), error.tolist(), strict=True))


def _support(margins: Tensor, label: Tensor) -> tuple[float, float]:
    """The support of a head's maps, and the mean size of the margins behind it.

    Both are of the class with the largest support, since others may have no place, of those whose
    margins are not small beside another's. They are of all images together if no class has enough
    images. They are NaN if too few images say anything, or if only a class with too few images is
    spoken for, such as a tumour among healthy slices.

    Examples::

        >>> margins = torch.tensor([0.5, 0.3, 0.2, 0.2, -0.1, 0.0, 0.0])
        >>> _support(margins, torch.zeros(7))
        (0.846..., 0.185...)
        >>> _support(torch.cat([margins, -margins]), torch.arange(14) // 7)
        (0.846..., 0.185...)
        >>> _support(torch.cat([margins / 5, -margins]), torch.arange(14) // 7)  # a small change
        (-0.846..., 0.185...)
        >>> _support(torch.cat([margins[:3], -margins]), (torch.arange(10) >= 3).int())
        (nan, nan)
    """
    of_all = _Said.by(margins)
    if of_all.n < FEW:
        return math.nan, math.nan
    said = [_Said.by(margins[label == c]) for c in label.unique()]
    if all(of_class.n < FEW for of_class in said):
        said = [of_all]
    least = SAY * max(of_class.change for of_class in said if of_class.n >= FEW)
    heard = [of_class for of_class in said if of_class.n and of_class.change >= least]
    best = max(of_class for of_class in heard if of_class.n >= FEW)
    if doubtful(best.support) and not doubtful(max(heard).support):
        return math.nan, math.nan
    return best.support, best.change


class _Said(NamedTuple):
    """What the margins of some images say of their maps."""

    support: float
    change: float
    n: int  # images that say something

    @classmethod
    def by(cls, margins: Tensor) -> "_Said":
        margins = margins.nan_to_num()  # of a model that does not take blurred images
        telling = margins[margins.abs() >= TRIFLE]
        support = (telling.sum() / telling.abs().sum()).item()
        return cls(support, margins.abs().mean().item(), len(telling))


def doubtful(support: float | None) -> bool:
    """Whether the model's outputs do not speak for a head's maps; False if this is not known."""
    return support is not None and support < ENOUGH
