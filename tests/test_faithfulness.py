"""What holds for every figure: a model made by hand, nothing left behind, what is refused."""

import functools
import warnings

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from cases import ImageAndTable
from conftest import State
from pixel_models import SIZES, Recorder, batch, generator, linear_model, refused
from torch import nn

from captum_hrcam import CAM, evaluate
from captum_hrcam.faithfulness import deletion, infidelity, insertion, road, sensitivity_max
from captum_hrcam.faithfulness.reset import draw_anew

FIGURES = (deletion, insertion, road, infidelity)


@pytest.mark.parametrize("size", SIZES)
def test_each_figure_is_its_images_own_whatever_the_batch(size):
    model, (x, maps) = linear_model(size), batch(size)

    def figures(x, maps):
        return {
            "deletion": deletion(model, x, maps, 1),
            "road": road(model, x, maps, 1, noise=0.5),
            "infidelity": infidelity(model, x, maps, 1, noise=0.5),
            "sensitivity": sensitivity_max(lambda x, **_: x**2, x, 1, radius=0.5),
        }

    alone = [figures(x[i : i + 1], maps[i : i + 1]) for i in range(len(x))]
    for name, together in figures(x, maps).items():
        one_by_one = np.concatenate([each[name] for each in alone])
        np.testing.assert_allclose(together, one_by_one, rtol=1e-4, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("figure", [deletion, insertion, road])
@pytest.mark.parametrize(("k", "inverse"), [(3, torch.log), (1, torch.logit)])
def test_outputs_that_are_probabilities_are_warned_of(figure, k, inverse):
    linear, (x, maps) = linear_model((6, 7), k=k), batch((6, 7))
    model = nn.Sequential(linear, nn.Softmax(1) if k > 1 else nn.Sigmoid())
    with pytest.warns(
        UserWarning, match=f"are probabilities, .*x: model.x.\\.{inverse.__name__}"
    ) as w:
        figure(model, x, maps, 0)
    assert [warning.filename for warning in w] == [__file__]  # of who called it, once
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = figure(linear, x, maps, 0)
        np.testing.assert_allclose(figure(lambda x: inverse(model(x)), x, maps, 0), expected)


def sensitivity_of_gradients(model, x, maps, target, **options):
    return sensitivity_max(Saliency(model), x.detach(), target, **options)


@pytest.mark.parametrize("figure", [*FIGURES, sensitivity_of_gradients])
def test_what_the_model_takes_beside_the_image_reaches_it_row_by_row(figure):
    linear, (x, maps) = linear_model((6, 7)), batch((6, 7))
    table, power = torch.tensor([0.5, -1.0, 2.0]).double(), 3

    def model(images, rows, power):
        assert len(rows) == len(images)
        return linear(images**power * rows[:, None, None, None])

    together = figure(model, x, maps, 1, additional_forward_args=(table, power))
    for i, row in enumerate(table):
        alone = figure(
            lambda images, row=row: model(images, row.expand(len(images)), power),
            x[i : i + 1],
            maps[i : i + 1],
            1,
        )
        assert together[i] == pytest.approx(alone[0])


def test_evaluate_hands_the_table_on():
    model, x, table = ImageAndTable(), torch.randn(3, 2, 8, 8), torch.tensor([0.5, -1.0, 2.0])
    y = torch.arange(3)
    asked = {figure.__name__: functools.partial(figure, model) for figure in FIGURES}
    result = evaluate(CAM(model, "conv"), [((x, table), y)], metrics={}, faithfulness=asked)
    maps = CAM(model, "conv").attribute(x, y, table)
    for figure in FIGURES:
        expected = figure(model, x, maps, y, additional_forward_args=table)
        np.testing.assert_allclose(result.values("CAM", figure.__name__), expected, atol=1e-6)


def spot():
    """(model, images, maps): the model sees a bright square on noise, and only its pixels."""
    images = 0.1 * torch.randn(4, 1, 16, 16, generator=generator())
    maps = torch.zeros(4, 1, 16, 16)
    maps[..., 4:8, 6:10] = 1
    images = images + 2 * maps
    maps = maps + 1e-3 * torch.rand(maps.shape, generator=generator(1))  # no ties

    class Spot(nn.Module):
        def forward(self, x):
            seen = x[..., 4:8, 6:10].mean((1, 2, 3))
            return torch.stack([1.5 - seen, seen - 1.5], 1) * 4

    return Spot(), images, maps


class TestHandMadeModel:
    def test_map_of_the_pixels_it_uses_beats_its_negative(self):
        model, x, maps = spot()
        assert (deletion(model, x, maps, 1) < deletion(model, x, -maps, 1) - 0.5).all()
        assert (insertion(model, x, maps, 1) > insertion(model, x, -maps, 1) + 0.3).all()
        assert (road(model, x, maps, 1) > 0.3).all()
        assert (road(model, x, -maps, 1) < -0.3).all()

    def test_constant_map_tells_road_nothing(self):
        model, x, _ = spot()
        for constant in (torch.zeros(4, 1, 16, 16), torch.full((4, 1, 16, 16), 7.0)):
            assert (road(model, x, constant, 1) == 0).all()
            assert np.isfinite(deletion(model, x, constant, 1)).all()


@pytest.mark.parametrize("figure", FIGURES)
def test_scores_of_any_form_that_a_fit_takes(figure):
    model, (x, maps) = linear_model((6, 7)), batch((6, 7))
    x, maps = x[:1], maps[:1]
    expected = figure(lambda x: model(x)[:, 1:2], x, maps, 0)
    squeezed = figure(lambda x: model(x)[:, 1:2].squeeze(), x, maps, 0)
    np.testing.assert_array_equal(squeezed, expected)
    of_convolution = figure(lambda x: model(x)[:, 1:2, None, None], x, maps, 0)
    np.testing.assert_array_equal(of_convolution, expected)


@pytest.mark.parametrize("figure", FIGURES)
def test_a_model_may_change_its_images_in_place(figure):
    model, (x, maps) = linear_model((6, 7)), batch((6, 7))
    kept = x.clone()
    found = figure(lambda x: model(x.mul_(2)), x, maps, 1)
    np.testing.assert_array_equal(found, figure(lambda x: model(x * 2), x, maps, 1))
    assert torch.equal(x, kept)


class Strict(nn.Module):
    """A model with dropout that notes whether it ever ran in training mode."""

    def __init__(self):
        super().__init__()
        self.conv, self.drop = nn.Conv2d(2, 4, 3), nn.Dropout()
        self.fc = nn.Linear(4, 3)
        self.modes = set()

    def forward(self, x):
        self.modes.add(self.training)
        return self.fc(self.drop(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("figure", [*FIGURES, sensitivity_of_gradients])
def test_model_and_random_state_are_left_as_they_were(figure):
    model = Strict().train()
    model.conv.eval()
    x, maps = (t.float() for t in batch((8, 8)))
    x.requires_grad_()
    state = State(model)
    given = figure(model, x, maps, 1)
    state.assert_unchanged()
    assert model.modes == {False}
    assert x.grad is None
    assert given.shape == (3,)
    assert given.dtype == np.float64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_figures_on_a_gpu():
    model, (x, maps) = linear_model((6, 7)), batch((6, 7))
    here = [figure(model, x, maps, 1) for figure in FIGURES]
    model, x = model.cuda(), x.cuda()
    state = torch.cuda.get_rng_state()
    for figure, expected in zip(FIGURES, here, strict=True):
        np.testing.assert_allclose(figure(model, x, maps, 1), expected, rtol=1e-6)
    assert sensitivity_max(Saliency(model), x, 1).shape == (3,)
    on_cpu, on_gpu = nn.Linear(3, 2), nn.Linear(3, 2).cuda()
    draw_anew(on_cpu, seed=0)
    draw_anew(on_gpu, seed=0)
    assert torch.equal(on_cpu.weight, on_gpu.weight.cpu())
    assert torch.equal(state, torch.cuda.get_rng_state())


@pytest.mark.parametrize("figure", FIGURES)
class TestBadInput:
    """Refused before the model runs."""

    def test_maps(self, figure):
        _, maps = batch((6, 7))
        for bad in (maps[:2], maps[:, 0], maps[..., 1:], maps.expand(3, 2, 6, 7)):
            refused(figure, ValueError, r"maps: got shape .* expected \(3, 1, 6, 7\)", maps=bad)
        maps[0, 0, 0, 0] = float("nan")
        refused(figure, ValueError, "maps: got NaN or infinity", maps=maps)

    def test_inputs(self, figure):
        x, _ = batch((6, 7))
        refused(figure, TypeError, "inputs: got tuple.*additional_forward_args", inputs=(x,))
        refused(figure, ValueError, "of torch.int64, expected floats", inputs=x.long())
        refused(figure, ValueError, "inputs: got shape", inputs=x[:0])
        refused(figure, ValueError, r"inputs: got shape \(3, 2\)", inputs=x[..., 0, 0])

    def test_forward_func(self, figure):
        refused(figure, TypeError, "forward_func: got str", forward="model")
        for bad in (lambda x: x, lambda x: x[:2].flatten(1), lambda x: {"logits": x}):
            refused(figure, ValueError, r"expected logits \(N, K\)", forward=bad)

    def test_target(self, figure):
        x, maps = batch((6, 7))
        for bad in (None, 3, [0, 1], "1"):
            with pytest.raises(AssertionError, match=r"(?i)target"):
                figure(Recorder(), x, maps, bad)
