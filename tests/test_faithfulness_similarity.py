"""SSIM window by window, rank correlation from counted ranks."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from pixel_models import batch

from captum_hrcam.faithfulness import rank_correlation, ssim


def slow_ssim(a, b):
    """Plain windows, one after the other."""
    a, b = ((m - m.min()) / (m.max() - m.min()) for m in (a.numpy(), b.numpy()))
    window = [min(7, n) for n in a.shape]
    values = []
    for corner in itertools.product(
        *(range(n - w + 1) for n, w in zip(a.shape, window, strict=True))
    ):
        cut = tuple(slice(c, c + w) for c, w in zip(corner, window, strict=True))
        p, q = a[cut], b[cut]
        covariance = ((p - p.mean()) * (q - q.mean())).mean()
        top = (2 * p.mean() * q.mean() + 1e-4) * (2 * covariance + 9e-4)
        values.append(top / ((p.mean() ** 2 + q.mean() ** 2 + 1e-4) * (p.var() + q.var() + 9e-4)))
    return np.mean(values)


class TestSimilarity:
    @pytest.mark.parametrize("size", [(15,), (9, 12), (8, 5, 9)])
    def test_ssim_is_the_slow_one(self, size):
        (_, a), (_, noise) = batch(size), batch(size, n=3, channels=1)
        b = a + 0.5 * noise.flip(0)
        expected = [slow_ssim(p, q) for p, q in zip(a[:, 0], b[:, 0], strict=True)]
        np.testing.assert_allclose(ssim(a, b), expected)
        np.testing.assert_allclose(ssim(a, 3 * a + 2), 1)

    def test_rank_correlation_is_of_ranks_with_ties(self):
        _, a = batch((6, 7))
        a, b = (2 * a).round(), a.flip(2).round()

        def ranks(m):
            values = m.flatten().tolist()
            return [sum(u < v for u in values) + sum(u == v for u in values) / 2 for v in values]

        expected = [np.corrcoef(ranks(p), ranks(q))[0, 1] for p, q in zip(a, b, strict=True)]
        np.testing.assert_allclose(rank_correlation(a, b), expected)

    def test_constant_maps(self):
        a, flat = batch((9, 9))[1], torch.full((3, 1, 9, 9), 4.0)
        np.testing.assert_allclose(ssim(flat, flat), 1)
        assert (ssim(a, flat) < 0.1).all()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.isnan(rank_correlation(a, flat)).all()

    @pytest.mark.parametrize("similarity", [ssim, rank_correlation])
    def test_other_shapes_are_refused(self, similarity):
        with pytest.raises(ValueError, match="maps: got shapes"):
            similarity(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 9))
        with pytest.raises(ValueError, match="maps: got shapes"):
            similarity(torch.zeros(8, 8), torch.zeros(8, 8))
