"""Which head is kept where the model's outputs do not speak for maps of all layers."""

import pytest
import torch
import torch.nn.functional as F
from conftest import fit_quietly
from test_cascade import squares
from torch import nn

from captum_hrcam import HRCAM, fewer_layers, metrics


class Mixing(nn.Module):
    """What lights up; then, as attention may leave it, the image's sum anywhere but there."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.AvgPool2d(2)
        self.mixed = nn.ModuleList(nn.Identity() for _ in range(3))
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.fc.weight.copy_(6 * torch.eye(2))

    def forward(self, x):
        f = self.first(x[:, :2])
        f = f.sum((2, 3), keepdim=True) / 16 - f
        for layer in self.mixed:
            f = layer(f)
        return self.fc(f.mean((2, 3)))


class TestLayersThatMixPlaces:
    LAYERS = ("first", "mixed.0", "mixed.1", "mixed.2")

    def test_auto_leaves_out_the_deeper_half(self):
        x, y, _ = squares(200, 0)
        x_new, y_new, masks = squares(40, 1)
        ap = {}
        for solver in ("cascade", "auto"):
            hrcam = HRCAM(Mixing(), list(self.LAYERS))
            report = fit_quietly(hrcam, [(x, y)], solver=solver).report
            maps = hrcam.attribute(x_new, y_new)[:, 0]
            ap[solver] = metrics.pixel_average_precision(maps, masks).mean()
        assert ap["cascade"] < 0.1 < 0.9 < ap["auto"]
        assert [name for name, w in hrcam.weights.items() if not w.any()] == ["mixed.1", "mixed.2"]
        assert report.choices[1].startswith("without mixed.1, mixed.2: the model's outputs did not")
        assert report.support > 0.9
        assert not any("do not speak" in warning for warning in report.warnings)
        assert hrcam.attribute(x_new, y_new, fusion="agreement").isfinite().all()

    def test_what_nothing_helps_keeps_all_layers_and_warns(self):
        x, y, _ = squares(200, 0)
        hrcam = HRCAM(Mixing(), list(self.LAYERS[1:]))
        with pytest.warns(UserWarning, match="model's outputs do not speak for the maps"):
            report = hrcam.fit([(x, y)])
        assert all(weight.any() for weight in hrcam.weights.values())
        assert report.choices[1].startswith("all layers stay: without the deeper ones")
        assert report.support < -0.9


class OftenRight(Mixing):
    """The first layer marks what lights up in a little more than half of the images, as a pixel of
    clutter has it; in the others, and in all deeper layers, the sum lies anywhere but there."""

    def forward(self, x):
        f = F.avg_pool2d(x[:, :2], 2)
        mixed = f.sum((2, 3), keepdim=True) / 32 - f  # its average is that of f
        f = torch.where(x[:, 2:, :1, :1] > 0.1, f, mixed)
        f = self.first(f.repeat_interleave(2, 2).repeat_interleave(2, 3))
        for layer in self.mixed:
            mixed = layer(mixed)
        return self.fc((f + mixed).mean((2, 3)))


def test_a_margin_without_support_leaves_no_layer_out(monkeypatch):
    x, y, _ = squares(200, 1)
    verdicts, best = [], fewer_layers._best

    def keep(*args):
        fitted, verdict = best(*args)
        verdicts.append(verdict)
        return fitted, verdict

    monkeypatch.setattr(fewer_layers, "_best", keep)
    model = OftenRight()
    nn.init.zeros_(model.fc.bias)
    hrcam = fit_quietly(HRCAM(model, list(TestLayersThatMixPlaces.LAYERS)), [(x, y)])
    assert verdicts[-1].margin > 0
    assert 0 < verdicts[-1].support < 0.5
    assert all(weight.any() for weight in hrcam.weights.values())
    assert hrcam.report.choices[1].startswith("all layers stay")
