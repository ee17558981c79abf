"""Models whose use of each pixel is known, and random images with maps."""

import functools
import math

import pytest
import torch
from torch import nn

SIZES = [(13,), (6, 7), (3, 4, 5)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def linear_model(size, channels=2, k=3):
    """Logits that are linear in every pixel, so that each of them matters."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * math.prod(size), k)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator(3)))
    return model


def batch(size, n=3, channels=2):
    draw = functools.partial(torch.randn, generator=generator(), dtype=torch.float64)
    return draw(n, channels, *size), draw(n, 1, *size)


def softmax_of(model, image, c):
    logits = model(image[None])[0].tolist()
    return math.exp(logits[c]) / sum(map(math.exp, logits))


class Recorder(nn.Module):
    """Keeps the images that it is shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x.clone())
        return x.flatten(1)[:, :3]


def refused(figure, error, match, forward=None, inputs=None, maps=None, **options):
    """Before the model runs."""
    x, given = batch((6, 7))
    model = Recorder() if forward is None else forward
    with pytest.raises(error, match=match):
        figure(
            model,
            x if inputs is None else inputs,
            given if maps is None else maps,
            0,
            **options,
        )
    assert getattr(model, "seen", []) == []
