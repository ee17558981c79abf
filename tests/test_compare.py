"""Any attribution beside ours, one map per method at the input's size."""

import functools
import sys

import pytest
import torch
from captum.attr import IntegratedGradients, LayerActivation, LayerGradCam, Saliency
from cases import TwoInputs
from conftest import BY_NAME, fitted
from torch import nn

from captum_hrcam import CAM, compare


@pytest.mark.parametrize("name", ["vgg1d", "vgg2d", "vgg3d", "vgg2d-odd"])
def test_every_method_gives_one_map_at_the_input_size(name):
    case = BY_NAME[name]
    hrcam, x = fitted(case), case.images()
    model = hrcam.forward_func.eval()
    methods = {
        "ours": hrcam,
        "evidence": functools.partial(hrcam.attribute, fusion="evidence"),
        "CAM": CAM(model, "stage3"),
        "Grad-CAM": LayerGradCam(model, model.stage2),
        "gradients": IntegratedGradients(model),
        "function": lambda inputs, target, additional_forward_args: inputs,
    }
    maps = compare(methods, x, target=[0, 1, 2, 0])
    assert list(maps) == list(methods)
    for a in maps.values():
        assert a.shape == (4, 1, *case.size)
        assert not a.requires_grad
    assert torch.equal(maps["ours"], hrcam.attribute(x, [0, 1, 2, 0]))
    torch.testing.assert_close(maps["function"], x.sum(1, keepdim=True))


def test_methods_do_not_see_what_a_model_did_to_the_images():
    case = BY_NAME["vgg2d"]
    inner = case.model().eval()

    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x.sub_(1.0))

    model, x = InPlace(), case.images()
    gradcam = LayerGradCam(model, inner.stage2)
    maps = compare({"first": gradcam, "CAM": CAM(inner, "stage3"), "last": gradcam}, x, target=1)
    assert torch.equal(x, case.images())
    assert torch.equal(maps["first"], maps["last"])
    assert torch.equal(maps["CAM"], CAM(inner, "stage3").attribute(x, 1))


def test_low_resolution_maps_are_raised_bilinearly_unscaled():
    case = BY_NAME["vgg2d"]
    model, x = case.model().eval(), case.images()
    gradcam = LayerGradCam(model, model.stage2)
    expected = torch.nn.functional.interpolate(
        gradcam.attribute(x, 1), size=case.size, mode="bilinear"
    )
    torch.testing.assert_close(compare(gradcam, x, 1)["Grad-CAM"], expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16])
def test_maps_of_any_real_dtype_are_raised(dtype):
    coarse = torch.tensor([[0.0, 1.0], [1.0, 3.0]]).expand(4, 2, 2, 2).to(dtype)
    x = torch.randn(4, 2, 8, 8)
    expected = torch.nn.functional.interpolate(
        coarse.float().sum(1, keepdim=True), size=(8, 8), mode="bilinear"
    )
    maps = compare({"m": lambda *args, **kwargs: coarse}, x, 1)
    torch.testing.assert_close(maps["m"], expected)


def test_complex_maps_are_refused():
    method = {"fft": lambda *args, **kwargs: torch.fft.fft2(torch.randn(4, 1, 8, 8))}
    with pytest.raises(TypeError, match="methods: 'fft' gave complex numbers"):
        compare(method, torch.randn(4, 2, 8, 8), 1)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
def test_a_method_that_raises_is_named():
    def breaks(inputs, target, additional_forward_args):
        raise ZeroDivisionError("of its own")

    with pytest.raises(ZeroDivisionError, match="of its own") as raised:
        compare({"bad": breaks}, torch.randn(4, 2, 8, 8), 1)
    assert raised.value.__notes__ == ["methods: raised by 'bad'"]


def test_equal_names_are_numbered():
    case = BY_NAME["vgg2d"]
    model = case.model().eval()
    methods = [LayerGradCam(model, model.stage2), LayerGradCam(model, model.stage3)]
    assert list(compare(methods, case.images(), 1)) == ["Grad-CAM", "Grad-CAM #2"]


def test_several_inputs_are_compared_on_the_first():
    model = TwoInputs().eval()
    x, side = torch.randn(4, 2, 8, 8), torch.randn(4, 1, 4, 6)
    maps = compare([LayerGradCam(model, model.conv2), Saliency(model)], (x, side), 1)
    assert {tuple(a.shape) for a in maps.values()} == {(4, 1, 8, 8)}
    maps = compare(LayerGradCam(model, model.conv2), x, 1, additional_forward_args=(side, 2.0))
    assert maps["Grad-CAM"].shape == (4, 1, 8, 8)


def test_attribution_without_space_is_refused():
    case = BY_NAME["vgg2d"]
    model = case.model().eval()
    pooled = LayerActivation(model, model.fc)
    methods = {"pooled": lambda x, **_: pooled.attribute(x)}
    with pytest.raises(ValueError, match=r"'pooled' gave shape \(4, 3\)"):
        compare(methods, case.images(), 1)


def test_every_model_is_in_eval_mode_meanwhile():
    case = BY_NAME["vgg2d"]
    model, x = case.model(), case.images()
    gradcam = LayerGradCam(model, model.stage2)
    expected = compare(gradcam, x, 1)["Grad-CAM"]
    model.train()  # batch normalisation would now take the batch's figures, and keep them
    state = {name: value.clone() for name, value in model.state_dict().items()}
    named = functools.partial(gradcam.attribute)
    named.__name__ = "mine"  # else Python flattens a partial of it
    methods = {"Grad-CAM": functools.partial(named)}
    assert torch.equal(compare(methods, x, 1)["Grad-CAM"], expected)
    assert all(m.training for m in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_names_that_a_dict_gives_stay():
    def constant(value):
        return lambda x, **_: torch.full((len(x), 1, 8, 8), value)

    x = torch.randn(1, 2, 8, 8)
    maps = compare({"CAM #2": constant(2.0), "CAM": constant(1.0), "CAM #1": constant(0.0)}, x)
    assert {name: a[0, 0, 0, 0].item() for name, a in maps.items()} == {
        "CAM #2": 2,
        "CAM": 1,
        "CAM #1": 0,
    }
