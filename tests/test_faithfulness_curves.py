"""Deletion and insertion against slow trapezoids."""

import itertools
import math

import numpy as np
import pytest
from pixel_models import SIZES, batch, linear_model, refused, softmax_of
from torch import nn

from captum_hrcam.faithfulness import deletion, insertion
from captum_hrcam.perturbation import blur

CURVES = {"deletion": deletion, "insertion": insertion}


class TestCurves:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("name", CURVES)
    def test_area_is_the_slow_trapezoid(self, name, size):
        model, (x, maps), target = linear_model(size), batch(size), [0, 2, 1]
        fractions = (0, 0.1, 0.35, 1)
        ground, shown = (x, blur(x)) if name == "deletion" else (blur(x), x)
        given = CURVES[name](model, x, maps, target, fractions)
        assert given.dtype == np.float64
        for i, c in enumerate(target):
            heights = []
            for fraction in fractions:
                order = sorted(range(maps[i].numel()), key=lambda p: -maps[i].flatten()[p])
                image = ground[i].flatten(1).clone()
                for p in order[: round(fraction * len(order))]:
                    image[:, p] = shown[i].flatten(1)[:, p]
                heights.append(softmax_of(model, image.reshape(x[i].shape), c))
            area = sum(
                (b - a) * (heights[k] + heights[k + 1]) / 2
                for k, (a, b) in enumerate(itertools.pairwise(fractions))
            )
            assert given[i] == pytest.approx(area)

    def test_default_is_twenty_steps_and_a_part_is_its_mean_height(self):
        model, (x, maps) = linear_model((6, 7)), batch((6, 7))
        steps = np.linspace(0, 1, 21)
        np.testing.assert_allclose(deletion(model, x, maps, 1), deletion(model, x, maps, 1, steps))
        # Too narrow for a pixel to go: the curve is flat at the image's own probability.
        part = deletion(model, x, maps, 1, (0, 0.005, 0.01))
        np.testing.assert_allclose(part, [softmax_of(model, image, 1) for image in x])

    @pytest.mark.parametrize("flat", [False, True])
    def test_one_output_is_a_sigmoid(self, flat):
        model, (x, maps) = linear_model((6, 7), k=1), batch((6, 7))
        forward = (lambda images: model(images)[:, 0]) if flat else model
        two = nn.Sequential(model, nn.ConstantPad1d((1, 0), 0.0))  # softmax of (0, s) is sigmoid(s)
        for curve in CURVES.values():
            expected = curve(two, x, maps, 1)
            np.testing.assert_allclose(curve(forward, x, maps), expected)
            np.testing.assert_allclose(curve(forward, x, maps, 0), expected)

    @pytest.mark.parametrize("name", CURVES)
    @pytest.mark.parametrize(
        "bad", [(), (0.5,), (0, 0.5, 0.5), (1, 0), (-0.1, 1), (0, 1.1), (0, math.nan)]
    )
    def test_fractions_that_do_not_rise_within_the_image_are_refused(self, name, bad):
        refused(CURVES[name], ValueError, "fractions: got", fractions=bad)
