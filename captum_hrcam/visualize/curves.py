"""Methods against each other: ROC curves over pixels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from captum_hrcam.visualize.panels import COLORS, TEXT, WIDTH, Array, to_numpy, wrap

STYLES = ("-", "--", "-.", ":")
CROWD = 8  # lines of names in the legend; more would hide the curves, and go below the axes
Curve = tuple[Any, Any]


def roc_figure(
    curves: Mapping[str, Curve], *, log_from: float | None = 0.001
) -> tuple[Figure, Array]:
    r"""
    ROC curves over pixels, with the area under each in the legend.

    If lesions are small, nearly all pixels are background, and a map that marks many times the
    lesion's area still has a false positive rate near 0. A second panel shows that end on a log
    axis.

    Args:
        curves (dict): {method: (fpr, tpr)}, as scikit-learn's ``roc_curve`` gives them: rising,
            false positive rates from 0 to 1.
        log_from (float): where the second panel begins; None draws none.

    Returns:
        *Figure* and an array of *Axes*, (2,), or (1,) without the log axis. No pyplot state is
        used.

    Raises:
        ValueError: no curve; rates of unequal lengths, outside 0..1, or falling; log_from outside
            0..1.

    Examples::

        >>> import numpy as np
        >>> fpr = np.linspace(0, 1, 101)
        >>> figure, axes = roc_figure({"HR-CAM": (fpr, fpr ** 0.25)})
        >>> [text.get_text() for text in axes[0].get_legend().get_texts()]
        ['HR-CAM (0.799)', 'chance (0.500)']
    """
    checked = {name: _curve(name, curve) for name, curve in curves.items()}
    if not checked:
        raise ValueError("curves: got none, expected {method: (fpr, tpr)}.")
    if log_from is not None and not 0 < log_from < 1:
        raise ValueError(f"log_from: got {log_from}, expected between 0 and 1, or None for none.")

    panels = 1 if log_from is None else 2
    labels = [wrap(f"{name} ({_area(*c):.3f})", WIDTH / 4, TEXT) for name, c in checked.items()]
    lines = sum(label.count("\n") + 1 for label in labels)
    below = 0.14 * -(-lines // panels) + 0.4 if lines > CROWD else 0.0
    figure = Figure(figsize=(WIDTH / 2 * panels, 3.2 + below), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for ax, start in zip(axes, (0.0, log_from), strict=False):
        for i, (label, (fpr, tpr)) in enumerate(zip(labels, checked.values(), strict=True)):
            x, y = _from(start, fpr, tpr) if start else (fpr, tpr)
            style = STYLES[(i + i // len(COLORS)) % len(STYLES)]
            color = COLORS[i % len(COLORS)]
            ax.plot(x, y, style, color=color, linewidth=1.4, label=label)
        grey = np.geomspace(start, 1, 200) if start else np.array([0.0, 1.0])
        ax.plot(grey, grey, color="0.6", linewidth=0.8, zorder=0, label="chance (0.500)")
        ax.set(xlim=(start, 1), ylim=(0, 1.01), xscale="log" if start else "linear")
        ax.set_xlabel("false positive rate" + (", log axis" if start else ""), fontsize=TEXT)
        if start:  # powers of ten would set their exponents in less than 7 points
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter(NullFormatter())
        ax.tick_params(labelsize=TEXT, length=2)
    axes[0].set_ylabel("true positive rate", fontsize=TEXT)
    legend = {"fontsize": TEXT, "title": "area under the curve", "title_fontsize": TEXT}
    if below:
        handles, _ = axes[0].get_legend_handles_labels()
        figure.legend(handles=handles, loc="outside lower center", ncols=panels, **legend)
    else:
        axes[0].legend(loc="lower right", **legend)
    return figure, axes


def _area(fpr: Array, tpr: Array) -> float:
    return float((np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2).sum())


def _curve(name: str, curve: Curve) -> Curve:
    fpr, tpr = to_numpy(curve[0]), to_numpy(curve[1])
    said = f"curves[{name!r}]"
    remedy = "Use (fpr, tpr) as of sklearn.metrics.roc_curve."
    if fpr.ndim != 1 or fpr.shape != tpr.shape or len(fpr) < 2:
        raise ValueError(f"{said}: got shapes {fpr.shape} and {tpr.shape}, expected (P,). {remedy}")
    if np.isnan(tpr).all():
        raise ValueError(
            f"{said}: got true positive rates that are all NaN, as where every mask is empty, "
            "expected some pixel inside an object. Evaluate images with objects, too."
        )
    rising = (np.diff(fpr) >= 0).all() and (np.diff(tpr) >= 0).all()
    if not (rising and fpr[0] == 0 and fpr[-1] == 1 and tpr[0] >= 0 and tpr[-1] <= 1):
        raise ValueError(
            f"{said}: got rates that fall, are NaN, or do not reach from 0 to 1. {remedy}"
        )
    return fpr, tpr


def _from(start: float, fpr: Array, tpr: Array) -> Curve:
    """The curve from a rate above 0 on, densely sampled: its straight lines bend on a log axis."""
    between = np.geomspace(start, 1, 400)
    x = np.concatenate([between, fpr[fpr >= start]])
    y = np.concatenate([np.interp(between, fpr, tpr), tpr[fpr >= start]])
    order = np.lexsort((y, x))
    return x[order], y[order]
