"""Averages and variances over the cells, whatever the precision and the layout."""

import pytest
import torch

from captum_hrcam.pooling import gap, spatial_variance, widest_dtype


def test_apples_gpus_have_no_float64():
    assert widest_dtype(torch.device("mps")) == torch.float32
    assert widest_dtype(torch.device("cpu")) == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gap_keeps_digits_of_half_precisions(dtype):
    f = torch.full((1, 1, 300, 300), 1.0, dtype=dtype)
    assert gap(f).item() == 1.0
    assert gap(f).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(7,), (4, 5), (3, 4, 2)])
def test_spatial_variance_is_that_of_the_cells(size, dtype):
    f = torch.randn(3, 4, *size).to(dtype) + 2
    variance = spatial_variance(f, gap(f))
    assert variance.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = f.double().flatten(2).var(2, correction=0)
    torch.testing.assert_close(variance.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("squares", [1, 48, 2**21])  # values at a time: one image, two, all
def test_spatial_variance_of_channels_last(dtype, squares, monkeypatch):
    monkeypatch.setattr("captum_hrcam.pooling.SQUARES", squares)
    f = (torch.randn(5, 4, 3, 2).to(dtype) + 2).to(memory_format=torch.channels_last)
    variance = spatial_variance(f, gap(f))
    expected = f.double().flatten(2).var(2, correction=0)
    torch.testing.assert_close(variance.double(), expected, rtol=1e-4, atol=1e-5)
    assert spatial_variance(f[:0], gap(f[:0])).shape == (0, 4)


def test_spatial_variance_of_a_constant_is_not_negative():
    f = (torch.arange(1.0, 201).view(1, 200, 1, 1) * 12.34567).expand(1, 200, 33, 33)
    relative = spatial_variance(f, gap(f)) / gap(f) ** 2
    assert relative.min() == 0  # though rounding goes both ways
    assert relative.max() < 1e-4


@pytest.mark.parametrize("channels_last", [False, True])
def test_spatial_variance_beside_a_large_mean(channels_last):
    f = torch.randn(3, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    f[:, 1] += 1000
    f[:, 2] += 10
    f = f.to(memory_format=torch.channels_last) if channels_last else f
    expected = f.double().flatten(2).var(2, correction=0)
    torch.testing.assert_close(spatial_variance(f, gap(f)).double(), expected, rtol=1e-4, atol=0)


def test_spatial_variance_keeps_half_precision_from_overflowing():
    f = torch.full((1, 1, 4, 4), 300.0, dtype=torch.float16)
    f[..., 0] = 700
    assert spatial_variance(f, gap(f)).item() == pytest.approx(f.float().var(correction=0).item())
