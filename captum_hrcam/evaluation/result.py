"""What an evaluation found: one figure per image, method and metric, and its statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from captum_hrcam.checks import one_of
from captum_hrcam.metrics import compare_paired, holm, summarize
from captum_hrcam.metrics.extras import require
from captum_hrcam.metrics.pairs import Array

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class Evaluation:
    """
    Figures of :func:`~captum_hrcam.evaluate`; ``print`` shows their means.

    Attributes:
        frame (DataFrame): image (its place in the data, from 0), kind, method, metric, value; NaN
            where a figure is undefined for the image.
        pooled (DataFrame): method, kind ("all"), metric, value: the figures of the whole set.
        roc (dict): {method: (fpr, tpr)}: ROC curves over the pixels of the whole set, each map
            scaled to 0..1 first, as :func:`~captum_hrcam.visualize.roc_figure` draws them. At most
            40,002 points; NaN where no image has an object; empty without masks.

    Examples::

        >>> from captum_hrcam import evaluate
        >>> from captum_hrcam.datasets import SimulatedPathology
        >>> def bright(inputs, target=None, additional_forward_args=None):
        ...     return inputs
        >>> def dark(inputs, target=None, additional_forward_args=None):
        ...     return -inputs
        >>> result = evaluate([bright, dark], SimulatedPathology(8, 32), baselines=False)
        >>> result.methods, len(result.metrics)
        (['bright', 'dark'], 14)
        >>> tests = result.tests("dark", "pixel AP")
        >>> int(tests["n"].iloc[0]), int(tests["n_undefined"].iloc[0])  # four have no lesion
        (4, 4)
    """

    frame: "DataFrame"
    pooled: "DataFrame"
    roc: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """The methods' names, in the order given, the baselines last."""
        return list(self.frame["method"].unique())

    @property
    def metrics(self) -> list[str]:
        """The names of the figures that each image has."""
        return list(self.frame["metric"].unique())

    def values(self, method: str, metric: str) -> Array:
        """
        One figure of one method, as the metrics gave it.

        Args:
            method (str): one of :attr:`methods`.
            metric (str): one of :attr:`metrics`.

        Returns:
            *ndarray*: (N,) float64, in the order of the images; NaN where it is undefined.

        Raises:
            ValueError: no such method or metric.
        """
        one_of("method", method, self.methods)
        one_of("metric", metric, self.metrics)
        rows = self.frame[(self.frame["method"] == method) & (self.frame["metric"] == metric)]
        return rows["value"].to_numpy(dtype=np.float64)

    def summary(
        self, by_kind: bool = False, confidence: float = 0.95, *, n_resamples: int = 9999
    ) -> "DataFrame":
        """
        Each method's figures as a box plot in numbers, and the mean's bootstrap interval.

        Args:
            by_kind (bool): give each kind of image rows of its own.
            confidence (float): the interval's confidence level.
            n_resamples (int): the number of bootstrap resamples.

        Returns:
            *DataFrame*: method, (kind,) metric, n, n_undefined, mean, low, high, median,
            lower_quartile, upper_quartile. Undefined figures are counted and left out of the rest;
            low and high are NaN with fewer than two images.

        Raises:
            ValueError: a confidence outside 0..1.
        """
        keys = ["method", "kind", "metric"] if by_kind else ["method", "metric"]
        rows = [
            dict(zip(keys, key, strict=True)) | _summary(group, confidence, n_resamples)
            for key, group in self.frame.groupby(keys, sort=False)["value"]
        ]
        return require("pandas").DataFrame(rows)

    def tests(
        self,
        reference: str,
        metric: str | Sequence[str] | None = None,
        *,
        confidence: float = 0.95,
        n_resamples: int = 9999,
    ) -> "DataFrame":
        """
        Compare each other method with a reference, on the same images.

        Args:
            reference (str): the method that the others are compared with.
            metric (str or Sequence[str]): the metrics to test; by default all. Each further one
                makes Holm's correction stricter.
            confidence (float): the interval's confidence level.
            n_resamples (int): the number of bootstrap resamples.

        Returns:
            *DataFrame*: metric, method, n, n_undefined, mean_difference (the method's less the
            reference's), low, high, t_pvalue (paired t-test), wilcoxon_pvalue (signed rank), and
            t_holm and wilcoxon_holm: these p values corrected for all rows of the table.

        Raises:
            ValueError: no such method or metric; no other method.
        """
        one_of("reference", reference, self.methods)
        others = [name for name in self.methods if name != reference]
        if not others:
            raise ValueError(
                f"reference: {reference!r} is the only method, expected another to compare with. "
                "Evaluate several."
            )
        chosen = [metric] if isinstance(metric, str) else metric
        chosen = self.metrics if chosen is None else list(chosen)
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(
                f"metric: got {metric!r}, expected one name or several, each once: a repeated one "
                "would make Holm's correction too strict."
            )
        rows = [
            {"metric": m, "method": name}
            | _paired(self.values(name, m), self.values(reference, m), confidence, n_resamples)
            for m in chosen
            for name in others
        ]
        table = require("pandas").DataFrame(rows)
        table["t_holm"] = holm(table["t_pvalue"].to_numpy())
        table["wilcoxon_holm"] = holm(table["wilcoxon_pvalue"].to_numpy())
        return table

    def __str__(self) -> str:
        """Means over images, then the whole set's figures; one column for each method."""
        by = self.frame.groupby(["metric", "method"], sort=False)["value"]
        means = by.mean().unstack().reindex(index=self.metrics, columns=self.methods)
        counts = by.count().unstack().min(axis=1).reindex(self.metrics)
        table = means.map("{:.3f}".format)
        table.insert(0, "n", counts.astype(str))
        if len(self.pooled):
            whole = self.pooled.pivot(index="metric", columns="method", values="value")
            whole = whole.reindex(index=self.pooled["metric"].unique(), columns=self.methods)
            whole = whole.map("{:.3f}".format)
            whole.insert(0, "n", "set")
            table = require("pandas").concat([table, whole])
        table = table.rename_axis(index=None, columns=None)
        n = self.frame["image"].nunique()
        return (
            f"{n} images: means over those where a figure is defined (n, the fewest of any "
            f"method),\nthen figures of the whole set.\n{table.to_string()}"
        )


def _summary(group: Any, confidence: float, n_resamples: int) -> dict[str, float]:
    values = group.to_numpy(dtype=np.float64)
    s = summarize(values)
    # The mean's interval is that of its difference from zero: the same bootstrap as in tests.
    zeros = np.zeros(len(values))
    interval = compare_paired(values, zeros, confidence=confidence, n_resamples=n_resamples)
    low, high = interval.interval
    return {
        "n": s.n,
        "n_undefined": s.n_undefined,
        "mean": s.mean,
        "low": low,
        "high": high,
        "median": s.median,
        "lower_quartile": s.lower_quartile,
        "upper_quartile": s.upper_quartile,
    }


def _paired(a: Array, b: Array, confidence: float, n_resamples: int) -> dict[str, float]:
    p = compare_paired(a, b, confidence=confidence, n_resamples=n_resamples)
    return {
        "n": p.n,
        "n_undefined": p.n_undefined,
        "mean_difference": p.mean_difference,
        "low": p.interval[0],
        "high": p.interval[1],
        "t_pvalue": p.t_pvalue,
        "wilcoxon_pvalue": p.wilcoxon_pvalue,
    }
