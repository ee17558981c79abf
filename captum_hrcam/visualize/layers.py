"""Each layer's part of a map, beside their sum."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from captum_hrcam.visualize.panels import (
    DIVERGING,
    TEXT,
    Array,
    ImageLike,
    by_name,
    end_of_scale,
    image_grid,
    outline,
    planes,
    to_pictures,
)


def layers_figure(
    images: ImageLike,
    layer_maps: Mapping[str, ImageLike],
    *,
    masks: ImageLike | None = None,
    captions: Sequence[str] | None = None,
    total: ImageLike | None = None,
    resolutions: Mapping[str, Sequence[int]] | None = None,
    limit: float | None = None,
) -> tuple[Figure, Array]:
    r"""
    A grid as in the paper's Fig. 6C: a row per image, with it, a column per layer, and their sum.

    All maps of a row share one scale, centred at zero and written on the row's colour bar, so that
    the layers' parts can be compared and be seen to add up. Red speaks for the class, blue against.

    Args:
        images (Tensor or ndarray): (N, C, H, W), one or three channels, any scale.
        layer_maps (dict): {layer: (N, 1, H, W) or (N, H, W)}, shallow to deep, as
            :meth:`~captum_hrcam.HRCAM.layer_maps` gives them.
        masks (Tensor or ndarray): (N, H, W) or (N, 1, H, W), outlined in every panel.
        captions (sequence of str): one for each image, at the left of its row.
        total (Tensor or ndarray): shaped as a layer's maps; drawn last, in place of their sum.
        resolutions (dict): {layer: (h, w)}, native sizes, written below the layers' names.
        limit (float): the scale of every row, -limit to limit; what exceeds it saturates. By
            default the largest absolute value in the row.

    Returns:
        *Figure* and an array of *Axes*, (N, 2 + number of layers). No pyplot state is used.

    Raises:
        TypeError: ``layer_maps`` is not a mapping by name.
        ValueError: shapes that do not fit, no layer, NaN in a map, a limit of 0 or less.

    Examples::

        >>> import torch
        >>> images, parts = torch.rand(2, 1, 16, 16), torch.randn(3, 2, 1, 16, 16)
        >>> maps = dict(zip(["early", "middle", "late"], parts))
        >>> figure, axes = layers_figure(images, maps, resolutions={"late": (4, 4)})
        >>> axes.shape, axes[0, 3].get_title()
        ((2, 5), 'late\n4 × 4')
    """
    pictures = to_pictures(images)
    n, size = len(pictures), pictures[0].shape[:2]
    by_name("layer_maps", layer_maps, "hrcam.layer_maps(images, target) gives {layer: maps}")
    columns = {k: planes(f"layer_maps[{k!r}]", a, n, size) for k, a in layer_maps.items()}
    if not columns:
        raise ValueError("layer_maps: got no layer, expected one or more. Use HRCAM.layer_maps.")
    limit = end_of_scale(limit)
    last = sum(columns.values()) if total is None else planes("total", total, n, size)
    edges = np.zeros((n, *size)) if masks is None else planes("masks", masks, n, size)

    sizes = {k: " \u00d7 ".join(map(str, r)) for k, r in (resolutions or {}).items()}
    titles = ["image", *(f"{k}\n{sizes[k]}" if k in sizes else k for k in columns)]
    titles += ["sum" if total is None else "total"]
    figure, axes = image_grid(pictures, titles, captions, right=0.45)
    for i, row in enumerate(axes):
        _draw_row(figure, row[1:], [*(a[i] for a in columns.values()), np.asarray(last)[i]], limit)
        outline(row, edges[i], signed=True)
    return figure, axes


def _draw_row(figure: Figure, row: Array, maps: Sequence[Array], limit: float | None) -> None:
    """One image's maps on one scale, with its colour bar."""
    largest = max(np.abs(a).max() for a in maps)
    top = limit or largest or 1.0
    for ax, a in zip(row, maps, strict=True):
        drawn = ax.imshow(a, cmap=DIVERGING, vmin=-top, vmax=top)
    rows_per_column = maps[0].shape[0] / maps[0].shape[1]
    bar = figure.colorbar(
        drawn,
        ax=list(row),
        fraction=0.04,
        aspect=14 * min(1, rows_per_column),  # as wide beside wide images as beside square ones
        shrink=0.85,
        pad=0.01,
        extend="both" if largest > top else "neither",
        ticks=[-top, 0, top],
    )
    text = f"{top:.2g}" if top < 10 else f"{top:.0f}"
    bar.ax.set_yticklabels([f"\u2212{text}", "0", text], fontsize=TEXT)
    bar.ax.tick_params(length=2, pad=2)
