"""Modes that come back."""

import pytest
import torch
from torch import nn

from captum_hrcam.modes import eval_mode, own_casts


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


def test_modes_come_back_one_by_one_also_after_an_error():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2))
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
