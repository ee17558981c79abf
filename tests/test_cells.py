"""Moments over images and cells, against numpy, and the weights that follow from them."""

import numpy as np
import pytest
import torch

from captum_hrcam.cells import CellMoments, MapMoments, solve, unit


def test_cell_moments_are_numpys():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, 3, 5, generator=generator) + 2
    t = torch.rand(6, 2, 3, 5, generator=generator)
    moments = CellMoments(4, 2)
    moments.add(x[:2], t[:2])
    moments.add(x[2:], t[2:])
    cells = torch.cat([x, t], 1).transpose(0, 1).flatten(1).double().numpy()
    expected = np.cov(cells, bias=True)
    np.testing.assert_allclose(moments.covariance, expected[4:, :4], rtol=1e-4, atol=1e-6)
    pattern = expected[4:, :4] / expected.diagonal()[:4]
    np.testing.assert_allclose(moments.pattern(), pattern, rtol=1e-4, atol=1e-5)


def test_map_moments_are_numpys():
    rng = np.random.default_rng(0)
    maps = (
        torch.from_numpy(rng.normal(2, 1, (3, 6, 1, 4, 5)))
        * torch.tensor([1.0, 2, 3])[:, None, None, None, None]
    )
    other = maps.sum(0) ** 2
    moments = MapMoments(3)
    moments.add([a[:2] for a in maps], other[:2])
    moments.add([a[2:] for a in maps], other[2:])
    moments.over_ranks()
    factors = torch.tensor([2.0, 0.5, 0.0]).double()
    total = sum(f * a for f, a in zip(factors, maps, strict=True))
    expected = np.corrcoef(total.flatten(), other.flatten())[0, 1]
    assert moments.correlation(factors) == pytest.approx(expected)
    assert moments.correlation(0 * factors) == 0
    assert MapMoments(3).correlation(factors) == 0


def test_constant_channels_get_no_weight():
    moments = CellMoments(2, 1)
    x = torch.randn(5, 2, 3, 3)
    x[:, 1] = 0.0
    moments.add(x, torch.rand(5, 1, 3, 3))
    assert moments.pattern()[0, 1] == 0


def test_solve_lies_between_pattern_and_regression():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, generator=generator, dtype=torch.float64)
    x[:, 1] += 0.8 * x[:, 0]
    t = x[:, :1] + 0.1 * torch.randn(500, 1, generator=generator, dtype=torch.float64)
    x, t = x - x.mean(0), t - t.mean(0)
    covariance, with_target = x.T @ x / 500, t.T @ x / 500
    weight = solve(covariance, with_target)[0]
    expected = np.linalg.inv((covariance + torch.diag(covariance.diagonal())).numpy())
    np.testing.assert_allclose(weight, expected @ with_target[0].numpy(), rtol=1e-9)
    share = (weight[1] / weight[0]).item()
    alone = (with_target[0, 1] / covariance[1, 1] / (with_target[0, 0] / covariance[0, 0])).item()
    assert 0 < share < alone


def test_unit_gives_the_map_unit_deviation():
    x = torch.randn(1000, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64)
    x = x - x.mean(0)
    weight = unit(torch.randn(2, 3, dtype=torch.float64), x.T @ x / 1000)
    torch.testing.assert_close((x @ weight.T).std(0, correction=0), torch.ones(2).double())
