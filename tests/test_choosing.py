"""The choice between heads: by what the model uses, in slow loops, and what it costs."""

import math

import pytest
import torch
from torch import Tensor

from captum_hrcam.choosing import Trial
from captum_hrcam.perturbation import FRACTIONS, blur

SIZE = 8


def corner(x: Tensor) -> Tensor:
    """(n,): how bright the upper left quarter is."""
    return x[:, 0, : SIZE // 2, : SIZE // 2].mean((1, 2))


def softmax_scores(inputs: tuple[Tensor, ...]) -> Tensor:
    """Two classes: class 1 where the corner is bright."""
    logit = 4 * corner(inputs[0])
    return torch.stack([torch.zeros_like(logit), logit], 1)


def sigmoid_scores(inputs: tuple[Tensor, ...]) -> Tensor:
    return softmax_scores(inputs)[:, 1:]


def mark_corner(inputs: tuple[Tensor, ...], classes: Tensor) -> Tensor:
    a = torch.zeros(len(classes), 1, SIZE, SIZE)
    a[:, :, : SIZE // 2, : SIZE // 2] = 1
    return a


def mark_opposite(inputs: tuple[Tensor, ...], classes: Tensor) -> Tensor:
    return mark_corner(inputs, classes).flip(2, 3)


def bright_corners(n: int) -> Tensor:
    x = torch.rand(n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    x[:, :, : SIZE // 2, : SIZE // 2] += 2
    return x


def labels(n: int) -> Tensor:
    """One-hot: all of class 1."""
    return torch.tensor([[0.0, 1.0]]).repeat(n, 1)


def slow_faithfulness(x: Tensor, a: Tensor) -> float:
    """Insertion - deletion of one image for class 1, pixel by pixel."""
    smooth, total = blur(x[None])[0], 0.0
    order = sorted(range(SIZE * SIZE), key=lambda i: -a.flatten()[i].item())
    for fraction in FRACTIONS:
        inserted, deleted = smooth.clone(), x.clone()
        for i in order[: round(fraction * SIZE * SIZE)]:
            row, column = divmod(i, SIZE)
            inserted[0, row, column] = x[0, row, column]
            deleted[0, row, column] = smooth[0, row, column]
        p = [1 / (1 + math.exp(-4 * corner(v[None]).item())) for v in (inserted, deleted)]
        total += (p[0] - p[1]) / len(FRACTIONS)
    return total


CANDIDATES = {"opposite": mark_opposite, "corner": mark_corner}


@pytest.mark.parametrize("order", [("opposite", "corner"), ("corner", "opposite")])
def test_takes_the_map_of_what_the_model_uses(order):
    x = bright_corners(10)
    trial = Trial(softmax_scores, (x,), labels(10), softmax=True)
    assert trial.choose({name: CANDIDATES[name] for name in order}).name == "corner"


def test_figures_are_those_of_slow_loops():
    x = bright_corners(10)  # more than one batch
    found = {
        name: sum(slow_faithfulness(image, mark((), torch.ones(1))[0]) for image in x) / 10
        for name, mark in CANDIDATES.items()
    }
    why = Trial(softmax_scores, (x,), labels(10), softmax=True).choose(CANDIDATES).why
    assert f"corner: insertion - deletion of its maps {found['corner']:.3f}" in why
    assert f"of opposite's {found['opposite']:.3f}" in why
    assert f"margin {found['corner'] - found['opposite']:.3f}" in why


def test_one_logit_is_judged_by_its_sigmoid_and_its_positive_images():
    x = bright_corners(6)
    y = torch.tensor([[1.0], [0.0]]).repeat(3, 1)
    verdict = Trial(sigmoid_scores, (x,), y, softmax=False).choose(CANDIDATES)
    half = Trial(softmax_scores, (x[::2],), labels(3), softmax=True).choose(CANDIDATES)
    assert verdict == half


def test_forwards_are_counted():
    seen = []

    def counted(inputs: tuple[Tensor, ...]) -> Tensor:
        seen.append(len(inputs[0]))
        return softmax_scores(inputs)

    def reading(inputs: tuple[Tensor, ...], classes: Tensor) -> Tensor:
        seen.append(len(inputs[0]))
        return mark_corner(inputs, classes)

    trial = Trial(counted, (bright_corners(10),), labels(10), softmax=True)
    assert trial.choose({"a": reading, "b": reading}).forwards == sum(seen)


def test_other_inputs_go_along():
    x, bias = bright_corners(4), torch.arange(4.0)[:, None, None, None]
    seen = []

    def scores(inputs: tuple[Tensor, ...]) -> Tensor:
        seen.append(inputs[1].flatten().tolist())
        return softmax_scores(inputs)

    Trial(scores, (x, bias), labels(4), softmax=True).choose(CANDIDATES)
    assert [0.0, 1.0, 2.0, 3.0] in seen


def test_keeps_the_first_where_no_image_has_a_class():
    trial = Trial(sigmoid_scores, (bright_corners(3),), torch.zeros(3, 1), softmax=False)
    verdict = trial.choose(CANDIDATES)
    assert (verdict.name, verdict.forwards) == ("opposite", 0)
    assert "no held-out image has a class" in verdict.why


def test_keeps_the_first_where_the_model_gives_no_scores():
    trial = Trial(lambda x: torch.zeros(len(x[0]), 0), (bright_corners(3),), labels(3), True)
    verdict = trial.choose(CANDIDATES)
    assert (verdict.name, verdict.forwards) == ("opposite", 1)
    assert "no score of each class" in verdict.why
