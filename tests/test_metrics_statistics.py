"""Paired comparison, Holm's correction and summaries against their definitions."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from captum_hrcam.metrics import compare_paired, holm, summarize


def figures(n: int = 9, gain: float = 0.1, seed: int = 0):
    rng = np.random.default_rng(seed)
    b = rng.random(n)
    return b + rng.normal(gain, 0.15, n), b


def slow_t_pvalue(d):
    """Two-sided, by the trapezoid rule on Student's density."""
    n = len(d)
    t = abs(sum(d) / n) / math.sqrt(np.var(d, ddof=1) / n)
    nu = n - 1
    factor = math.gamma((nu + 1) / 2) / math.sqrt(nu * math.pi) / math.gamma(nu / 2)
    x = np.linspace(-t, t, 200_001)
    return 1 - integrate.trapezoid(factor * (1 + x**2 / nu) ** (-(nu + 1) / 2), x)


def slow_wilcoxon_pvalue(d):
    """Two-sided, over all 2^n signs."""
    ranks = [1 + sum(abs(other) < abs(x) for other in d) for x in d]
    middle = sum(ranks) / 2
    seen = abs(sum(r for r, x in zip(ranks, d, strict=True) if x > 0) - middle)
    signs = list(itertools.product((0, 1), repeat=len(d)))
    sums = [sum(r * s for r, s in zip(ranks, sign, strict=True)) for sign in signs]
    return sum(abs(total - middle) >= seen for total in sums) / len(signs)


@pytest.mark.parametrize("gain", [0.0, 0.05, 0.15])
def test_tests(gain):
    a, b = figures(gain=gain)
    found = compare_paired(a, b)
    d = (a - b).tolist()
    assert (found.n, found.n_undefined) == (9, 0)
    assert found.mean_difference == pytest.approx(sum(d) / 9)
    assert found.t_pvalue == pytest.approx(slow_t_pvalue(d), abs=1e-8)
    assert found.wilcoxon_pvalue == pytest.approx(slow_wilcoxon_pvalue(d))


def test_interval_of_many_is_the_normal_one():
    a, b = figures(3000)
    found = compare_paired(a, b, n_resamples=3000)
    half = 1.96 * np.std(a - b, ddof=1) / math.sqrt(3000)
    assert found.interval == pytest.approx(
        (found.mean_difference - half, found.mean_difference + half), abs=0.1 * half
    )


def test_interval_of_few_is_the_bias_corrected_one():
    """BCa (Efron 1987) written out, on resamples of its own."""
    normal = NormalDist()
    d = np.array([0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.4, 1.5])  # skewed
    rng = np.random.default_rng(5)
    means = np.sort(rng.choice(d, (40_000, 8)).mean(1))
    z0 = normal.inv_cdf(((means < d.mean()).mean() + (means <= d.mean()).mean()) / 2)
    left_out = np.array([np.delete(d, i).mean() for i in range(8)])
    u = left_out.mean() - left_out
    acceleration = (u**3).sum() / (6 * (u**2).sum() ** 1.5)
    expected = []
    for z in (-1.96, 1.96):
        share = normal.cdf(z0 + (z0 + z) / (1 - acceleration * (z0 + z)))
        expected.append(np.quantile(means, share))
    found = compare_paired(d, np.zeros(8)).interval
    assert found == pytest.approx(expected, abs=0.02)
    plain = np.quantile(means, [0.025, 0.975])
    assert found != pytest.approx(plain, abs=0.02)


def test_interval_options_and_seed():
    a, b = figures(40)
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    wide, narrow = compare_paired(a, b), compare_paired(a, b, confidence=0.5)
    assert wide.interval[0] < narrow.interval[0] < narrow.interval[1] < wide.interval[1]
    assert compare_paired(a, b) == wide
    assert compare_paired(a, b, seed=1).interval != wide.interval
    unchanged = np.random.get_state()[1].tolist() == state  # noqa: NPY002
    assert unchanged, "the global generator was used"


def test_the_sign_is_a_minus_b():
    a, b = figures(gain=0.3)
    forth, back = compare_paired(a, b), compare_paired(b, a)
    assert forth.mean_difference > 0 > back.mean_difference
    assert forth.interval[0] > 0 > back.interval[1]
    assert forth.t_pvalue == pytest.approx(back.t_pvalue)


def test_undefined_pairs_are_left_out_and_counted():
    a, b = figures(12)
    expected = compare_paired(a[3:], b[3:])
    a[[0, 1]], b[[1, 2]] = np.nan, np.nan
    a[2] = 1e20  # its partner is undefined: it must not set the scale of rounding either
    found = compare_paired(a, b)
    assert (found.n, found.n_undefined) == (9, 3)
    assert found.interval == expected.interval
    assert found.t_pvalue == expected.t_pvalue


@pytest.mark.parametrize(("a", "n", "mean"), [([np.nan], 0, np.nan), ([0.5, np.nan], 1, 0.25)])
def test_too_few_pairs(a, n, mean):
    found = compare_paired(a, [0.25] * len(a))
    assert (found.n, found.n_undefined) == (n, 1)
    assert found.mean_difference == pytest.approx(mean, nan_ok=True)
    undefined = [found.t_pvalue, found.wilcoxon_pvalue, *found.interval]
    assert np.isnan(undefined).all()


def test_two_pairs_are_enough():
    found = compare_paired([0.5, 0.9], [0.25, 0.25])
    assert found.t_pvalue == pytest.approx(slow_t_pvalue([0.25, 0.65]), abs=1e-6)
    assert found.wilcoxon_pvalue == 0.5
    assert 0.25 <= found.interval[0] < found.interval[1] <= 0.65


@pytest.mark.parametrize("unit", [2.0**-100, 2.0**100])
def test_tests_do_not_depend_on_the_unit(unit):
    a, b = figures()
    of_one, found = compare_paired(a, b), compare_paired(unit * a, unit * b)
    assert found.t_pvalue == pytest.approx(of_one.t_pvalue)
    assert found.wilcoxon_pvalue == of_one.wilcoxon_pvalue
    assert found.interval == pytest.approx(tuple(unit * x for x in of_one.interval))


def test_equal_to_twelve_digits_is_equal():
    base = np.array([0.5, 0.75, 1.0])
    near, far = np.array([0, 2e-13, 4e-13]), np.array([0, 2e-12, 4e-12])
    assert math.isnan(compare_paired(base + near, base - 0.25).t_pvalue)
    assert not math.isnan(compare_paired(base + far, base - 0.25).t_pvalue)


def test_one_huge_figure_does_not_make_the_others_equal():
    a = np.array([1.1, 2.3, 3, 4.2, 5, 6, 7, 8.5, 9e12 * (1 + 2**-52)])
    b = np.array([1, 2, 2.5, 4, 4.1, 5.5, 6.2, 8.1, 9e12])
    found = compare_paired(a, b)
    b[-1] = a[-1]  # but for rounding
    assert found.t_pvalue == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-6)
    assert found.wilcoxon_pvalue < 0.01
    assert found.interval[0] < found.mean_difference < found.interval[1]


def test_the_bootstrap_takes_its_stated_number_of_resamples():
    a, b = figures(40)
    stated = compare_paired(a, b)
    assert stated == compare_paired(a, b, n_resamples=9999)
    assert stated != compare_paired(a, b, n_resamples=9998)
    assert stated != compare_paired(a, b, n_resamples=10_000)


def test_equal_methods():
    a, _ = figures()
    found = compare_paired(a, a)
    assert found.interval == (0, 0)
    assert math.isnan(found.t_pvalue)
    assert found.wilcoxon_pvalue == 1


@pytest.mark.filterwarnings("error")
def test_differences_equal_but_for_rounding():
    """.6 - .5, .8 - .7 and .3 - .2 are three floats; the spread is no evidence."""
    a, b = np.array([0.6, 0.8, 0.3]), np.array([0.5, 0.7, 0.2])
    assert len(set((a - b).tolist())) > 1
    found = compare_paired(a, b)
    assert found.interval == pytest.approx((0.1, 0.1))
    assert math.isnan(found.t_pvalue)
    assert found.wilcoxon_pvalue == 0.25  # 2 / 2^3


def test_comparison_refusals():
    with pytest.raises(ValueError, match="a has 2 figures, b has 3"):
        compare_paired([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"b has shape \(1, 2\)"):
        compare_paired([1.0, 2.0], [[1.0, 2.0]])
    with pytest.raises(ValueError, match="a holds infinity"):
        compare_paired([np.inf, 2.0], [1.0, 2.0])
    for confidence in (-0.5, 0, 1, 1.5, 95):
        with pytest.raises(ValueError, match=f"confidence={confidence}:"):
            compare_paired([1.0, 2.0], [1.0, 2.0], confidence=confidence)


def slow_holm(p):
    """Reject the smallest at level alpha / m, the next at alpha / (m - 1), ...; stop at the first
    that fails. The adjusted value is the least alpha at which a test is rejected."""

    def rejected(alpha):
        out = set()
        for step, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
            if p[i] > alpha / (len(p) - step):
                break
            out.add(i)
        return out

    levels = sorted({min(1.0, k * x) for x in p for k in range(1, len(p) + 1)} | {1.0})
    return [next((a for a in levels if i in rejected(a + 1e-12)), 1.0) for i in range(len(p))]


@settings(max_examples=50, deadline=None)
@given(p=st.lists(st.integers(0, 1000).map(lambda k: k / 1000), max_size=6))
def test_holm(p):
    assert holm(p) == pytest.approx(slow_holm(p), abs=1e-9)


def test_holm_does_not_count_undefined_tests():
    found = holm([0.02, np.nan, 0.01])
    assert found[[0, 2]].tolist() == [0.02, 0.02]
    assert math.isnan(found[1])


@pytest.mark.parametrize("p", [[-0.1], [1.5, 0.1], [[0.1]]])
def test_holm_refusals(p):
    with pytest.raises(ValueError, match="pvalues"):
        holm(p)


def test_summary():
    x = [3.0, 1.0, np.nan, 2.0, 10.0, 4.0]
    found = summarize(x)
    assert (found.n, found.n_undefined, found.mean) == (5, 1, 4.0)
    assert (found.lower_quartile, found.median, found.upper_quartile) == (2.0, 3.0, 4.0)
    nothing = summarize([np.nan, np.nan])
    assert (nothing.n, nothing.n_undefined) == (0, 2)
    assert math.isnan(nothing.mean)
