"""HR-CAM against the slow replica of the paper, and the identities it promises."""

import copy
import pickle
import warnings

import pytest
import replica
import torch
from conftest import BY_NAME, fit_quietly, fitted, training_batches
from torch import nn

from captum_hrcam import HRCAM
from captum_hrcam.features import held_out
from captum_hrcam.fusion import FUSIONS, upsample

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def assert_close(a, b):
    torch.testing.assert_close(a, b, **CLOSE)


# ---- the paper, in loops


def test_attribute_equals_replica(case):
    hrcam, x = fitted(case), case.images()
    maps = replica.placed_maps(hrcam, x)
    for c in range(3):
        expected = replica.class_map(maps, hrcam.weights, c, case.size)
        assert_close(hrcam.attribute(x, target=c).double(), expected)


def test_evidence_equals_replica(case):
    train = training_batches(case)
    hrcam, x = fitted(case), case.images()
    images = torch.cat([images for images, _ in train])
    training_maps = replica.feature_maps(hrcam.forward_func, hrcam.layers, images)
    kept = (~held_out(torch.arange(30))).nonzero()[:, 0].tolist()
    maps = replica.placed_maps(hrcam, x)
    for t in (0.0, 0.5):
        expected = replica.evidence_map(maps, training_maps, kept, hrcam.weights, 1, case.size, t)
        got = hrcam.attribute(x, target=1, fusion="evidence", evidence_threshold=t)
        assert_close(got.double(), expected)
        assert got.min() >= 0


def test_predict_equals_replica(case):
    hrcam, x = fitted(case), case.images()
    maps = replica.feature_maps(hrcam.forward_func, hrcam.layers, x)
    expected = replica.scores(maps, hrcam.weights, hrcam.bias)
    assert_close(hrcam.predict(x).double(), expected)


def test_agreement_equals_replica(case):
    hrcam, x = fitted(case, solver="cascade"), case.images()
    images = torch.cat([images for images, _ in training_batches(case)])
    training_maps = replica.feature_maps(hrcam.forward_func, hrcam.layers, images)
    kept = (~held_out(torch.arange(30))).nonzero()[:, 0].tolist()
    maps = replica.placed_maps(hrcam, x)
    expected = replica.agreement_map(maps, training_maps, kept, hrcam.weights, 1, case.size)
    got = hrcam.attribute(x, target=1, fusion="agreement")
    torch.testing.assert_close(got.double(), expected, rtol=2e-3, atol=1e-4)
    assert got.min() > -0.7  # no agreement at all is log 2 below the ordinary
    with pytest.raises(ValueError, match="'agreement' is no sum over layers"):
        hrcam.layer_maps(x, 1, fusion="agreement")


# ---- identities


def test_mean_of_map_plus_bias_is_score(case):
    hrcam, x = fitted(case), case.images()
    score = hrcam.predict(x)
    means = hrcam.class_maps(x).flatten(2).mean(2)
    exact = torch.allclose(means + hrcam.bias.float(), score, **CLOSE)
    assert exact or not case.whole_factors
    native = hrcam.native_maps(x)
    means = sum(a.flatten(2).mean(2) for a in native.values())
    assert_close(means + hrcam.bias.float(), score)


@pytest.mark.parametrize("fusion", ["sum", "evidence"])
def test_layer_maps_add_up(case, fusion):
    hrcam, x = fitted(case), case.images()
    parts = hrcam.layer_maps(x, target=2, fusion=fusion)
    assert list(parts) == list(case.layers)
    assert_close(sum(parts.values()), hrcam.attribute(x, target=2, fusion=fusion))


@pytest.mark.parametrize("fusion", ["sum", "evidence"])
def test_native_maps_are_what_is_upsampled_and_added(case, fusion):
    hrcam, x = fitted(case), case.images()
    native = hrcam.native_maps(x, fusion=fusion)
    assert {name: a.shape[2:] for name, a in native.items()} == hrcam.report.resolutions
    raised = sum(upsample(a, case.size) for a in native.values())
    assert_close(raised, hrcam.class_maps(x, fusion=fusion))
    for target in (0, 2, [1, 0, 2, 1]):
        of_target = hrcam.native_maps(x, target, fusion=fusion)
        raised = sum(upsample(a, case.size) for a in of_target.values())
        assert_close(raised, hrcam.attribute(x, target, fusion=fusion))
    with pytest.raises(AssertionError):
        hrcam.native_maps(x, 3)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_class_maps_equal_attribute(case, fusion):
    hrcam, x = fitted(case), case.images()
    maps = hrcam.class_maps(x, fusion=fusion)
    assert maps.shape == (4, 3, *case.size)
    for c in range(3):
        assert_close(maps[:, c : c + 1], hrcam.attribute(x, c, fusion=fusion))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_batch_equals_one_by_one(case, fusion):
    hrcam, x = fitted(case), case.images()
    targets = [0, 2, 1, 2]
    batch = hrcam.attribute(x, target=targets, fusion=fusion)
    single = [hrcam.attribute(x[i : i + 1], targets[i], fusion=fusion) for i in range(4)]
    assert_close(batch, torch.cat(single))


def test_map_is_linear_in_the_weights(case):
    hrcam, x = fitted(case), case.images()
    first = {name: w.clone() for name, w in hrcam.head.weights.items()}
    second = fitted(case, solver="ridge", penalty=0.1).head.weights
    maps = []
    for a, b in ((1, 0), (0, 1), (2, -3)):
        hrcam.head.weights = {name: a * first[name] + b * second[name] for name in first}
        maps.append(hrcam.attribute(x, 1))
    assert_close(maps[2], 2 * maps[0] - 3 * maps[1])


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
@pytest.mark.parametrize("solver", ["pattern", "ridge", "adam"])
def test_softmax_heads_are_centred(solver, loss):
    case = BY_NAME["vgg2d"]
    labels = (torch.arange(30) % 3)[:, None] == torch.arange(3)
    images = torch.cat([images for images, _ in training_batches(case)])
    hrcam = fit_quietly(
        HRCAM(case.model(), case.layers), [(images, labels)], solver=solver, loss=loss
    )
    sums = torch.cat([w.sum(0) for w in hrcam.weights.values()]).abs().max()
    assert (sums < 1e-9) == (loss == "cross_entropy")


# ---- what the hook sees


@pytest.mark.parametrize("layer", ["stem", "conv", "relu", "down"])
def test_in_place_relu_does_not_change_the_hooked_value(layer):
    case = BY_NAME["residual2d"]  # conv's sum and down's output are overwritten in place
    hrcam = fit_quietly(HRCAM(case.model(), layer), training_batches(case))
    x = case.images()
    maps = replica.placed_maps(hrcam, x)
    assert_close(
        hrcam.attribute(x, 1).double(), replica.class_map(maps, hrcam.weights, 1, case.size)
    )


class Normalises(nn.Module):
    """Two models that give the same: one changes its image in place, the other does not."""

    def __init__(self, case, in_place):
        super().__init__()
        self.inner, self.in_place = case.model(), in_place

    def forward(self, x):
        return self.inner(x.sub_(0.5).mul_(2) if self.in_place else (x - 0.5) * 2)


@pytest.mark.parametrize("solver", ["auto", "cascade", "pattern"])
def test_a_model_may_change_its_images_in_place_but_not_the_callers(solver):
    case, maps = BY_NAME["vgg2d"], []
    layers = [f"inner.{name}" for name in case.layers]
    for in_place in (False, True):
        batches, x = training_batches(case), case.images()
        hrcam = fit_quietly(HRCAM(Normalises(case, in_place), layers), batches, solver=solver)
        maps.append(hrcam.attribute(x, 1))
        assert torch.equal(x, case.images())
        for given, expected in zip(batches, training_batches(case), strict=True):
            assert torch.equal(given[0], expected[0])
    assert torch.equal(*maps)


def test_layer_input_of_a_block_is_the_output_of_the_block_before():
    case = BY_NAME["vgg2d"]
    model, batches = case.model(), training_batches(case)
    outputs = fit_quietly(HRCAM(model, ["stage1", "stage2"]), batches)
    inputs = fit_quietly(HRCAM(model, ["pool1", "pool2"], attribute_to_layer_input=True), batches)
    x = case.images()
    assert_close(inputs.attribute(x, 1), outputs.attribute(x, 1))


def test_reshape_transform_gives_back_channels_first():
    case = BY_NAME["vgg2d"]

    class ChannelsLast(nn.Module):
        def __init__(self):
            super().__init__()
            self.stage, self.last = case.model().stage1, nn.Identity()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(self.last(self.stage(x).permute(0, 2, 3, 1)).mean((1, 2)))

    torch.manual_seed(0)
    model, batches, x = ChannelsLast().eval(), training_batches(case), case.images()
    plain = fit_quietly(HRCAM(model, "stage"), batches)
    turned = HRCAM(model, "last", reshape_transform=lambda f: f.permute(0, 3, 1, 2))
    assert_close(fit_quietly(turned, batches).attribute(x, 1), plain.attribute(x, 1))


# ---- dtypes, layouts, grad modes


def test_float64_model_gives_float64_maps(case):
    hrcam, x = fitted(case), case.images()
    expected = hrcam.attribute(x, 1)
    hrcam.forward_func.double()
    maps = hrcam.attribute(x.double(), 1)
    assert maps.dtype == torch.float64
    torch.testing.assert_close(maps.float(), expected, rtol=1e-3, atol=1e-4)


def test_bfloat16_autocast_and_channels_last_within_tolerance():
    case = BY_NAME["vgg2d"]
    hrcam, x = fitted(case), case.images()
    expected = hrcam.attribute(x, 1)
    assert_close(hrcam.attribute(x.to(memory_format=torch.channels_last), 1), expected)
    tolerance = {"rtol": 0.05, "atol": 0.05 * expected.abs().max().item()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = hrcam.attribute(x, 1)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, expected, **tolerance)
    hrcam.forward_func.bfloat16()
    torch.testing.assert_close(hrcam.attribute(x.bfloat16(), 1), expected, **tolerance)


@pytest.mark.parametrize("solver", ["pattern", "ridge", "cascade", "adam"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_any_grad_mode_and_a_frozen_model(solver, mode):
    case = BY_NAME["vgg2d"]
    expected = fitted(case, solver=solver).attribute(case.images(), 1)
    model = case.model().requires_grad_(False)
    with mode():
        hrcam = fit_quietly(HRCAM(model, case.layers), training_batches(case), solver=solver)
        maps = hrcam.attribute(case.images(), 1)
    assert not maps.requires_grad
    assert_close(maps.clone(), expected)


@pytest.fixture
def elsewhere():
    """A default device, as users of GPUs set one; here one that holds no values."""
    torch.set_default_device("meta")
    yield torch.device("meta")
    torch.set_default_device(None)


@pytest.mark.parametrize("solver", ["pattern", "cascade", "ridge", "adam"])
def test_default_device_is_for_the_callers_code_alone(solver, elsewhere):
    case = BY_NAME["vgg2d"]
    with torch.device("cpu"):
        expected, x, batches = fitted(case, solver=solver), case.images(), training_batches(case)
        targets = [1, torch.tensor([0, 2, 1, 2])]
    seen = {"model": set(), "loader": set()}

    def model(images):
        seen["model"].add(torch.empty(0).device)
        return expected.forward_func(images)

    def loader():
        for batch in batches:
            seen["loader"].add(torch.empty(0).device)
            yield batch

    expected.forward_func.eval()
    hrcam = HRCAM(model, list(expected.layers.values()))
    fit_quietly(hrcam, loader(), solver=solver)
    for fusion in FUSIONS:
        for target in targets:
            maps = hrcam.attribute(x, target, fusion=fusion)
            torch.testing.assert_close(maps, expected.attribute(x, target, fusion=fusion))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        hrcam.check(loader())
    assert seen == {"model": {elsewhere}, "loader": {elsewhere}}
    assert torch.empty(0).device == elsewhere


def test_warnings_show_the_callers_line():
    case = BY_NAME["vgg2d"]
    hrcam = HRCAM(case.model(), case.layers)
    for call in (hrcam.fit, hrcam.check):
        with pytest.warns(UserWarning, match="head and model agree") as seen:
            call(training_batches(case))
        assert {warning.filename for warning in seen} == {__file__}


def test_compiled_model_is_read_as_the_model_inside():
    case = BY_NAME["vgg2d"]
    model = case.model()
    hrcam = fit_quietly(HRCAM(torch.compile(model), case.layers), training_batches(case))
    assert_close(hrcam.attribute(case.images(), 1), fitted(case).attribute(case.images(), 1))


# ---- the map's form


def test_map_is_detached_contiguous_and_at_the_input_size(case):
    x = case.images().requires_grad_()
    maps = fitted(case).attribute(x, 1)
    assert maps.shape == (4, 1, *case.size)
    assert maps.is_contiguous()
    assert not maps.requires_grad


def test_map_keeps_its_sign_and_scale():
    hrcam, x = fitted(BY_NAME["vgg2d"]), BY_NAME["vgg2d"].images()
    maps = hrcam.attribute(x, 1)
    assert maps.min() < 0 < maps.max()
    hrcam.head.weights = {name: -3 * w for name, w in hrcam.head.weights.items()}
    assert_close(hrcam.attribute(x, 1), -3 * maps)


def test_relu_attributions_is_the_positive_part(case):
    hrcam, x = fitted(case), case.images()
    assert torch.equal(hrcam.attribute(x, 1, relu_attributions=True), hrcam.attribute(x, 1).relu())


def test_interpolate_mode_is_torchs():
    case = BY_NAME["vgg2d"]
    hrcam, x = fitted(case), case.images()
    for mode in ("nearest", "nearest-exact", "bicubic", "area", "bilinear"):
        parts = hrcam.native_maps(x, 1)
        expected = sum(
            nn.functional.interpolate(a, size=case.size, mode=mode) for a in parts.values()
        )
        assert_close(hrcam.attribute(x, 1, interpolate_mode=mode), expected)


# ---- what is printed


def test_repr_names_layers_and_fit(tmp_path):
    case = BY_NAME["vgg2d"]
    layers = "HRCAM(layers=['stage1', 'stage2', 'stage3'], "
    assert repr(HRCAM(case.model(), case.layers)) == layers + "not fitted)"
    hrcam = fitted(case, solver="pattern")
    assert repr(hrcam) == layers + "n_classes=3, solver='pattern')"
    hrcam.save(tmp_path / "head")
    assert repr(HRCAM.load(tmp_path / "head", case.model())) == layers + "n_classes=3)"


# ---- copies and files


def test_copies_and_files_give_the_same_maps(case, tmp_path):
    hrcam, x = fitted(case), case.images()
    hrcam.save(tmp_path / "hrcam.pt")
    copies = [
        HRCAM.load(tmp_path / "hrcam.pt", hrcam.forward_func),
        HRCAM.load(tmp_path / "hrcam.pt", hrcam.forward_func, list(hrcam.layers.values())),
        copy.deepcopy(hrcam),
        pickle.loads(
            pickle.dumps(fit_quietly(HRCAM(case.build(), case.layers), [(x, [0, 1, 2, 0])] * 2))
        ),
    ]
    for other in copies[:3]:
        for fusion in ("sum", "evidence"):
            assert torch.equal(
                other.attribute(x, 1, fusion=fusion), hrcam.attribute(x, 1, fusion=fusion)
            )
    assert copies[3].attribute(x, 1).shape == (4, 1, *case.size)
