"""How much the deepest layer sees of each, against torch.corrcoef; and when that is doubt."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import fit_quietly
from torch import nn

from captum_hrcam import HRCAM, metrics
from captum_hrcam.cascade import Cascade
from captum_hrcam.cells import LEAST
from captum_hrcam.edges import POWER, SeenByDeepest, doubted
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
    seen = SeenByDeepest(["1", "2", "3", "4"])
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
    ("seen", "doubt"),
    [
        ((0.56, 0.7, 1.0), "1"),
        ((0.57, 0.7, 1.0), ""),  # just enough
        ((0.01, 0.01, 1.0), "1"),  # the finest alone: the next is asked after it has gone
        ((1.0, 0.1, 0.9), ""),
    ],
)
def test_the_finest_layer_is_doubted(seen, doubt):
    found = doubted(shares(*seen), SIZES)
    assert "".join(found.layers if found else []) == doubt


def test_of_layers_of_its_resolution_those_that_are_seen_stay():
    sizes = SIZES | {"2": (60, 60)}
    assert doubted(shares(0.1, 0.2, 1.0), sizes).layers == ["1", "2"]
    for seen in ((0.1, 0.9, 1.0), (0.9, 0.1, 1.0)):  # whichever comes first
        assert doubted(shares(*seen), sizes).layers == ["1" if seen[0] < 0.5 else "2"]


def test_layers_after_coarser_ones_stay_as_fine_as_they_are():
    sizes = SIZES | {"3": (64, 64), "4": (64, 64)}
    assert doubted(shares(0.1, 1.0, 0.1), sizes).layers == ["1"]


def test_two_layers_are_left():
    assert doubted({"1": 0.1, "2": 1.0}, dict.fromkeys("123", (8, 8))) is None
    assert doubted({"1": 0.1}, {"1": (64, 64), "2": (8, 8)}) is None
    assert doubted({}, {"1": (8, 8)}) is None


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


LAYERS = ("fine", "middle", "deep")


def asked(monkeypatch, model, layers, deletions, supports=(1.0, 1.0, 1.0, 1.0)) -> HRCAM:
    """Fitted where the model's outputs say this of one fit after the other."""
    said = iter(zip(deletions, supports, strict=False))
    best = Revisit._best

    def keep(*args):
        kept, verdict = best(*args)
        of_this, support = next(said)
        kept.figures["support"] = support
        return kept, replace(verdict, deletions=of_this, support=support)

    monkeypatch.setattr(Revisit, "_best", keep)
    return fitted(model, layers)


def around(mean: float) -> tuple[float, ...]:
    """Differences with an error of .0092."""
    return tuple(mean + 0.016 * sign for sign in (-1, 1, -1, 1))


@pytest.mark.parametrize("more", [-0.1, 0.008, 0.02])
def test_the_finest_layer_goes_unless_deletion_is_clearly_worse_without(monkeypatch, more):
    alone = fitted(Clutter(), LAYERS[1:])
    hrcam = asked(monkeypatch, Clutter(), LAYERS, [(0.45,) * 4, around(0.45 + more)])
    goes = more < 0.02
    assert hrcam.weights["fine"].any() != goes
    said, *others = hrcam.report.choices[1:]
    assert said.startswith("layers: fine left out, as for edges " if goes else "layers: fine stays")
    assert f"leaves the class {more:+.3f} ± 0.009 more probability" in said
    by = "what the deepest layer sees of them, " if goes else "confirmation times place, "
    assert any(choice.startswith(f"layers count by {by}") for choice in others)
    if goes:  # but for how they count
        for name in alone.weights:
            ours, other = (F.normalize(h.weights[name]) for h in (hrcam, alone))
            torch.testing.assert_close(ours, other)


def test_the_finest_layer_stays_where_the_outputs_do_not_tell(monkeypatch):
    hrcam = asked(monkeypatch, Clutter(), LAYERS, [(0.45,) * 4], [math.nan])
    assert hrcam.weights["fine"].any()
    assert hrcam.report.choices[1].endswith("But the model's outputs do not tell")


def test_the_finest_layer_stays_where_the_others_mark_nothing(monkeypatch):
    hrcam = asked(monkeypatch, Clutter(), LAYERS, [(0.45,) * 4, around(0.3)], [1.0, 0.2])
    assert hrcam.weights["fine"].any()
    assert "and they do not mark what it uses" in hrcam.report.choices[1]


class Cluttered(Clutter):
    """Clutter in the layer after the finest, too, less of it."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.AvgPool2d(2)

    def forward(self, x):
        fine = self.fine(0.2 * x[:, :2] + x[:, 2:])
        wide = F.avg_pool2d(x[:, :2], 2)
        self.second(0.2 * x[:, :2] + x[:, 2:] + 0 * fine)
        return self.fc(self.deep(self.middle(wide)).mean((2, 3)))


@pytest.mark.parametrize("second", [0.405, 0.44])
def test_after_the_finest_the_next_is_asked_against_what_is_left(monkeypatch, second):
    """.45, then .40: what comes next must not be clearly more than this, whatever came first."""
    layers = ("fine", "second", "middle", "deep")
    deletions = [(0.45,) * 4, (0.4,) * 4, around(second)]
    hrcam = asked(monkeypatch, Cluttered(), layers, deletions)
    goes = [name for name in layers if not hrcam.weights[name].any()]
    assert goes == (["fine", "second"] if second == 0.405 else ["fine"])
    assert len([c for c in hrcam.report.choices if "edges everywhere" in c]) == len(goes)


def test_layers_that_are_left_count_by_what_the_deepest_sees(monkeypatch):
    of_fit = []
    count = Cascade._count

    def counted(self, measured):
        count(self, measured)
        of_fit.append((measured.seen, self.counts))

    monkeypatch.setattr(Cascade, "_count", counted)
    asked(monkeypatch, Clutter(), LAYERS, [(0.45,) * 4, (0.4,) * 4])
    seen, counts = of_fit[-1]
    assert counts == {"middle": seen["middle"] ** POWER, "deep": 1.0}


def test_a_cascade_that_was_asked_for_asks_nobody():
    x, y, _ = squares(200, 0)
    hrcam = HRCAM(Clutter(), ["fine", "middle", "deep"])
    fit_quietly(hrcam, [(x, y)], solver="cascade")
    assert all(weight.any() for weight in hrcam.weights.values())
    assert not any(choice.startswith("layers: ") for choice in hrcam.report.choices)
