"""Kinds of images whose class shows in a known place: (images, labels, masks) per seed."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor

from captum_hrcam.datasets import SimulatedPathology


class Images(NamedTuple):
    """x (N, C, H, W); y (N,); masks (N, H, W) bool, which no method sees but the oracle."""

    x: Tensor
    y: Tensor
    masks: Tensor


Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, int, np.ndarray]]


def lesions(n: int, seed: int, test: bool, size: int = 64) -> Images:
    """Brain-like slices of two classes; the test set has only those with a lesion."""
    source = SimulatedPathology(2 * n if test else n, size, seed=2 * seed + test)
    items = [i for i in range(len(source)) if i % 2 or not test]
    x = torch.stack([source[i][0] for i in items])
    return Images(x, torch.tensor(items) % 2, torch.stack([source.mask(i) for i in items]))


def _drawn(draw: Draw, n: int, seed: int, test: bool) -> Images:
    items = [draw(np.random.default_rng((seed, int(test), i)), i, test) for i in range(n)]
    x, y, masks = zip(*items, strict=True)
    x = torch.from_numpy(np.stack(x).astype(np.float32))
    return Images(x, torch.tensor(y), torch.from_numpy(np.stack(masks)))


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return data.images / 16, data.target


def _digit(rng: np.random.Generator, i: int, test: bool, size: int) -> tuple[np.ndarray, int]:
    """A handwritten digit on a black field; the first 1,200 are for training only."""
    images, target = _digits()
    rows = np.flatnonzero((target == i % 10) & ((np.arange(len(target)) >= 1200) == test))
    small = torch.from_numpy(images[rng.choice(rows)])[None, None]
    side = int(rng.integers(20, 29))
    big = F.interpolate(small, size=(side, side), mode="bicubic", align_corners=False)[0, 0]
    field = np.zeros((size, size))
    y, x = rng.integers(0, size - side + 1, 2)
    field[y : y + side, x : x + side] = big.clamp(0, 1).numpy()
    return field, i % 10


def _strokes(rng: np.random.Generator, size: int, n: int) -> np.ndarray:
    """Straight strokes as wide as a digit's, each with its own strength from .4 to .8."""
    y, x = np.mgrid[:size, :size]
    field = np.zeros((size, size))
    for _ in range(n):
        a, angle, length = rng.uniform(0, size, 2), rng.uniform(0, np.pi), rng.uniform(6, 18)
        dy, dx = np.sin(angle), np.cos(angle)
        along = np.clip((y - a[0]) * dy + (x - a[1]) * dx, 0, length)
        distance = np.hypot(y - a[0] - along * dy, x - a[1] - along * dx)
        field = np.maximum(field, rng.uniform(0.4, 0.8) * np.exp(-((distance / 1.8) ** 2)))
    return field


def _bright_digit(rng, i, test, size=64):
    field, label = _digit(rng, i, test, size)
    noisy = np.maximum(field, _strokes(rng, size, 10)) + rng.normal(0, 0.1, field.shape)
    return noisy[None], label, field > 0.5


def _dark_digit(rng, i, test, size=64):
    field, label = _digit(rng, i, test, size)
    ink = np.maximum(field, _strokes(rng, size, 8) / 0.8)  # as dark as the digit itself
    ground = 1 - 0.8 * ink + rng.normal(0, 0.1, field.shape)
    return ground[None], label, field > 0.5


@functools.cache
def _photographs() -> list[np.ndarray]:
    return [photo / 255 for photo in load_sample_images().images]


def _photo_digit(rng, i, test, size=64):
    """A digit on a crop of a real photograph: of its left half in training, its right in tests."""
    field, label = _digit(rng, i, test, size)
    photo = _photographs()[rng.integers(2)]
    half = photo.shape[1] // 2
    y = rng.integers(0, photo.shape[0] - size)
    x = rng.integers(0, half - size) + half * test
    crop = photo[y : y + size, x : x + size].transpose(2, 0, 1)
    colour = rng.uniform(0.6, 1, 3)[:, None, None]
    return crop * (1 - field) + colour * field, label, field > 0.5


def _patch(rng: np.random.Generator, size: int) -> np.ndarray:
    """A disk somewhere, (size, size) bool."""
    y, x = np.mgrid[:size, :size]
    radius, (y0, x0) = rng.uniform(8, 13), rng.uniform(13, size - 13, 2)
    return np.hypot(y - y0, x - x0) < radius


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise of unit deviation, averaged over 3 x 3 pixels."""
    noise = torch.from_numpy(rng.normal(size=(1, 1, size + 2, size + 2)))
    return F.avg_pool2d(noise, 3, 1)[0, 0].numpy() * 3


def _grating(rng, i, test, size=64):
    """A round patch of stripes in noise of the same strength; the class is their direction."""
    inside = _patch(rng, size)
    y, x = np.mgrid[:size, :size]
    angle = i % 4 * np.pi / 4 + rng.normal(0, 0.1)
    phase = (np.cos(angle) * x + np.sin(angle) * y) * 2 * np.pi / rng.uniform(5, 7)
    noise = _noise(rng, size)
    stripes = np.sqrt(2) * np.sin(phase + rng.uniform(0, 2 * np.pi))
    field = np.where(inside, 0.6 * stripes + 0.8 * noise, noise)
    return field[None] * 0.3, i % 4, inside


def _weave(rng, i, test, size=64):
    """A round patch of stripes, checks, dots or a net, turned at random, in noise."""
    inside, noise = _patch(rng, size), _noise(rng, size)
    y, x = np.mgrid[:size, :size]
    turn, pitch = rng.uniform(0, np.pi), 2 * np.pi / rng.uniform(5, 7)
    a, b = rng.uniform(0, 2 * np.pi, 2)
    u = np.sin(pitch * (np.cos(turn) * x + np.sin(turn) * y) + a)
    v = np.sin(pitch * (np.cos(turn) * y - np.sin(turn) * x) + b)
    woven = (u, u * v, u.clip(0) * v.clip(0), -np.maximum(u, v))[i % 4]
    woven = (woven - woven.mean()) / woven.std()
    return np.where(inside, 0.75 * woven + 0.65 * noise, noise)[None] * 0.3, i % 4, inside


def _grain(rng, i, test, size=64):
    """A round patch of noise of one pitch, 4, 6, 9 or 14 pixels, which is the class."""
    inside, noise = _patch(rng, size), _noise(rng, size)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size))).clip(1e-3)
    band = np.exp(-((np.log2(f * (4, 6, 9, 14)[i % 4]) / 0.25) ** 2))
    grain = np.fft.ifft2(np.fft.fft2(rng.normal(size=(size, size))) * band).real
    grain /= grain.std()
    return np.where(inside, 0.85 * grain + 0.5 * noise, noise)[None] * 0.3, i % 4, inside


KINDS: dict[str, Callable[[int, int, bool], Images]] = {
    "lesions": lesions,
    "bright digits": functools.partial(_drawn, _bright_digit),
    "dark digits": functools.partial(_drawn, _dark_digit),
    "digits on photographs": functools.partial(_drawn, _photo_digit),
    "gratings": functools.partial(_drawn, _grating),
    "weave": functools.partial(_drawn, _weave),
    "grain": functools.partial(_drawn, _grain),
}
