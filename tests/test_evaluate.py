"""The evaluation against the same figures from all images at once, and what it refuses."""

import functools
import itertools
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam, Saliency
from cases import TwoInputs
from conftest import BY_NAME, State, fit_quietly
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from captum_hrcam import CAM, HRCAM, compare, evaluate, metrics
from captum_hrcam.datasets import SimulatedPathology
from captum_hrcam.evaluation.measures import ORACLE_IOU, SetFigures, default_metrics
from captum_hrcam.evaluation.result import Evaluation

N = 12
# In float64, convolutions of other batch sizes do not move a pixel across a threshold.
DATA = SimulatedPathology(N, 32, transform=torch.Tensor.double)


def cnn(seed: int = 0) -> nn.Sequential:
    """Two layers of the same channels, the deeper one before global average pooling."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(6, 2),
    ).double()


@pytest.fixture
def model() -> nn.Sequential:
    return cnn().eval()


def methods_of(model: nn.Sequential) -> dict[str, object]:
    return {"Grad-CAM": LayerGradCam(model, model[3]), "gradients": Saliency(model)}


def whole() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
    """All images, labels, masks and kinds."""
    images, labels = zip(*(DATA[i] for i in range(N)), strict=True)
    masks = torch.stack([DATA.mask(i) for i in range(N)])
    return torch.stack(images), torch.tensor(labels), masks, [DATA.kind(i) for i in range(N)]


def batches(*sizes: int) -> list[tuple[object, ...]]:
    """The same in batches of these sizes."""
    images, labels, masks, kinds = whole()
    edges = [0, *np.cumsum(sizes).tolist()]
    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    return [(images[p], labels[p], masks[p], kinds[p]) for p in parts]


def of_set(result: Evaluation, method: str) -> dict[str, float]:
    rows = result.pooled[result.pooled["method"] == method]
    return dict(zip(rows["metric"], rows["value"], strict=True))


def same(a: Evaluation, b: Evaluation) -> None:
    """Equal but for the rounding of convolutions over another batch."""
    for name in ("frame", "pooled"):
        x, y = getattr(a, name), getattr(b, name)
        keys = [column for column in x.columns if column != "value"]
        assert x[keys].equals(y[keys])
        np.testing.assert_allclose(x["value"], y["value"], atol=1e-6)


def test_every_figure_is_that_of_all_images_at_once(model):
    images, labels, masks, kinds = whole()
    result = evaluate(methods_of(model), DATA, batch_size=5)
    direct = {
        **compare(methods_of(model), images, labels),
        "CAM": CAM(model, "3").attribute(images, labels),
        "centred Gaussian": torch.tensor(metrics.centred_gaussian((32, 32))).expand(N, 1, 32, 32),
    }
    assert result.methods == list(direct)
    assert result.metrics == list(default_metrics())
    assert len(result.frame) == N * 4 * len(default_metrics())
    one = result.frame[(result.frame["method"] == "CAM") & (result.frame["metric"] == "pixel AP")]
    assert one["image"].tolist() == list(range(N))
    assert one["kind"].tolist() == kinds
    some = masks.flatten(1).any(1)
    for name, a in direct.items():
        for metric, expected in {
            "sensitivity 0.3": metrics.sensitivity(a, masks, 0.3),
            "specificity 0.8": metrics.specificity(a, masks, 0.8),
            "sensitivity at specificity 0.95": metrics.sensitivity_at_specificity(a, masks, 0.95),
            "pixel AP": metrics.pixel_average_precision(a, masks),
            "pixel AUROC": metrics.pixel_auroc(a, masks),
            "IoU (Otsu)": metrics.iou(a, masks, metrics.otsu_threshold(a)),
            "Dice (Otsu)": metrics.dice(a, masks, metrics.otsu_threshold(a)),
            "pointing game": metrics.pointing_game(a, masks),
            "energy pointing": metrics.energy_pointing(a, masks),
        }.items():
            np.testing.assert_allclose(result.values(name, metric), expected, atol=1e-6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the empty masks, which are counted here
            best = metrics.oracle_threshold(a, masks)
            boxes = metrics.max_box_acc_v2(a, masks)
        assert of_set(result, name) == pytest.approx(
            {
                "PxAP": metrics.pxap(a, masks),
                "MaxBoxAccV2": boxes,
                ORACLE_IOU: metrics.iou(a[some], masks[some], best).mean(),
            },
            abs=1e-3,
        )
    assert set(result.pooled["kind"]) == {"all"}


@pytest.mark.parametrize("seed", range(10))
def test_set_figures_are_those_of_all_maps_also_at_the_grid_s_own_values(seed):
    """Few hundredths and few pixels: values that are thresholds, boxes whose IoU is a level."""
    rng = np.random.default_rng(seed)
    maps, masks = rng.integers(0, 4, (5, 5, 5)) / 100, np.zeros((5, 5, 5), dtype=bool)
    for a, m in zip(maps, masks, strict=True):
        (y, x), (v, u) = rng.integers(0, 3, (2, 2))
        a[y : y + 2, x : x + 3] = rng.choice([0.0, 0.02, 0.5])
        a[0, 0], a[4, 4] = 0, 1
        m[v : v + 2, u : u + 2] = True
    masks[3] = False
    some = masks.any((1, 2))
    figures = SetFigures(spatial_dims=2)
    figures.update(maps[:2, None], masks[:2])
    figures.update(maps[2:], masks[2:])
    best = metrics.oracle_threshold(maps[some], masks[some])
    assert figures.compute() == {
        "PxAP": pytest.approx(metrics.pxap(maps, masks)),
        "MaxBoxAccV2": pytest.approx(metrics.max_box_acc_v2(maps[some], masks[some])),
        ORACLE_IOU: pytest.approx(metrics.iou(maps[some], masks[some], best).mean()),
    }


def test_each_level_of_the_box_iou_has_its_own_threshold():
    maps, masks = np.full((3, 8, 8), 0.2), np.zeros((3, 8, 8))
    masks[:, :4, :4] = 1
    maps[0, 7, 7], maps[0, :4, :4] = 0, 1  # the object's box above 0.2, 16 / 64 below
    maps[1:] = 0
    maps[1:, :6, :6], maps[1:, 5, 5] = 0.2, 1  # 16 / 36 below, none above
    figures = SetFigures(spatial_dims=2)
    figures.update(maps, masks)
    by_hand = (2 / 3 + 1 / 3 + 1 / 3) / 3
    assert figures.compute()["MaxBoxAccV2"] == pytest.approx(by_hand)
    assert metrics.max_box_acc_v2(maps, masks) == pytest.approx(by_hand)


def test_batch_size_and_form_of_the_data_do_not_matter(model):
    methods, expected = methods_of(model), evaluate(methods_of(model), DATA, batch_size=N)
    for batch_size in (1, 7):
        same(evaluate(methods, DATA, batch_size=batch_size), expected)
    same(evaluate(methods, iter(batches(5, 1, 6))), expected)
    loader = DataLoader(_WithMasks(), batch_size=4)
    same(evaluate(methods, loader), expected)
    same(evaluate(methods, [(x, y, m[:, None], k) for x, y, m, k in batches(12)]), expected)


class _WithMasks(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, i):
        return *DATA[i], DATA.mask(i), DATA.kind(i)


def test_subset_asks_for_the_masks_of_its_own_items(model):
    lesions = [i for i in range(N) if DATA.kind(i) != "normative"]
    nested = Subset(Subset(DATA, lesions), [4, 0])
    part, all_of = evaluate(CAM(model, "3"), nested), evaluate(CAM(model, "3"), DATA)
    expected = all_of.values("CAM", "pixel AP")[[lesions[4], lesions[0]]]
    np.testing.assert_allclose(part.values("CAM", "pixel AP"), expected, atol=1e-6)
    kinds = part.frame["kind"].unique().tolist()
    assert kinds == [DATA.kind(lesions[4])]


def test_one_target_for_all_replaces_the_labels(model):
    images, _, masks, _ = whole()
    result = evaluate(CAM(model, "3"), DATA, target=1, batch_size=5)
    expected = metrics.pixel_auroc(CAM(model, "3").attribute(images, 1), masks)
    np.testing.assert_allclose(result.values("CAM", "pixel AUROC"), expected, atol=1e-6)
    by_label = evaluate(CAM(model, "3"), DATA).values("CAM", "pixel AUROC")
    assert np.nansum(np.abs(expected - by_label)) == 0  # lesions are class 1 either way
    other = evaluate(CAM(model, "3"), DATA, target=0).values("CAM", "pixel AUROC")
    assert np.nanmax(np.abs(expected - other)) > 0.01
    without = [(x, None, m) for x, _, m, _ in batches(12)]
    np.testing.assert_allclose(
        evaluate(CAM(model, "3"), without, target=1).values("CAM", "pixel AUROC"), expected
    )


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


def test_set_figures_without_any_object_are_undefined(model):
    images, labels, masks, _ = whole()
    result = evaluate(CAM(model, "3"), [(images, labels, torch.zeros_like(masks))])
    assert np.isnan(list(of_set(result, "CAM").values())).all()
    assert "nan" in str(result)


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


def test_printed_table_holds_the_means_and_the_set_s_figures(model):
    result = evaluate(CAM(model, "3"), DATA)
    lines = {line[:34].strip(): line[34:].split() for line in str(result).splitlines()}
    mean = np.nanmean(result.values("CAM", "pixel AP"))
    gaussian = np.nanmean(result.values("centred Gaussian", "pixel AP"))
    assert lines["pixel AP"] == ["6", f"{mean:.3f}", f"{gaussian:.3f}"]
    expected = [f"{of_set(result, name)['PxAP']:.3f}" for name in result.methods]
    assert lines["PxAP"] == ["set", *expected]


# ---- baselines


def test_baselines_are_rows_unless_told_otherwise(model):
    assert evaluate(Saliency(model), DATA, baselines=False).methods == ["Saliency"]
    given = functools.partial(CAM(model, "3").attribute, interpolate_mode="nearest")
    assert evaluate({"mine": given}, DATA).methods == ["mine", "centred Gaussian"]
    taken = {"CAM": LayerGradCam(model, model[3])}
    assert evaluate(taken, DATA).methods == ["CAM", "CAM (baseline)", "centred Gaussian"]


@pytest.mark.parametrize("order", [(2, 3), (3, 2)])
def test_the_baseline_cam_is_of_the_deepest_layer_that_is_named(model, order):
    """Both layers have the classifier's channels."""
    named = [LayerGradCam(model, model[i]) for i in order]
    auroc = evaluate(named, DATA).values("CAM", "pixel AUROC")
    expected = evaluate(CAM(model, "3"), DATA).values("CAM", "pixel AUROC")
    np.testing.assert_array_equal(auroc, expected)


def test_cam_of_a_layer_that_the_classifier_does_not_read_warns(model):
    with pytest.warns(UserWarning, match="CAM is of layer '2', the deepest.*not the model's outp"):
        result = evaluate(LayerGradCam(model, model[2]), DATA)
    expected = evaluate(CAM(model, "2"), DATA).values("CAM", "pixel AUROC")
    np.testing.assert_array_equal(result.values("CAM", "pixel AUROC"), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(LayerGradCam(model, model[3]), DATA)


@pytest.mark.parametrize(
    ("methods", "reason"),
    [
        (lambda m: Saliency(m), "no method tells both"),
        (lambda m: lambda inputs, **_: inputs, "no method tells both"),
        (lambda m: LayerGradCam(m, m[0]), "'0' gave 4 channels, but the head has weights for 6"),
        (lambda m: LayerGradCam(m[:4], m[:4][2]), "no linear layer"),
    ],
)
def test_missing_cam_warns_of_the_reason(methods, reason):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2),
    ).eval()  # fmt: skip
    data = [(torch.randn(4, 1, 12, 12), torch.arange(4) % 2, torch.eye(12).expand(4, 12, 12))]
    state = State(model)
    if reason == "no linear layer":
        model[3].register_forward_hook(lambda m, a, output: output.mean((2, 3)))
        state = State(model)
    with pytest.warns(UserWarning, match=f"CAM is missing: .*{reason}.*baselines=False"):
        result = evaluate(methods(model), data)
    assert "CAM" not in result.methods
    assert "centred Gaussian" in result.methods
    state.assert_unchanged()


# ---- metrics of one's own, faithfulness, dimensions, modes


def test_own_metrics_replace_those_of_images_only(model):
    own = {"maximum": lambda maps, masks: maps.amax((1, 2, 3)), "area": lambda a, m: m.sum((1, 2))}
    result = evaluate(CAM(model, "3"), DATA, metrics=own, batch_size=5)
    images, labels, masks, _ = whole()
    assert result.metrics == ["maximum", "area"]
    np.testing.assert_array_equal(result.values("CAM", "area"), masks.sum((1, 2)))
    expected = CAM(model, "3").attribute(images, labels).amax((1, 2, 3))
    np.testing.assert_allclose(result.values("CAM", "maximum"), expected, atol=1e-6)
    assert len(of_set(result, "CAM")) == 3


def test_faithfulness_sees_inputs_maps_and_targets(model):
    def drop(inputs, maps, targets):
        kept = inputs * (maps > maps.mean((1, 2, 3), keepdim=True))
        rows = torch.arange(len(targets))
        return (model(inputs) - model(kept))[rows, targets]

    images, labels, _, _ = whole()
    result = evaluate(CAM(model, "3"), DATA, faithfulness={"drop": drop}, batch_size=5)
    assert result.metrics == [*default_metrics(), "drop"]
    expected = drop(images, CAM(model, "3").attribute(images, labels), labels).detach()
    np.testing.assert_allclose(result.values("CAM", "drop"), expected, atol=1e-5)


def test_without_metrics_no_mask_is_needed(model):
    images, labels, _, _ = whole()
    mean = {"mean": lambda inputs, maps, targets: maps.mean((1, 2, 3))}
    result = evaluate(CAM(model, "3"), [(images, labels)], metrics={}, faithfulness=mean)
    assert len(result.pooled) == 0
    expected = CAM(model, "3").attribute(images, labels).mean((1, 2, 3))
    np.testing.assert_allclose(result.values("CAM", "mean"), expected, atol=1e-6)
    assert "mean" in str(result)


def test_volumes_have_vxap_and_no_boxes():
    case = BY_NAME["vgg3d"]
    model, images = case.model().eval(), case.images()
    masks, labels = images[:, 0] > 0.5, torch.tensor([0, 1, 2, 0])
    result = evaluate(LayerGradCam(model, model.stage3), [(images, labels, masks)])
    assert result.methods == ["Grad-CAM", "CAM", "centred Gaussian"]
    maps = CAM(model, "stage3").attribute(images, labels)
    best = metrics.oracle_threshold(maps, masks)
    assert of_set(result, "CAM") == pytest.approx(
        {"VxAP": metrics.vxap(maps, masks), ORACLE_IOU: metrics.iou(maps, masks, best).mean()},
        abs=1e-3,
    )
    expected = metrics.pixel_auroc(maps, masks)
    np.testing.assert_allclose(result.values("CAM", "pixel AUROC"), expected)


def test_several_inputs_come_as_a_tuple():
    model = TwoInputs().eval()
    x, side, y = torch.randn(4, 2, 8, 8), torch.randn(4, 1, 4, 6), torch.tensor([0, 1, 2, 0])
    gradcam = LayerGradCam(model, model.conv2)
    expected = metrics.pixel_auroc(compare(gradcam, (x, side), y)["Grad-CAM"], x[:, 0] > 0)
    for inputs in ((x, side), [x, side]):  # a loader collates tuples to lists
        with pytest.warns(UserWarning, match="not the model's output"):  # the second input's part
            result = evaluate(gradcam, [(inputs, y, x[:, 0] > 0)])
        np.testing.assert_allclose(result.values("Grad-CAM", "pixel AUROC"), expected)
        assert "CAM" in result.methods


def test_models_run_in_eval_mode_and_are_left_as_they_were():
    model = cnn().train()
    model[0].eval()
    DATA[0]
    state = State(model)
    result = evaluate(methods_of(model), DATA)
    state.assert_unchanged()
    same(result, evaluate(methods_of(cnn().eval()), DATA))


def test_maps_do_not_outlive_their_batch(model):
    kept = []

    def method(inputs, **_):
        assert all(torch.UntypedStorage._expired(ref) for ref in kept[:-1])
        maps = inputs * 1.5
        kept.append(maps.untyped_storage()._weak_ref())
        return maps

    evaluate({"m": method}, DATA, batch_size=2, baselines=False)
    assert len(kept) == N // 2
    assert all(torch.UntypedStorage._expired(ref) for ref in kept)


# ---- refusals


def first(**changes):
    """One batch in which items are replaced."""
    images, labels, masks, kinds = batches(4)[0]
    names = {"images": images, "labels": labels, "masks": masks, "kinds": kinds} | changes
    return [tuple(names.values())]


class _NoMask(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, i):
        return DATA[i]


class _Masks(_NoMask):
    """A data set whose items or masks are spoiled."""

    def __init__(self, mask=None, item=None):
        self.mask = mask or DATA.mask
        self.item = item or DATA.__getitem__

    def __getitem__(self, i):
        return self.item(i)


REFUSED = {
    "no batch": (lambda: [], {}, ValueError, "data: it gave no batch, expected at least one"),
    "no item": (lambda: Subset(DATA, []), {}, ValueError, "data: it gave no batch"),
    "a number": (lambda: 3, {}, TypeError, "data: got int, expected an iterable of batches"),
    "no mask method": (_NoMask, {}, TypeError, r"data: _NoMask has no method mask\(i\). Add one"),
    "subset of it": (lambda: Subset(_NoMask(), [0]), {}, TypeError, r"no method mask\(i\)"),
    "loader without": (
        # A loader draws its seed, here from its own generator.
        lambda: DataLoader(DATA, 4, generator=torch.Generator()), {}, TypeError,
        "data: a batch is a list of 2, expected .*Pass the data set itself",
    ),
    "a tensor": (lambda: torch.zeros(2, 3), {}, TypeError, r"data: a batch is a tensor \(3,\)"),
    "mask None": (
        lambda: _Masks(mask=lambda i: None), {}, ValueError, r"item 0 has no mask.*Subset\(data"
    ),
    "batch mask None": (
        lambda: first(masks=None), {}, ValueError, r"no mask \(None\), expected \(4, 32, 32\)"
    ),
    "mask size": (
        lambda: first(masks=torch.zeros(4, 16, 16)), {}, ValueError,
        r"masks of shape \(4, 16, 16\) for inputs .*expected \(4, 32, 32\).* override mask",
    ),
    "item's mask size": (
        lambda: _Masks(mask=lambda i: torch.zeros(40, 32)), {}, ValueError, r"\(12, 40, 32\) for"
    ),
    "masks of two sizes": (
        lambda: _Masks(mask=lambda i: torch.zeros(32 + i, 32)), {}, ValueError,
        "the masks of items 0 to 11 do not form a batch .* override mask",
    ),
    "mask values": (
        lambda: first(masks=torch.full((4, 32, 32), 255)), {}, ValueError, "255.*mask > 0"
    ),
    "no target": (lambda: first(labels=None), {}, ValueError, r"no target \(None\).*target="),
    "item without target": (
        lambda: _Masks(item=lambda i: (DATA[i][0], None)), {}, ValueError, "no target.*target="
    ),
    "target shape": (
        lambda: first(labels=torch.zeros(4, 2, dtype=int)), {}, ValueError,
        r"targets of shape \(4, 2\).*target=",
    ),
    "target dtype": (lambda: first(labels=torch.zeros(4)), {}, ValueError, "float32.*class index"),
    "target negative": (
        lambda: first(labels=torch.tensor([0, 1, -1, 0])), {}, ValueError, "class index from 0"
    ),
    "inputs side by side": (
        lambda: [(torch.zeros(4, 1, 8, 8),) * 2 + (torch.zeros(4, dtype=int),) * 2], {},
        ValueError, r"targets of shape \(4, 1, 8, 8\).*Several inputs go in a tuple",
    ),
    "inputs": (lambda: first(images=["a"]), {}, (AssertionError, TypeError, ValueError), "nputs"),
    "one axis": (lambda: first(images=torch.zeros(4, 1, 32)), {}, ValueError, "expected .N, C, H"),
    "kinds": (lambda: first(kinds=["a"]), {}, ValueError, "kinds are a list of 1, expected a list"),
    "item": (lambda: _Masks(item=lambda i: DATA[i][0]), {}, TypeError, "item 0 is a tensor .*labe"),
    "image": (
        lambda: _Masks(item=lambda i: (object(), 0)), {}, ValueError, "images of items 0 to 11.*tra"
    ),
    "metrics a list": (
        lambda: DATA, {"metrics": [metrics.iou]}, TypeError, "metrics: got list, expected a mapping"
    ),
    "metric no function": (
        lambda: DATA, {"metrics": {"a": 3}}, TypeError, "metrics: 'a' is int, expected a function"
    ),
    "faithfulness": (
        lambda: DATA, {"faithfulness": {"a": "b"}}, TypeError, r"faithfulness: 'a' is str, expec"
    ),
    "no figure": (lambda: DATA, {"metrics": {}}, ValueError, "metrics: got none and no faithfulne"),
    "same name": (
        lambda: DATA, {"faithfulness": {"pixel AP": max}}, ValueError, "'pixel AP' is also.*another"
    ),
    "figure's shape": (
        lambda: DATA, {"metrics": {"a": lambda a, m: a.mean()}}, ValueError,
        r"metrics: 'a' gave shape \(\) for 12 images, expected one",
    ),
    "figure infinite": (
        lambda: DATA, {"faithfulness": {"a": lambda x, a, y: y / 0}}, ValueError,
        "faithfulness: 'a' gave .*finite",
    ),
    "target a name": (lambda: DATA, {"target": "1"}, ValueError, "target: got '1', expected a who"),
    "batch size": (lambda: DATA, {"batch_size": 0}, ValueError, "batch_size: got 0, expected"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_and_nothing_left_behind(model, name):
    data, options, error, message = REFUSED[name]
    model[1].train()
    state = State(model)
    with pytest.raises(error, match=message):
        evaluate(methods_of(model), data(), **options)
    state.assert_unchanged()


def test_refused_before_the_model_runs(model):
    ran = []
    model.register_forward_hook(lambda *_: ran.append(1))
    before_any_batch = ("no mask method", "metrics a list", "same name", "target a name")
    in_the_first = ("mask size", "mask values", "no target", "kinds")
    for name in before_any_batch + in_the_first:
        data, options, error, message = REFUSED[name]
        with pytest.raises(error, match=message):
            evaluate(methods_of(model), data(), **options)
    assert not ran
    evaluate(methods_of(model), DATA)
    assert ran


def test_map_with_nan_names_its_method(model):
    seen = []

    def broken(inputs, **_):
        seen.extend(inputs)
        maps = inputs.clone()
        maps[[len(seen) - len(inputs) + i == 7 for i in range(len(inputs))]] /= 0
        return maps

    with pytest.raises(ValueError, match="methods: 'broken' gave NaN or infinity for image 7,"):
        evaluate({"broken": broken, "fine": Saliency(model)}, DATA, batch_size=3, baselines=False)


@pytest.mark.parametrize("order", [["2", "3"], ["3", "2"]])
def test_the_baseline_cam_is_of_the_deepest_layer_of_one_method(model, order):
    hrcam = fit_quietly(HRCAM(model, order), [batches(N)[0][:2]], solver="pattern")
    expected = evaluate(CAM(model, "3"), DATA).values("CAM", "pixel AUROC")
    np.testing.assert_array_equal(evaluate(hrcam, DATA).values("CAM", "pixel AUROC"), expected)


def test_kinds_may_be_strings_of_numpys(model):
    data = first(kinds=list(np.array(["a", "b", "a", "b"])))
    assert sorted(evaluate(Saliency(model), data).frame["kind"].unique()) == ["a", "b"]


def test_class_that_the_model_lacks_is_refused(model):
    state = State(model)
    with pytest.raises(AssertionError, match="target: got"):
        evaluate(CAM(model, "3"), DATA, target=7)
    state.assert_unchanged()


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


@pytest.mark.parametrize("package", ["pandas", "scipy", "sklearn"])
def test_missing_extra_says_what_to_install_before_any_work(package):
    code = (
        f"import sys\nsys.modules[{package!r}] = None\nfrom captum_hrcam import evaluate\n"
        "def data():\n    print('work')\n    yield\n"
        "evaluate(lambda inputs, **_: print('work'), data())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "captum-hrcam[eval]"' in done.stderr
    assert package in done.stderr
    assert "work" not in done.stdout


def test_progress_counts_batches(model, capsys):
    evaluate(CAM(model, "3"), DATA, batch_size=5, show_progress=True)
    assert "3/3" in capsys.readouterr().err
    evaluate(CAM(model, "3"), DATA, batch_size=5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("metric", [[], ["pixel AP", "pixel AP"]])
def test_tests_take_each_metric_once(model, metric):
    result = evaluate(methods_of(model), DATA)
    with pytest.raises(ValueError, match=r"metric: got \[.*expected one name or several"):
        result.tests("CAM", metric)


def test_pxap_of_a_small_set_is_exact(model):
    result = evaluate(methods_of(model), DATA)
    found = result.pooled.query("method == 'Grad-CAM' and metric == 'PxAP'")["value"].item()
    images, labels, masks, _ = whole()
    maps = compare(methods_of(model), images, labels)["Grad-CAM"]
    assert found == metrics.pxap(maps, masks)
