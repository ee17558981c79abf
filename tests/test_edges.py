"""How well the deepest layer tells where a finer one marks most, against scikit-learn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import fit_quietly
from sklearn.metrics import roc_auc_score
from torch import nn

from captum_hrcam import HRCAM, metrics
from captum_hrcam.cells import LEAST
from captum_hrcam.edges import Seen, Told, areas, without_edges

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


@pytest.mark.parametrize("size", [(7,), (30, 20), (9, 8, 7)])
def test_areas_are_scikit_learns(size):
    noise = torch.Generator().manual_seed(len(size))
    marks = torch.randn(5, 1, *size, generator=noise)
    tells = (marks + torch.randn(5, 1, *size, generator=noise)).round()  # with ties
    k = max(1, round(0.01 * marks[0].numel()))
    for found, a, b in zip(areas(marks, tells), marks.flatten(1), tells.flatten(1), strict=True):
        brightest = np.isin(np.arange(a.numel()), a.topk(k).indices)
        assert found.item() == pytest.approx(roc_auc_score(brightest, b), abs=1e-6)


def brightest_in(row: int) -> torch.Tensor:
    """(1, 1, 10, 10), brighter from row to row up to this one."""
    return torch.arange(100.0).reshape(1, 1, 10, 10).roll(row + 1, 2)


def test_the_mean_is_over_images_of_classes_that_have_a_place():
    told = Told(["fine", "middle", "deep"], 4)
    deep = brightest_in(9)
    at = {row: areas(brightest_in(row), deep).item() for row in (9, 8, 2)}
    assert at[9] == 1 > at[8] > 0.8 > 0.4 > at[2]
    of_images = [((9, 9), 0), ((2, 9), 0), ((8, 9), 1), ((2, 2), 2)]  # of class 3 there is none
    for rows, c in of_images:
        told.add([*map(brightest_in, rows), deep], torch.tensor([c]))
    assert told.areas() == pytest.approx({"fine": (at[9] + at[2] + at[8]) / 3, "middle": 1})


def test_without_a_class_that_has_a_place_all_stay():
    told = Told(["fine", "middle", "deep"], 2)
    assert all(np.isnan(area) for area in told.areas().values())
    areas = told.areas()
    sizes = {"fine": (9,), "middle": (4,), "deep": (2,)}
    kept, why = without_edges(dict.fromkeys(areas, 0.1), areas, sizes)
    assert kept == ["fine", "middle", "deep"]
    assert why == "layers: all kept, as no class was found to have a place"


SEEN = {"1": 0.4, "2": 0.7, "3": 1.0}


@pytest.mark.parametrize(
    ("seen", "told", "kept"),
    [
        (0.54, (0.65, 0.9, 1.0), "34"),
        (0.55, (0.65, 0.9, 1.0), "1234"),  # just enough
        (0.21, (0.94, 0.9, 1.0), "1234"),  # an object far smaller than the deepest cells
        (0.72, (0.65, 0.9, 1.0), "1234"),  # beside what is seen
        (0.57, (0.72, 0.8, 0.9), "1234"),  # a MobileNet on lesions, a VGG: see docs/log.rst
        (0.56, (0.76, 0.8, 0.8), "1234"),
        (0.32, (0.71, 0.9, 0.9), "34"),  # a ResNet on ultrasound
        (0.01, (0.93, 0.5, 1.0), "1234"),  # the finest alone is asked
        (0.01, (0.5, 0.5, 0.5), "34"),
    ],
)
def test_layers_kept(seen, told, kept):
    areas = dict(zip("123", told, strict=True))
    assert "".join(without_edges(SEEN | {"1": seen}, areas, SIZES)[0]) == kept


def test_says_what_it_did_and_by_how_much():
    told = {"1": 0.64, "2": 0.9, "3": 0.95}
    by = (
        "the deepest layer sees 0.40 times as much of its map as of the one it sees best, and "
        "tells where '1' marks most with an AUROC of 0.64 "
        "(0.40 + 2 x 0.64 - 1 is 0.68, 0.85 is enough)"
    )
    assert without_edges(SEEN, told, SIZES)[1] == (
        f"layers: 1, 2 left out, as '1' marks edges all over the image: {by}; solver='cascade' "
        "keeps them"
    )
    assert without_edges(SEEN, {"1": 0.64}, {"1": (64, 64), "2": (8, 8)})[1] == (
        "layers: all kept, as '1' marks edges all over the image, but fewer than two are much "
        f"coarser: {by}"
    )
    assert without_edges(SEEN, told | {"1": 0.9}, SIZES)[1] == (
        f"layers: '1' does not mark edges all over the image: {by}".replace("0.64", "0.90").replace(
            "0.68", "1.20"
        )
    )


def test_layers_after_coarser_ones_stay_as_fine_as_they_are():
    sizes, low = SIZES | {"5": (64, 64)}, dict.fromkeys("1234", 0.5)
    assert without_edges(low, low, sizes)[0] == [*"345"]


class Clutter(nn.Module):
    """The deepest layer sees the squares alone, the finer ones clutter, the finest most."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.middle = nn.Identity(), nn.AvgPool2d(2)
        self.wide, self.deep = nn.AvgPool2d(4), nn.AvgPool2d(8)
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.fc.weight.copy_(20 * torch.eye(2))

    def forward(self, x):
        squares, clutter = x[:, :2], x[:, 2:]
        self.fine(0.3 * squares + clutter)
        self.middle(0.6 * squares + clutter)
        self.wide(squares + 0.5 * clutter)
        return self.fc(self.deep(squares).mean((2, 3)))


class Blurred(Clutter):
    """The finest layer sees the squares, the deeper ones their surroundings."""

    def forward(self, x):
        wide = F.avg_pool2d(self.fine(x[:, :2]), 9, 1, 4)
        self.middle(wide)
        self.wide(wide)
        return self.fc(self.deep(wide).mean((2, 3)))


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


LAYERS = ["fine", "middle", "wide", "deep"]


def fitted(model: nn.Module, solver: str = "auto") -> HRCAM:
    x, y, _ = squares(200, 0)
    return fit_quietly(HRCAM(model, LAYERS), [(x, y)], solver=solver)


def precision(hrcam: HRCAM) -> float:
    x, y, masks = squares(40, 1)
    return metrics.pixel_average_precision(hrcam.attribute(x, y)[:, 0], masks).mean().item()


def test_auto_keeps_the_finest_layer_that_alone_sees_the_object():
    hrcam = fitted(Blurred())
    assert all(weight.any() for weight in hrcam.weights.values())
    assert hrcam.report.choices[2].startswith("layers: 'fine' does not mark edges all over the")
    assert precision(hrcam) > 0.9


def test_auto_leaves_out_what_marks_clutter():
    hrcam = fitted(Clutter())
    assert [name for name in LAYERS if hrcam.weights[name].any()] == ["wide", "deep"]
    assert any(
        "left out, as 'fine' marks edges all over the image: the deepest" in choice
        for choice in hrcam.report.choices
    )
    assert any("layers count by confirmation, " in choice for choice in hrcam.report.choices)
    assert precision(hrcam) > precision(fitted(Clutter(), "cascade")) + 0.2


def test_a_cascade_that_was_asked_for_keeps_all():
    hrcam = fitted(Clutter(), "cascade")
    assert all(weight.any() for weight in hrcam.weights.values())
    assert not any(choice.startswith("layers: ") for choice in hrcam.report.choices)
