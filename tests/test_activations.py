"""Hooks that read feature maps, and modes that come back."""

import threading

import pytest
import torch
from torch import nn

from captum_hrcam.activations import eval_mode, gap, read_feature_maps


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gap_keeps_digits_of_half_precisions(dtype):
    f = torch.full((1, 1, 300, 300), 1.0, dtype=dtype)
    assert gap(f).item() == 1.0
    assert gap(f).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
