"""How much the deepest layer sees of each, against torch.corrcoef; and when that is doubt."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import fit_quietly
from torch import nn

from captum_hrcam import HRCAM, metrics
from captum_hrcam.cells import LEAST
from captum_hrcam.edges import Seen, without_finest
from captum_hrcam.revisit import Revisit

SIZES = {"1": (64, 64), "2": (32, 32), "3": (16, 16), "4": (8, 8)}


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_seen_is_the_root_of_two_correlations_within_images(axes):
    noise = torch.Generator().manual_seed(axes)
    sizes = [(12,) * axes, (12,) * axes, (6,) * axes, (3,) * axes]
    maps = [torch.randn(5, 1, *size, generator=noise) for size in sizes]
    levels = 9 * torch.randn(5, 1, *[1] * axes, generator=noise)  # between images
    maps[0] += F.interpolate(maps[3], sizes[0]) + levels
    maps[1] -= F.interpolate(maps[3], sizes[1])  # the deepest layer speaks against it
    maps[2] += 3 * F.interpolate(maps[3], sizes[2])
    seen = Seen(["1", "2", "3", "4"])
    seen.add([z[:2] for z in maps])
    seen.add([z[2:] for z in maps])

    def correlation(a, b):
        a, b = (z - z.flatten(1).mean(1).reshape(-1, *[1] * (axes + 1)) for z in (a, b))
        return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1].item()

    mode = ("linear", "bilinear", "trilinear")[axes - 1]
    expected = {}
    for name, z in zip("123", maps, strict=False):
        own = correlation(z, F.interpolate(maps[3], z.shape[2:], mode=mode))
        pooled = correlation(F.interpolate(z, sizes[3], mode="area"), maps[3])
        expected[name] = (max(own, LEAST) * max(pooled, LEAST)) ** 0.5
    assert expected["1"] > 0.2
    assert expected["2"] == LEAST
    best = max(expected.values())
    assert seen.shares() == pytest.approx({name: e / best for name, e in expected.items()})


def shares(*values: float) -> dict[str, float]:
    return dict(zip("1234", values, strict=False))


@pytest.mark.parametrize(
    ("seen", "left"),
    [
        ((0.56, 0.7, 1.0), "234"),
        ((0.57, 0.7, 1.0), ""),  # just enough
        ((0.01, 0.01, 1.0), "234"),  # the finest alone: the next is asked after it has gone
        ((1.0, 0.1, 0.9), ""),
    ],
)
def test_the_finest_layer_is_doubted(seen, left):
    kept, why = without_finest(shares(*seen), SIZES)
    assert "".join(kept) == left
    assert bool(why) == bool(left)


def test_layers_of_its_resolution_go_with_it_and_two_are_left():
    sizes = SIZES | {"2": (60, 60)}
    assert list(without_finest(shares(0.1, 0.2, 1.0), sizes)[0]) == ["3", "4"]
    assert without_finest({"1": 0.1, "2": 1.0}, dict.fromkeys("123", (8, 8)))[0] == {}
    assert without_finest({"1": 0.1}, {"1": (64, 64), "2": (8, 8)})[0] == {}
    assert without_finest({}, {"1": (8, 8)})[0] == {}


class Clutter(nn.Module):
    """The finest layer sees clutter and faint squares, the two deeper ones the squares."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.middle, self.deep = nn.Identity(), nn.AvgPool2d(2), nn.AvgPool2d(2)
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.fc.weight.copy_(20 * torch.eye(2))

    def forward(self, x):
        self.fine(0.2 * x[:, :2] + x[:, 2:])
        return self.fc(self.deep(self.middle(x[:, :2])).mean((2, 3)))


class Blurred(Clutter):
    """The finest layer sees the squares, the deeper ones their surroundings."""

    def forward(self, x):
        wide = F.avg_pool2d(self.fine(x[:, :2]), 17, 1, 8)
        return self.fc(self.deep(self.middle(wide)).mean((2, 3)))


def squares(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A square in channel 0 or 1, which is the class; clutter of its size in channels 2 and 3."""
    noise = torch.Generator().manual_seed(seed)
    x, masks = torch.zeros(n, 4, 32, 32), torch.zeros(n, 32, 32, dtype=torch.bool)
    for i in range(n):
        corners = torch.randint(27, (17, 2), generator=noise).tolist()
        for j, (row, column) in enumerate(corners):
            channel = i % 2 if j == 0 else 2 + j % 2
            x[i, channel, row : row + 5, column : column + 5] = 1
        row, column = corners[0]
        masks[i, row : row + 5, column : column + 5] = True
    return x + 0.1 * torch.randn(x.shape, generator=noise), torch.arange(n) % 2, masks


def fitted(model: nn.Module, layers: tuple[str, ...] = ("fine", "middle", "deep")) -> HRCAM:
    x, y, _ = squares(200, 0)
    return fit_quietly(HRCAM(model, list(layers)), [(x, y)])


def test_auto_keeps_the_finest_layer_that_alone_sees_the_object():
    hrcam = fitted(Blurred())
    assert all(weight.any() for weight in hrcam.weights.values())
    assert hrcam.report.choices[1].startswith("layers: fine stays: of its map the deepest layer se")
    x, y, masks = squares(40, 1)
    assert metrics.pixel_average_precision(hrcam.attribute(x, y)[:, 0], masks).mean() > 0.9


@pytest.mark.parametrize("more", [-0.1, 0.008, 0.02])
def test_the_finest_layer_goes_unless_deletion_is_clearly_worse_without(monkeypatch, more):
    alone = fitted(Clutter(), ("middle", "deep"))
    spread = 0.016 * torch.tensor([-1.0, 1.0, -1.0, 1.0])  # an error of .0092
    deletions = iter([(0.45,) * 4, tuple((0.45 + spread + more).tolist())])
    best = Revisit._best

    def keep(*args):
        kept, verdict = best(*args)
        return kept, replace(verdict, deletions=next(deletions))

    monkeypatch.setattr(Revisit, "_best", keep)
    hrcam = fitted(Clutter())
    goes = more < 0.02
    assert hrcam.weights["fine"].any() != goes
    said, *others = hrcam.report.choices[1:]
    assert said.startswith("layers: fine left out, as for edges " if goes else "layers: fine stays")
    assert f"leaves the class {more:+.3f} ± " in said
    by = "layers count by confirmation" + (", " if goes else " times place, ")
    assert any(choice.startswith(by) for choice in others)
    if goes:  # but for how they count
        for name in alone.weights:
            ours, other = (F.normalize(h.weights[name]) for h in (hrcam, alone))
            torch.testing.assert_close(ours, other)


def test_a_cascade_that_was_asked_for_asks_nobody():
    x, y, _ = squares(200, 0)
    hrcam = HRCAM(Clutter(), ["fine", "middle", "deep"])
    fit_quietly(hrcam, [(x, y)], solver="cascade")
    assert all(weight.any() for weight in hrcam.weights.values())
    assert not any(choice.startswith("layers: ") for choice in hrcam.report.choices)
