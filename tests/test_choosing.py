"""The choice between heads: by what the model uses, in slow loops, and what it costs."""

import math
import re

import pytest
import torch
from torch import Tensor

from captum_hrcam.choosing import Trial
from captum_hrcam.perturbation import FRACTIONS, blur

SIZE = 8


def corner(x: Tensor) -> Tensor:
    """(n,): how bright the upper left quarter is, around a typical value."""
    return x[:, 0, : SIZE // 2, : SIZE // 2].mean((1, 2)) - 2.3


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


def slow_tests(x: Tensor, a: Tensor) -> tuple[float, float]:
    """Probability of class 1 after insertion and after deletion, pixel by pixel."""
    smooth, totals = blur(x[None])[0], [0.0, 0.0]
    order = sorted(range(SIZE * SIZE), key=lambda i: -a.flatten()[i].item())
    for fraction in FRACTIONS:
        inserted, deleted = smooth.clone(), x.clone()
        for i in order[: round(fraction * SIZE * SIZE)]:
            row, column = divmod(i, SIZE)
            inserted[0, row, column] = x[0, row, column]
            deleted[0, row, column] = smooth[0, row, column]
        for i, image in enumerate((inserted, deleted)):
            totals[i] += 1 / (1 + math.exp(-4 * corner(image[None]).item())) / len(FRACTIONS)
    return totals[0], totals[1]


CANDIDATES = {"opposite": mark_opposite, "corner": mark_corner}


@pytest.mark.parametrize("order", [("opposite", "corner"), ("corner", "opposite")])
def test_takes_the_map_of_what_the_model_uses(order):
    x = bright_corners(10)
    trial = Trial(softmax_scores, (x,), labels(10), loss="cross_entropy")
    assert trial.choose({name: CANDIDATES[name] for name in order}).name == "corner"


def test_figures_are_those_of_slow_loops():
    x = bright_corners(10)  # more than one batch
    found = {
        name: [slow_tests(image, mark((), torch.ones(1))[0]) for image in x]
        for name, mark in CANDIDATES.items()
    }
    why = Trial(softmax_scores, (x,), labels(10), loss="cross_entropy").choose(CANDIDATES).why
    for name, tests in found.items():
        inserted, deleted = (sum(column) / 10 for column in zip(*tests, strict=True))
        assert f"{name} {inserted:.3f} and {deleted:.3f}" in why
    margins = [
        good[0] - bad[0] for good, bad in zip(found["corner"], found["opposite"], strict=True)
    ]
    mean = sum(margins) / 10
    error = (sum((m - mean) ** 2 for m in margins) / 10 / 9) ** 0.5
    assert f"margins {mean:.3f} ± {error:.3f}" in why


def test_margin_is_what_the_opposite_map_leaves_more():
    x = bright_corners(10)
    x[:3] = 0  # the model does not see the class in these
    opposite = {"corner": mark_corner, "again": mark_corner}
    verdict = Trial(softmax_scores, (x,), labels(10), loss="cross_entropy").choose(opposite)
    a = mark_corner((), torch.ones(1))[0]
    margins = [slow_tests(image, -a)[1] - slow_tests(image, a)[1] for image in x[3:]]
    mean, error = verdict.margin
    assert mean == pytest.approx(sum(margins) / 7, rel=1e-4)
    assert error == pytest.approx(torch.tensor(margins).std().item() / 7**0.5, rel=1e-3)
    assert mean > 0.02


def test_no_margin_where_the_model_sees_few_of_the_classes():
    x = bright_corners(10)
    x[:7] = 0
    verdict = Trial(softmax_scores, (x,), labels(10), loss="cross_entropy").choose(CANDIDATES)
    assert all(map(math.isnan, verdict.margin))


def either_corner(inputs: tuple[Tensor, ...]) -> Tensor:
    """Class 1 where one of two opposite quarters is bright."""
    x = inputs[0]
    logit = 4 * torch.maximum(corner(x), corner(x.flip(2, 3)))
    return torch.stack([torch.zeros_like(logit), logit], 1)


def mark_inward(inputs: tuple[Tensor, ...], classes: Tensor) -> Tensor:
    """The corner, from its inner edge, where blurring changes most, outwards."""
    row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return mark_corner(inputs, classes) * (1 + row + column)


def mark_half_of_each(inputs: tuple[Tensor, ...], classes: Tensor) -> Tensor:
    a = mark_inward(inputs, classes) * (torch.arange(SIZE) % 2)
    return a + a.flip(2, 3)


@pytest.mark.parametrize("order", [("one", "halves"), ("halves", "one")])
def test_the_first_stays_unless_both_tests_speak_against_it(order):
    """Shown alone, one whole corner is better; blurred away, half of each is."""
    x = bright_corners(10)
    x = torch.maximum(x, x.flip(2, 3))
    marks = {"one": mark_inward, "halves": mark_half_of_each}
    trial = Trial(either_corner, (x,), labels(10), loss="cross_entropy")
    verdict = trial.choose({name: marks[name] for name in order})
    one, halves = (
        [float(x) for x in re.search(rf"{name} (0\.\d+) and (0\.\d+)", verdict.why).groups()]
        for name in marks
    )
    assert one[0] > halves[0]
    assert one[1] > halves[1]
    assert verdict.name == order[0]


def test_one_logit_is_judged_by_its_sigmoid_and_its_positive_images():
    x = bright_corners(6)
    y = torch.tensor([[1.0], [0.0]]).repeat(3, 1)
    verdict = Trial(sigmoid_scores, (x,), y, loss="binary_cross_entropy").choose(CANDIDATES)
    half = Trial(softmax_scores, (x[::2],), labels(3), loss="cross_entropy").choose(CANDIDATES)
    assert verdict == half


def test_other_inputs_go_along():
    x, bias = bright_corners(4), torch.arange(4.0)[:, None, None, None]
    seen = []

    def scores(inputs: tuple[Tensor, ...]) -> Tensor:
        seen.append(inputs[1].flatten().tolist())
        return softmax_scores(inputs)

    Trial(scores, (x, bias), labels(4), loss="cross_entropy").choose(CANDIDATES)
    assert [0.0, 1.0, 2.0, 3.0] in seen


def test_keeps_the_first_where_no_image_has_a_class():
    trial = Trial(
        sigmoid_scores, (bright_corners(3),), torch.zeros(3, 1), loss="binary_cross_entropy"
    )
    verdict = trial.choose(CANDIDATES)
    assert verdict.name == "opposite"
    assert "no held-out image has a class" in verdict.why


def test_keeps_the_first_where_the_model_gives_no_scores():
    trial = Trial(
        lambda x: torch.zeros(len(x[0]), 0), (bright_corners(3),), labels(3), "cross_entropy"
    )
    verdict = trial.choose(CANDIDATES)
    assert verdict.name == "opposite"
    assert "no score of each class" in verdict.why
