"""Simulated pathology: brain-like slices with and without lesions, masks known (the paper's)."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from captum_hrcam.datasets.masks import transformed

Array = np.ndarray[Any, Any]


class SimulatedPathology(Dataset[tuple[Any, int]]):
    r"""
    Two classes, as in the paper: normative anatomy + noise, and the same with lesions + noise.

    Anatomy (outline, tilt, ventricles, tissue texture, gain, noise) varies in both classes alike,
    so that the lesion is the only cue. Odd items carry lesions, alternately localised (one to three
    small spots) and diffuse (one faint, wide, patchy region). Item i depends on (seed, i) alone.

    Args:
        n (int): number of images.
        size (int): pixels per side, at least 32.
        seed (int): the seed of all images.
        contrast (float): a factor on how much brighter than the tissue lesions are; with a negative
            one they are darker.
        transform (Callable): applied to the image, (1, size, size).
        mask_transform (Callable): applied to the mask, as in :class:`ISIC2019`.

    Returns (by index):
        tuple[Tensor, int]: image (1, size, size), float32, about 0..1; label 1 for a lesion.

    Raises:
        ValueError: n or size too small.

    Examples::

        >>> data = SimulatedPathology(4, size=48)
        >>> image, label = data[1]
        >>> image.shape, label, data.kind(1), bool(data.mask(1).any())
        (torch.Size([1, 48, 48]), 1, 'localised', True)
        >>> data.kind(3), data.kind(0)
        ('diffuse', 'normative')
    """

    classes = ("normative", "lesion")

    def __init__(
        self,
        n: int,
        size: int = 96,
        seed: int = 0,
        *,
        contrast: float = 1.0,
        transform: Callable[[Tensor], Any] | None = None,
        mask_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        if n < 1:
            raise ValueError(f"n: got {n}, expected at least one image.")
        if size < 32:
            raise ValueError(f"size: got {size}, expected at least 32 pixels for the anatomy.")
        self.n, self.size, self.seed = n, size, seed
        self.contrast = contrast
        self.transform, self.mask_transform = transform, mask_transform

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Any, int]:
        i = operator.index(i)
        image = self._draw(i)[0]
        return (self.transform(image) if self.transform else image), i % 2

    def kind(self, i: int) -> str:
        """
        What an item shows.

        Args:
            i (int): the item.

        Returns:
            *str*: "normative", "localised" or "diffuse".
        """
        i = operator.index(i)
        if i % 2 == 0:
            return "normative"
        return "localised" if (i // 2) % 2 == 0 else "diffuse"

    def mask(self, i: int) -> Tensor:
        """
        The lesion's pixels.

        Args:
            i (int): the item.

        Returns:
            *Tensor*: (size, size) bool, transformed; empty for normative images.
        """
        return transformed(self._draw(operator.index(i))[1], self.mask_transform)

    def _draw(self, i: int) -> tuple[Tensor, Tensor]:
        if not 0 <= i < self.n:
            raise IndexError(f"item {i} of {self.n}")
        rng = np.random.default_rng((self.seed, i))
        tissue, inside = _anatomy(rng, self.size)
        kind = self.kind(i)
        lesion = np.zeros_like(tissue)
        if kind == "localised":
            for _ in range(rng.integers(1, 4)):
                spot = _blob(rng, inside, radius=rng.uniform(0.05, 0.11))
                lesion = np.maximum(lesion, spot * rng.uniform(0.16, 0.26))
        elif kind == "diffuse":
            patchy = 0.6 + 0.4 * _smooth(rng, self.size, 10)
            lesion = _blob(rng, inside, radius=rng.uniform(0.22, 0.4)) * patchy.clip(0.2, 1)
            lesion = lesion * rng.uniform(0.12, 0.18)
        lesion = lesion * inside * self.contrast
        noise = rng.normal(0, rng.uniform(0.03, 0.05), tissue.shape)
        image = (tissue + lesion) * rng.uniform(0.85, 1.15) + noise
        strength = np.abs(lesion)  # dark lesions, too
        mask = strength > 0.4 * strength.max()
        return torch.from_numpy(image.astype(np.float32))[None], torch.from_numpy(mask)


def _grid(size: int) -> tuple[Array, Array]:
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return y, x


def _smooth(rng: np.random.Generator, size: int, cells: int) -> Array:
    """A smooth random field with about ``cells`` bumps per side, standard deviation about 1."""
    coarse = torch.from_numpy(rng.normal(size=(1, 1, cells + 3, cells + 3)))
    fine = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)
    return np.asarray(fine[0, 0].numpy())


def _edge(distance: Array, width: float) -> Array:
    """1 inside (negative distance), 0 outside, soft over ``width``."""
    return 1 / (1 + np.exp(np.clip(distance / width, -50, 50)))


def _anatomy(rng: np.random.Generator, size: int) -> tuple[Array, Array]:
    """Tissue intensities, and where a lesion may lie (1 in tissue, 0 outside)."""
    y, x = _grid(size)
    tilt = rng.uniform(-0.3, 0.3)
    y0, x0 = rng.uniform(-0.08, 0.08, 2)
    u = np.cos(tilt) * (x - x0) + np.sin(tilt) * (y - y0)
    v = -np.sin(tilt) * (x - x0) + np.cos(tilt) * (y - y0)
    r = np.hypot(u / rng.uniform(0.62, 0.74), v / rng.uniform(0.74, 0.86))
    r = r + 0.02 * _smooth(rng, size, 4)
    texture = rng.uniform(0.01, 0.03) * _smooth(rng, size, 8)
    shading = rng.uniform(0.0, 0.04) * _smooth(rng, size, 2)
    brain = _edge(r - 0.92, 0.01)
    skull = np.exp(-(((r - 1.0) / 0.04) ** 2))
    ventricles = np.zeros_like(r)
    for side in (-1, 1):
        cu, cv = side * rng.uniform(0.13, 0.2), rng.uniform(-0.1, 0.1)
        a, b = rng.uniform(0.05, 0.1), rng.uniform(0.15, 0.28)
        lean = side * rng.uniform(-0.1, 0.3) * (v - cv)
        ventricles = np.maximum(
            ventricles, _edge(np.hypot((u - cu - lean) / a, (v - cv) / b) - 1, 0.08)
        )
    tissue = brain * (0.5 + texture + shading) * (1 - 0.6 * ventricles)
    return tissue + 0.85 * skull, brain * (1 - ventricles) * (r < 0.85)


def _blob(rng: np.random.Generator, inside: Array, radius: float) -> Array:
    """A soft irregular spot of about ``radius`` (half the image is 1) somewhere in tissue."""
    size = len(inside)
    y, x = _grid(size)
    row, column = np.unravel_index(rng.choice(np.flatnonzero(inside > 0.9)), inside.shape)
    stretch = rng.uniform(0.75, 1.3)
    distance = np.hypot(
        (x - x[row, column]) * stretch, (y - y[row, column]) / stretch
    ) + 0.2 * radius * _smooth(rng, size, 9)
    return _edge(distance - radius, 0.015 + 0.12 * radius)
