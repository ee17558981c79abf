"""Hooks that read feature maps, and are gone after it."""

import threading

import pytest
import torch
from torch import nn

from captum_hrcam.activations import read_feature_maps, trace_modules
from captum_hrcam.pooling import gap


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


def test_tuple_of_one_is_read_as_what_it_holds():
    class Block(nn.Module):
        def forward(self, x):
            return (x,) * self.n

    x, seen, layer = torch.randn(2, 3, 4), [], Block()
    layer.n = 1
    with read_feature_maps({"a": layer}, lambda name, f: seen.append(f)):
        layer(x)
    assert torch.equal(seen[0], x)
    layer.n = 2
    with (
        pytest.raises(TypeError, match="'a' gave tuple, expected one tensor"),
        read_feature_maps({"a": layer}, lambda name, f: None),
    ):
        layer(x)


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
