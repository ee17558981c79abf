"""Streaming moments and fair samples."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_hrcam.activations import gap, spatial_variance
from captum_hrcam.features import FeatureCollector, Features, Sample, held_out
from captum_hrcam.moments import Moments


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(1, 39), st.integers(0, 10**6), st.floats(-1e4, 1e4))
def test_moments_of_parts_add_up_to_numpys(n, cut, seed, offset):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 3, generator=generator) + offset
    y = torch.rand(n, 2, generator=generator)
    within = torch.rand(n, 3, generator=generator)
    cut = min(cut, n - 1)
    parts = [Moments.of(z[r], y[r], within[r]) for r in (slice(cut), slice(cut, None))]
    moments = parts[0] + parts[1]
    whole = np.cov(z.double().T.numpy(), y.double().T.numpy(), bias=True)
    np.testing.assert_allclose(moments.mean_z, z.double().mean(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moments.zz / n, whole.diagonal()[:3], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(moments.within, within.double().mean(0), rtol=1e-9)
    np.testing.assert_allclose(moments.covariance, whole[3:, :3], rtol=1e-6, atol=1e-9)
    assert moments.n == n


def test_moments_keep_their_digits_far_from_zero():
    z = torch.randn(10_000, 1, dtype=torch.float64)
    y = torch.rand(10_000, 1)
    pairs = zip(z.split(100), y.split(100), strict=True)
    batches = [Moments.of(zb + 1e8, yb, torch.zeros_like(zb)) for zb, yb in pairs]
    total = batches[0]
    for moments in batches[1:]:
        total = total + moments
    assert (total.zz / total.n).item() == pytest.approx(z.var(correction=0).item(), rel=1e-6)


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


@pytest.mark.parametrize("period", range(2, 13))
def test_a_fifth_is_held_out_of_classes_that_take_turns(period):
    held = held_out(torch.arange(3000))
    labels = torch.arange(3000) % period
    for c in range(period):
        assert held[labels == c].float().mean().item() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("n", range(5, 20))
def test_some_of_a_few_are_held_out_whatever_the_batches(n):
    held = held_out(torch.arange(n))
    assert 1 <= held.sum() <= n // 3


def test_the_same_images_of_each_pass_are_held_out():
    collector = FeatureCollector()
    for _ in range(2):
        for start in range(0, 12, 4):
            z = torch.arange(start, start + 4).float()[:, None]
            collector.add(held_out(z[:, 0]), z, z, z, z[:, :0])
    rows = collector.rows()
    assert rows[rows.held].z.flatten().tolist() == [0, 5, 10, 0, 5, 10]
    total, fitted = collector.moments()
    assert fitted.n == (~rows.held).sum() == 18
    assert len(rows) == total.n == collector.n == 24
    assert total.mean_z.item() == pytest.approx(5.5)
    assert fitted.mean_z.item() == pytest.approx(rows[~rows.held].z.mean().item())


def test_moments_see_rows_that_are_not_kept():
    collector = FeatureCollector(Sample(5))
    z = torch.randn(100, 3)
    for rows in z.split(10):
        collector.add(held_out(torch.arange(10)), rows, rows, rows[:, :1], rows[:, :0])
    moments, _ = collector.moments()
    assert len(collector.rows()) == 5
    torch.testing.assert_close(moments.mean_z.float(), z.mean(0))


def test_scale_is_the_deviation_over_images_and_cells():
    f = torch.randn(40, 3, 5, 6, generator=torch.Generator().manual_seed(0)) * 2 + 1
    f[:, 1] += torch.arange(40.0)[:, None, None]  # differs between images
    f[:, 2] += 10 * torch.arange(6.0)  # differs inside them
    z = gap(f)
    moments = Moments.of(z, torch.rand(40, 1), spatial_variance(f, z))
    expected = f.double().transpose(0, 1).flatten(1).std(1, correction=0)
    torch.testing.assert_close(moments.scale, expected, rtol=1e-4, atol=1e-6)


def test_spatial_variance_keeps_half_precision_from_overflowing():
    f = torch.full((1, 1, 4, 4), 300.0, dtype=torch.float16)
    f[..., 0] = 700
    assert spatial_variance(f, gap(f)).item() == pytest.approx(f.float().var(correction=0).item())


def test_a_sample_is_drawn_fairly_in_order_and_the_same_again(monkeypatch):
    monkeypatch.setattr("captum_hrcam.features.CHUNK_BYTES", 40)  # ten rows
    places = torch.arange(1000.0)[:, None]
    rows = Features(places[:, 0] % 5 == 0, places, places + 0.5, places[:, :0])
    drawn = rows.sample(300)
    found = drawn.z[:, 0]
    assert len(drawn) == len(found.unique()) == 300
    assert (found.diff() > 0).all()
    assert torch.equal(drawn.y, drawn.z + 0.5)
    assert torch.equal(drawn.held, found % 5 == 0)
    assert found.mean().item() == pytest.approx(500, abs=60)  # four standard errors
    assert torch.equal(rows.sample(300).z, drawn.z)
    assert rows.sample(1000) is rows


def test_a_rank_may_hold_nothing_out_or_all():
    for held in (True, False):
        collector = FeatureCollector()
        collector.add(
            torch.full((3,), held), torch.ones(3, 2), torch.zeros(3, 2), torch.eye(3), torch.eye(3)
        )
        rows = collector.rows()
        empty = rows[rows.held != held]
        assert [len(part) for part in empty.chunks()] == [0]
        weight = torch.zeros(3, 2, dtype=torch.float64)
        assert empty.scores(weight, weight[:, 0]).shape == (0, 3)
        assert empty.layer_scores({"a": weight})["a"].shape == (0, 3)
