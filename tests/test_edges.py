"""Whether the model uses what the finest layer marks: the rule, number by number, and on models."""

import pytest
import torch
import torch.nn.functional as F
from conftest import fit_quietly
from torch import nn

from captum_hrcam import HRCAM, metrics
from captum_hrcam.asking import Asking
from captum_hrcam.edges import ask, without_edges
from captum_hrcam.few_images import FewImages
from captum_hrcam.fusion import upsample
from captum_hrcam.perturbation import deletion_curve

SIZES = {"1": (64, 64), "2": (32, 32), "3": (16, 16), "4": (8, 8)}


def costs(finest: float, wide: float, n: int = 50, spread: float = 0.0) -> torch.Tensor:
    """(n, 2) with these means; the differences have this deviation, the sums none."""
    found = torch.tensor([[finest, wide]]).repeat(n, 1)
    sign = (-1.0) ** torch.arange(n)
    return found + spread / 2 * torch.stack([-sign, sign], 1)


def kept(cost: torch.Tensor, like: float = 0.4, sizes: dict = SIZES) -> str:
    return "".join(without_edges(cost, torch.full((len(cost),), like), sizes)[0])


@pytest.mark.parametrize(
    ("cost", "like", "expected"),
    [
        (costs(0.1, 0.3), 0.4, "34"),
        (costs(0.1, 0.3), 1.0, "34"),
        (costs(0.1, 0.3), 1.3, "1234"),  # enough
        (costs(0.3, 0.3), 0.42, "34"),
        (costs(0.3, 0.3), 0.44, "1234"),
        (costs(0.3, 0.3), -0.5, "34"),  # what it marks is contradicted
        (costs(0.3, 0.1), 0.4, "1234"),
        (costs(0.1, 0.3, spread=0.28), 1.0, "34"),  # by 1.1 standard errors
        (costs(0.1, 0.3, spread=0.34), 1.0, "1234"),  # by .9: too few images to tell
        (costs(0.0, 0.0), 0.4, "1234"),  # a model that blur does not touch
        (costs(0.001, 0.009), 0.4, "1234"),  # that depends on next to nothing
        (costs(0.001, 0.011), 0.4, "34"),
        (costs(-0.2, -0.1), 0.4, "1234"),
        (costs(0.1, torch.nan), 0.4, "1234"),  # a model that does not take blurred images
        (costs(0.1, 0.3), torch.nan, "1234"),
        (costs(0.1, 0.3, n=8), 0.4, "34"),
        (costs(0.1, 0.3, n=7), 0.4, "1234"),
        (costs(0.1, 0.3, n=0), 0.4, "1234"),
    ],
)
def test_layers_kept(cost, like, expected):
    assert kept(cost, like) == expected


def test_images_where_nothing_is_at_stake_have_no_say():
    """As the healthy, of which most slices are."""
    healthy = costs(-0.03, 0.03, n=100, spread=0.05)
    assert kept(torch.cat([costs(0.2, 0.15), healthy])) == "1234"
    assert kept(torch.cat([costs(0.1, 0.3), -healthy])) == "34"
    costly, like = torch.cat([costs(0.2, 0.2), costs(0.0, 0.0)]), torch.arange(100) < 50
    assert without_edges(costly, like.float(), SIZES)[0] == [*"1234"]
    assert without_edges(costly, 1 - like.float(), SIZES)[0] == [*"34"]


def test_says_what_it_did_and_by_how_much():
    by = (
        "blurring away what it marks most costs the class 0.100 of its probability, and what 3, 4 "
        "mark most 0.300; the maps correlate 0.60; the costs' ratio times this is 0.20 ± 0.02 (on "
        "50 images; less than 0.43 by more than this error would be edges)"
    )
    cost, like = costs(0.1, 0.3, spread=0.1), torch.full((50,), 0.6)
    assert without_edges(cost, like, SIZES)[1] == (
        f"layers: 1, 2 left out, as '1' marks edges all over the image: {by}; solver='cascade' "
        "keeps them"
    )
    by = by.replace("0.100", "0.400").replace("0.20 ± 0.02", "0.80 ± 0.03")
    assert without_edges(cost + torch.tensor([0.3, 0.0]), like, SIZES)[1] == (
        f"layers: '1' does not mark edges all over the image: {by}"
    )
    assert without_edges(cost / 100, like, SIZES)[1] == (
        "layers: all kept, as blurring away what 3, 4 mark most costs the class 0.003 of its "
        "probability, which tells nothing of edges"
    )
    assert without_edges(cost, like, {"1": (64, 64), "2": (8, 8)})[1] == (
        "layers: all kept, as fewer than two are much coarser than '1'"
    )
    assert without_edges(cost[:1], like[:1], SIZES)[1] == (
        "layers: all kept, as of only 1 images the model gives a score of each class and sees "
        "theirs: too few to tell whether a layer marks edges"
    )


def test_layers_after_coarser_ones_stay_as_fine_as_they_are():
    assert kept(costs(0.1, 0.3), sizes=SIZES | {"5": (64, 64)}) == "345"


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


def asked(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``ask`` finds of layers whose channels are the averages of an image's first two."""
    present = nn.functional.one_hot(y, 2).double()
    widths = {"fine": 1, "middle": 2, "wide": 4, "deep": 8}

    def forward(inputs, read):
        for name, width in widths.items():
            read(name, F.avg_pool2d(inputs[0][:, :2], width))

    ones = {name: torch.ones(2) for name in widths}
    zeros = {name: torch.zeros(2) for name in widths}
    few = FewImages(forward, (x,), present.bool(), zeros, ones)
    asking = Asking(lambda inputs: model(inputs[0]), (x,), present, "cross_entropy")
    sizes = {name: (32 // width, 32 // width) for name, width in widths.items()}
    head = {name: torch.eye(2) for name in widths}
    return ask(few, head, sizes, asking)


def unbiased() -> Clutter:
    model = Clutter()
    nn.init.zeros_(model.fc.bias)
    return model


def test_a_map_that_does_not_vary_is_like_none():
    x, y, _ = squares(6, 0)
    x[4, :2] = 0.0
    _, likeness = asked(unbiased(), x, y)
    assert (likeness == 0).tolist() == [False] * 4 + [True, False]


def test_costs_are_those_of_the_map_and_of_its_average_over_the_wider_cells():
    x, y, _ = squares(6, 0)
    model = unbiased()
    found, likeness = asked(model, x, y)
    assert len(found) == len(likeness) == 6  # the model sees the class of each

    for i in range(6):
        image, c = x[i : i + 1], int(y[i])

        def score(images, c=c):
            return model(images).softmax(1)[:, c]

        of_class = image[:, c : c + 1]
        up = [upsample(F.avg_pool2d(of_class, width), (32, 32)) for width in (1, 4, 8)]
        fine, averaged, wide = (
            (score(image)[:, None] - deletion_curve(score, image, a, (0.02, 0.05))).mean().item()
            for a in (up[0], up[1], up[1] + up[2])
        )
        expected = torch.tensor([(fine + averaged) / 2, wide]).double()
        torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=1e-4)
        pairs = (torch.stack([a.flatten(), (up[1] + up[2]).flatten()]) for a in up[:2])
        alike = sum(torch.corrcoef(pair)[0, 1].item() for pair in pairs) / 2
        assert likeness[i].item() == pytest.approx(alike, abs=1e-5)


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
    assert any("'fine' does not mark edges all over the" in c for c in hrcam.report.choices)
    assert precision(hrcam) > 0.9


def test_auto_leaves_out_what_marks_clutter():
    hrcam = fitted(Clutter())
    assert [name for name in LAYERS if hrcam.weights[name].any()] == ["wide", "deep"]
    assert any(
        "left out, as 'fine' marks edges all over the image: blurring" in choice
        for choice in hrcam.report.choices
    )
    assert any("layers count by confirmation, " in choice for choice in hrcam.report.choices)
    assert precision(hrcam) > precision(fitted(Clutter(), "cascade")) + 0.2


def test_a_cascade_that_was_asked_for_keeps_all():
    hrcam = fitted(Clutter(), "cascade")
    assert all(weight.any() for weight in hrcam.weights.values())
    assert not any(choice.startswith("layers: ") for choice in hrcam.report.choices)


def trained(x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    """A small CNN with max pooling; it calls all of these images right."""

    def block(n_in: int, n_out: int) -> nn.Sequential:
        conv = nn.Conv2d(n_in, n_out, 3, padding=1)
        return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.ReLU(), nn.MaxPool2d(2))

    torch.manual_seed(0)
    stages = block(1, 8), block(8, 12), block(12, 16), block(16, 24)
    model = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 2))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(120):
        rows = torch.randint(len(x), (32,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    assert (model.eval()(x).argmax(1) == y).all()
    return model


def test_auto_keeps_fine_layers_that_see_objects_far_smaller_than_the_deepest_cells():
    """The deepest layer sees little of such an object, and next to nothing of the finest map."""
    noise = torch.Generator().manual_seed(0)
    x = 0.5 * torch.randn(240, 1, 32, 32, generator=noise)
    y, masks = torch.arange(240) % 2, torch.zeros(240, 32, 32, dtype=torch.bool)
    for i in range(1, 240, 2):
        row, column = torch.randint(27, (2,), generator=noise).tolist()
        x[i, 0, row : row + 6, column : column + 6] += 1.5
        masks[i, row : row + 6, column : column + 6] = True
    model = trained(x, y)
    hrcam = fit_quietly(HRCAM(model, ["0.2", "1.2", "2.2", "3.2"]), [(x, y)])
    assert all(weight.any() for weight in hrcam.weights.values())
    maps = hrcam.attribute(x[1:80:2], target=1)[:, 0]
    assert metrics.pixel_average_precision(maps, masks[1:80:2]).mean() > 0.9
