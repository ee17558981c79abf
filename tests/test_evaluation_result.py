"""What an evaluation found: summaries, tests, the printed table."""

import numpy as np
import pytest
from evaluated import DATA, N, cnn, methods_of, of_set, whole
from sklearn.metrics import roc_auc_score
from torch import nn

from captum_hrcam import CAM, compare, evaluate, metrics
from captum_hrcam.evaluation import default_metrics
from captum_hrcam.visualize import roc_figure


@pytest.fixture
def model() -> nn.Sequential:
    return cnn().eval()


def test_undefined_figures_are_kept_and_counted(model):
    result = evaluate(CAM(model, "3"), DATA, batch_size=5)
    empty = np.array([DATA.kind(i) == "normative" for i in range(N)])
    assert (np.isnan(result.values("CAM", "pixel AP")) == empty).all()
    assert not np.isnan(result.values("CAM", "specificity 0.5")).any()
    rows = result.summary(n_resamples=99).set_index(["method", "metric"])
    assert rows.loc[("CAM", "pixel AP"), ["n", "n_undefined"]].tolist() == [6, 6]
    assert rows.loc[("CAM", "specificity 0.5"), ["n", "n_undefined"]].tolist() == [12, 0]
    rows = result.summary(by_kind=True, n_resamples=99).set_index(["method", "kind", "metric"])
    assert rows.loc[("CAM", "normative", "pixel AP"), ["n", "n_undefined"]].tolist() == [0, 6]
    assert np.isnan(rows.loc[("CAM", "normative", "pixel AP"), ["mean", "low"]].tolist()).all()
    assert rows.loc[("CAM", "diffuse", "pixel AP"), ["n", "n_undefined"]].tolist() == [3, 0]


def test_summary_is_summarize_and_the_bootstrap_of_the_mean(model):
    result = evaluate(CAM(model, "3"), DATA)
    row = result.summary(confidence=0.8, n_resamples=999).set_index(["method", "metric"])
    row = row.loc[("CAM", "pixel AP")]
    values = result.values("CAM", "pixel AP")
    expected = metrics.summarize(values)
    for field in ("n", "n_undefined", "mean", "median", "lower_quartile", "upper_quartile"):
        assert row[field] == getattr(expected, field)
    from scipy.stats import bootstrap

    given = bootstrap(
        (values[~np.isnan(values)],), np.mean, confidence_level=0.8, n_resamples=999,
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert (row["low"], row["high"]) == pytest.approx((given.low, given.high))
    assert row["low"] < row["mean"] < row["high"]


def test_tests_are_compare_paired_and_holm_over_all_of_them(model):
    result = evaluate(methods_of(model), DATA)
    chosen = ["pixel AUROC", "specificity 0.5"]
    table = result.tests("centred Gaussian", chosen, n_resamples=99)
    pairs = [(m, name) for m in chosen for name in ("Grad-CAM", "gradients", "CAM")]
    assert list(zip(table["metric"], table["method"], strict=True)) == pairs
    by_hand = [
        metrics.compare_paired(
            result.values(name, m), result.values("centred Gaussian", m), n_resamples=99
        )
        for m, name in pairs
    ]
    for field in ("n", "n_undefined", "mean_difference", "t_pvalue", "wilcoxon_pvalue"):
        assert table[field].tolist() == [getattr(p, field) for p in by_hand]
    assert list(zip(table["low"], table["high"], strict=True)) == [p.interval for p in by_hand]
    assert table["n"].tolist() == [6, 6, 6, 12, 12, 12]
    for test in ("t", "wilcoxon"):
        expected = metrics.holm([getattr(p, f"{test}_pvalue") for p in by_hand])
        np.testing.assert_array_equal(table[f"{test}_holm"], expected)
        assert (table[f"{test}_holm"] > table[f"{test}_pvalue"]).any()
    every = result.tests("CAM", n_resamples=99)
    assert len(every) == 3 * len(default_metrics())
    one = result.tests("CAM", "pixel AP", n_resamples=99)
    assert one["metric"].tolist() == ["pixel AP"] * 3


@pytest.mark.parametrize("metric", [[], ["pixel AP", "pixel AP"]])
def test_tests_take_each_metric_once(model, metric):
    result = evaluate(methods_of(model), DATA)
    with pytest.raises(ValueError, match=r"metric: got \[.*expected one name or several"):
        result.tests("CAM", metric)


def test_printed_table_holds_the_means_and_the_set_s_figures(model):
    result = evaluate(CAM(model, "3"), DATA)
    lines = {line[:34].strip(): line[34:].split() for line in str(result).splitlines()}
    mean = np.nanmean(result.values("CAM", "pixel AP"))
    gaussian = np.nanmean(result.values("centred Gaussian", "pixel AP"))
    assert lines["pixel AP"] == ["6", f"{mean:.3f}", f"{gaussian:.3f}"]
    expected = [f"{of_set(result, name)['PxAP']:.3f}" for name in result.methods]
    assert lines["PxAP"] == ["set", *expected]


def test_roc_curves_are_over_all_pixels_and_can_be_drawn(model):
    images, labels, masks, _ = whole()
    result = evaluate(methods_of(model), DATA, batch_size=5)
    _, axes = roc_figure(result.roc)
    legend = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert list(result.roc) == result.methods
    for name, maps in compare(methods_of(model), images, labels).items():
        scaled = np.concatenate([(a - a.min()) / (a.max() - a.min()) for a in maps.numpy()])
        area = roc_auc_score(masks.flatten(), scaled.ravel())
        assert f"{name} ({area:.3f})" in legend
    mean = {"mean": lambda inputs, maps, targets: maps.mean((1, 2, 3))}
    assert evaluate(CAM(model, "3"), DATA, metrics={}, faithfulness=mean).roc == {}


def test_result_refuses_unknown_names(model):
    result = evaluate(CAM(model, "3"), DATA)
    with pytest.raises(ValueError, match="reference: got 'no', expected one of 'CAM', 'centred"):
        result.tests("no")
    with pytest.raises(ValueError, match="metric: got 'no', expected one of 'sensitivity"):
        result.tests("CAM", "no")
    with pytest.raises(ValueError, match="method: got 'no'"):
        result.values("no", "pixel AP")
    alone = evaluate(CAM(model, "3"), DATA, baselines=False)
    with pytest.raises(ValueError, match="'CAM' is the only method, expected another"):
        alone.tests("CAM")
