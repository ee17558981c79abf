"""Every figure of every method against that of all images at once."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam, Saliency
from cases import ImageAndTable, TwoInputs
from conftest import BY_NAME, State, fit_quietly
from evaluated import DATA, N, batches, cnn, methods_of, of_set, same, whole
from torch import nn

from captum_hrcam import CAM, HRCAM, compare, evaluate, metrics
from captum_hrcam.evaluation import default_metrics
from captum_hrcam.evaluation.measures import ORACLE_IOU


@pytest.fixture
def model() -> nn.Sequential:
    return cnn().eval()


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


TABLES = {"(N,)": torch.arange(1.0, 7), "(N, F)": torch.arange(1.0, 13).reshape(6, 2)}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_an_image_and_a_table(table):
    """Inputs without space go to every method as additional_forward_args."""
    model = ImageAndTable().eval()
    x, y = torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    hrcam = fit_quietly(HRCAM(model, "conv"), [(x, table, y)], solver="pattern")

    def given(inputs, target, additional_forward_args):
        assert isinstance(inputs, torch.Tensor)  # as without a table
        [rows] = additional_forward_args
        return inputs * rows.reshape(len(inputs), -1).sum(1)[:, None, None, None]

    methods = {"HR-CAM": hrcam, "Saliency": Saliency(model), "function": given}
    data = [((x[part], table[part]), y[part], x[part, 0] > 0) for part in (slice(4), slice(4, 6))]
    result = evaluate(methods, data)
    assert result.methods == [*methods, "CAM", "centred Gaussian"]
    methods["CAM"] = CAM(model, "conv")
    for name, maps in compare(methods, x, y, (table,)).items():
        expected = metrics.pixel_auroc(maps, x[:, 0] > 0)
        np.testing.assert_allclose(result.values(name, "pixel AUROC"), expected, atol=1e-6)


def test_faithfulness_sees_the_table():
    def by_hand(inputs, maps, targets, additional_forward_args):
        return model(inputs, *additional_forward_args).gather(1, targets[:, None])[:, 0]

    model = ImageAndTable().eval()
    x, table, y = torch.randn(4, 2, 8, 8), torch.arange(4.0), torch.tensor([0, 1, 2, 0])
    data, asked = [((x, table), y)], {"score": by_hand}
    result = evaluate(CAM(model, "conv"), data, metrics={}, faithfulness=asked)
    expected = by_hand(x, None, y, (table,)).detach()
    np.testing.assert_allclose(result.values("CAM", "score"), expected, atol=1e-6)


def test_inputs_after_a_table_keep_their_place():
    def forward(x, table, side):
        return model(x, side, table[:, None, None, None])

    model = TwoInputs().eval()
    x, table, side = torch.randn(4, 2, 8, 8), torch.arange(1.0, 5), torch.randn(4, 1, 4, 6)
    y = torch.tensor([0, 1, 2, 0])
    data = [((x, table, side), y, x[:, 0] > 0)]
    result = evaluate(Saliency(forward), data, baselines=False)
    maps = compare(Saliency(forward), x, y, (table, side))["Saliency"]
    expected = metrics.pixel_auroc(maps, x[:, 0] > 0)
    np.testing.assert_allclose(result.values("Saliency", "pixel AUROC"), expected)


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


def test_map_with_nan_names_its_method(model):
    seen = []

    def broken(inputs, **_):
        seen.extend(inputs)
        maps = inputs.clone()
        maps[[len(seen) - len(inputs) + i == 7 for i in range(len(inputs))]] /= 0
        return maps

    with pytest.raises(ValueError, match="methods: 'broken' gave NaN or infinity for image 7,"):
        evaluate({"broken": broken, "fine": Saliency(model)}, DATA, batch_size=3, baselines=False)


def test_class_that_the_model_lacks_is_refused(model):
    state = State(model)
    with pytest.raises(AssertionError, match="target: got"):
        evaluate(CAM(model, "3"), DATA, target=7)
    state.assert_unchanged()


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
