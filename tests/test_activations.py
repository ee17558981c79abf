"""Hooks that read feature maps, and modes that come back."""

import threading

import pytest
import torch
from torch import nn

from captum_hrcam.activations import (
    eval_mode,
    gap,
    own_casts,
    read_feature_maps,
    spatial_variance,
    trace_modules,
)


@pytest.fixture
def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(2))


def test_value_is_read_before_the_in_place_operation(model):
    x, seen = torch.randn(2, 1, 6, 6), {}
    expected = model[0](x)
    with read_feature_maps({"0": model[0]}, lambda name, f: seen.update({name: f.clone()})):
        model(x)
    torch.testing.assert_close(seen["0"], expected)
    assert seen["0"].min() < 0


def test_gradients_of_the_callers_own_pass_still_flow(model):
    x = torch.randn(2, 1, 6, 6, requires_grad=True)
    with read_feature_maps({"0": model[0]}, lambda name, f: gap(f)):
        model(x).sum().backward()
    assert x.grad is not None


def test_a_module_that_is_trained_inside_is_given_back_once():
    model = nn.Sequential(nn.Dropout()).eval()
    with eval_mode(model):
        model.train()
        with eval_mode(model):
            assert not model[0].training
    for _ in range(2):
        model.eval()
        with eval_mode(model), eval_mode(model):
            assert not model[0].training
        assert not model[0].training


def test_what_an_interrupted_context_left_behind_is_void_once_a_model_is_trained_again():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    interrupted = eval_mode(model)
    interrupted.__enter__()  # never left, as by Ctrl-C in the midst of its end
    model.train()
    with eval_mode(model), eval_mode(model[0]):
        assert not any(m.training for m in model.modules())
    assert all(m.training for m in model.modules())


def test_modes_come_back_one_by_one_also_after_an_error(model):
    model.train()
    model[2].eval()
    inside = []

    def fails():
        with eval_mode(model, model[0]):
            inside.extend(m.training for m in model.modules())
            raise OSError("x")

    with pytest.raises(OSError, match="x"):
        fails()
    assert not any(inside)
    assert [m.training for m in model.modules()] == [True, True, True, False]


@pytest.mark.parametrize("cached", [False, True])
def test_autocast_keeps_no_weight_and_its_own_setting_comes_back(cached):
    def fails():
        with own_casts():
            assert not torch.is_autocast_cache_enabled()
            raise OSError("x")

    with torch.autocast("cpu", cache_enabled=cached):
        with pytest.raises(OSError, match="x"):
            fails()
        assert torch.is_autocast_cache_enabled() == cached


def test_another_threads_forward_is_not_read(model):
    seen = []
    with read_feature_maps({"0": model[0]}, lambda name, f: seen.append(len(f))):
        other = threading.Thread(target=lambda: model(torch.randn(3, 1, 6, 6)))
        other.start()
        other.join()
        model(torch.randn(2, 1, 6, 6))
    assert seen == [2]


def test_hooks_are_gone_after_an_error_inside_read(model):
    def fail(name, f):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), read_feature_maps({"0": model[0]}, fail):
        model(torch.randn(2, 1, 6, 6))
    assert not model[0]._forward_hooks


class Scaled(nn.Module):
    def forward(self, x, scale):
        return x * scale


@pytest.mark.parametrize("by_name", [False, True])
def test_input_of_a_layer_is_its_first(by_name):
    x, scale, seen, layer = torch.randn(2, 3, 4), torch.ones(2, 1, 1), [], Scaled()
    with read_feature_maps({"a": layer}, lambda name, f: seen.append(f), from_input=True):
        layer(x=x, scale=scale) if by_name else layer(x, scale)
    assert torch.equal(seen[0], x)
    assert len(seen) == 1
    assert not layer._forward_pre_hooks


def test_layer_without_input_is_refused_by_type():
    class Made(nn.Module):
        def forward(self):
            return torch.ones(1, 1, 1)

    layer = Made()
    with (
        pytest.raises(TypeError, match="'a' gave NoneType, expected one tensor"),
        read_feature_maps({"a": layer}, lambda name, f: None, from_input=True),
    ):
        layer()


def test_first_layer_that_did_not_run_is_named(model):
    layers = {"0": model[0], "a": nn.ReLU(), "b": nn.ReLU()}
    with (
        pytest.raises(RuntimeError, match="'a' did not run"),
        read_feature_maps(layers, lambda name, f: None),
    ):
        model(torch.randn(2, 1, 6, 6))


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (2, 3, 1, 1, 1)])
def test_one_to_three_dimensions_of_space_are_read(shape):
    seen, layer = [], nn.Identity()
    with read_feature_maps({"a": layer}, lambda name, f: seen.append((name, f.shape))):
        layer(torch.ones(shape))
    assert seen == [("a", shape)]


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1, 1, 1, 1), (2, 3, 0), (2, 0, 4), (0, 3, 4)])
def test_other_dimensions_and_nothing_are_refused(shape):
    layer = nn.Identity()
    with (
        pytest.raises(ValueError, match=r"'a' gave a tensor of shape .*one to three spatial"),
        read_feature_maps({"a": layer}, lambda name, f: None),
    ):
        layer(torch.ones(shape))


def test_every_run_of_every_submodule_is_traced(model):
    model = nn.Sequential(model[:2], nn.Sequential(model[2], torch.jit.script(nn.ReLU())))
    seen = []
    with trace_modules(
        model, lambda name, *_: seen.append(f"+{name}"), lambda name, *_: seen.append(f"-{name}")
    ):
        model(torch.randn(2, 1, 6, 6))
    assert seen == ["+0", "+0.0", "-0.0", "+0.1", "-0.1", "-0", "+1", "+1.0", "-1.0", "-1"]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gap_keeps_digits_of_half_precisions(dtype):
    f = torch.full((1, 1, 300, 300), 1.0, dtype=dtype)
    assert gap(f).item() == 1.0
    assert gap(f).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(7,), (4, 5), (3, 4, 2)])
def test_spatial_variance_is_that_of_the_cells(size, dtype):
    f = torch.randn(3, 4, *size).to(dtype) + 2
    variance = spatial_variance(f, gap(f))
    assert variance.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = f.double().flatten(2).var(2, correction=0)
    torch.testing.assert_close(variance.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("squares", [1, 48, 2**21])  # values at a time: one image, two, all
def test_spatial_variance_of_channels_last(dtype, squares, monkeypatch):
    monkeypatch.setattr("captum_hrcam.activations.SQUARES", squares)
    f = (torch.randn(5, 4, 3, 2).to(dtype) + 2).to(memory_format=torch.channels_last)
    variance = spatial_variance(f, gap(f))
    expected = f.double().flatten(2).var(2, correction=0)
    torch.testing.assert_close(variance.double(), expected, rtol=1e-4, atol=1e-5)
    assert spatial_variance(f[:0], gap(f[:0])).shape == (0, 4)


def test_spatial_variance_of_a_constant_is_not_negative():
    f = (torch.arange(1.0, 201).view(1, 200, 1, 1) * 12.34567).expand(1, 200, 33, 33)
    relative = spatial_variance(f, gap(f)) / gap(f) ** 2
    assert relative.min() == 0  # though rounding goes both ways
    assert relative.max() < 1e-4


@pytest.mark.parametrize("channels_last", [False, True])
def test_spatial_variance_beside_a_large_mean(channels_last):
    f = torch.randn(3, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    f[:, 1] += 1000
    f[:, 2] += 10
    f = f.to(memory_format=torch.channels_last) if channels_last else f
    expected = f.double().flatten(2).var(2, correction=0)
    torch.testing.assert_close(spatial_variance(f, gap(f)).double(), expected, rtol=1e-4, atol=0)


def test_spatial_variance_keeps_half_precision_from_overflowing():
    f = torch.full((1, 1, 4, 4), 300.0, dtype=torch.float16)
    f[..., 0] = 700
    assert spatial_variance(f, gap(f)).item() == pytest.approx(f.float().var(correction=0).item())
