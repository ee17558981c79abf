"""The paper's figures: maps beside each other on the image, drawn by Captum's own tools."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from captum.attr import visualization
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from captum_hrcam.checks import one_of

Array = np.ndarray[Any, Any]
ImageLike = Tensor | Array

SIGNS = ("positive", "negative", "absolute_value", "all")
OUTLINE = "#19d3e6"  # bright against grey tissue and against the heat alike
PANEL = 1.5  # inches


def comparison_figure(
    images: ImageLike,
    maps: Mapping[str, ImageLike],
    *,
    masks: ImageLike | None = None,
    captions: Sequence[str] | None = None,
    sign: str = "positive",
    outlier_perc: float = 2,
) -> tuple[Figure, Array]:
    r"""
    A grid as the paper's Figs. 2, 4 and 5: a row per image, then the image and a column per method.

    Each map is scaled by itself and drawn by Captum's ``visualize_image_attr``; where it is zero
    the image shows through. A map without the wanted sign is drawn as the bare image and says so.

    Args:
        images (Tensor or ndarray): (N, C, H, W), one or three channels, any scale.
        maps (dict): {name: (N, 1, H, W) or (N, H, W)}, as :func:`~captum_hrcam.compare` gives them.
        masks (Tensor or ndarray): (N, H, W) or (N, 1, H, W), outlined in every panel.
        captions (sequence of str): one for each image, at the left of its row.
        sign (str): of Captum: "positive", "negative", "absolute_value", or "all" for both signs
            in a map centred at zero.
        outlier_perc (float): share of the summed map, in percent, that may saturate.

    Returns:
        *Figure* and an array of *Axes*, (N, 1 + number of maps). No pyplot state is used.

    Raises:
        ValueError: shapes that do not fit, an unknown sign, NaN in a map.

    Examples::

        >>> import torch
        >>> images = torch.rand(2, 1, 16, 16)
        >>> figure, axes = comparison_figure(images, {"HR-CAM": torch.randn(2, 1, 16, 16)})
        >>> axes.shape
        (2, 2)
    """
    one_of("sign", sign, SIGNS)
    pictures = [_picture(x) for x in _array("images", images, 4)]
    n, size = len(pictures), pictures[0].shape[:2]
    columns = {name: _planes(f"maps[{name!r}]", a, n, size) for name, a in maps.items()}
    outlines = None if masks is None else _planes("masks", masks, n, size)
    if captions is not None and len(captions) != n:
        raise ValueError(f"captions: got {len(captions)} for {n} images, expected one for each.")

    height = PANEL * size[0] / size[1]
    figure = Figure(figsize=(PANEL * (1 + len(columns)), height * n + 0.3), layout="constrained")
    axes = figure.subplots(n, 1 + len(columns), squeeze=False)
    for i, (row, picture) in enumerate(zip(axes, pictures, strict=True)):
        row[0].imshow(picture, cmap="gray")
        for ax, column in zip(row[1:], columns.values(), strict=True):
            _draw_map(figure, ax, column[i], picture, sign, outlier_perc)
        for ax in row:
            ax.set(xticks=[], yticks=[])
            if outlines is not None and outlines[i].any():
                ax.contour(outlines[i] > 0, [0.5], colors=OUTLINE, linewidths=0.8)
        if captions is not None:
            row[0].set_ylabel(captions[i], fontsize=8)
    for ax, name in zip(axes[0], ["image", *columns], strict=True):
        ax.set_title(name, fontsize=9)
    return figure, axes


def _draw_map(
    figure: Figure, ax: Axes, a: Array, picture: Array, sign: str, outlier_perc: float
) -> None:
    """One map over its image; Captum refuses a map without the wanted sign, so it is shown bare."""
    wanted = {"positive": a.max(), "negative": -a.min()}.get(sign, np.abs(a).max())
    if wanted <= 0:
        kind = sign if sign in ("positive", "negative") else "non-zero"
        ax.imshow(picture, cmap="gray")
        ax.text(
            0.5, 0.04, f"no {kind} part", transform=ax.transAxes, color="w", ha="center", size=7
        )
        return
    visualization.visualize_image_attr(
        (a / wanted)[..., None],  # Captum warns of maps whose values are small in themselves
        picture,
        method="blended_heat_map",
        sign=sign,
        plt_fig_axis=(figure, ax),
        outlier_perc=outlier_perc,
        cmap=_heat(sign),
        alpha_overlay=None,  # the colour map's own, growing with the map
        use_pyplot=False,
    )


def _heat(sign: str) -> ListedColormap:
    """Colour-blind-safe colours whose opacity grows with distance from zero."""
    if sign == "all":
        colors = colormaps["RdBu_r"](np.linspace(0, 1, 256))
        colors[:, 3] = np.abs(np.linspace(-1, 1, 256)) ** 0.7 * 0.9
    else:
        colors = colormaps["inferno"](np.linspace(0.15, 1, 256))
        colors[:, 3] = np.linspace(0, 1, 256) ** 0.7 * 0.85
    return ListedColormap(colors)


def _array(argument: str, values: ImageLike, ndim: int) -> Array:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != ndim or 0 in array.shape:
        raise ValueError(
            f"{argument}: got shape {array.shape}, expected {ndim} dimensions, none empty. Of a "
            "volume pass slices."
        )
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{argument}: NaN or infinity among the values.")
    return array


def _planes(argument: str, values: ImageLike, n: int, size: tuple[int, ...]) -> Array:
    """(N, H, W) from (N, 1, H, W) or (N, H, W)."""
    array = _array(argument, values, 4 if values.ndim == 4 else 3)
    array = array[:, 0] if array.ndim == 4 and array.shape[1] == 1 else array
    if array.shape != (n, *size):
        raise ValueError(
            f"{argument}: got shape {tuple(values.shape)}, expected ({n}, 1, {size[0]}, {size[1]}) "
            "as the images."
        )
    return array


def _picture(image: Array) -> Array:
    """(C, H, W) of any scale -> (H, W, C) in 0..1."""
    if image.shape[0] not in (1, 3):
        raise ValueError(
            f"images: got {image.shape[0]} channels, expected 1 or 3. Choose those to be shown."
        )
    low, high = image.min(), image.max()
    scaled = (image - low) / (high - low) if high > low else np.zeros_like(image)
    return np.moveaxis(scaled, 0, 2)
