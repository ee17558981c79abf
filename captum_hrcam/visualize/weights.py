"""The head's weights on each layer's channels."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_hrcam.attribution import HeadAttribution
from captum_hrcam.visualize.panels import (
    COLORS,
    TEXT,
    TITLE,
    WIDTH,
    Array,
    ImageLike,
    array,
    by_name,
    one_for_each,
    wrap,
)

PANELS = 8  # classes in one figure


def weights_figure(
    weights: Mapping[str, ImageLike] | HeadAttribution,
    *,
    classes: Sequence[str] | None = None,
    target: int | Sequence[int] | None = None,
    scale: Mapping[str, ImageLike] | None = None,
) -> tuple[Figure, Array]:
    r"""
    The paper's Figs. 6B and 6C: how the head's weights W[c, i] spread in each layer.

    There is a panel per class and a row per layer. A row has a dot per channel, spread out where
    many have a similar weight. Above the dots is a box of median and quartiles, with whiskers to
    the outermost values from the 5th to the 95th percentile. Layers are comparable if ``scale``
    brings their channels to one unit; raw weights also reflect how large a layer's feature maps
    happen to be.

    Args:
        weights (HRCAM or dict): fitted; or {layer: (K, C)}, as :attr:`~captum_hrcam.HRCAM.weights`
            gives them.
        classes (sequence of str): names of the K classes, for the panels' titles.
        target (int or sequence of int): classes to show, at most 8. By default all.
        scale (dict): {layer: (C,)}, each channel's deviation; weights are multiplied by it.

    Returns:
        *Figure* and an array of *Axes*, (number of classes,). No pyplot state is used.

    Raises:
        TypeError: ``weights`` is neither.
        ValueError: shapes that do not fit, no layer, more than 8 classes without ``target``.
        IndexError: a target that is none of the K classes.

    Examples::

        >>> import torch
        >>> weights = {"early": torch.randn(2, 16), "late": torch.randn(2, 64)}
        >>> figure, axes = weights_figure(weights, classes=["no lesion", "lesion"])
        >>> axes.shape, [label.get_text() for label in axes[0].get_yticklabels()]
        ((2,), ['early (16)', 'late (64)'])
    """
    if isinstance(weights, HeadAttribution):
        weights = weights.weights
    scaled = _scaled(by_name("weights", weights, "HRCAM.weights gives {layer: (K, C)}"), scale)
    k = len(next(iter(scaled.values())))
    one_for_each("classes", classes, k, "outputs")
    shown = _shown(target, k)

    columns = min(len(shown), 4 if len(shown) != 6 else 3)
    rows = -(-len(shown) // columns)
    height = 0.3 * len(scaled) + 0.35
    width = min(WIDTH, 1.2 + 2.4 * columns)
    figure = Figure(figsize=(width, height * rows + 0.35), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for i, (ax, c) in enumerate(zip(axes, shown, strict=False)):
        _draw_weights(ax, {name: w[c] for name, w in scaled.items()})
        title = classes[c] if classes is not None else f"class {c}"
        ax.set_title(wrap(title, (width - 1.2) / columns, TITLE), fontsize=TITLE, pad=3)
        if i + columns >= len(shown):  # no panel below
            ax.set_xlabel("weight" if scale is None else "weight \u00d7 deviation", fontsize=TEXT)
            ax.tick_params(labelbottom=True)
    axes[0].invert_yaxis()  # shared: shallow above, deep below
    for ax in axes[len(shown) :]:
        ax.remove()
    return figure, axes[: len(shown)]


def _scaled(
    weights: Mapping[str, ImageLike], scale: Mapping[str, ImageLike] | None
) -> dict[str, Array]:
    """{layer: (K, C)}, times the channels' deviations."""
    remedy = "Use HRCAM.weights, {layer: (K, C)}."
    scaled = {k: array(f"weights[{k!r}]", w, 2, remedy=remedy) for k, w in weights.items()}
    if len({len(w) for w in scaled.values()}) != 1:
        raise ValueError(
            f"weights: got {', '.join(f'{k} {w.shape}' for k, w in scaled.items()) or 'no layer'}, "
            f"expected as many classes in each. {remedy}"
        )
    if scale is None:
        return scaled
    for name, w in scaled.items():
        got = () if name not in scale else array(f"scale[{name!r}]", scale[name], 1, remedy=remedy)
        if len(got) != w.shape[1]:
            raise ValueError(
                f"scale[{name!r}]: got {len(got)} values, expected ({w.shape[1]},), one for each "
                "of the layer's channels."
            )
        scaled[name] = w * got
    return scaled


def _shown(target: int | Sequence[int] | None, k: int) -> list[int]:
    chosen = list(range(k)) if target is None else list(np.atleast_1d(target))
    if not 0 < len(chosen) <= PANELS:
        raise ValueError(
            f"target: got {len(chosen)} classes, expected 1 to {PANELS}. Name those to be shown."
        )
    if not all(c in range(k) for c in chosen):
        raise IndexError(f"target: got {target!r}, expected classes from 0 to {k - 1}.")
    return [int(c) for c in chosen]


def _draw_weights(ax: Axes, weights: Mapping[str, Array]) -> None:
    """One class: in each layer's row a box, and dots below it."""
    ax.axvline(0, color="0.4", linewidth=0.8, zorder=0)
    rng = np.random.default_rng(0)  # the dots' places across the row carry no meaning
    for i, w in enumerate(weights.values()):
        y = i + 0.12 + 0.26 * _crowding(w) * rng.uniform(-1, 1, len(w))
        few = 1 - min(len(w) / 512, 1)
        (dots,) = ax.plot(w, y, ".", color=COLORS[0], mew=0, rasterized=True)
        dots.set(markersize=2 + 2 * few, alpha=0.5 + 0.25 * few)
    ax.boxplot(
        list(weights.values()),
        positions=np.arange(len(weights)) - 0.28,
        orientation="horizontal",
        whis=(5, 95),
        showfliers=False,
        widths=0.2,
        medianprops={"color": COLORS[5], "linewidth": 1.4},
        manage_ticks=False,
    )
    named = [f"{name} ({len(w)})" for name, w in weights.items()]
    ax.set_yticks(range(len(named)), named)
    ax.set_ylim(-0.5, len(named) - 0.5)
    ax.tick_params(labelsize=TEXT, length=2)


def _crowding(w: Array) -> Array:
    """How many channels have a similar weight, as a share of the largest such number, so that the
    dots show the distribution's shape."""
    counts, edges = np.histogram(w, bins=max(int(len(w) ** 0.5), 1))
    smooth = np.interp(w, (edges[1:] + edges[:-1]) / 2, counts)
    return smooth / smooth.max()
