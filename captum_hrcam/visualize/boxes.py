"""Methods against each other: box plots of their figures over the images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_hrcam.visualize.panels import (
    COLORS,
    TEXT,
    TITLE,
    WIDTH,
    Array,
    letters,
    to_numpy,
    wrap,
)

UPRIGHT = 1.3  # inches, a line of a method's name if names are turned upright
# As evaluate() names them.
PAPER = [[f"{rate} {t}" for t in (0.3, 0.5, 0.8)] for rate in ("sensitivity", "specificity")]


def boxes_figure(
    values: Any,
    *,
    metrics: Sequence[str] | Sequence[Sequence[str]] | None = None,
    labels: Mapping[str, str] | None = None,
) -> tuple[Figure, Array]:
    r"""
    Box plots as in the paper's Fig. 3: a panel per metric, a box per method, over the images.

    Boxes mark median and quartiles, whiskers the outermost values from the 5th to the 95th
    percentile, diamonds the mean. NaN is left out; the number of remaining images is written under
    each box. The panels of a row share one axis if all their values are in 0..1; it need not begin
    at 0.

    Args:
        values (Evaluation, DataFrame or dict): what :func:`~captum_hrcam.evaluate` gives, or its
            ``frame``: columns "method", "metric" and "value", a row per image, method and metric;
            or {metric: {method: (N,)}}.
        metrics (sequence): names to show, three in a row; or a sequence of names for each row. By
            default the paper's six, sensitivity and specificity at 0.3, 0.5 and 0.8, if all are
            there; otherwise all, with names that differ only by a number at the end in one row.
        labels (dict): {metric: title of its panel}, for metrics whose name will not do as title.

    Returns:
        *Figure* and an array of *Axes*, (rows, columns); panels without a metric hold the
        legend. No pyplot state is used.

    Raises:
        ValueError: columns missing, no values, infinity among them, a metric that is not there.
        TypeError: ``values`` is neither an evaluation, a frame nor a mapping.

    Examples::

        >>> import numpy as np
        >>> rates = {"CAM": np.linspace(0, 0.6, 50), "HR-CAM": np.linspace(0.4, 1, 50)}
        >>> names = [f"{rate} {t}" for rate in ("sensitivity", "specificity") for t in (0.3, 0.5)]
        >>> figure, axes = boxes_figure(dict.fromkeys(names, rates))
        >>> axes.shape
        (2, 2)
    """
    panels = _panels(values)
    grid = _grid(list(panels), metrics)
    methods = list(dict.fromkeys(method for name in panels for method in panels[name]))

    columns = max(map(len, grid))
    width = min(WIDTH, 0.5 + 3.0 * columns)
    inches = width / columns - 0.35  # of a panel
    slot = inches / len(methods)
    upright = any(len(word) > letters(slot, TEXT) for m in methods for word in m.split())
    named = [wrap(m, UPRIGHT if upright else slot, TEXT) for m in methods]
    lines = max(name.count("\n") + 1 for name in named)
    height = 1.75 * len(grid) + (UPRIGHT if upright else 0.2 + 0.1 * lines)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(len(grid), columns, squeeze=False)
    for line, row in zip(axes, grid, strict=True):
        samples = [[panels[name].get(m, np.empty(0)) for m in methods] for name in row]
        if all(((a >= 0) & (a <= 1)).all() for panel in samples for a in panel):
            _share(line[: len(row)])
        for ax, name, panel in zip(line, row, samples, strict=False):
            _draw_boxes(ax, panel, methods)
            title = wrap((labels or {}).get(name, name), inches, TITLE)
            ax.set_title(title, fontsize=TITLE, pad=3)
            ax.set_xticklabels([])
        for i, ax in enumerate(line[len(row) :]):
            ax.set_axis_off()
            if i == 0:
                handles, names = line[0].get_legend_handles_labels()
                ax.legend(handles, names, fontsize=TEXT, loc="center left", frameon=False)
    for ax in axes[-1, : len(grid[-1])]:
        ax.set_xticklabels(named)
        if upright:
            for label in ax.get_xticklabels():
                label.set(rotation=90, ha="right", va="center", rotation_mode="anchor")
    return figure, axes


def _share(axes: Array) -> None:
    """Give a row of rates one axis, labelled once; other metrics may differ in unit."""
    for ax in axes[1:]:
        ax.sharey(axes[0])
        ax.tick_params(labelleft=False)


def _panels(values: Any) -> dict[str, dict[str, Array]]:
    """{metric: {method: values without NaN}}, in the order in which they come."""
    panels: dict[str, dict[str, Array]] = {}
    if not hasattr(values, "groupby"):  # an Evaluation, whose class is not known here
        values = getattr(values, "frame", values)
    if hasattr(values, "groupby"):  # a frame, without importing pandas for those who have none
        missing = {"method", "metric", "value"} - set(values.columns)
        if missing:
            raise ValueError(
                f"values: no column {', '.join(sorted(missing))} among "
                f"{', '.join(map(str, values.columns))}. Bring the frame to a row per image, "
                "method and metric."
            )
        groups = values.groupby(["metric", "method"], sort=False, observed=True)["value"]
        for (metric, method), group in groups:
            panels.setdefault(str(metric), {})[str(method)] = to_numpy(group)
    elif isinstance(values, Mapping):
        panels = {k: {m: to_numpy(a).ravel() for m, a in v.items()} for k, v in values.items()}
    else:
        raise TypeError(
            f"values: got {type(values).__name__}, expected what evaluate() gives, a frame with "
            "columns method, metric and value, or {metric: {method: values}}."
        )
    for metric, samples in panels.items():
        for method, a in samples.items():
            if np.isinf(a).any():
                raise ValueError(
                    f"values: infinity in {metric!r} of {method!r}, expected finite figures or NaN."
                )
            samples[method] = a[~np.isnan(a)]
    if not any(panels.values()):
        raise ValueError("values: got none, expected one or more metrics of one or more methods.")
    return panels


def _grid(names: list[str], metrics: Any) -> list[list[str]]:
    """Metrics row by row: families that differ by a number at the end, then the rest in threes."""
    if metrics is None and all(name in names for row in PAPER for name in row):
        return PAPER
    if metrics is None:
        families: dict[str, list[str]] = {}
        for name in names:
            families.setdefault(name.rstrip("0123456789. @_=>"), []).append(name)
        rows = [family for family in families.values() if len(family) > 1]
        single = [family[0] for family in families.values() if len(family) == 1]
        return [part for row in [*rows, single] for part in _threes(row)]
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    flat = all(isinstance(name, str) for name in metrics)
    grid = _threes(metrics) if flat else [list(row) for row in metrics]
    unknown = [name for row in grid for name in row if name not in names]
    if unknown or not any(grid):
        raise ValueError(
            f"metrics: got {unknown or metrics}, expected some of {', '.join(map(repr, names))}."
        )
    return grid


def _threes(names: Sequence[str]) -> list[list[str]]:
    return [list(names[i : i + 3]) for i in range(0, len(names), 3)]


def _draw_boxes(ax: Axes, samples: Sequence[Array], methods: Sequence[str]) -> None:
    """One metric: a box per method and its number of images below."""
    drawn = ax.boxplot(
        samples,
        whis=(5, 95),
        showfliers=False,
        showmeans=True,
        patch_artist=True,
        widths=0.6,
        medianprops={"color": "k", "linewidth": 1.4},
        meanprops={"marker": "D", "mfc": "w", "mec": "k", "markersize": 3, "mew": 0.7},
    )
    below: dict[str, Any] = {
        "textcoords": "offset points",
        "size": TEXT,
        "ha": "center",
        "va": "top",
    }
    for i, (box, method, a) in enumerate(zip(drawn["boxes"], methods, samples, strict=True)):
        box.set(facecolor=COLORS[i % len(COLORS)], alpha=0.75, linewidth=0.8, label=method)
        n = f"n={len(a)}" if i == 0 else f"{len(a)}"
        ax.annotate(n, (i + 1, 0), (0, -3), ax.get_xaxis_transform(), **below)
    ax.grid(axis="y", color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", labelsize=TEXT, length=2)
    ax.tick_params(axis="x", labelsize=TEXT, length=0, pad=12)
