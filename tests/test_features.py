"""Streaming moments and fair samples."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_hrcam.features import FeatureCollector, Moments, Sample


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(1, 39), st.integers(0, 10**6), st.floats(-1e4, 1e4))
def test_moments_of_parts_add_up_to_numpys(n, cut, seed, offset):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 3, generator=generator) + offset
    y = torch.rand(n, 2, generator=generator)
    cut = min(cut, n - 1)
    moments = Moments.of(z[:cut], y[:cut]) + Moments.of(z[cut:], y[cut:])
    whole = np.cov(z.double().T.numpy(), y.double().T.numpy(), bias=True)
    np.testing.assert_allclose(moments.mean_z, z.double().mean(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moments.variance, whole.diagonal()[:3], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(moments.covariance, whole[3:, :3], rtol=1e-6, atol=1e-9)
    assert moments.n == n


def test_moments_keep_their_digits_far_from_zero():
    z = torch.randn(10_000, 1, dtype=torch.float64)
    y = torch.rand(10_000, 1)
    batches = [Moments.of(zb + 1e8, yb) for zb, yb in zip(z.split(100), y.split(100), strict=True)]
    total = batches[0]
    for moments in batches[1:]:
        total = total + moments
    assert total.variance.item() == pytest.approx(z.var(correction=0).item(), rel=1e-6)


def test_sample_keeps_all_that_fits_in_order():
    sample = Sample(10)
    for rows in torch.arange(8).split(3):
        sample.add(rows, rows * 2)
    first, second = sample.rows()
    assert first.tolist() == list(range(8))
    assert torch.equal(second, first * 2)


def test_sample_is_fair_and_bounded():
    counts = torch.zeros(50)
    for seed in range(300):
        sample = Sample(10)
        sample._generator.manual_seed(seed)
        for rows in torch.arange(50).split(7):
            sample.add(rows)
            assert sample._held <= 20 + 7
        (kept,) = sample.rows()
        assert len(kept) == 10
        assert kept.tolist() == sorted(kept.tolist())
        counts[kept] += 1
    assert (counts / 300 - 0.2).abs().max() < 0.1  # four standard errors of a fair draw


def test_every_fifth_of_each_pass_is_held_out():
    collector = FeatureCollector()
    for _ in range(2):
        for start in range(0, 12, 4):
            z = torch.arange(start, start + 4).float()[:, None]
            collector.add(z, z, z[:, :0], position=start)
    fit, moments, held = collector.split()
    assert held.z.flatten().tolist() == [4, 9, 4, 9]
    assert len(fit) == moments.n == 20
    everything, total = collector.all()
    assert len(everything) == total.n == collector.n == 24
    assert total.mean_z.item() == pytest.approx(5.5)


def test_moments_see_rows_that_are_not_kept():
    collector = FeatureCollector(max_rows=5)
    z = torch.randn(100, 3)
    for i, rows in enumerate(z.split(10)):
        collector.add(rows, rows[:, :1], rows[:, :0], position=10 * i)
    features, moments = collector.all()
    assert len(features) == 5
    torch.testing.assert_close(moments.mean_z.float(), z.mean(0))
