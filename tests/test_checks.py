"""Channels that come last are told from those that come first, at the limits."""

import pytest
import torch

from captum_hrcam.checks import no_channels_last, shallow_to_deep

# image, layer, whether the layer itself tells that its last axis are channels
LAST = {
    "an eighth of each side": ((1, 32, 32), (4, 4, 64), False),
    "rounded": ((1, 30, 30), (15, 14, 64), False),
    "as few channels as cells, told": ((1, 32, 32), (16, 16, 16), True),
    "at full resolution, told": ((1, 32, 32), (32, 32, 8), True),
    "of a volume": ((1, 16, 16, 16), (4, 4, 4, 32), False),
}
FIRST = {
    "a linear layer along one side of a map": ((1, 64, 64), (16, 32, 20), True),
    "more channels than the image has rows": ((1, 32, 64), (48, 32, 20), True),
    "sides of two strides": ((1, 32, 32), (16, 4, 40), False),
    "a map wider than the image": ((1, 32, 32), (32, 32, 64), False),
    "no wider than the image": ((1, 32, 32), (16, 16, 32), False),
    "a series, where both axes may be either": ((1, 64), (16, 128), True),
    "tokens": ((1, 32, 32), (16, 64), True),
}


def check(image, layer, is_told):
    no_channels_last("name", torch.zeros(2, *layer), torch.zeros(2, *image), is_told)


@pytest.mark.parametrize("name", LAST)
def test_refuses_channels_that_come_last(name):
    with pytest.raises(ValueError, match=r"layer 'name' gave .*movedim\(-1, 1\)"):
        check(*LAST[name])


@pytest.mark.parametrize("name", FIRST)
def test_takes_channels_that_come_first(name):
    check(*FIRST[name])


def test_a_cascade_takes_layers_of_one_resolution_in_any_order():
    shallow_to_deep(["b", "a"], {"a": (8, 8), "b": (8, 8)})
    shallow_to_deep(["b", "a"], {"a": (8, 8), "b": (16, 16)})  # a decoder's
    shallow_to_deep(["a", "b"], {"a": (8, 8), "b": (16, 16)})
    with pytest.raises(ValueError, match=r"'b' \(4, 16\) is named before 'a' \(9, 9\)"):
        shallow_to_deep(["b", "a"], {"a": (9, 9), "b": (4, 16)})
