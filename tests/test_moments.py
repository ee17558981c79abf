"""Streaming moments of features and targets, against numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_hrcam.moments import Moments
from captum_hrcam.pooling import gap, spatial_variance


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


def test_scale_is_the_deviation_over_images_and_cells():
    f = torch.randn(40, 3, 5, 6, generator=torch.Generator().manual_seed(0)) * 2 + 1
    f[:, 1] += torch.arange(40.0)[:, None, None]  # differs between images
    f[:, 2] += 10 * torch.arange(6.0)  # differs inside them
    z = gap(f)
    moments = Moments.of(z, torch.rand(40, 1), spatial_variance(f, z))
    expected = f.double().transpose(0, 1).flatten(1).std(1, correction=0)
    torch.testing.assert_close(moments.scale, expected, rtol=1e-4, atol=1e-6)


def test_averages_that_only_rounding_moves_are_no_information():
    generator = torch.Generator().manual_seed(0)
    f = torch.randn(40, 4, 5, 6, generator=generator, dtype=torch.float64)
    f[:, 1:3] -= f[:, 1:3].mean((2, 3), keepdim=True)  # as after a norm over an image's own cells
    f[:, 1] += 1e-8 * torch.randn(40, 1, 1, generator=generator)
    f[:, 2] += 1e-4 * torch.randn(40, 1, 1, generator=generator)  # small, but not by rounding
    f[:, 3] = 1e-12 * torch.randn(40, 5, 6, generator=generator)  # dead, beside one that is not
    z = gap(f)
    moments = Moments.of(z, torch.rand(40, 1), spatial_variance(f, z))
    assert moments.informative.tolist() == [True, False, True, False]
    assert (moments.scale[~moments.informative] == 1).all()
