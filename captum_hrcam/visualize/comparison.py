"""Maps of several methods beside each other on the image, drawn by Captum's own tools."""

from collections.abc import Mapping, Sequence

import numpy as np
from captum.attr import visualization
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from captum_hrcam.checks import is_number, one_of
from captum_hrcam.visualize.panels import (
    DIVERGING,
    GAP,
    TEXT,
    Array,
    ImageLike,
    by_name,
    cased,
    end_of_scale,
    image_grid,
    is_array,
    one_for_each,
    outline,
    planes,
    to_pictures,
    wrap,
)

NO_OUTLIER = 1e-9  # percent; with 0, Captum's sum may round above the total
BAR = 0.45  # inches, a colour bar and its words
METHOD = "method"
SIGNS = ("positive", "negative", "absolute_value", "all")


def comparison_figure(
    images: ImageLike,
    maps: Mapping[str, ImageLike] | ImageLike,
    *,
    masks: ImageLike | None = None,
    captions: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    sign: str = "positive",
    outlier_perc: float = 2,
    limit: float | str | None = None,
    colorbar: bool = False,
) -> tuple[Figure, Array]:
    r"""
    A grid as in the paper's Figs. 2, 4 and 5: a row per image, with it and a column per method.

    Each map is scaled by itself and drawn by Captum's ``visualize_image_attr``; where it is zero,
    the image shows through in grey. So a map of little evidence looks as bright as one of much. To
    compare images, for example with those of healthy tissue, draw them on one scale with ``limit``.
    Instead of a map without the wanted sign, the bare image is drawn, and says so.

    Args:
        images (Tensor or ndarray): (N, C, H, W), one or three channels, any scale.
        maps (dict): {name: (N, 1, H, W) or (N, H, W)}, as :func:`~captum_hrcam.compare` gives them;
            or one such Tensor or ndarray, as ``attribute`` gives it.
        masks (Tensor or ndarray): (N, H, W) or (N, 1, H, W), outlined in every panel.
        captions (sequence of str): one for each image, at the left of its row; "\\n" begins a new
            line.
        titles (sequence of str): one for each column, the image's first. By default "image" and
            the maps' names.
        sign (str): as in Captum: "positive", "negative", "absolute_value", or "all" for both signs
            in a diverging map centred at zero.
        outlier_perc (float): share of the summed map, in percent, that may saturate.
        limit (float or str): the value at which colours saturate, in all maps; or "method": each
            method has one scale for all images, set by the share that may saturate. By default
            each map has its own scale.
        colorbar (bool): explain below the grid what the colours mean.

    Returns:
        *Figure* and an array of *Axes*, (N, 1 + number of maps). No pyplot state is used.

    Raises:
        TypeError: maps that are neither a mapping nor an array.
        ValueError: shapes that do not fit, an unknown sign, NaN in a map, a limit of 0 or less.

    Examples::

        >>> import torch
        >>> images = torch.rand(2, 1, 16, 16)
        >>> figure, axes = comparison_figure(images, {"HR-CAM": torch.randn(2, 1, 16, 16)})
        >>> axes.shape
        (2, 2)
    """
    one_of("sign", sign, SIGNS)
    if not is_number(outlier_perc) or not 0 <= outlier_perc < 100:
        raise ValueError(
            f"outlier_perc: got {outlier_perc!r}, expected a percentage of at least 0, below 100."
        )
    if isinstance(limit, str):
        one_of("limit", limit, (METHOD,))
    else:
        limit = end_of_scale(limit)
    pictures = to_pictures(images)
    n, size = len(pictures), pictures[0].shape[:2]
    named = by_name("maps", {"map": maps} if is_array(maps) else maps, "compare gives {name: maps}")
    columns = {name: planes(f"maps[{name!r}]", a, n, size) for name, a in named.items()}
    edges = np.zeros((n, *size)) if masks is None else planes("masks", masks, n, size)
    one_for_each("titles", titles, 1 + len(columns), "columns")

    below = BAR if colorbar else 0.0
    figure, axes = image_grid(pictures, titles or ["image", *columns], captions, below=below)
    panel = figure.get_figwidth() / axes.shape[1]
    tops = {name: _top(a, sign, outlier_perc, limit) for name, a in columns.items()}
    for i, (row, picture) in enumerate(zip(axes, pictures, strict=True)):
        for ax, (name, column) in zip(row[1:], columns.items(), strict=True):
            if part_of(sign, column[i]).any():
                _draw_map(figure, ax, column[i], picture, sign, outlier_perc, tops[name])
            else:
                _draw_bare(ax, picture, sign, panel)
        outline(row, edges[i], signed=sign == "all")
    if colorbar:
        _draw_colorbar(figure, axes, sign, limit)
    return figure, axes


def part_of(sign: str, a: Array) -> Array:
    """The part of a map that is drawn; for "negative", how far the map is below zero."""
    if sign == "absolute_value":
        return np.abs(a)
    return {"positive": a.clip(0), "negative": (-a).clip(0), "all": a}[sign]


def _top(column: Array, sign: str, outlier_perc: float, limit: float | str | None) -> float | None:
    """Where one method's colours saturate; None where each map has its own scale."""
    if not isinstance(limit, str):
        return limit
    values = np.sort(np.abs(part_of(sign, column)), axis=None)  # as Captum scales one map
    share = np.cumsum(values)
    return float(values[np.searchsorted(share, share[-1] * (1 - outlier_perc / 100))])


def _draw_map(
    figure: Figure,
    ax: Axes,
    a: Array,
    picture: Array,
    sign: str,
    outlier_perc: float,
    top: float | None,
) -> None:
    """One map over its image, on the scale from 0 to ``top`` or on its own."""
    part = part_of(sign, a)
    visualization.visualize_image_attr(
        (a / np.abs(part).max())[..., None],  # Captum warns of maps with small values
        picture,
        method="blended_heat_map",
        sign=sign,
        plt_fig_axis=(figure, ax),
        outlier_perc=max(outlier_perc, NO_OUTLIER),
        cmap=_heat(sign),
        alpha_overlay=None,  # opacity is the colour map's own, growing with the map
        use_pyplot=False,
    )
    ax.images[0].set_clim(0, 255)  # Captum's grey picture, as bright as in the first column
    if top is not None:
        ax.images[-1].set_data((part / top).clip(-1, 1))


def _draw_bare(ax: Axes, picture: Array, sign: str, panel: float) -> None:
    """Draw an image, ``panel`` inches wide, whose map Captum refuses, as it lacks the sign."""
    kind = sign if sign in ("positive", "negative") else "non-zero"
    ax.imshow(picture.mean(2), cmap="gray", vmin=0, vmax=1)
    words = wrap(f"no {kind} part", panel, TEXT)
    said = ax.text(0.5, 0.04, words, transform=ax.transAxes, color="w", size=TEXT)
    said.set(ha="center", path_effects=cased("k", 1.5), in_layout=False)


def _heat(sign: str) -> ListedColormap:
    """Colour-blind-safe colours whose opacity grows with distance from zero."""
    if sign == "all":
        colors = colormaps[DIVERGING](np.linspace(0, 1, 256))
        colors[:, 3] = np.abs(np.linspace(-1, 1, 256)) ** 0.7 * 0.9
    else:
        colors = colormaps["inferno"](np.linspace(0.15, 1, 256))
        colors[:, 3] = np.linspace(0, 1, 256) ** 0.7 * 0.85
    return ListedColormap(colors)


def _draw_colorbar(figure: Figure, axes: Array, sign: str, limit: float | str | None) -> None:
    """One colour bar for all maps, as they look on mid-grey tissue; with words if scales differ."""
    words = {
        "positive": {0: "0", 1: "high"},
        "negative": {0: "0", 1: "most negative"},
        "absolute_value": {0: "0", 1: "high"},
        "all": {-1: "\u2212", 0: "0", 1: "+"},
    }[sign]
    scales = "each map on its own scale"
    if isinstance(limit, str):
        scales = "each method on one scale"
    elif limit is not None:
        scales = "all maps on one scale"
        of_end = -limit if sign == "negative" else limit
        words = {end: f"{end * of_end or 0:.3g}".replace("-", "\u2212") for end in words}
    colors = _heat(sign)(np.linspace(0, 1, 256))
    colors = 0.5 * (1 - colors[:, 3:]) + colors[:, :3] * colors[:, 3:]
    heat = ScalarMappable(Normalize(min(words), max(words)), ListedColormap(colors))
    bar = figure.colorbar(
        heat,
        ax=list(axes.flat),
        location="bottom",
        fraction=0.05,
        shrink=0.4,
        aspect=25,
        pad=max(0.02, GAP / (figure.get_figheight() - BAR)),  # with few rows a share is too little
    )
    bar.set_ticks(list(words), labels=list(words.values()))
    bar.ax.tick_params(labelsize=TEXT, length=2)
    bar.set_label(scales, fontsize=TEXT, labelpad=1)
