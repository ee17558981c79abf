"""Figures: what is drawn where, on any map, without pyplot."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from captum_hrcam.visualize import SIGNS, comparison_figure

IMAGES = torch.rand(2, 1, 12, 16, generator=torch.Generator().manual_seed(0))
SPOT = torch.zeros(2, 1, 12, 16)
SPOT[:, :, 4:7, 5:9] = 1


def pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def test_grid_has_a_row_per_image_and_a_column_per_method():
    figure, axes = comparison_figure(IMAGES, {"A": SPOT, "B": SPOT[:, 0]}, captions=["x", "y"])
    assert axes.shape == (2, 3)
    assert [ax.get_title() for ax in axes[0]] == ["image", "A", "B"]
    assert [row[0].get_ylabel() for row in axes] == ["x", "y"]
    assert pixels(figure).std() > 0


def test_no_pyplot_figure_is_left_open():
    before = plt.get_fignums()
    comparison_figure(IMAGES, {"A": SPOT})
    assert plt.get_fignums() == before


def test_heat_lies_where_the_map_is_high_and_the_image_shows_elsewhere():
    _, axes = comparison_figure(IMAGES, {"A": SPOT})
    heat = axes[0, 1].images[-1]
    drawn = heat.cmap(heat.norm(heat.get_array()))
    assert (drawn[4:7, 5:9, 3] > 0.8).all()
    assert (drawn[:3, :, 3] == 0).all()


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("values", [0.0, -1.0, 1.0, 1e-12, -1e-12])
def test_constant_zero_negative_and_tiny_maps_are_drawn(sign, values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure, axes = comparison_figure(IMAGES, {"A": torch.full_like(SPOT, values)}, sign=sign)
        pixels(figure)
    said = [text.get_text() for text in axes[0, 1].texts]
    wanted = {"positive": values > 0, "negative": values < 0}.get(sign, values != 0)
    kind = sign if sign in ("positive", "negative") else "non-zero"
    assert said == ([] if wanted else [f"no {kind} part"])


def test_both_signs_are_centred_at_zero():
    _, axes = comparison_figure(IMAGES, {"A": SPOT - 2 * SPOT.flip(3)}, sign="all")
    heat = axes[0, 1].images[-1]
    assert heat.get_clim() == (-1, 1)
    red, blue = heat.cmap(1.0), heat.cmap(0.0)
    assert red[0] > red[2]
    assert blue[2] > blue[0]


def test_masks_are_outlined_in_every_panel():
    masks = SPOT[:, 0].bool()
    masks[1] = False
    _, axes = comparison_figure(IMAGES, {"A": SPOT}, masks=masks)
    assert [len(ax.collections) for ax in axes.flat] == [1, 1, 0, 0]


def test_colour_images_of_any_scale():
    figure, axes = comparison_figure(torch.randn(2, 3, 12, 16) * 50, {"A": SPOT})
    shown = axes[0, 0].images[0].get_array()
    assert shown.shape == (12, 16, 3)
    assert shown.min() == 0
    assert shown.max() == 1
    pixels(figure)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": IMAGES[0]}, r"images: got shape \(1, 12, 16\)"),
        ({"images": torch.rand(2, 2, 12, 16)}, "images: got 2 channels"),
        (
            {"maps": {"A": SPOT[:1]}},
            r"maps\['A'\]: got shape \(1, 1, 12, 16\), expected \(2, 1, 12",
        ),
        ({"maps": {"A": SPOT * float("nan")}}, r"maps\['A'\]: NaN or infinity"),
        ({"masks": SPOT[:, 0, :5]}, "masks: got shape"),
        ({"captions": ["x"]}, "captions: got 1 for 2 images"),
        ({"sign": "both"}, "sign: got 'both'"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        comparison_figure(**{"images": IMAGES, "maps": {"A": SPOT}, **arguments})
