"""The choice between heads: by what the model uses, in slow loops, and what it costs."""

import math
import re

import pytest
import torch
from torch import Tensor

from captum_hrcam import choosing
from captum_hrcam.choosing import Judge, Verdict, doubtful
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
    judge = Judge(softmax_scores, (x,), labels(10), loss="cross_entropy")
    assert judge.choose({name: CANDIDATES[name] for name in order}).name == "corner"


def mark_wrongly_where_told(inputs: tuple[Tensor, ...], classes: Tensor) -> Tensor:
    """The corner, or the opposite one in images whose last pixel is negative."""
    told = inputs[0][:, :, -1:, -1:] < 0
    return torch.where(told, mark_opposite(inputs, classes), mark_corner(inputs, classes))


def mark_wrongly_where_bright(inputs: tuple[Tensor, ...], classes: Tensor) -> Tensor:
    """The corner, or the opposite one in images whose last pixel is above 1."""
    told = inputs[0][:, :, -1:, -1:] > 1
    return torch.where(told, mark_opposite(inputs, classes), mark_corner(inputs, classes))


def wrong_in(some: int, other: int) -> Verdict:
    """Of a map that is wrong in some of twelve images, and then of one that is so in others."""
    x = bright_corners(12)
    x[:some, :, -1, -1], x[some : some + other, :, -1, -1] = -0.1, 1.1
    marks = {"some": mark_wrongly_where_told, "other": mark_wrongly_where_bright}
    return Judge(softmax_scores, (x,), labels(12), loss="cross_entropy").choose(marks)


def margins(verdict: Verdict) -> list[tuple[float, float]]:
    """By how much the other is better in each test, and the errors."""
    told = re.findall(r"-(\S+) ± ([\d.]+)", verdict.why)
    return [(float(margin), float(error)) for margin, error in told]


def test_beyond_a_standard_error_the_better_is_taken():
    assert wrong_in(6, 1).name == "other"


def test_within_a_standard_error_the_first_is_kept():
    """The other is better in both nevertheless, by less than an error."""
    verdict = wrong_in(7, 3)
    assert verdict.name == "some"
    assert doubtful(verdict.support)
    assert len(margins(verdict)) == 2
    assert all(0 < margin < error for margin, error in margins(verdict))


def test_the_first_is_kept_where_the_outputs_speak_for_it():
    """Whatever the tests would say, which the model is then spared."""
    verdict = wrong_in(4, 1)
    assert verdict.name == "some"
    assert not doubtful(verdict.support)
    assert "insertion" not in verdict.why


def test_figures_are_those_of_slow_loops():
    x = bright_corners(10)  # more than one batch
    found = {
        name: [slow_tests(image, mark((), torch.ones(1))[0]) for image in x]
        for name, mark in CANDIDATES.items()
    }
    why = Judge(softmax_scores, (x,), labels(10), loss="cross_entropy").choose(CANDIDATES).why
    for name, tests in found.items():
        inserted, deleted = (sum(column) / 10 for column in zip(*tests, strict=True))
        assert f"{name} {inserted:.3f} and {deleted:.3f}" in why
    margins = [
        good[0] - bad[0] for good, bad in zip(found["corner"], found["opposite"], strict=True)
    ]
    mean = sum(margins) / 10
    error = (sum((m - mean) ** 2 for m in margins) / 10 / 9) ** 0.5
    assert f"margins {mean:.3f} ± {error:.3f}" in why


def test_support_is_the_net_share_of_what_the_images_say():
    x = bright_corners(12)
    x[:3] = 0  # the model does not see the class in these
    x[3:6, :, -1, -1] = -0.1
    marks = {"some": mark_wrongly_where_told, "again": mark_wrongly_where_told}
    verdict = Judge(softmax_scores, (x,), labels(12), loss="cross_entropy").choose(marks)
    maps = mark_wrongly_where_told((x,), torch.ones(12))
    said = [
        slow_tests(image, -a)[1] - slow_tests(image, a)[1]
        for image, a in zip(x[3:], maps[3:], strict=True)
    ]
    said = [value for value in said if abs(value) >= 0.01]
    assert sum(value < 0 for value in said) == 2
    assert len(said) == 8  # one changes too little
    assert verdict.support == pytest.approx(sum(said) / sum(map(abs, said)), rel=1e-4)
    assert f"support {verdict.support:.2f} of 1" in verdict.why
    every = [
        slow_tests(i, -a)[1] - slow_tests(i, a)[1] for i, a in zip(x[3:], maps[3:], strict=True)
    ]
    assert verdict.change == pytest.approx(sum(map(abs, every)) / 9, rel=1e-4)


def mark_healthy_wrongly(inputs: tuple[Tensor, ...], classes: Tensor) -> Tensor:
    """The corner for class 1, the opposite one for class 0, which is told by what is absent."""
    ill = classes[:, None, None, None] == 1
    return torch.where(ill, mark_corner(inputs, classes), mark_opposite(inputs, classes))


def test_one_class_that_is_spoken_for_is_enough():
    """Blurred at the corner, those of class 0 look like class 1 and speak against their maps."""
    x = bright_corners(16)
    x[8:] += 4
    x[8:, :, : SIZE // 2, : SIZE // 2] -= 4.5
    y = torch.zeros(16, 2)
    y[:8, 1] = y[8:, 0] = 1
    support = {}
    for name, rows in {"both": slice(None), "ill": slice(8), "healthy": slice(8, None)}.items():
        judge = Judge(softmax_scores, (x[rows],), y[rows], loss="cross_entropy")
        marks = {"map": mark_healthy_wrongly, "again": mark_healthy_wrongly}
        support[name] = judge.choose(marks).support
    assert support == {"both": pytest.approx(1), "ill": pytest.approx(1), "healthy": -1}


def test_no_support_where_few_images_say_anything():
    x = bright_corners(10)
    x[:7] = 0
    verdict = Judge(softmax_scores, (x,), labels(10), loss="cross_entropy").choose(CANDIDATES)
    assert math.isnan(verdict.support)
    assert "too few images tell its support" in verdict.why
    assert not doubtful(verdict.support)


@pytest.mark.parametrize(("n", "is_told"), [(3, False), (4, True)])
def test_four_images_say_something(n, is_told):
    x = bright_corners(8)
    x[n:] = 0
    marks = {"corner": mark_corner, "again": mark_corner}
    verdict = Judge(softmax_scores, (x,), labels(8), loss="cross_entropy").choose(marks)
    assert (verdict.support == pytest.approx(1)) == is_told
    assert math.isnan(verdict.support) != is_told


def test_a_half_is_support_enough_and_none_is_no_doubt():
    supports = [None, math.nan, -1.0, 0.49, 0.5, 1.0]
    assert list(map(doubtful, supports)) == [False, False, True, True, False, False]


def three_corners(inputs: tuple[Tensor, ...]) -> Tensor:
    """A class for each of three corners that is bright."""
    x = inputs[0]
    return 4 * torch.stack([corner(x), corner(x.flip(2)), corner(x.flip(3))], 1)


@pytest.mark.parametrize("right", [0, 1, 2])
def test_of_three_classes_the_one_that_is_spoken_for(right):
    """The map of one class marks its corner, those of the others all but theirs."""
    x, y = torch.zeros(15, 1, SIZE, SIZE), torch.arange(15) % 3
    bright = bright_corners(15)
    turned = bright, bright.flip(2), bright.flip(3)
    for c in range(3):
        x[y == c] = turned[c][y == c]

    def mark(inputs: tuple[Tensor, ...], classes: Tensor) -> Tensor:
        a = mark_corner(inputs, classes)
        own = torch.stack([a, a.flip(2), a.flip(3)])[classes, torch.arange(len(classes))]
        is_right = (classes == right)[:, None, None, None]
        return torch.where(is_right, own, -own)

    judge = Judge(three_corners, (x,), torch.eye(3)[y], loss="binary_cross_entropy")
    verdict = judge.choose({"map": mark, "again": mark})
    assert verdict.support == pytest.approx(1)
    assert verdict.margin < 0.5 * 5 * verdict.change  # all together say less


def test_a_label_of_a_half_is_in_the_image():
    x = bright_corners(6)
    verdicts = [
        Judge(sigmoid_scores, (x,), torch.full((6, 1), y), "binary_cross_entropy").choose(
            CANDIDATES
        )
        for y in (0.5, 1.0, 0.49)
    ]
    assert verdicts[0] == verdicts[1]
    assert "no held-out image has a class" in verdicts[2].why


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_of_several_labels_an_image_each_is_judged(order):
    """Whatever their numbers; one of the two has no place, and no image is without it."""

    def scores(inputs: tuple[Tensor, ...]) -> Tensor:
        everywhere = torch.full((len(inputs[0]), 1), 9.0)
        return torch.cat([everywhere, sigmoid_scores(inputs)], 1)[:, order]

    y = torch.ones(10, 2)
    verdict = Judge(scores, (bright_corners(10),), y, "binary_cross_entropy").choose(CANDIDATES)
    assert verdict.name == "corner"
    assert verdict.support > 0.9
    assert "on 10 held-out images" in verdict.why


def test_the_error_is_that_of_a_mean():
    x = bright_corners(6)
    x[:3, :, -1, -1] = -0.1
    marks = {"corner": mark_corner, "some": mark_wrongly_where_told}
    maps = [mark((x,), torch.ones(6)) for mark in marks.values()]
    tests = torch.tensor([[slow_tests(*pair) for pair in zip(x, a, strict=True)] for a in maps])
    margins = (tests[0] - tests[1]) * torch.tensor([1, -1])
    judge = Judge(softmax_scores, (x,), labels(6), loss="cross_entropy")
    why = judge.choose(dict(reversed(marks.items()))).why  # the outputs do not speak for "some"
    told = re.findall(r"(-?\d\.\d+) ± (\d\.\d+)", why)
    found = torch.tensor([[float(value) for value in pair] for pair in told])
    expected = torch.stack([margins.mean(0), margins.std(0) / 6**0.5], 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=6e-4)


def test_the_healthy_do_not_drown_the_ill():
    """They are the more, and nothing that is blurred makes one ill."""
    x = bright_corners(24)
    x[5:, :, : SIZE // 2, : SIZE // 2] -= 2
    y = torch.zeros(24, 2)
    y[:5, 1] = y[5:, 0] = 1
    marks = {"corner": mark_corner, "again": mark_corner}
    verdict = Judge(softmax_scores, (x,), y, loss="cross_entropy").choose(marks)
    assert verdict.support > 0.9


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
def test_the_first_stays_unless_both_tests_speak_against_it(order, monkeypatch):
    """Shown alone, one whole corner is better; blurred away, half of each is."""
    monkeypatch.setattr(choosing, "doubtful", lambda support: True)
    x = bright_corners(10)
    x = torch.maximum(x, x.flip(2, 3))
    marks = {"one": mark_inward, "halves": mark_half_of_each}
    judge = Judge(either_corner, (x,), labels(10), loss="cross_entropy")
    verdict = judge.choose({name: marks[name] for name in order})
    one, halves = (
        [float(x) for x in re.search(rf"{name} (0\.\d+) and (0\.\d+)", verdict.why).groups()]
        for name in marks
    )
    assert one[0] > halves[0]
    assert one[1] > halves[1]
    assert verdict.name == order[0]


def test_one_logit_is_judged_by_its_sigmoid_and_its_positive_images():
    x = bright_corners(20)
    y = torch.tensor([[1.0], [0.0]]).repeat(10, 1)
    verdict = Judge(sigmoid_scores, (x,), y, loss="binary_cross_entropy").choose(CANDIDATES)
    half = Judge(softmax_scores, (x[::2],), labels(10), loss="cross_entropy").choose(CANDIDATES)
    assert verdict == half
    assert verdict.support > 0.9


def test_other_inputs_go_along():
    x, bias = bright_corners(4), torch.arange(4.0)[:, None, None, None]
    seen = []

    def scores(inputs: tuple[Tensor, ...]) -> Tensor:
        seen.append(inputs[1].flatten().tolist())
        return softmax_scores(inputs)

    Judge(scores, (x, bias), labels(4), loss="cross_entropy").choose(CANDIDATES)
    assert [0.0, 1.0, 2.0, 3.0] in seen


def test_keeps_the_first_where_no_image_has_a_class():
    judge = Judge(
        sigmoid_scores, (bright_corners(3),), torch.zeros(3, 1), loss="binary_cross_entropy"
    )
    verdict = judge.choose(CANDIDATES)
    assert verdict.name == "opposite"
    assert "no held-out image has a class" in verdict.why


def test_keeps_the_first_where_the_model_gives_no_scores():
    judge = Judge(
        lambda x: torch.zeros(len(x[0]), 0), (bright_corners(3),), labels(3), "cross_entropy"
    )
    verdict = judge.choose(CANDIDATES)
    assert verdict.name == "opposite"
    assert "no score of each class" in verdict.why
