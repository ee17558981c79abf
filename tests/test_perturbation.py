"""Blur, marked pixels and the two curves, against slow loops."""

import itertools
import math

import pytest
import torch
from pixel_models import batch

from captum_hrcam import perturbation
from captum_hrcam.perturbation import FRACTIONS, blur, deletion_curve, insertion_curve, marked

SIZES = [(11,), (5, 8), (3, 4, 5)]


def slow_blur_weights(n, sigma, radius):
    """weights[i][j]: how much pixel j of a side of n gives to pixel i; edges replicated."""
    taps = range(-radius, radius + 1)
    total = sum(math.exp(-0.5 * (t / (sigma * n)) ** 2) for t in taps)
    weights = [[0.0] * n for _ in range(n)]
    for i, t in itertools.product(range(n), taps):
        weights[i][min(max(i + t, 0), n - 1)] += math.exp(-0.5 * (t / (sigma * n)) ** 2) / total
    return weights


def slow_blur(image, sigma):
    """One channel, all pairs of pixels."""
    sides = [
        slow_blur_weights(n, sigma, min(math.ceil(3 * sigma * n), n)) for n in tuple(image.shape)
    ]
    out = torch.zeros_like(image)
    pixels = list(itertools.product(*map(range, image.shape)))
    for p, q in itertools.product(pixels, pixels):
        out[p] += image[q] * math.prod(w[i][j] for w, i, j in zip(sides, p, q, strict=True))
    return out


def slow_marked(a, fraction):
    values = a.flatten().tolist()
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    chosen = set(order[: round(fraction * len(values))])
    return torch.tensor([float(i in chosen) for i in range(len(values))]).reshape(a.shape)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sigma", [0.1, 0.4, 2.0])
@pytest.mark.parametrize("long", [perturbation.LONG, 2])  # 2: by Fourier transform
def test_blur_is_the_slow_gaussian(size, sigma, long, monkeypatch):
    monkeypatch.setattr(perturbation, "LONG", long)
    images, _ = batch(size)
    smooth = blur(images, sigma)
    for i, c in itertools.product(range(3), range(2)):
        torch.testing.assert_close(smooth[i, c], slow_blur(images[i, c], sigma))


def test_blur_keeps_digits_of_half_precisions():
    """Places along a long side are no numbers of bfloat16."""
    images = torch.randn(1, 1, 3000, generator=torch.Generator().manual_seed(0)).cumsum(2)
    smooth = blur(images.bfloat16())
    assert smooth.dtype == torch.bfloat16
    expected = blur(images.bfloat16().float())
    torch.testing.assert_close(smooth.float(), expected, rtol=2**-8, atol=0.01)


def test_both_parts_of_complex_images_are_blurred():
    images, other = batch((5, 8))[0], batch((5, 8))[0].flip(0)
    smooth = blur(torch.complex(images, other))
    assert torch.equal(smooth, torch.complex(blur(images), blur(other)))


@pytest.mark.parametrize("size", SIZES)
def test_blur_of_a_constant_is_the_constant(size):
    constant = torch.tensor([3.0, -7.0]).reshape(1, 2, *[1 for _ in size]).expand(2, 2, *size)
    torch.testing.assert_close(blur(constant), constant)


def test_blur_of_no_width_changes_nothing():
    images, _ = batch((5, 8))
    torch.testing.assert_close(blur(images, 0.0), images)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fraction", [0, 0.01, 0.1, 1 / 3, 0.5, 0.99, 1])
def test_exactly_the_highest_pixels_are_marked(size, fraction):
    _, maps = batch(size)
    given = marked(maps, fraction)
    assert given.shape == maps.shape
    for a, m in zip(maps[:, 0], given[:, 0], strict=True):
        assert m.sum() == round(fraction * math.prod(size))
        assert torch.equal(m, slow_marked(a, fraction).to(m))


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
def test_of_equal_pixels_the_first_are_marked(fraction):
    maps = (batch((5, 8))[1] * 2).round()
    for a, m in zip(maps[:, 0], marked(maps, fraction)[:, 0], strict=True):
        assert torch.equal(m, slow_marked(a, fraction).to(m))
    constant = marked(torch.zeros(1, 1, 2, 5), 0.3)
    assert constant.flatten().tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction: got"):
        marked(torch.zeros(1, 1, 4, 4), fraction)


@pytest.mark.parametrize("size", SIZES)
def test_curves_are_the_slow_replacement(size):
    images, maps = batch(size)
    weight = torch.randn(2, *size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def score(x):
        return (x**2 * weight).flatten(1).sum(1)

    smooth = blur(images)
    gone = deletion_curve(score, images, maps)
    come = insertion_curve(score, images, maps)
    assert gone.shape == come.shape == (3, len(FRACTIONS))
    for i, (k, fraction) in itertools.product(range(3), enumerate(FRACTIONS)):
        inside = slow_marked(maps[i, 0], fraction).bool()
        deleted = torch.where(inside, smooth[i], images[i])
        inserted = torch.where(inside, images[i], smooth[i])
        torch.testing.assert_close(gone[i, k], score(deleted[None])[0])
        torch.testing.assert_close(come[i, k], score(inserted[None])[0])


def test_fraction_0_leaves_all_and_1_replaces_all():
    images, maps = batch((5, 8))
    seen = []

    def score(x):
        seen.append(x)
        return x.flatten(1).sum(1)

    deletion_curve(score, images, maps, (0, 1))
    insertion_curve(score, images, maps, (0, 1))
    for given, expected in zip(seen, [images, blur(images), blur(images), images], strict=True):
        assert torch.equal(given, expected)
    assert not torch.allclose(images, blur(images))
