"""Which layers are too fine: what the deepest layer sees of each; the rule, number by number."""

import pytest
import torch
import torch.nn.functional as F

from captum_hrcam.grain import LEAST, Seen, octaves, without_grain

SIZES = {"1": (64, 64), "2": (32, 32), "3": (16, 16), "4": (8, 8)}


def seen(*share: float) -> dict[str, float]:
    return dict(zip("1234", share, strict=False))


@pytest.mark.parametrize(
    ("shares", "kept"),
    [
        ((0.6, 0.7, 0.7), "1234"),
        ((0.58, 1.0, 0.9), "1234"),
        ((0.57, 1.0, 0.9), "1234"),  # just enough
        ((0.56, 1.0, 0.9), "234"),
        ((0.4, 1.0, 0.9), "234"),
        ((0.39, 1.0, 0.9), "34"),
        ((0.56, 0.56, 1.0), "34"),  # one step further than the second
        ((0.1, 1.0, 0.56), "34"),  # the third would leave only the last
        ((0.2, 0.3, 0.3), "1234"),  # little is seen of any, but of all alike
        ((0.1, 0.1, 0.9), "34"),  # the second layer's grain would leave only the last
        ((0.9, 0.8, 0.2), "1234"),
        ((0.01, 0.01, 0.01), "1234"),  # a head that knows nothing
    ],
)
def test_layers_kept(shares, kept):
    assert "".join(without_grain(seen(*shares), SIZES)[0]) == kept


def test_five_stages_keep_those_four_times_as_wide():
    sizes = {str(i): (224 // 2**i,) * 2 for i in range(1, 6)}
    names, _ = without_grain({"1": 0.1, "2": 0.8, "3": 0.8, "4": 0.9}, sizes)
    assert names == ["3", "4", "5"]
    for third in (0.1, 0.5, 0.8):
        names, _ = without_grain({"1": 0.1, "2": 0.1, "3": third, "4": 0.9}, sizes)
        assert names == ["4", "5"]


def test_three_stages_keep_two():
    sizes = {str(i): (64 // 2**i,) * 2 for i in range(3)}
    assert without_grain({"0": 0.1, "1": 0.9}, sizes)[0] == ["1", "2"]


def test_layers_of_one_resolution_are_all_kept():
    sizes = dict.fromkeys("1234", (14, 14))
    kept, why = without_grain(seen(0.1, 0.8, 0.8), sizes)
    assert kept == list("1234")
    assert why.startswith("layers: all stay, too few are coarser: of the map of '1' ")


def test_one_or_two_layers_are_kept():
    assert without_grain({}, {"1": (8, 8)})[0] == ["1"]
    assert without_grain({"1": 0.01}, {"1": (64, 64), "2": (8, 8)})[0] == ["1", "2"]


def test_says_what_it_did_and_by_how_much():
    _, why = without_grain(seen(0.2, 0.6, 0.8), SIZES)
    assert why.startswith("layers: 1, 2 left out, as for grain or edges everywhere: of the map ")
    assert why.endswith(
        "of '1' the deepest layer sees 0.25 times as much as of the one it sees best (0.57 is "
        "enough); solver='cascade' keeps them"
    )
    _, why = without_grain(seen(0.8, 0.6, 0.7), SIZES)
    assert why == (
        "layers: none sees grain or edges alone: of the map of '2' the deepest layer sees 0.75 "
        "times as much as of the one it sees best (0.57 is enough)"
    )


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_seen_is_the_root_of_two_correlations_within_images(axes):
    noise = torch.Generator().manual_seed(axes)
    sizes = [(12,) * axes, (6,) * axes, (3,) * axes]
    maps = [torch.randn(5, 1, *size, generator=noise) for size in sizes]
    maps[0] += F.interpolate(maps[2], sizes[0]) + 9 * torch.randn(5, 1, *[1] * axes)  # levels
    maps[1] -= F.interpolate(maps[2], sizes[1])  # what the deepest layer speaks against
    found = Seen(["1", "2", "3"])
    found.add([z[:2] for z in maps])
    found.add([z[2:] for z in maps])

    def correlation(a, b):
        a, b = (z - z.flatten(1).mean(1).reshape(-1, *[1] * (axes + 1)) for z in (a, b))
        return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1]

    mode = ("linear", "bilinear", "trilinear")[axes - 1]
    own = correlation(maps[0], F.interpolate(maps[2], sizes[0], mode=mode))
    pooled = correlation(F.interpolate(maps[0], sizes[2], mode="area"), maps[2])
    assert own > 0.2
    assert found.found() == pytest.approx({"1": (own * pooled).sqrt().item(), "2": LEAST})


def test_of_a_small_object_more_is_seen_than_of_edges_all_over():
    noise = torch.Generator().manual_seed(0)
    deep = torch.zeros(40, 1, 4, 4)
    deep[torch.arange(40), 0, torch.arange(40) % 4, torch.arange(40) // 10] = 1
    small = F.interpolate(deep, (32, 32)) * 0
    small[..., 3::8, 3::8] = deep  # a pixel in each cell that lights up
    edges = F.interpolate(deep, (32, 32)) + 2 * torch.randn(40, 1, 32, 32, generator=noise)
    share = {}
    for name, fine in (("small", small), ("edges", edges)):
        of_these = Seen(["1", "2"])
        of_these.add([fine, deep])
        share[name] = of_these.found()["1"]
    assert share["small"] > share["edges"]


@pytest.mark.parametrize(
    ("fine", "coarse", "expected"),
    [
        ((64,), (16,), 2),
        ((113, 113), (29, 29), 2),
        ((64, 64), (64, 64), 0),
        ((8, 56, 56), (8, 14, 14), 1),  # 4 x 4 in two of three dimensions
        ((8, 56, 56), (4, 14, 14), 2),
        ((1, 64), (1, 16), 2),  # a signal as an image
        ((1, 1), (1, 1), 0),
        ((100,), (36,), 1),
        ((100,), (35,), 2),
    ],
)
def test_octaves(fine, coarse, expected):
    assert octaves(fine, coarse) == expected
