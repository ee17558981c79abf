"""What is measured on a few images after the frozen pass, as the report and the head have it."""

import pytest
import torch
import torch.nn.functional as F
from conftest import BY_NAME, fit_quietly, fitted, training_batches
from torch import nn

from captum_hrcam import HRCAM
from captum_hrcam.features import held_out
from captum_hrcam.fusion import Fusion
from captum_hrcam.revisit import Revisit
from captum_hrcam.spread import contrast, over_space, typical


def test_contrast_is_of_the_deepest_layer_and_spread_of_each():
    case = BY_NAME["vgg2d"]
    hrcam = fitted(case, solver="pattern")
    x, y = (torch.cat(parts) for parts in zip(*training_batches(case), strict=True))
    fit = ~held_out(torch.arange(30))
    maps = hrcam._native_maps(hrcam.head, (x[fit],), (), None, Fusion())
    variance = {name: over_space(a) for name, a in maps.items()}
    expected = contrast(variance["stage3"], F.one_hot(y[fit]))
    torch.testing.assert_close(hrcam.report.contrast, expected, rtol=1e-4, atol=1e-4)
    for name, rows in variance.items():
        expected = typical(rows, torch.ones(len(rows)))
        torch.testing.assert_close(hrcam.head.spread[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("solver", "ill"), [("pattern", [0, 5]), ("cascade", [30, 30])])
def test_a_cascade_sees_a_rare_class_and_spreads_count_it_as_rare(solver, ill):
    """One image in fifty shows the second class."""
    few = Revisit(lambda *a: None, dict, None, [solver], "cross_entropy")
    y = F.one_hot((torch.arange(1500) % 50 == 7).long()).double()
    for rows in torch.arange(1500).split(40):
        few.images.add(rows, y[rows])
    kept, weights = few.images.rows()[1], few.images.weights()
    assert ill[0] <= kept[:, 1].sum() <= ill[1]
    if solver == "cascade":
        assert (weights @ kept.float() / weights.sum())[1].item() == pytest.approx(1 / 50)


@pytest.mark.parametrize("name", ["vgg1d", "vgg3d"])
def test_layers_are_placed_along_every_axis(name):
    case = BY_NAME[name]
    displacement = fitted(case, place_layers=True).report.displacement
    assert {n: len(cells) for n, cells in displacement.items()} == dict.fromkeys(
        case.layers, len(case.size)
    )


class Turned(nn.Module):
    """The image, turned by a half where another input is negative."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x, side):
        turned = x.flip(2, 3)
        x = torch.where(side[:, :, None, None] < 0, turned, x)
        return self.fc(self.conv(x).relu().mean((2, 3)))


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_other_inputs_go_along_where_framing_is_measured(side):
    torch.manual_seed(0)
    batch = torch.rand(40, 1, 32, 32), torch.full((40, 1), side), torch.arange(40) % 2
    hrcam = HRCAM(Turned().eval(), "conv")
    report = fit_quietly(hrcam, [batch], solver="pattern", place_layers=True).report
    assert [along.scale for along in report.framing] == pytest.approx([side] * 2, abs=0.1)
