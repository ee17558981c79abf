"""Figures of a set of images: their summary, and two methods compared on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from captum_hrcam.metrics.extras import require
from captum_hrcam.metrics.pairs import Array

TINY = np.finfo(np.float64).tiny
HUGE = 1e6  # times the median figure


@dataclass(frozen=True)
class Summary:
    """A box plot in numbers.

    Attributes:
        n: number of figures that are defined.
        n_undefined: number of NaN, which are left out of the rest.
        mean: of the n defined figures, as are all below; NaN if there is none.
        median: half of them are below.
        lower_quartile: a quarter is below.
        upper_quartile: three quarters are below.

    Examples::

        >>> summarize([0.2, 0.4, 0.9]).median
        0.4
    """

    n: int
    n_undefined: int
    mean: float
    median: float
    lower_quartile: float
    upper_quartile: float


@dataclass(frozen=True)
class PairedComparison:
    """a - b on the same images.

    Attributes:
        n: number of pairs compared.
        n_undefined: number of pairs left out because one or both figures are NaN.
        mean_difference: the mean of a - b.
        interval: (low, high) of the mean difference, by bootstrap.
        t_pvalue: of the paired t-test, two-sided.
        wilcoxon_pvalue: of Wilcoxon's signed rank test, two-sided.

    Examples::

        >>> compare_paired([0.5, 0.75, 1.0], [0.25, 0.5, 0.75]).mean_difference
        0.25
    """

    n: int
    n_undefined: int
    mean_difference: float
    interval: tuple[float, float]
    t_pvalue: float
    wilcoxon_pvalue: float


def summarize(values: npt.ArrayLike) -> Summary:
    """Mean, median and quartiles of one figure per image; NaN counted, not averaged.

    Args:
        values: (N,), as the metrics return them.

    Returns:
        Summary. NaN where no figure is defined.

    Raises:
        ValueError: not one axis; infinity.

    Examples::

        >>> summarize([0.0, 1.0, 2.0, np.nan])
        Summary(n=3, n_undefined=1, mean=1.0, median=1.0, lower_quartile=0.5, upper_quartile=1.5)
    """
    every = _figures(values, "values")
    x = every[~np.isnan(every)]
    if len(x) == 0:
        return Summary(0, len(every), np.nan, np.nan, np.nan, np.nan)
    lower, median, upper = np.percentile(x, [25, 50, 75]).tolist()
    return Summary(len(x), len(every) - len(x), float(x.mean()), median, lower, upper)


def compare_paired(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    n_resamples: int = 9999,
    seed: int = 0,
) -> PairedComparison:
    """Is method a better than method b on the same images?

    The paired t-test (the paper's), the Wilcoxon signed rank test, and a bias-corrected and
    accelerated bootstrap interval of the mean difference (Efron 1987), by scipy.

    Args:
        a, b: (N,), one figure per image, in the same order. A pair with a NaN is left out and
            counted.
        confidence: the interval's confidence level.
        n_resamples: the number of bootstrap resamples.
        seed: the seed of the bootstrap's own generator.

    Returns:
        PairedComparison. With fewer than two pairs, tests and interval are NaN. The t-test is NaN
        where all differences are equal; the interval is then that difference.

    Raises:
        ValueError: a and b of other lengths, or not of one axis; infinity; a confidence outside
            0..1.
        ImportError: scipy, of the extra ``eval``, is not installed.

    Examples::

        >>> a = np.array([0.6, 0.8, 0.7, 0.9, np.nan])
        >>> result = compare_paired(a, np.array([0.5, 0.6, 0.4, 0.5, 0.5]))
        >>> result.n, result.n_undefined, round(result.mean_difference, 3)
        (4, 1, 0.25)
    """
    a, b = _figures(a, "a"), _figures(b, "b")
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} figures, b has {len(b)}: expected the same images")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: expected a number between 0 and 1, as 0.95")
    both = ~np.isnan(a - b)
    n_undefined = len(both) - int(both.sum())
    a, b = a[both], b[both]
    d = a - b
    if len(d) < 2:
        mean = float(d.mean()) if len(d) else np.nan
        return PairedComparison(len(d), n_undefined, mean, (np.nan, np.nan), np.nan, np.nan)
    # 0.6 - 0.5 equals 0.8 - 0.7 but for rounding, which must make neither a difference nor a rank.
    largest = np.maximum(np.abs(a), np.abs(b))
    usual = np.median(largest[largest > 0]) if largest.any() else 0.0
    # One huge figure must not make all others equal.
    scale = max(np.minimum(largest, HUGE * usual).max(), TINY)
    steps = np.where(np.abs(d) <= 1e-12 * np.maximum(largest, scale), 0, np.round(d / scale, 12))
    return PairedComparison(
        len(d),
        n_undefined,
        float(d.mean()),
        _interval(d, steps, confidence, n_resamples, seed),
        _t_pvalue(steps),
        _wilcoxon_pvalue(steps),
    )


def holm(pvalues: Sequence[float] | Array) -> Array:
    """Holm's step-down correction (Holm 1979): p values adjusted for how many there are.

        p~_(i) = max over j <= i of min(1, (m - j + 1) p_(j)),    p_(1) <= ... <= p_(m)

    Args:
        pvalues: (m,). NaN, a test that could not be made, stays NaN and is not counted in m.

    Returns:
        (m,), in the order given; reject where below the level.

    Raises:
        ValueError: not one axis, or a value outside 0..1.

    Examples::

        >>> holm([0.01, 0.04, 0.03, 0.005]).round(3)
        array([0.03, 0.06, 0.06, 0.02])
    """
    p = _figures(pvalues, "pvalues")
    made = np.flatnonzero(~np.isnan(p))
    if ((p[made] < 0) | (p[made] > 1)).any():
        raise ValueError(f"pvalues={pvalues}: expected numbers in 0..1")
    order = made[np.argsort(p[made], kind="stable")]
    m = len(order)
    adjusted = np.full_like(p, np.nan)
    adjusted[order] = np.maximum.accumulate(np.minimum(1, np.arange(m, 0, -1) * p[order]))
    return adjusted


def _figures(values: npt.ArrayLike, name: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}: expected one figure per image, (N,)")
    if np.isinf(array).any():
        raise ValueError(f"{name} holds infinity: expected finite numbers, or NaN for undefined")
    return array


def _interval(
    d: Array, steps: Array, confidence: float, n_resamples: int, seed: int
) -> tuple[float, float]:
    if np.ptp(steps) == 0:  # every resample has this mean; the acceleration would be 0 / 0
        return float(d.mean()), float(d.mean())
    result = require("scipy.stats").bootstrap(
        (d,),
        np.mean,
        confidence_level=confidence,
        n_resamples=n_resamples,
        batch=max(1, 2**22 // len(d)),  # some 32 MiB, also for very many images
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _t_pvalue(steps: Array) -> float:
    if np.ptp(steps) == 0:
        return np.nan
    return float(require("scipy.stats").ttest_1samp(steps, 0).pvalue)


def _wilcoxon_pvalue(steps: Array) -> float:
    if not steps.any():
        return 1.0  # no image speaks for either
    return float(require("scipy.stats").wilcoxon(steps).pvalue)
