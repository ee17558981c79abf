"""Figures: what is drawn where, on any map, without pyplot."""

import itertools
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import BY_NAME, fitted
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from captum_hrcam import Evaluation
from captum_hrcam.visualize import (
    boxes_figure,
    comparison_figure,
    layers_figure,
    roc_figure,
    weights_figure,
)
from captum_hrcam.visualize.comparison import SIGNS

IMAGES = torch.rand(2, 1, 12, 16, generator=torch.Generator().manual_seed(0))
SPOT = torch.zeros(2, 1, 12, 16)
SPOT[:, :, 4:7, 5:9] = 1
PARTS = {"early": 2 * SPOT, "late": -SPOT.flip(3)}
WEIGHTS = {"early": torch.randn(2, 5), "layer4.2.relu": 3 * torch.randn(2, 40)}
FPR = np.linspace(0, 1, 101)
MEDIAN = "#D55E00"


def frame() -> pd.DataFrame:
    """As evaluate() gives it: two methods, 2 x 3 metrics, two of nine images undefined for A."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"image": i, "method": method, "metric": f"{rate} {t}", "value": value}
        for t in (0.3, 0.5, 0.8)
        for rate in ("sensitivity", "specificity")
        for method in ("A", "B")
        for i, value in enumerate(rng.random(9))
        if not (method == "A" and i > 6) or rate == "specificity"
    )


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


FIGURES = {
    "comparison": lambda: comparison_figure(
        IMAGES, {"A": SPOT, "B": -SPOT}, captions=["lesion\nscore 3.1", "y"], colorbar=True
    ),
    "layers": lambda: layers_figure(IMAGES, PARTS, masks=SPOT, captions=["x", "y"]),
    "weights": lambda: weights_figure(WEIGHTS),
    "boxes": lambda: boxes_figure(frame()),
    "roc": lambda: roc_figure({"A": (FPR, FPR**0.5)}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_pyplot_figure_is_left_open(name):
    before = plt.get_fignums()
    FIGURES[name]()
    assert plt.get_fignums() == before


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_saved_in_a_journals_width_with_legible_text(name, suffix, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure, _ = FIGURES[name]()
        figure.savefig(tmp_path / f"figure.{suffix}")
    assert (tmp_path / f"figure.{suffix}").stat().st_size > 1000
    assert figure.get_figwidth() <= 7.2
    pixels(figure)  # lays it out once more, for the screen
    drawn = figure.get_tightbbox(figure.canvas.get_renderer())
    assert min(drawn.x0, drawn.y0) >= -0.01
    assert drawn.x1 <= figure.get_figwidth() + 0.01
    assert drawn.y1 <= figure.get_figheight() + 0.01
    assert min(t.get_fontsize() for t in figure.findobj(Text) if t.get_text()) >= 7


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


@pytest.mark.parametrize("sign", SIGNS)
def test_colour_bar_says_what_each_maps_own_scale_means(sign):
    figure, axes = comparison_figure(IMAGES, {"A": SPOT}, sign=sign, colorbar=True)
    (bar,) = set(figure.axes) - set(axes.flat)
    high = {"negative": "most negative", "all": "+"}.get(sign, "high")
    assert [t.get_text() for t in bar.get_xticklabels()][-2:] == ["0", high]
    assert bar.get_xlabel() == "each map on its own scale"


@pytest.mark.parametrize("sign", SIGNS)
def test_a_limit_draws_all_maps_on_one_scale(sign):
    a = SPOT - SPOT.flip(3)
    maps = {"A": torch.cat([a[:1], 4 * a[1:]])}
    for limit in (2.0, torch.tensor(2.0)):
        _, axes = comparison_figure(IMAGES, maps, sign=sign, limit=limit)
        faint, strong = (ax.images[-1].get_array() for ax in axes[:, 1])
        assert np.abs(faint).max() == 0.5
        assert np.abs(strong).max() == 1  # saturates
        assert (faint.min() < 0) == (sign == "all")
    assert axes[0, 1].images[-1].get_clim() == (-1 if sign == "all" else 0, 1)


def test_a_method_has_one_scale_for_its_images():
    maps = {"A": torch.cat([SPOT[:1], 4 * SPOT[1:]]), "B": 100 * SPOT}
    figure, axes = comparison_figure(IMAGES, maps, limit="method", colorbar=True)
    strongest = [[ax.images[-1].get_array().max() for ax in row[1:]] for row in axes]
    assert strongest == [[0.25, 1], [1, 1]]
    assert figure.axes[-1].get_xlabel() == "each method on one scale"


def test_one_outlier_does_not_set_a_methods_scale():
    a = 1 + torch.rand(2, 1, 40, 40)
    a[1, 0, 0, 0] = 20
    images = torch.rand(2, 1, 40, 40)
    _, axes = comparison_figure(images, {"A": a}, limit="method")
    assert axes[0, 1].images[-1].get_array().mean() > 0.5
    _, axes = comparison_figure(images, {"A": a}, limit="method", outlier_perc=0)
    assert axes[0, 1].images[-1].get_array().mean() < 0.1


@pytest.mark.parametrize(
    ("sign", "ticks"),
    [
        ("positive", ["0", "2.5"]),
        ("negative", ["0", "\u22122.5"]),
        ("all", ["\u22122.5", "0", "2.5"]),
    ],
)
def test_a_limit_stands_on_the_colour_bar(sign, ticks):
    figure, _ = comparison_figure(IMAGES, {"A": SPOT}, sign=sign, limit=2.5, colorbar=True)
    bar = figure.axes[-1]
    assert [t.get_text() for t in bar.get_xticklabels()] == ticks
    assert bar.get_xlabel() == "all maps on one scale"


def test_maps_without_the_wanted_sign_stay_bare_on_one_scale():
    _, axes = comparison_figure(IMAGES, {"A": -SPOT}, limit="method")
    assert axes[0, 1].texts[0].get_text() == "no positive part"


def test_a_tensor_is_one_map():
    for one in (SPOT, SPOT[:, 0].numpy()):
        _, axes = comparison_figure(IMAGES, one)
        assert [ax.get_title() for ax in axes[0]] == ["image", "map"]


def test_what_has_no_names_is_refused():
    with pytest.raises(TypeError, match="maps: got list, expected a mapping by name"):
        comparison_figure(IMAGES, [SPOT])
    with pytest.raises(TypeError, match=r"layer_maps: got Tensor.*hrcam\.layer_maps"):
        layers_figure(IMAGES, SPOT)


def test_titles_replace_the_maps_names():
    _, axes = comparison_figure(IMAGES, {"A": SPOT}, titles=["T1", "a map"])
    assert [ax.get_title() for ax in axes[0]] == ["T1", "a map"]


def test_masks_are_outlined_in_every_panel():
    masks = SPOT[:, 0].bool()
    masks[1] = False
    _, axes = comparison_figure(IMAGES, {"A": SPOT}, masks=masks)
    assert [len(ax.collections) for ax in axes.flat] == [1, 1, 0, 0]


def test_images_of_0_to_1_keep_their_brightness():
    faint, bright = torch.zeros(2, 1, 8, 8)
    faint[0, 2], bright[0, 2] = 0.3, 0.9
    for offset, expected in ((0.0, (0.3, 0.9)), (1.0, (1.0, 1.0))):
        images = torch.stack([faint, bright]) + offset
        maps = {"HR-CAM": torch.rand(2, 1, 8, 8), "blank": -torch.rand(2, 1, 8, 8)}
        _, axes = comparison_figure(images, maps)
        for column in axes.T:  # the image, and under the maps
            shown = [drawn(ax).max() for ax in column]
            assert shown == pytest.approx(expected, abs=0.01)


def drawn(ax):
    """The grey of an axes' first picture as it is painted, 0 black to 1 white."""
    picture = ax.images[0]
    return picture.to_rgba(picture.get_array().squeeze())[..., 0]


def test_outline_closes_at_the_border_and_leaves_the_view():
    whole, half = torch.ones(1, 1, 12, 16), torch.ones(1, 1, 12, 16)
    half[..., :8] = 0
    for mask in (whole, half):
        _, axes = comparison_figure(IMAGES[:1], {"A": SPOT[:1]}, masks=mask)
        assert axes[0, 0].get_xlim() == (-0.5, 15.5)
        assert axes[0, 0].get_ylim() == (11.5, -0.5)
        (path,) = axes[0, 0].collections[0].get_paths()
        assert np.allclose(path.vertices[0], path.vertices[-1])


@pytest.mark.parametrize("percentage", [-1, 100, "2", None])
def test_outlier_percentage_is_checked(percentage):
    with pytest.raises(ValueError, match=r"outlier_perc: got .*below 100"):
        comparison_figure(IMAGES, {"A": SPOT}, outlier_perc=percentage)


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
        ({"images": IMAGES[0]}, r"images: got shape \(1, 12, 16\).*image\[None\].*signals"),
        ({"maps": SPOT[0, 0]}, r"maps\['map'\]: got shape \(12, 16\).*image\[None\]"),
        ({"masks": [SPOT[0, 0], None]}, "masks: got a list of 2, expected .*zeros for a mask"),
        ({"images": IMAGES[:, None]}, r"images: got shape .* Of a volume draw slices_figure"),
        ({"images": torch.rand(2, 2, 12, 16)}, "images: got 2 channels"),
        (
            {"maps": {"A": SPOT[:1]}},
            r"maps\['A'\]: got shape \(1, 1, 12, 16\), expected \(2, 1, 12",
        ),
        ({"maps": {"A": SPOT * float("nan")}}, r"maps\['A'\]: NaN or infinity"),
        ({"masks": SPOT[:, 0, :5]}, "masks: got shape"),
        ({"captions": ["x"]}, "captions: got 1 for 2 images"),
        ({"captions": "xy"}, "captions: got 'xy' for 2 images"),
        ({"titles": ["x"]}, "titles: got 1 for 2 columns"),
        ({"sign": "both"}, "sign: got 'both'"),
        ({"limit": 0}, "limit: got 0, expected a finite number above 0"),
        ({"limit": "image"}, "limit: got 'image', expected one of 'method'"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        comparison_figure(**{"images": IMAGES, "maps": {"A": SPOT}, **arguments})


def test_layers_share_their_rows_scale_and_add_up():
    figure, axes = layers_figure(IMAGES, PARTS, resolutions={"late": (3, 4)})
    assert [ax.get_title() for ax in axes[0]] == ["image", "early", "late\n3 \u00d7 4", "sum"]
    drawn = [[ax.images[0] for ax in row[1:]] for row in axes]
    for i, row in enumerate(drawn):
        early, late, total = (image.get_array() for image in row)
        np.testing.assert_array_equal(early, PARTS["early"][i, 0])
        np.testing.assert_array_equal(late, PARTS["late"][i, 0])
        np.testing.assert_allclose(total, early + late)
        assert {image.get_clim() for image in row} == {(-2, 2)}
    assert len(figure.axes) == axes.size + 2  # a colour bar per row


def test_layers_limit_saturates_and_a_total_replaces_the_sum():
    figure, axes = layers_figure(IMAGES, PARTS, total=5 * SPOT, limit=0.5)
    assert axes[0, -1].get_title() == "total"
    np.testing.assert_array_equal(axes[1, -1].images[0].get_array(), 5 * SPOT[1, 0])
    assert axes[0, 1].images[0].get_clim() == (-0.5, 0.5)
    pixels(figure)


def test_zero_layers_are_drawn():
    _, axes = layers_figure(IMAGES, {"a": 0 * SPOT}, masks=SPOT)
    assert axes[0, 1].images[0].get_clim() == (-1, 1)
    assert [len(ax.collections) for ax in axes.flat] == [1] * 6


def test_long_names_of_layers_break_behind_a_dot():
    name = "backbone.layer1.2.bottleneck.conv3"
    _, axes = layers_figure(IMAGES, {name: SPOT})
    lines = axes[0, 1].get_title().split("\n")
    assert "".join(lines) == name
    assert all(line.endswith(".") for line in lines[:-1])


def test_long_captions_are_wrapped_and_dollars_are_no_formula():
    caption = "Patient 12, slice 9 of 20, left side, 5$ and 6$"
    figure, axes = comparison_figure(IMAGES, {"costs $5 and $6": SPOT}, captions=[caption, "y"])
    assert axes[0, 0].get_ylabel().replace("\n", " ") == caption
    assert not axes[0, 0].yaxis.label.get_parse_math()
    assert not axes[0, 1].title.get_parse_math()
    figure.draw_without_rendering()
    assert axes[0, 0].yaxis.label.get_window_extent().height <= axes[0, 0].bbox.height


def test_captions_and_names_may_be_numbers():
    _, axes = comparison_figure(IMAGES, {0: SPOT, 1: SPOT}, captions=[3, 4])
    assert [axes[0, 1].get_title(), axes[0, 2].get_title()] == ["0", "1"]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["3", "4"]


def extent(artist):
    """Left, bottom, right and top in inches."""
    return artist.get_window_extent().transformed(artist.get_figure().dpi_scale_trans.inverted())


def test_captions_of_wide_images_are_not_turned_and_keep_their_words():
    captions = [
        "patient 001, lesion: 0.93\nsecond line",
        "b",
        "a very long caption indeed for this",
    ]
    wide = torch.rand(3, 1, 60, 140)
    maps = {f"Method number {i} with long name": wide for i in range(7)}
    figure, axes = comparison_figure(wide, maps, captions=captions, colorbar=True)
    figure.draw_without_rendering()
    labels = [ax.yaxis.label for ax in axes[:, 0]]
    for label, caption in zip(labels, captions, strict=True):
        assert label.get_rotation() == 0
        assert label.get_text().split() == caption.split()
    for upper, lower in itertools.pairwise(labels):
        assert extent(upper).y0 > extent(lower).y1
    assert min(extent(label).x0 for label in labels) >= 0
    titles = [extent(ax.title) for ax in axes[0]]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(titles))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("size", [(60, 140), (60, 60)])
def test_colour_bar_keeps_away_from_the_images(rows, size):
    images = torch.rand(rows, 1, *size)
    figure, axes = comparison_figure(images, images, colorbar=True)
    figure.draw_without_rendering()
    gap = extent(axes[-1, 0]).y0 - extent(figure.axes[-1]).y1
    assert 0.06 < gap < 0.3


def test_colour_bars_beside_wide_images_are_no_hairlines():
    wide = torch.rand(2, 1, 60, 140)
    figure, axes = layers_figure(wide, dict.fromkeys("abcd", wide))
    figure.draw_without_rendering()
    assert extent(figure.axes[-1]).width > 0.05
    assert extent(axes[0, 0]).height > 0.35


def test_tall_images_fit_a_page_and_their_titles_beside_each_other():
    tall = torch.rand(6, 1, 200, 40)
    names = ["HR-CAM of all layers", "HR-CAM, agreement"]
    figure, axes = comparison_figure(tall, dict.fromkeys(names, tall), colorbar=True)
    assert figure.get_figheight() < 11
    figure.draw_without_rendering()
    titles = [extent(ax.title) for ax in axes[0]]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(titles))
    assert extent(axes[0, 0]).height > 1.4


@pytest.mark.parametrize("n", [1, 12])
def test_names_do_not_squeeze_boxes_or_curves(n):
    names = [f"HR-CAM, agreement of all layers, {i}" for i in range(n)]
    rates = np.linspace(0, 1, 9)
    for figure, axes in (
        boxes_figure({"Dice": dict.fromkeys(names, rates)}),
        roc_figure(dict.fromkeys(names, (rates, rates**0.5))),
    ):
        figure.draw_without_rendering()
        assert axes.flat[0].get_position().width > 0.35
        assert axes.flat[0].get_position().height > 0.35


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer_maps": {}}, "layer_maps: got no layer"),
        ({"layer_maps": {"a": SPOT[..., :5]}}, r"layer_maps\['a'\]: got shape \(2, 1, 12, 5\)"),
        ({"total": SPOT[:1]}, "total: got shape"),
        ({"limit": 0.0}, "limit: got 0.0"),
    ],
)
def test_layers_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        layers_figure(**{"images": IMAGES, "layer_maps": PARTS, **arguments})


def test_weights_are_dots_and_boxes_in_a_row_per_layer():
    _, axes = weights_figure(WEIGHTS, classes=["no", "yes"])
    assert [ax.get_title() for ax in axes] == ["no", "yes"]
    rows = [label.get_text() for label in axes[0].get_yticklabels()]
    assert rows == ["early (5)", "layer4.2.relu (40)"]
    assert axes[0].yaxis_inverted()
    for c, ax in enumerate(axes):
        zero, *lines = ax.lines
        assert list(zero.get_xdata()) == [0, 0]
        for w, dots in zip(WEIGHTS.values(), lines, strict=False):
            np.testing.assert_allclose(dots.get_xdata(), w[c])
        medians = [line.get_xdata()[0] for line in lines if line.get_color() == MEDIAN]
        np.testing.assert_allclose(medians, [np.median(w[c]) for w in WEIGHTS.values()])


def test_dots_lie_under_the_box_in_their_row_and_show_the_shape():
    generator = torch.Generator().manual_seed(0)
    layers = {"few": 16, "many": 1024}
    weights = {name: torch.randn(1, n, generator=generator) for name, n in layers.items()}
    _, axes = weights_figure(weights)
    _, *lines = axes[0].lines
    sizes, medians = [], [line for line in lines if line.get_color() == MEDIAN]
    for i, (dots, median) in enumerate(zip(lines, medians, strict=False)):
        x, y = dots.get_data()
        assert median.get_ydata().max() < y.min()  # rows run downwards
        assert y.max() < i + 0.5
        assert median.get_ydata().min() > i - 0.5
        sizes.append(dots.get_markersize())
    assert sizes == sorted(sizes, reverse=True)
    assert np.ptp(y[np.abs(x) < 0.2]) > 3 * np.ptp(y[np.abs(x) > 2])


def test_weights_of_a_fitted_hrcam():
    hrcam = fitted(BY_NAME["vgg2d"], solver="pattern")
    _, axes = weights_figure(hrcam, target=1)
    for line, w in zip(axes[0].lines[1:], hrcam.weights.values(), strict=False):
        np.testing.assert_allclose(line.get_xdata(), w[1])
    with pytest.raises(TypeError, match=r"weights: got Tensor.*HRCAM\.weights"):
        weights_figure(torch.ones(2, 3))


def test_weights_of_one_target_times_the_channels_deviation():
    scale = {name: torch.arange(w.shape[1]) for name, w in WEIGHTS.items()}
    _, axes = weights_figure(WEIGHTS, target=1, scale=scale)
    assert axes.shape == (1,)
    np.testing.assert_allclose(axes[0].lines[1].get_xdata(), WEIGHTS["early"][1] * torch.arange(5))


@pytest.mark.parametrize("k", range(1, 9))
def test_up_to_eight_classes_each_with_a_readable_axis(k):
    figure, axes = weights_figure({"a": torch.randn(k, 5)})
    assert axes.shape == (k,)
    pixels(figure)
    assert sum(bool(ax.get_xlabel()) for ax in axes) == min(k, 3 if k == 6 else 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weights": {}}, ValueError, "weights: got no layer"),
        ({"weights": {"a": torch.ones(3)}}, ValueError, r"weights\['a'\]: got shape \(3,\)"),
        (
            {"weights": {"a": torch.ones(2, 3), "b": torch.ones(3, 3)}},
            ValueError,
            r"weights: got a \(2, 3\), b \(3, 3\)",
        ),
        ({"weights": {"a": torch.ones(9, 3)}}, ValueError, "target: got 9 classes"),
        ({"target": 2}, IndexError, "target: got 2, expected classes from 0 to 1"),
        ({"target": "lesion"}, IndexError, "target: got 'lesion', expected classes from 0 to 1"),
        ({"classes": ["a"]}, ValueError, "classes: got 1 for 2 outputs"),
        ({"scale": {"early": torch.ones(4)}}, ValueError, r"scale\['early'\]: got 4 values"),
        (
            {"scale": {"early": torch.ones(5)}},
            ValueError,
            r"scale\['layer4.2.relu'\]: got 0 values",
        ),
    ],
)
def test_weights_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        weights_figure(**{"weights": WEIGHTS, **arguments})


def test_boxes_of_a_frame_are_the_papers_grid():
    values = frame()
    more = values[values.metric == "sensitivity 0.3"].assign(metric="AP")  # not the paper's
    _, axes = boxes_figure(
        pd.concat([more, values]), labels={"sensitivity 0.3": "sensitivity at 0.3"}
    )
    assert axes.shape == (2, 3)
    titles = [ax.get_title() for ax in axes.flat]
    assert titles[0] == "sensitivity at 0.3"
    assert titles[1:4] == ["sensitivity 0.5", "sensitivity 0.8", "specificity 0.3"]
    for ax, metric in zip(axes.flat, ["sensitivity 0.3", *titles[1:]], strict=True):
        for i, method in enumerate("AB"):
            a = values[(values.metric == metric) & (values.method == method)].value
            inside = a[(a >= np.percentile(a, 5)) & (a <= np.percentile(a, 95))]
            drawn = [line.get_ydata()[0] for line in ax.lines[6 * i + 2 : 6 * i + 6]]
            np.testing.assert_allclose(drawn, [inside.min(), inside.max(), a.median(), a.mean()])
            edges = ax.patches[i].get_path().vertices[:, 1]
            np.testing.assert_allclose([edges.min(), edges.max()], np.percentile(a, [25, 75]))
        n = [text.get_text() for text in ax.texts]
        assert n == ["n=9" if metric.startswith("spec") else "n=7", "9"]
    assert [t.get_text() for t in axes[1, 0].get_xticklabels()] == ["A", "B"]


def test_boxes_of_an_evaluation_are_those_of_its_frame():
    _, axes = boxes_figure(Evaluation(frame(), frame()[:0]))
    _, expected = boxes_figure(frame())
    for ax, other in zip(axes.flat, expected.flat, strict=True):
        assert ax.get_title() == other.get_title()
        for line, same in zip(ax.lines, other.lines, strict=True):
            np.testing.assert_array_equal(line.get_xydata(), same.get_xydata())


def test_a_frame_may_have_a_column_named_frame():
    _, axes = boxes_figure(frame().assign(frame=1))
    assert axes.shape == (2, 3)


def test_boxes_of_a_mapping_leave_nan_out_and_name_methods_in_full():
    values = {
        "Dice": {"HR-CAM_of_all_layers": [0.1, np.nan, 0.3], "B": [np.nan]},
        "Hausdorff, mm": {"B": torch.tensor([3.0, 40.0]), "C": [1.0], "D": [1.0], "E": [1.0]},
    }
    figure, axes = boxes_figure(values)
    assert axes.shape == (1, 2)
    assert [t.get_text() for t in axes[0, 0].texts] == ["n=2", "0", "0", "0", "0"]
    assert [t.get_text() for t in axes[0, 1].texts] == ["n=0", "2", "1", "1", "1"]
    assert axes[0, 1].get_xticklabels()[0].get_text() == "HR-CAM_of_all_layers"
    assert axes[0, 0].get_ylim()[1] < 1
    assert axes[0, 1].get_ylim()[1] > 30
    pixels(figure)


@pytest.mark.parametrize(
    ("metrics", "titles"),
    [
        (None, [["s 0.3", "s 0.5"], ["AP", "AUROC"]]),
        (["AUROC", "AP"], [["AUROC", "AP"]]),
        ([["AP"], ["s 0.5", "s 0.3"]], [["AP", ""], ["s 0.5", "s 0.3"]]),
        ("AP", [["AP"]]),
    ],
)
def test_boxes_grid(metrics, titles):
    values = {name: {"A": [0.1, 0.5]} for name in ["AP", "s 0.3", "AUROC", "s 0.5"]}
    _, axes = boxes_figure(values, metrics=metrics)
    assert [[ax.get_title() for ax in row] for row in axes] == titles


def test_an_empty_panel_holds_the_legend():
    values = {name: {"A": [0.1], "B": [0.5]} for name in ["AP", "AUROC", "Dice", "IoU"]}
    _, axes = boxes_figure(values)
    assert axes.shape == (2, 3)
    said = [text.get_text() for text in axes[1, 1].get_legend().get_texts()]
    assert said == ["A", "B"]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (frame().drop(columns="method"), ValueError, "values: no column method among image"),
        (frame()[:0], ValueError, "values: got none"),
        ({}, ValueError, "values: got none"),
        ({"AP": {"A": [np.inf]}}, ValueError, "values: infinity in 'AP' of 'A'"),
        ([1, 2], TypeError, "values: got list"),
    ],
)
def test_boxes_refused(values, error, message):
    with pytest.raises(error, match=message):
        boxes_figure(values)


@pytest.mark.parametrize("metrics", [["AP", "Dise"], [["AP"], ["Dise"]], "Dise", []])
def test_unknown_metrics_are_refused(metrics):
    with pytest.raises(ValueError, match=r"metrics: got \[.*\], expected some of 'AP'"):
        boxes_figure({"AP": {"A": [0.5]}}, metrics=metrics)


def test_roc_with_areas_and_a_log_axis_for_small_lesions():
    step = np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0])
    _, axes = roc_figure({"good": (FPR, FPR**0.5), "perfect": step, "half": (FPR, FPR)})
    said = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert said == ["good (0.666)", "perfect (1.000)", "half (0.500)", "chance (0.500)"]
    assert [ax.get_xscale() for ax in axes] == ["linear", "log"]
    assert axes[1].get_xlim() == (0.001, 1)
    np.testing.assert_array_equal(axes[0].lines[0].get_xydata(), np.stack([FPR, FPR**0.5], 1))
    x, y = axes[1].lines[2].get_data()  # straight between points, so bent on the log axis
    np.testing.assert_allclose(x, y)
    assert len(x) > 400
    assert (axes[1].lines[1].get_ydata() == 1).all()
    assert len({line.get_linestyle() for line in axes[0].lines[:3]}) == 3


def test_roc_without_the_log_axis():
    _, axes = roc_figure({"A": (FPR, FPR)}, log_from=None)
    assert axes.shape == (1,)


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, "curves: got none"),
        ({"A": (FPR, FPR[1:])}, r"curves\['A'\]: got shapes \(101,\) and \(100,\)"),
        ({"A": (FPR[::-1], FPR)}, "got rates that fall"),
        ({"A": (FPR, FPR[::-1])}, "got rates that fall"),
        ({"A": (FPR * np.nan, FPR)}, "are NaN"),
        ({"A": (FPR, FPR * np.nan)}, r"^curves\['A'\]: .*all NaN, as where every mask is empty"),
        ({"A": (FPR / 2, FPR)}, "do not reach from 0 to 1"),
        ({"A": (FPR, 2 * FPR)}, "do not reach from 0 to 1"),
    ],
)
def test_roc_refused(curves, message):
    with pytest.raises(ValueError, match=message):
        roc_figure(curves)


@pytest.mark.parametrize("start", [0.0, 1.0, -1.0])
def test_roc_refuses_a_log_axis_from_nowhere(start):
    with pytest.raises(ValueError, match="log_from: got"):
        roc_figure({"A": (FPR, FPR)}, log_from=start)


def test_no_outliers_may_be_asked_for():
    rng = np.random.default_rng(0)
    for _ in range(40):  # of 12 such maps one sums to less than its parts
        comparison_figure(IMAGES[:1, :, :6, :6], {"A": rng.random((1, 6, 6))}, outlier_perc=0)


def test_half_precision_is_drawn():
    comparison_figure(IMAGES.bfloat16(), {"A": SPOT.bfloat16()})
