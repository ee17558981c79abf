"""Which layers are too fine: the rule, number by number."""

import pytest

from captum_hrcam.grain import octaves, without_grain

SIZES = {"1": (64, 64), "2": (32, 32), "3": (16, 16), "4": (8, 8)}


def confirmed(*r: float) -> dict[str, float]:
    return dict(zip("1234", r, strict=False))


@pytest.mark.parametrize(
    ("r", "kept"),
    [
        ((0.6, 0.7, 0.7), "1234"),
        ((0.51, 1.0, 0.9), "1234"),
        ((0.5, 1.0, 0.9), "1234"),  # just enough
        ((0.49, 1.0, 0.9), "34"),
        ((0.2, 0.3, 0.3), "1234"),  # none is much confirmed, but all alike
        ((0.1, 0.1, 0.9), "1234"),  # the second layer's grain would leave only the last
        ((0.9, 0.8, 0.2), "1234"),
        ((0.01, 0.01, 0.01), "1234"),  # a head that knows nothing
    ],
)
def test_layers_kept(r, kept):
    assert "".join(without_grain(confirmed(*r), SIZES)[0]) == kept


def test_five_stages_keep_those_four_times_as_wide():
    sizes = {str(i): (224 // 2**i,) * 2 for i in range(1, 6)}
    names, _ = without_grain({"1": 0.1, "2": 0.8, "3": 0.8, "4": 0.9}, sizes)
    assert names == ["3", "4", "5"]
    names, _ = without_grain({"1": 0.1, "2": 0.1, "3": 0.8, "4": 0.9}, sizes)
    assert names == ["4", "5"]


def test_layers_of_one_resolution_are_all_kept():
    sizes = dict.fromkeys("1234", (14, 14))
    assert without_grain(confirmed(0.1, 0.8, 0.8), sizes)[0] == list("1234")


def test_a_fine_layer_after_coarser_ones_stays():
    """As a decoder's, which sees the patch as they do."""
    sizes = SIZES | {"5": (64, 64)}
    assert without_grain(dict(zip("1234", (0.1, 0.8, 0.8, 0.9), strict=True)), sizes)[0] == [*"345"]


def test_layers_after_a_coarser_one_are_not_asked():
    """What deeper layers say of a decoder's last layer but one is what the last one says."""
    sizes = SIZES | {"5": (16, 16), "6": (32, 32), "7": (64, 64)}
    names, why = without_grain(dict.fromkeys("12345", 0.9) | {"6": 0.2}, sizes)
    assert names == [*"1234567"]
    assert "confirm '1' 1.00 times" in why


def test_one_or_two_layers_are_kept():
    assert without_grain({}, {"1": (8, 8)}) == (["1"], "layers: the only one")
    assert without_grain({"1": 0.01}, {"1": (64, 64), "2": (8, 8)}) == (
        ["1", "2"],
        "layers: all kept, as two are too few to tell which sees only grain",
    )


def test_says_what_it_did_and_by_how_much():
    _, why = without_grain(confirmed(0.2, 0.6, 0.8), SIZES)
    assert why.startswith("layers: 1, 2 left out, as '1' sees only the grain of a texture: deeper ")
    assert ": deeper layers confirm '1' 0.25 times" in why
    assert why.endswith("(0.5 is enough); solver='cascade' keeps them")
    _, why = without_grain(confirmed(0.8, 0.6, 0.7), SIZES)
    assert why == (
        "layers: none sees only the grain of a texture: deeper layers confirm '2' 0.75 times as "
        "well as the best confirmed layer (0.5 is enough)"
    )
    _, why = without_grain(confirmed(0.1, 0.1, 0.9), SIZES)
    assert why == (
        "layers: all kept, as '2' sees only the grain of a texture, but fewer than two are much "
        "coarser: deeper layers confirm '2' 0.11 times as well as the best confirmed layer (0.5 is "
        "enough)"
    )


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
