"""What it costs a model to blur away what maps mark, against slow loops."""

import torch
from test_choosing import (
    SIZE,
    bright_corners,
    labels,
    mark_corner,
    mark_opposite,
    sigmoid_scores,
    slow_tests,
    softmax_scores,
)
from torch import Tensor

from captum_hrcam.asking import Asking
from captum_hrcam.perturbation import FRACTIONS


def both(inputs: tuple[Tensor, ...], classes: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps: of the corner that the model looks at, and of the opposite one."""
    return mark_corner(inputs, classes), mark_opposite(inputs, classes)


def test_costs_are_those_of_slow_loops_for_images_that_the_model_gets_right():
    x = bright_corners(20)  # more than two batches
    x[17:, :, : SIZE // 2, : SIZE // 2] -= 2  # no bright corner: not class 1 to the model
    asking = Asking(softmax_scores, (x,), labels(20), loss="cross_entropy")
    found = asking.costs(both, 2, FRACTIONS)
    whole = softmax_scores((x[:17],)).softmax(1)[:, 1].double()
    for i, maps in enumerate(both((x[:17],), torch.ones(17))):
        left = [slow_tests(*pair)[1] for pair in zip(x[:17], maps, strict=True)]
        expected = whole - torch.tensor(left).double()
        torch.testing.assert_close(found[:, i], expected, rtol=1e-4, atol=1e-5)
    assert (found[:, 0] > found[:, 1]).all()


def test_costs_are_means_over_these_fractions():
    asking = Asking(softmax_scores, (bright_corners(4),), labels(4), loss="cross_entropy")
    each = [asking.costs(both, 2, [fraction]) for fraction in FRACTIONS]
    torch.testing.assert_close(asking.costs(both, 2, FRACTIONS), sum(each) / len(each))


def test_a_complex_image_is_asked_about_as_it_is():
    x = torch.complex(torch.zeros(8, 1, SIZE, SIZE), bright_corners(8))

    def of_imaginary_part(inputs):
        return softmax_scores((inputs[0].imag,))

    def marks(inputs, classes):
        return both((inputs[0].imag,), classes)

    found = Asking(of_imaginary_part, (x,), labels(8), loss="cross_entropy")
    expected = Asking(softmax_scores, (x.imag,), labels(8), loss="cross_entropy")
    costs = expected.costs(both, 2, FRACTIONS)
    assert len(costs) == 8
    torch.testing.assert_close(found.costs(marks, 2, FRACTIONS), costs)


def test_no_costs_where_the_model_gives_no_score_of_each_class():
    asking = Asking(sigmoid_scores, (bright_corners(4),), labels(4), loss="cross_entropy")
    assert asking.costs(both, 2, FRACTIONS).shape == (0, 2)


def test_no_costs_where_no_image_shows_a_class():
    y = torch.zeros(4, 1)
    asking = Asking(sigmoid_scores, (bright_corners(4),), y, loss="binary_cross_entropy")
    assert asking.costs(both, 2, FRACTIONS).shape == (0, 2)
