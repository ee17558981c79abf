"""How much the deepest layer sees of each, against NumPy's correlations; and when that is doubt."""

import pytest
import torch
import torch.nn.functional as F
from conftest import fit_quietly
from torch import nn

from captum_hrcam import HRCAM, metrics
from captum_hrcam.cells import LEAST
from captum_hrcam.edges import Seen, without_finest

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
    """Two layers see the squares among clutter that is as bright, two deeper ones the squares."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.middle = nn.Identity(), nn.AvgPool2d(2)
        self.coarse, self.deep = nn.AvgPool2d(4), nn.AvgPool2d(2)
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.fc.weight.copy_(20 * torch.eye(2))

    def forward(self, x):
        self.middle(self.fine(x[:, :2] + x[:, 2:]))
        return self.fc(self.deep(self.coarse(x[:, :2])).mean((2, 3)))


class Blurred(Clutter):
    """The finest layer sees the squares, the deeper ones their surroundings."""

    def forward(self, x):
        f = self.fine(x[:, :2])
        wide = F.avg_pool2d(f, 17, 1, 8)
        return self.fc(self.deep(self.coarse(wide)).mean((2, 3)) + 0 * self.middle(wide).sum())


def squares(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A square in channel 0 or 1, which is the class; clutter of its size in channels 2 and 3."""
    noise = torch.Generator().manual_seed(seed)
    x, masks = torch.zeros(n, 4, 32, 32), torch.zeros(n, 32, 32, dtype=torch.bool)
    for i in range(n):
        corners = torch.randint(27, (9, 2), generator=noise).tolist()
        for j, (row, column) in enumerate(corners):
            channel = i % 2 if j == 0 else 2 + j % 2
            x[i, channel, row : row + 5, column : column + 5] = 1
        row, column = corners[0]
        masks[i, row : row + 5, column : column + 5] = True
    return x + 0.1 * torch.randn(x.shape, generator=noise), torch.arange(n) % 2, masks


LAYERS = ["fine", "middle", "coarse", "deep"]


def fitted(model: nn.Module, solver: str) -> tuple[HRCAM, float]:
    x, y, _ = squares(200, 0)
    hrcam = fit_quietly(HRCAM(model, LAYERS), [(x, y)], solver=solver)
    x, y, masks = squares(40, 1)
    maps = hrcam.attribute(x, y)[:, 0]
    return hrcam, metrics.pixel_average_precision(maps, masks).mean().item()


def test_auto_leaves_out_what_marks_edges_everywhere():
    ours, ap = fitted(Clutter(), "auto")
    of_all, ap_of_all = fitted(Clutter(), "cascade")
    print(ours.report, ap, ap_of_all)
    assert ap > ap_of_all + 0.1


def test_auto_keeps_what_alone_sees_the_object():
    ours, ap = fitted(Blurred(), "auto")
    print(ours.report, ap)
    assert all(w.any() for w in ours.weights.values())
