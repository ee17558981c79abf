"""The rows that every table carries."""

import functools
import warnings

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam, Saliency
from conftest import State, fit_quietly
from evaluated import DATA, N, batches, cnn
from torch import nn

from captum_hrcam import CAM, HRCAM, evaluate


@pytest.fixture
def model() -> nn.Sequential:
    return cnn().eval()


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


def test_the_baseline_cam_sees_the_images_as_they_came(model):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x.sub_(0.5).div_(0.2))

    changing = InPlace()
    data = batches(N)
    before = data[0][0].clone()
    found = evaluate(CAM(changing, "inner.3"), data)
    assert torch.equal(data[0][0], before)
    as_baseline = evaluate(LayerGradCam(changing, model[3]), data)
    assert torch.equal(data[0][0], before)
    for name in ("pixel AP", "pixel AUROC"):
        np.testing.assert_array_equal(as_baseline.values("CAM", name), found.values("CAM", name))


@pytest.mark.parametrize("order", [["2", "3"], ["3", "2"]])
def test_the_baseline_cam_is_of_the_deepest_layer_of_one_method(model, order):
    hrcam = fit_quietly(HRCAM(model, order), [batches(N)[0][:2]], solver="pattern")
    expected = evaluate(CAM(model, "3"), DATA).values("CAM", "pixel AUROC")
    np.testing.assert_array_equal(evaluate(hrcam, DATA).values("CAM", "pixel AUROC"), expected)


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


def test_a_class_that_no_method_has_is_told_by_its_number_and_not_as_a_missing_cam(model):
    hrcam = fit_quietly(HRCAM(model, "3"), [batches(N)[0][:2]], solver="pattern")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AssertionError, match=r"^target: got \[5\] for 12 .* class in 0\.\.1"):
            evaluate(hrcam, DATA, target=5)


def test_a_class_of_the_head_alone_leaves_out_cam_for_a_reason_of_one_sentence(model):
    images, _, masks, _ = batches(N)[0]
    train = [(images, torch.arange(N) % 4)]
    hrcam = fit_quietly(HRCAM(model, "3"), train, solver="pattern", n_classes=4)
    with pytest.warns(UserWarning, match=r"missing: target: got \[3\] .* each image\. Add CAM"):
        evaluate(hrcam, [(images, torch.full((N,), 3), masks)])
