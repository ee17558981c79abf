"""The contract with Captum: targets, tuples, NoiseTunnel, metrics, pictures, its own models."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from captum.attr import LayerAttribution, LayerGradCam, NoiseTunnel, visualization
from captum.metrics import infidelity, sensitivity_max
from cases import TwoInputs
from conftest import BY_NAME, fit_quietly, fitted, training_batches
from torch import nn

import captum_hrcam
from captum_hrcam import CAM, HRCAM, compare, evaluate
from captum_hrcam.faithfulness import deletion, insertion, road
from captum_hrcam.faithfulness import infidelity as infidelity_of_maps

CASE = BY_NAME["vgg2d"]


class Stubborn(torch.Tensor):
    """As MONAI's MetaTensor, whose batch of images from several files refuses to be cut."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.__getitem__ and args[0].ndim > 2:
            raise ValueError("Inconsistent batched metadata dicts")
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.fixture(scope="module")
def hrcam() -> HRCAM:
    return fitted(CASE)


class TestTargets:
    @pytest.mark.parametrize(
        "target",
        [
            2,
            (2,),
            torch.tensor(2),
            torch.tensor([2]),
            torch.tensor([2, 2, 2, 2]),
            torch.tensor([2, 2, 2, 2], dtype=torch.uint8),
            torch.tensor([2, 2, 2, 2], dtype=torch.int16),
            [2, 2, 2, 2],
            [(2,), (2,), (2,), (2,)],
            -1,  # Captum indexes as Python does
        ],
        ids=repr,
    )
    def test_every_form_names_the_same_class(self, hrcam, target):
        x = CASE.images()
        found = hrcam.attribute(x, target)
        assert torch.equal(found, hrcam.attribute(x, 2))
        # All classes at once are another product, which a processor may round otherwise.
        torch.testing.assert_close(found, hrcam.class_maps(x)[:, 2:3])

    @pytest.mark.parametrize(
        "target",
        [[0, 2, 1, 2], torch.tensor([0, 2, 1, 2]), [(0,), (2,), (1,), (2,)]],
        ids=["list", "tensor", "list of tuples"],
    )
    def test_targets_differ_within_a_batch(self, hrcam, target):
        x = CASE.images()
        maps = hrcam.class_maps(x)
        expected = torch.stack([maps[i, c] for i, c in enumerate([0, 2, 1, 2])])[:, None]
        torch.testing.assert_close(hrcam.attribute(x, target), expected)

    @pytest.mark.parametrize(
        "target",
        [
            None,
            3,
            -4,
            (3,),
            (0, 1),
            [0, 1],
            [0, 1, 2, 3],
            [(0,), (1,), (2,), (3,)],
            torch.tensor([0, 1]),
            torch.tensor([0, 1, 2, 3]),
            torch.tensor([0.0, 1.0, 2.0, 1.0]),
            torch.tensor([[0], [1], [2], [1]]),
            "1",
            1.0,
        ],
        ids=repr,
    )
    def test_bad_target_is_captums_assertion_error(self, hrcam, target):
        with pytest.raises(AssertionError):
            hrcam.attribute(CASE.images(), target)
        assert hrcam.attribute(CASE.images(), 0).shape == (4, 1, *CASE.size)

    def test_bad_target_is_refused_without_assert_statements_too(self):
        """``python -O`` leaves these out, and with them maps of all classes came for None."""
        code = """if 1:
            from captum_hrcam._captum import target_classes
            refused = []
            for target in (None, (), True, 3):
                try:
                    target_classes(target, 4, 3)
                except AssertionError:
                    refused.append(target)
            print(__debug__, refused)
        """
        run = [sys.executable, "-O", "-c", code]
        said = subprocess.run(run, capture_output=True, text=True, check=True).stdout
        assert said.strip() == "False [None, (), True, 3]"

    def test_out_of_range_message_names_the_classes(self, hrcam):
        with pytest.raises(AssertionError, match=r"target: got 3 for 4 images, .* 0\.\.2"):
            hrcam.attribute(CASE.images(), 3)

    def test_one_output_needs_no_target(self):
        model = nn.Sequential(
            *CASE.model().stage1, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
        )
        batches = [(x, y > 0) for x, y in training_batches(CASE)]
        single = fit_quietly(HRCAM(model, "1"), batches, loss="binary_cross_entropy")
        x = CASE.images()
        assert torch.equal(single.attribute(x), single.attribute(x, 0))
        assert single.attribute(x).shape == (4, 1, *CASE.size)


class TestTuples:
    def test_tuple_in_tuple_out(self, hrcam):
        x = CASE.images()
        (one,) = hrcam.attribute((x,), 1)
        assert torch.equal(one, hrcam.attribute(x, 1))
        assert isinstance(hrcam.class_maps((x,)), tuple)
        assert all(isinstance(a, tuple) for a in hrcam.layer_maps((x,), 1).values())

    def test_one_map_for_each_input_at_its_size(self):
        x, side = torch.randn(12, 2, 8, 8), torch.randn(12, 1, 4, 6)
        two = HRCAM(TwoInputs(), ["conv1", "conv2"])
        fit_quietly(two, [(x, side, torch.arange(12) % 3)])
        first, second = two.attribute((x, side), target=1)
        assert first.shape == (12, 1, 8, 8)
        assert second.shape == (12, 1, 4, 6)

    def test_additional_forward_args_reach_the_model(self):
        x, side = torch.randn(12, 2, 8, 8), torch.randn(12, 1, 4, 6)
        model = TwoInputs().eval()
        two = fit_quietly(HRCAM(model, "conv2"), [(x, side, torch.arange(12) % 3)])
        seen = []
        handle = model.fc.register_forward_hook(lambda m, args, out: seen.append(out))
        given = two.attribute(x, 1, additional_forward_args=(side, 2.0))
        handle.remove()
        torch.testing.assert_close(seen[0], model(x, side, 2.0))
        assert torch.equal(given, two.attribute((x, side), 1)[0])  # layers come before the scale

    def test_function_around_the_model(self):
        model = CASE.model().eval()
        around = HRCAM(lambda x: model(x)[:, :2], [model.stage1, model.stage3])
        fit_quietly(around, [(x, y % 2) for x, y in training_batches(CASE)])
        assert list(around.weights) == ["layer0", "layer1"]
        assert around.class_maps(CASE.images()).shape == (4, 2, *CASE.size)


class TestSubclasses:
    def test_they_are_read_as_plain_tensors(self):
        plain = training_batches(CASE)
        carrying = [(x.as_subclass(Stubborn), y.as_subclass(Stubborn)) for x, y in plain]
        model, (x, y) = CASE.model(), plain[0]
        of_plain = fit_quietly(HRCAM(model, CASE.layers), plain)
        of_carrying = fit_quietly(HRCAM(model, CASE.layers), carrying)
        for name, weight in of_plain.head.weights.items():
            assert torch.equal(of_carrying.head.weights[name], weight)
        for method in ("attribute", "class_maps", "predict"):
            options = {"target": y.as_subclass(Stubborn)} if method == "attribute" else {}
            found = getattr(of_carrying, method)(x.as_subclass(Stubborn), **options)
            assert type(found) is torch.Tensor
            assert torch.equal(found, getattr(of_plain, method)(x, **options))

    def test_beside_other_methods(self, hrcam):
        x = CASE.images(2).as_subclass(Stubborn)
        gradcam = LayerGradCam(hrcam.forward_func, hrcam.layers[CASE.layers[-1]])
        maps = compare([hrcam, gradcam], x, target=1)
        assert {type(a) for a in maps.values()} == {torch.Tensor}

    def test_with_masks(self, hrcam):
        x, y = CASE.images(4), torch.arange(4) % 3
        masks = x[:, :1] > 0  # a channel, which is taken off
        expected = evaluate({"HR-CAM": hrcam}, [(x, y, masks)], baselines=False).frame
        carrying = [tuple(part.as_subclass(Stubborn) for part in (x, y, masks))]
        assert evaluate({"HR-CAM": hrcam}, carrying, baselines=False).frame.equals(expected)

    @pytest.mark.parametrize("figure", [deletion, insertion, road, infidelity_of_maps])
    def test_faithfulness(self, hrcam, figure):
        x = CASE.images(4)
        maps, model = hrcam.attribute(x, target=1), hrcam.forward_func
        expected = figure(model, x, maps, target=1)
        carrying = (x.as_subclass(Stubborn), maps.as_subclass(Stubborn))
        assert (figure(model, *carrying, target=1) == expected).all()


class TestCaptum:
    def test_is_a_layer_attribution(self, hrcam):
        assert isinstance(hrcam, LayerAttribution)
        assert hrcam.get_name() == "HR-CAM"
        assert hrcam.has_convergence_delta() is False
        assert hrcam.multiplies_by_inputs is False
        assert hasattr(hrcam.attribute, "__wrapped__")

    def test_layer_is_what_captums_own_would_take(self, hrcam):
        model, x = CASE.model().eval(), CASE.images()
        cam = CAM(model, "stage3")
        assert LayerGradCam(model, cam.layer).attribute(x, 1).shape == (4, 1, 2, 3)
        assert hrcam.layer == list(hrcam.layers.values())
        assert HRCAM(model, ["stage3"]).layer == [model.stage3]

    def test_noise_tunnel_averages_maps_of_noisy_images(self, hrcam):
        x = CASE.images()
        tunnel = NoiseTunnel(hrcam)
        smooth = tunnel.attribute(x, nt_samples=4, nt_type="smoothgrad", stdevs=1e-4, target=1)
        torch.testing.assert_close(smooth, hrcam.attribute(x, 1), rtol=1e-2, atol=1e-2)
        spread = tunnel.attribute(x, nt_samples=4, nt_type="vargrad", stdevs=1.0, target=1)
        assert (spread >= 0).all()
        assert spread.max() > 0

    def test_infidelity_and_sensitivity(self, hrcam):
        x = CASE.images()

        def perturb(inputs):
            noise = torch.randn_like(inputs) * 0.01
            return noise, inputs - noise

        maps = hrcam.attribute(x, 1).expand_as(x)
        assert infidelity(hrcam.forward_func, perturb, x, maps, target=1).shape == (4,)
        change = sensitivity_max(hrcam.attribute, x, perturb_radius=1e-3, target=1)
        assert change.shape == (4,)
        assert (change < 0.1).all()
        larger = sensitivity_max(hrcam.attribute, x, perturb_radius=1.0, target=1)
        assert (larger > change).all()

    def test_captum_draws_the_map(self, hrcam):
        a = hrcam.attribute(CASE.images(), 1)[0].permute(1, 2, 0).numpy()
        _, axes = visualization.visualize_image_attr(a, sign="all", use_pyplot=False)
        assert axes.images

    @pytest.fixture
    def captums_own(self):
        """Models that its tests of LayerGradCam use; Captum has them in its package since 0.9."""
        return pytest.importorskip("captum.testing.helpers.basic_models")

    def test_captums_convnet(self, captums_own):
        torch.manual_seed(0)
        model, x = captums_own.BasicModel_ConvNet(), torch.rand(20, 1, 10, 10)
        hrcam = HRCAM(model, [model.conv1, model.conv2])
        fit_quietly(hrcam, [(x, torch.arange(20) % 10)])
        assert hrcam.attribute(x, torch.arange(20) % 10).shape == (20, 1, 10, 10)

    def test_cam_is_gradcam_times_cells_on_captums_one_conv_model(self, captums_own):
        model = captums_own.BasicModel_ConvNet_One_Conv()
        x = torch.arange(16).view(1, 1, 4, 4).float()
        gap = nn.Sequential(model.conv1, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
        cam, gradcam = CAM(gap, "0"), LayerGradCam(gap, gap[0])
        native = gradcam.attribute(x, target=2) * 4  # 2 x 2 cells
        expected = nn.functional.interpolate(native, (4, 4), mode="bilinear")
        torch.testing.assert_close(cam.attribute(x, target=2), expected)


def test_private_names_of_captum_are_imported_in_one_module_only():
    package = Path(captum_hrcam.__file__).parent
    private = re.compile(r"captum\._|from captum\S* import \(?[^)\n]*\b_\w")
    users = {p.name for p in package.rglob("*.py") if private.search(p.read_text())}
    assert users == {"_captum.py"}
