"""What the figures share: sizes, colours, the grid of images, checked arrays."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import AbstractPathEffect, Normal, Stroke
from torch import Tensor

from captum_hrcam.batch import plain
from captum_hrcam.checks import brief, positive
from captum_hrcam.metrics.scaling import scale_batch

Array = np.ndarray[Any, Any]
ImageLike = Tensor | Array

WIDTH = 7.2  # inches, two columns of a journal
PAGE = 9.7  # inches, the height of a journal's page
WIDEST, NARROWEST = 1.5, 0.75  # inches, an image; a narrower one cuts titles to pieces
TURNED, TURNED_LINE = 3, 0.15  # most lines of a caption turned by 90 degrees; inches of each line
BESIDE = (0.8, 1.2, 1.6)  # inches, widths of captions that are not turned
LINE, GAP = 0.14, 0.09  # inches, a line of text; between images
TITLE, TEXT = 8, 7  # points
# Okabe and Ito's colours, which the colour-blind can tell apart.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
DIVERGING = "RdBu_r"
# Line and casing: cyan is bright on grey tissue and on heat, but lost on blue.
OUTLINE, SIGNED_OUTLINE = ("#19d3e6", "k"), ("k", "w")
SLICES = "Of a volume draw slices_figure, or pass slices."
FEWER_AXES = "Give one image its leading axis, image[None]. Plot signals and their maps as lines."


def image_grid(
    pictures: Sequence[Array],
    titles: Sequence[str],
    captions: Sequence[str] | None,
    *,
    right: float = 0.0,
    below: float = 0.0,
) -> tuple[Figure, Array]:
    """Axes (N, columns) without ticks, with the images in the first column; ``right`` and ``below``
    are inches kept free for colour bars."""
    one_for_each("captions", captions, len(pictures), "images")
    n, rows_per_column = len(pictures), pictures[0].shape[0] / pictures[0].shape[1]
    _, height = _panel(n, len(titles), right, rows_per_column)
    captions, left, turned = _captions([str(caption) for caption in captions or ()], height)
    width, height = _panel(n, len(titles), left + right, rows_per_column)
    points = TITLE if width > 1 else TEXT
    titles = [wrap(str(title), width, points) for title in titles]
    above = LINE * max(map(_lines, titles))
    size = (width * len(titles) + left + right, height * n + above + below)
    # In a compressed layout, tall images would move together until their titles overlap.
    is_tall = height - GAP < (width - GAP) * rows_per_column
    figure = Figure(figsize=size, layout="constrained" if is_tall else "compressed")
    axes = figure.subplots(n, len(titles), squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    for ax, picture in zip(axes[:, 0], pictures, strict=True):
        ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=points, pad=3, parse_math=False)
    placed = {} if turned else {"rotation": 0, "ha": "right", "va": "center"}
    for ax, caption in zip(axes[:, 0], captions, strict=False):
        ax.set_ylabel(caption, fontsize=TEXT, labelpad=3, parse_math=False, **placed)
    return figure, axes


def _panel(n: int, columns: int, beside: float, rows_per_column: float) -> tuple[float, float]:
    """Width and height of an image and the gap after it, with ``beside`` inches of a row kept free.

    Each of ``n`` tall images gets its share of a page, but no less than a square one would.
    """
    width = min(max((WIDTH - beside) / columns, NARROWEST), WIDEST)
    height = (width - GAP) * rows_per_column + GAP
    highest = max(PAGE / n, WIDEST)
    if height > highest:
        return max((highest - GAP) / rows_per_column + GAP, NARROWEST), highest
    return width, height


def _captions(captions: Sequence[str], height: float) -> tuple[list[str], float, bool]:
    """Captions in lines, the inches they take, and whether they are turned by 90 degrees.

    They are turned if, beside an image of this height, three lines do and no word is broken.
    """
    longest = max((len(word) for caption in captions for word in caption.split()), default=0)
    wrapped = [wrap(caption, height, TEXT) for caption in captions]
    lines = max(map(_lines, wrapped), default=0)
    if longest <= letters(height, TEXT) and lines <= TURNED:
        return wrapped, TURNED_LINE * lines, True
    for inches in BESIDE:
        wrapped = [wrap(caption, inches, TEXT) for caption in captions]
        if longest <= letters(inches, TEXT) and LINE * max(map(_lines, wrapped)) <= height:
            break
    return wrapped, inches, False


def _lines(text: str) -> int:
    return text.count("\n") + 1


def outline(row: Array, mask: Array, *, signed: bool) -> None:
    """Draw the mask's edge on an image and its maps, cased to stand out on light and dark alike."""
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
    """A casing for lines and letters on pictures."""
    return [Stroke(linewidth=width, foreground=color, alpha=0.7), Normal()]


def wrap(text: str, inches: float, points: float) -> str:
    """Break text into lines that fit a width; dotted names of layers break after a dot."""
    return "\n".join(part for line in text.split("\n") for part in _fit(line, inches, points))


def _fit(line: str, inches: float, points: float) -> list[str]:
    words = line if " " in line else line.replace(".", ". ")
    parts = textwrap.wrap(words, letters(inches, points)) or [""]
    return parts if words == line else [part.replace(". ", ".") for part in parts]


def letters(inches: float, points: float) -> int:
    """How many letters fit a width, at 0.63 of the font's size each."""
    return max(int(inches * 72 / (0.63 * points)), 4)


def to_numpy(values: Any) -> Array:
    """A float64 array from a tensor or anything that numpy takes."""
    if isinstance(values, Tensor):
        values = plain(values.detach()).cpu().double()  # numpy knows no bfloat16
    return np.asarray(values, dtype=np.float64)


def array(
    argument: str, values: ImageLike, *ndim: int, remedy: str, of_fewer: str | None = None
) -> Array:
    """The values as an array, refused if not finite or of none of these numbers of dimensions.

    ``of_fewer`` is the remedy for fewer dimensions than these, if it is another.
    """
    try:
        a = to_numpy(values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{argument}: got {brief(values)}, expected numbers that make one array. Give zeros "
            "for a mask that is missing."
        ) from error
    if a.ndim not in ndim or 0 in a.shape:
        told = of_fewer if of_fewer and a.ndim < min(ndim) else remedy
        raise ValueError(
            f"{argument}: got shape {a.shape}, expected {' or '.join(map(str, ndim))} dimensions, "
            f"none empty. {told}"
        )
    if not np.isfinite(a).all():
        raise ValueError(
            f"{argument}: NaN or infinity among the values, expected finite ones. Look for where "
            "they come from, or leave these out."
        )
    return a


def is_array(values: object) -> TypeGuard[ImageLike]:
    """Whether it is a tensor or an array of numpy."""
    return isinstance(values, Tensor | np.ndarray)


def by_name(argument: str, values: Any, remedy: str) -> Mapping[str, ImageLike]:
    """Refuse anything but a mapping."""
    if not isinstance(values, Mapping):
        raise TypeError(
            f"{argument}: got {type(values).__name__}, expected a mapping by name: {remedy}."
        )
    return values


def planes(argument: str, values: ImageLike, n: int, size: tuple[int, ...]) -> Array:
    """(N, H, W) from (N, 1, H, W) or (N, H, W)."""
    given = array(argument, values, 3, 4, remedy=SLICES, of_fewer=FEWER_AXES)
    a = given[:, 0] if given.ndim == 4 and given.shape[1] == 1 else given
    if a.shape != (n, *size):
        raise ValueError(
            f"{argument}: got shape {given.shape}, expected ({n}, 1, {size[0]}, {size[1]}) as the "
            "images. Choose the same images, and bring the maps to their size."
        )
    return a


def to_pictures(images: ImageLike) -> list[Array]:
    """(N, C, H, W) -> N of (H, W, C) in 0..1."""
    stack = array("images", images, 4, remedy=SLICES, of_fewer=FEWER_AXES)
    if stack.shape[1] not in (1, 3):
        raise ValueError(
            f"images: got {stack.shape[1]} channels, expected 1 or 3. Choose those to be shown."
        )
    return [np.moveaxis(image, 0, 2) for image in in_unit_range(list(stack))]


def in_unit_range(images: Sequence[Array]) -> Sequence[Array]:
    """Images as they are if all lie in 0..1, else each scaled by itself.

    Images in 0..1 keep their brightness: how it differs between scans may be the finding.
    """
    if all(image.min() >= 0 and image.max() <= 1 for image in images):
        return images
    return [scale_batch(image[None])[0] for image in images]


def end_of_scale(limit: Any) -> float | None:
    """A limit, given as a number or a tensor, as a number; None if each map or row has its own."""
    if limit is None:
        return None
    value = limit.item() if isinstance(limit, Tensor) and limit.numel() == 1 else limit
    positive("limit", value)
    return float(value)


def one_for_each(argument: str, values: Sequence[str] | None, n: int, what: str) -> None:
    """Refuse a sequence of another length."""
    if values is not None and (isinstance(values, str) or len(values) != n):
        got = repr(values) if isinstance(values, str) else len(values)
        raise ValueError(f"{argument}: got {got} for {n} {what}, expected one for each.")
