"""Channels that come last are told from those that come first, at the limits; images alone."""

import pytest
import torch
from torch import nn

from captum_hrcam.checks import batches, failure_explained, no_channels_last, shallow_to_deep

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


X, Y = torch.zeros(2, 1, 4, 4), [0, 1]


@pytest.mark.parametrize(
    "data", [[(X, Y)], [X], [X, X], (X, X), [X, (X, Y)], [(X, Y), (X, Y)], [X, X[0, 0, :3]], []]
)
def test_takes_batches_in_a_list_or_tuple_with_or_without_labels(data):
    batches("data", data)


def test_a_cascade_takes_layers_of_one_resolution_in_any_order():
    shallow_to_deep(["b", "a"], {"a": (8, 8), "b": (8, 8)})
    shallow_to_deep(["b", "a"], {"a": (8, 8), "b": (16, 16)})  # a decoder's
    shallow_to_deep(["a", "b"], {"a": (8, 8), "b": (16, 16)})
    with pytest.raises(ValueError, match=r"'b' \(4, 16\) is named before 'a' \(9, 9\)"):
        shallow_to_deep(["b", "a"], {"a": (9, 9), "b": (4, 16)})


@pytest.mark.parametrize("d", [1, 2, 3])
def test_an_image_alone_is_told_by_the_first_convolution(d):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1]
    model = nn.Sequential(conv(2, 3, 1), nn.Flatten(), nn.Linear(3 * 4**d, 2), conv(5, 5, 1))
    x = torch.zeros(2, *[4] * d)
    with (
        pytest.raises(ValueError, match=r"data: got shape \(2, 4.*takes \(N, 2, .*image\[None\]"),
        failure_explained("data", (torch.zeros(7), "other", x), model),
    ):
        model(x)


@pytest.mark.parametrize(
    ("shape", "model"),
    [
        ((1, 2, 4, 4), nn.Conv2d(2, 3, 1)),
        ((3, 4, 4), nn.Conv2d(2, 3, 1)),  # as a batch to which the model adds the channel
        ((2, 4, 4), nn.Conv1d(2, 3, 1)),
        ((2, 4, 4), nn.Linear(4, 4)),
        ((2, 4, 4), None),  # of a function
    ],
)
def test_other_errors_stay_as_they_are(shape, model):
    with pytest.raises(KeyError), failure_explained("data", (torch.zeros(shape),), model):
        raise KeyError


def test_a_model_that_runs_on_an_image_alone_is_left_alone():
    with failure_explained("data", (torch.zeros(2, 4, 4),), nn.Conv2d(2, 3, 1)):
        pass


@pytest.mark.parametrize("d", [1, 2, 3])
def test_images_without_their_channels_are_told_by_the_first_convolution(d):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1](1, 3, 3)
    x = torch.zeros(5, *[4] * d)
    message = r"data: got shape \(5, 4.*takes \(N, 1, .*images\[:, None\]"
    with pytest.raises(ValueError, match=message), failure_explained("data", (x,), conv):
        conv(x)


@pytest.mark.parametrize("of_images", [torch.float64, torch.float16, torch.uint8])
def test_images_of_another_dtype_are_told(of_images):
    conv = nn.Conv2d(1, 3, 3).bfloat16()
    x = torch.zeros(5, 1, 4, 4, dtype=of_images)
    message = rf"data: got {of_images}, but the .* weights are torch.bfloat16.*\.to\(torch.bfloat16"
    with (
        pytest.raises(ValueError, match=message) as refused,
        failure_explained("data", (torch.zeros(5, dtype=int), x), conv),
    ):
        conv(x)
    assert isinstance(refused.value.__cause__, RuntimeError)


@pytest.mark.parametrize("shape", [(5, 1, 4, 4), (5, 4, 4), (5, 4)])
@pytest.mark.parametrize("error", [RuntimeError("out of memory"), OSError("no type, no channels")])
def test_other_failures_of_a_model_stay_as_they_are(shape, error):
    x = torch.zeros(shape, dtype=torch.float64)
    with (
        pytest.raises(type(error)) as raised,
        failure_explained("data", (x,), nn.Conv2d(1, 3, 3)),
    ):
        raise error
    assert raised.value is error
