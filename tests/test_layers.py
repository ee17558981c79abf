"""Layers by module and by dotted name."""

import functools

import pytest
import torch
from torch import Tensor, nn

from captum_hrcam import find_layers
from captum_hrcam.layers import resolve_layers


class TestResolveLayers:
    @pytest.fixture
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.ReLU(), nn.ReLU()))

    def test_names_and_modules_mix(self, model):
        layers = resolve_layers(model, ["0", model[1][1]])
        assert layers == {"0": model[0], "1.1": model[1][1]}

    def test_each_name_of_a_module_in_two_places(self, model):
        model.add_module("stem", model[0])
        for name in ("0", "stem"):
            assert resolve_layers(model, name) == {name: model[0]}
        with pytest.raises(ValueError, match="'stem' is listed twice"):
            resolve_layers(model, ["0", "stem"])

    def test_one_layer_needs_no_list(self, model):
        assert resolve_layers(model, "1.0") == resolve_layers(model, model[1][0])

    def test_bound_method(self, model):
        assert resolve_layers(model.forward, "0") == {"0": model[0]}

    def test_partial(self, model):
        for forward in (model, model.forward, functools.partial(model)):
            assert resolve_layers(functools.partial(forward), "0") == {"0": model[0]}

    def test_partial_of_one_with_a_name_is_not_flattened_by_python(self, model):
        named = functools.partial(model)
        named.__name__ = "explained"
        forward = functools.partial(named)
        assert isinstance(forward.func, functools.partial)
        assert resolve_layers(forward, "0") == {"0": model[0]}

    def test_compiled_model_is_unwrapped(self, model):
        assert resolve_layers(torch.compile(model), ["0"]) == {"0": model[0]}

    def test_function_takes_modules_but_no_names(self, model):
        def forward(x: Tensor) -> Tensor:
            return model(x)

        assert resolve_layers(forward, [model[0]]) == {"layer0": model[0]}
        with pytest.raises(ValueError, match="no module to look it up in"):
            resolve_layers(forward, "0")

    @pytest.mark.parametrize(
        ("layer", "error", "message"),
        [
            ("2", ValueError, "no layer '2'"),
            (["0", "2"], ValueError, "no layer '2'"),
            (nn.ReLU(), ValueError, "ReLU is not in the model"),
            (["0", "0"], ValueError, "'0' is listed twice"),
            ([], ValueError, "empty list"),
            ([0], TypeError, "got int"),
            ([torch.zeros(1)], TypeError, "got Tensor"),
        ],
    )
    def test_refused(self, model, layer, error, message):
        with pytest.raises(error, match=message):
            resolve_layers(model, layer)

    def test_module_and_its_name_are_the_same_layer(self, model):
        with pytest.raises(ValueError, match="listed twice"):
            resolve_layers(model, ["0", model[0]])

    def test_data_parallel_refused(self, model):
        with pytest.raises(ValueError, match=r"forward_func\.module"):
            resolve_layers(nn.DataParallel(model), "module.0")
        with pytest.raises(ValueError, match=r"forward_func\.module"):
            resolve_layers(functools.partial(torch.compile(nn.DataParallel(model))), "module.0")
        with pytest.raises(ValueError, match=r"model\.module"):
            find_layers(torch.compile(nn.DataParallel(model)), torch.zeros(1, 1, 8, 8))

    def test_scripted_layer_refused(self):
        model = nn.Sequential(torch.jit.script(nn.ReLU()), nn.ReLU())
        with pytest.raises(ValueError, match="scripted"):
            resolve_layers(model, "0")
