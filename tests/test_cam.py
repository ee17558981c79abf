"""Zhou's CAM by the same machinery: Grad-CAM times the number of cells, and the model's logit."""

import math
import warnings

import pytest
import torch
from captum.attr import LayerGradCam, NoiseTunnel
from conftest import BY_NAME, State
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torchvision.models import get_model

from captum_hrcam import CAM

GAP_CASES = [name for name in BY_NAME if name.startswith(("vgg", "depthwise"))]


def last_layer(name: str) -> str:
    return BY_NAME[name].layers[-1]


@pytest.mark.parametrize("name", GAP_CASES)
def test_cam_is_captums_gradcam_times_cells(name):
    case = BY_NAME[name]
    model, x = case.model().eval(), case.images()
    layer = model.get_submodule(last_layer(name))
    for target in (0, 2, [0, 1, 2, 1]):
        gradcam = LayerGradCam(model, layer).attribute(x, target=target)
        cells = math.prod(gradcam.shape[2:])
        mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.ndim]
        up = nn.functional.interpolate(gradcam * cells, size=case.size, mode=mode)
        cam = CAM(model, layer, "fc").attribute(x, target=target)
        torch.testing.assert_close(cam, up, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GAP_CASES)
def test_predict_is_the_models_logit(name):
    case = BY_NAME[name]
    model, x = case.model().eval(), case.images()
    cam = CAM(model, last_layer(name))
    torch.testing.assert_close(cam.predict(x), model(x), rtol=1e-4, atol=1e-5)


def test_weights_follow_the_model():
    case = BY_NAME["vgg2d"]
    model, x = case.model().eval(), case.images()
    cam = CAM(model, "stage3", model.fc)
    before = cam.attribute(x, 1)
    with torch.no_grad():
        model.fc.weight.mul_(2)
    torch.testing.assert_close(cam.attribute(x, 1), 2 * before)


def pruned(module: nn.Module) -> nn.Module:
    return prune.l1_unstructured(module, "weight", 0.3)


@pytest.mark.parametrize("wrap", [pruned, weight_norm, spectral_norm, parametrizations.weight_norm])
@pytest.mark.parametrize("pointwise", [False, True])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_weights_that_were_loaded_since_the_last_forward(wrap, pointwise):
    def model() -> nn.Sequential:
        last = wrap(nn.Conv2d(4, 3, 1) if pointwise else nn.Linear(4, 3))
        ends = [last, nn.Flatten()] if pointwise else [nn.Flatten(), last]
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), *ends).eval()

    trained, loaded, x = model(), model(), torch.randn(3, 1, 9, 9)
    trained(x)
    loaded.load_state_dict(trained.state_dict())
    cam = CAM(loaded, "0")
    first = cam.attribute(x, 1)
    torch.testing.assert_close(cam.predict(x), trained(x))
    torch.testing.assert_close(first, CAM(trained, "0").attribute(x, 1))


def test_spectral_norm_of_a_model_in_training_goes_on_where_it_was():
    classifier = parametrizations.spectral_norm(nn.Linear(4, 3))
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier)
    x, state = torch.randn(3, 1, 9, 9), State(model.train())
    cam = CAM(model, "0")
    maps = cam.attribute(x, 1)
    assert torch.equal(cam.attribute(x, 1), maps)
    state.assert_unchanged()
    torch.testing.assert_close(cam.predict(x), model.eval()(x))


def test_pointwise_convolution_is_a_classifier():
    # SqueezeNet ends in dropout, a 1x1 convolution to classes, ReLU and pooling.
    model = get_model("squeezenet1_1", weights=None, num_classes=3).eval()
    cam = CAM(model, "features", "classifier.1")
    with pytest.warns(UserWarning, match="'features' through classifier 'classifier.1' is not"):
        assert cam.class_maps(torch.randn(2, 3, 64, 64)).shape == (2, 3, 64, 64)


def test_classifier_without_bias():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2, bias=False)
    )
    cam, x = CAM(model, "0"), torch.randn(3, 1, 9, 9)
    assert (cam.bias == 0).all()
    torch.testing.assert_close(cam.predict(x), model(x))


def test_model_without_a_linear_layer_is_refused():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    with pytest.raises(ValueError, match="classifier: the model has no linear layer"):
        CAM(model, "0")


def test_another_head_that_comes_last_is_not_taken_for_the_classifier():
    class WithAuxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc, self.other = nn.Conv2d(1, 4, 3), nn.Linear(4, 3), nn.Linear(4, 5)

        def forward(self, x):
            return self.fc(self.conv(x).mean((2, 3)))

    model, x = WithAuxiliary(), torch.randn(2, 1, 6, 6)
    by_default = CAM(model, "conv")
    for call in (by_default.attribute, by_default.predict):
        with pytest.raises(ValueError, match=r"has 5 outputs, the model itself 3.*Name that one"):
            call(x, 1) if call == by_default.attribute else call(x)
    torch.testing.assert_close(CAM(model, "conv", "fc").predict(x), model(x))
    assert CAM(model, "conv", "other").class_maps(x).shape == (2, 5, 6, 6)  # as it was asked


def test_several_layers_are_refused():
    with pytest.raises(ValueError, match="layer: got 2 layers, CAM takes one"):
        CAM(BY_NAME["vgg2d"].model(), ["stage1", "stage2"])


def test_a_network_without_a_cam_says_so():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 8), nn.Linear(8, 2)
    )
    with pytest.raises(ValueError, match=r"gave 4 channels, but .* for 8.*no CAM.*use Grad-CAM"):
        CAM(model, "0").attribute(torch.randn(2, 1, 6, 6), 1)


def test_repr_names_layer_classifier_and_classes():
    model = BY_NAME["vgg2d"].model()
    assert repr(CAM(model, "stage3")) == "CAM(layer='stage3', classifier='fc', n_classes=3)"
    given = CAM(lambda x: model(x), model.stage3, model.fc)
    assert repr(given) == "CAM(layer='layer0', classifier='Linear', n_classes=3)"
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1))
    assert repr(CAM(model, "0")) == "CAM(layer='0', classifier='1', n_classes=5)"


# ---- whether the scores are the model's


class Averaging(nn.Module):
    """Two layers of as many channels, GAP, then what lies between; an auxiliary head comes last."""

    def __init__(self, between: nn.Module | None = None, end=lambda scores: scores, k: int = 3):
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3)
        self.between, self.end = between or nn.Identity(), end
        self.fc, self.other = nn.Linear(6, k), nn.Linear(6, k)

    def forward(self, x):
        z = self.last(self.conv(x).relu()).mean((2, 3))
        return self.end(self.fc(self.between(z)))


SAME_SIZE = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
X = torch.randn(4, 1, 9, 9, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "layer", "classifier"),
    [
        (Averaging(SAME_SIZE), "last", "fc"),
        (Averaging(), "conv", "fc"),
        (Averaging(), "last", "other"),
        (Averaging(end=lambda s: s.softmax(1)), "conv", "fc"),
        (Averaging(k=1), "conv", "fc"),
    ],
    ids=["hidden layer", "earlier layer", "auxiliary head", "softmax", "one output"],
)
def test_scores_that_are_not_the_models_warn_once(model, layer, classifier):
    cam, text = CAM(model, layer, classifier), f"'{layer}' through classifier '{classifier}' is not"
    assert cam.matches_model is None
    with pytest.warns(UserWarning, match=f"{text}.*Pass as layer.*classifier=.*Grad-CAM") as seen:
        maps = cam.attribute(X, 0)
    assert [warning.filename for warning in seen] == [__file__]
    assert cam.matches_model is False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cam.attribute(X, 0), maps)
        cam.predict(X)


def test_an_auxiliary_head_that_is_taken_by_default_warns():
    with pytest.warns(UserWarning, match="classifier 'other' is not the model's output"):
        CAM(Averaging(), "last").attribute(X, 0)


def test_a_function_has_no_names_for_its_classifier():
    model = Averaging(SAME_SIZE).eval()
    with pytest.warns(UserWarning, match="'layer0' through classifier 'Linear' is not"):
        CAM(lambda x: model(x), model.last, model.fc).attribute(X, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("under_autocast", [False, True])
@pytest.mark.parametrize("scale", [0.1, 1, 30])
@pytest.mark.parametrize(
    "end",
    [
        lambda s: s,
        lambda s: s.softmax(1),
        lambda s: s.log_softmax(1),
        lambda s: s.sigmoid(),
        lambda s: s[..., None, None],
    ],
    ids=["logits", "softmax", "log_softmax", "sigmoid", "of a convolution"],
)
def test_rounding_and_what_a_model_may_end_in_do_not_warn(dtype, under_autocast, scale, end):
    model = Averaging(nn.Dropout(), end)
    with torch.no_grad():
        model.fc.weight.mul_(scale)
    model = model if under_autocast else model.to(dtype)
    cam = CAM(model, "last", "fc")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.autocast("cpu", dtype, enabled=under_autocast and dtype != torch.float32):
            cam.attribute(X if under_autocast else X.to(dtype), 1)
    assert cam.matches_model


@pytest.mark.parametrize(
    "end", [lambda s: {"scores": s}, lambda s: s[:, 0], lambda s: s * float("nan")]
)
def test_an_output_that_is_no_row_of_scores_is_not_compared(end):
    cam = CAM(Averaging(SAME_SIZE, end), "last", "fc")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cam.attribute(X, 1)
    assert cam.matches_model is None


def test_the_comparison_takes_no_forward_pass_of_its_own():
    model, calls = Averaging(SAME_SIZE), []
    model.fc.register_forward_hook(lambda *_: calls.append(1))
    with pytest.warns(UserWarning, match="is not the model's output"):
        NoiseTunnel(CAM(model, "last", "fc")).attribute(X, nt_samples=3, target=0)
    n_with_noise = len(calls)
    NoiseTunnel(CAM(Averaging(), "last", "fc")).attribute(X, nt_samples=3, target=0)
    cam = CAM(model, "last", "fc")
    with pytest.warns(UserWarning, match="is not the model's output"):
        cam.attribute(X, 0)
    assert len(calls) == n_with_noise + 1


@pytest.mark.parametrize("layer", ["features", "norm"])
def test_reshaped_maps_are_compared(layer):
    # Swin's channels come last; its closing normalisation lies between "features" and the average.
    model = get_model("swin_t", weights=None, num_classes=3).eval()
    cam = CAM(model, layer, reshape_transform=lambda f: f.movedim(-1, 1))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        cam.attribute(torch.randn(1, 3, 64, 64), 1)
    assert [w.category for w in seen] == ([UserWarning] if layer == "features" else [])
    assert cam.matches_model is (layer == "norm")
