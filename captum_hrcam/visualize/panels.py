"""What the figures share: sizes, colours, the grid of images, checked arrays."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import AbstractPathEffect, Normal, Stroke
from torch import Tensor

from captum_hrcam.batch import plain
from captum_hrcam.metrics.scaling import scale_batch

Array = np.ndarray[Any, Any]
ImageLike = Tensor | Array

WIDTH = 7.2  # inches, two columns of a journal
WIDEST, NARROWEST = 1.5, 0.75  # inches, an image; narrower cuts titles to pieces
TITLE, TEXT = 8, 7  # points
# Okabe and Ito's colours, told apart by the colour-blind.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
DIVERGING = "RdBu_r"
# Line and casing: cyan is bright on grey tissue and on heat, but lost on blue.
OUTLINE, SIGNED_OUTLINE = ("#19d3e6", "k"), ("k", "w")


def image_grid(
    pictures: Sequence[Array],
    titles: Sequence[str],
    captions: Sequence[str] | None,
    *,
    right: float = 0.0,
    below: float = 0.0,
) -> tuple[Figure, Array]:
    """Axes (N, columns) without ticks, images in the first; inches for colour bars kept free."""
    one_for_each("captions", captions, len(pictures), "images")
    rows_per_column = pictures[0].shape[0] / pictures[0].shape[1]
    captions = [wrap(c, _panel(len(titles), right) * rows_per_column, TEXT) for c in captions or ()]
    left = 0.15 * max((c.count("\n") + 1 for c in captions), default=0)
    panel = _panel(len(titles), left + right)
    height = panel * rows_per_column
    points = TITLE if panel > 1 else TEXT
    titles = [wrap(title, panel, points) for title in titles]
    above = 0.14 * max(title.count("\n") + 1 for title in titles)
    size = (panel * len(titles) + left + right, height * len(pictures) + above + below)
    figure = Figure(figsize=size, layout="compressed")
    axes = figure.subplots(len(pictures), len(titles), squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    for ax, picture in zip(axes[:, 0], pictures, strict=True):
        ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=points, pad=3, parse_math=False)
    for ax, caption in zip(axes[:, 0], captions, strict=False):
        ax.set_ylabel(caption, fontsize=TEXT, labelpad=3, parse_math=False)
    return figure, axes


def _panel(columns: int, beside: float) -> float:
    """The width of an image in inches, where so many are kept free beside them."""
    return min(max((WIDTH - beside) / columns, NARROWEST), WIDEST)


def outline(row: Array, mask: Array, *, signed: bool) -> None:
    """The mask's edge on an image and its maps, cased to stand out on light and dark alike."""
    if not mask.any():
        return
    edged = np.pad(mask > 0, 1)  # at the image's border the outline closes, too
    y, x = (np.arange(n) - 1 for n in edged.shape)
    for i, ax in enumerate(row):
        color, casing = SIGNED_OUTLINE if signed and i > 0 else OUTLINE
        limits = ax.axis()
        line = ax.contour(x, y, edged, [0.5], colors=color, linewidths=0.9)
        line.set_path_effects(cased(casing, 1.5))
        ax.axis(limits)


def cased(color: str, width: float) -> list[AbstractPathEffect]:
    """For lines and letters on pictures."""
    return [Stroke(linewidth=width, foreground=color, alpha=0.7), Normal()]


def wrap(text: str, inches: float, points: float) -> str:
    """Lines that fit a width; dotted names of layers break behind a dot."""
    return "\n".join(part for line in text.split("\n") for part in _fit(line, inches, points))


def _fit(line: str, inches: float, points: float) -> list[str]:
    words = line if " " in line else line.replace(".", ". ")
    parts = textwrap.wrap(words, letters(inches, points)) or [""]
    return parts if words == line else [part.replace(". ", ".") for part in parts]


def letters(inches: float, points: float) -> int:
    """How many letters fit a width, at 0.63 of the font's size each."""
    return max(int(inches * 72 / (0.63 * points)), 4)


def to_numpy(values: Any) -> Array:
    """Float64 on the CPU, of a tensor or anything numpy takes."""
    if isinstance(values, Tensor):
        values = plain(values.detach()).cpu().double()  # numpy knows no bfloat16
    return np.asarray(values, dtype=np.float64)


def array(argument: str, values: ImageLike, *ndim: int, remedy: str) -> Array:
    """A finite array with one of the numbers of dimensions."""
    a = to_numpy(values)
    if a.ndim not in ndim or 0 in a.shape:
        raise ValueError(
            f"{argument}: got shape {a.shape}, expected {' or '.join(map(str, ndim))} dimensions, "
            f"none empty. {remedy}"
        )
    if not np.isfinite(a).all():
        raise ValueError(
            f"{argument}: NaN or infinity among the values, expected finite ones. Look for where "
            "they come from, or leave these out."
        )
    return a


def planes(argument: str, values: ImageLike, n: int, size: tuple[int, ...]) -> Array:
    """(N, H, W) from (N, 1, H, W) or (N, H, W)."""
    given = array(argument, values, 3, 4, remedy="Of a volume pass slices.")
    a = given[:, 0] if given.ndim == 4 and given.shape[1] == 1 else given
    if a.shape != (n, *size):
        raise ValueError(
            f"{argument}: got shape {given.shape}, expected ({n}, 1, {size[0]}, {size[1]}) as the "
            "images. Choose the same images, and bring the maps to their size."
        )
    return a


def to_pictures(images: ImageLike) -> list[Array]:
    """(N, C, H, W) -> N of (H, W, C) in 0..1."""
    stack = array("images", images, 4, remedy="Of a volume pass slices.")
    if stack.shape[1] not in (1, 3):
        raise ValueError(
            f"images: got {stack.shape[1]} channels, expected 1 or 3. Choose those to be shown."
        )
    return [np.moveaxis(image, 0, 2) for image in in_unit_range(list(stack))]


def in_unit_range(images: Sequence[Array]) -> Sequence[Array]:
    """Images as they are if all lie in 0..1, else each scaled by itself.

    What lies in 0..1 keeps its brightness: between scans it may be the finding.
    """
    if all(image.min() >= 0 and image.max() <= 1 for image in images):
        return images
    return [scale_batch(image[None])[0] for image in images]


def one_for_each(argument: str, values: Sequence[str] | None, n: int, what: str) -> None:
    """Refuse a sequence of another length."""
    if values is not None and (isinstance(values, str) or len(values) != n):
        got = repr(values) if isinstance(values, str) else len(values)
        raise ValueError(f"{argument}: got {got} for {n} {what}, expected one for each.")
