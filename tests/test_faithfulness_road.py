"""ROAD against dense systems of equations."""

import itertools
import math

import numpy as np
import pytest
import torch
from pixel_models import SIZES, Recorder, batch, linear_model, refused, softmax_of

from captum_hrcam.faithfulness import road
from captum_hrcam.perturbation import marked

PERCENTILES = (20, 40, 60, 80)


def slow_imputation(image, removed):
    """Each removed pixel the weighted mean of its neighbours, as one dense system."""
    shape = tuple(removed.shape)
    by_distance = {1: [0, 1 / 2], 2: [0, 1 / 6, 1 / 12], 3: [0, 1 / 6]}[len(shape)]
    pixels = list(itertools.product(*map(range, shape)))
    system, right = np.eye(len(pixels)), np.zeros((len(pixels), len(image)))
    for row, p in enumerate(pixels):
        if not removed[p]:
            right[row] = [float(channel[p]) for channel in image]
            continue
        near = {}
        for column, q in enumerate(pixels):
            steps = [abs(i - j) for i, j in zip(p, q, strict=True)]
            if max(steps) == 1 and sum(steps) < len(by_distance):
                near[column] = by_distance[sum(steps)]
        for column, weight in near.items():
            system[row, column] -= weight / sum(near.values())
    solution = np.linalg.solve(system, right)
    return torch.from_numpy(solution.T.reshape(tuple(image.shape)))


class TestRoad:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("order", ["MoRF", "LeRF"])
    def test_imputation_is_the_dense_solution(self, size, order):
        (x, maps), model = batch(size), Recorder()
        road(model, x, maps, 0, PERCENTILES, order=order, noise=0)
        assert len(model.seen) == len(PERCENTILES)
        for p, images in zip(PERCENTILES, model.seen, strict=True):
            removed = marked(maps if order == "MoRF" else -maps, p / 100)[:, 0] > 0
            for i in range(3):
                expected = slow_imputation(x[i], removed[i])
                torch.testing.assert_close(images[i], expected, rtol=1e-4, atol=1e-4)
                assert torch.equal(images[i][:, ~removed[i]], x[i][:, ~removed[i]])

    def test_figures_are_means_over_percentiles(self):
        model, (x, maps) = linear_model((6, 7)), batch((6, 7))
        left = {}
        for order in ("MoRF", "LeRF"):
            recorder = Recorder()
            road(recorder, x, maps, 0, (20, 50), order=order)
            shares = [[softmax_of(model, image, 2) for image in seen] for seen in recorder.seen]
            left[order] = np.mean(shares, 0)
            given = road(model, x, maps, 2, (20, 50), order=order)
            np.testing.assert_allclose(given, left[order])
        combined = road(model, x, maps, 2, (20, 50))
        np.testing.assert_allclose(combined, (left["LeRF"] - left["MoRF"]) / 2)

    def test_noise_is_on_removed_pixels_alone_and_follows_the_seed(self):
        x, maps = batch((16, 16), n=8)

        def shown(**options):
            model = Recorder()
            road(model, x, maps, 0, (40,), order="MoRF", **options)
            return model.seen[0]

        noise = shown(noise=0.5, seed=1) - shown(noise=0)
        removed = (marked(maps, 0.4) > 0).expand_as(noise)
        assert (noise[~removed] == 0).all()
        assert noise[removed].std() == pytest.approx(0.5, rel=0.1)
        assert torch.equal(shown(seed=1), shown(seed=1))
        assert not torch.equal(shown(seed=1), shown(seed=2))

    @pytest.mark.parametrize("bad", [(), (0,), (100,), (20, 120), (99.9,), (math.nan,)])
    def test_percentiles_that_leave_no_pixel_are_refused(self, bad):
        refused(road, ValueError, "percentiles: got", percentiles=bad)

    def test_other_options_are_refused(self):
        refused(road, ValueError, "order: got 'first'", order="first")
        refused(road, ValueError, "noise: got -1", noise=-1)
