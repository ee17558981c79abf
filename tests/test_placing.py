"""Where layers look, and their maps moved there."""

import math

import pytest
import replica
import torch
import torch.nn.functional as F
from conftest import BY_NAME, fit_quietly, fitted, training_batches
from torch import Tensor, nn

from captum_hrcam import HRCAM
from captum_hrcam.placing import (
    IMAGES,
    Displacements,
    centroid,
    correlate,
    displacement,
    peaks,
    place,
)
from captum_hrcam.revisit import Revisit

# ---- moving a map


@pytest.mark.parametrize("cells", [[0.3], [-1.7], [0.25, -0.5], [2.0, 0.0], [0.1, -0.9, 1.4]])
def test_place_equals_loops(cells):
    maps = torch.randn(2, 3, *[5, 4, 6][: len(cells)]).double()
    torch.testing.assert_close(place(maps, cells), replica.moved(maps, cells))


def test_place_keeps_the_mean_and_constants():
    maps = torch.randn(2, 3, 5, 7)
    means = place(maps, [0.4, -0.6]).mean((2, 3))
    torch.testing.assert_close(means, maps.mean((2, 3)))
    flat = torch.full((1, 1, 3, 3), 2.5)
    assert torch.equal(place(flat, [0.4, -0.6]), flat)
    assert torch.equal(place(maps, [0.0, 0.0]), maps)


# ---- measuring how far it lies beside what it sees


def found(f, axes: int = 2, n: int = 32, size: int = 32) -> list[float]:
    """Cells found for a function of images (n, 2, *size), smooth over some seven pixels."""
    x = torch.randn(n, 2, *[size] * axes, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        x = POOL[axes](x, 7, 1, 3)
    measure = Displacements(lambda inputs, rows: {"layer": f(inputs[0])})
    for start in range(0, n, 16):
        rows = slice(start, start + 16)
        measure.add((x[rows],), rows)
    return measure.found()["layer"].tolist()


POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_kernels_that_look_aside(axes):
    kernel = torch.zeros(1, 2, *[5] * axes)
    kernel[(0, 1, 3, *[2] * (axes - 1))] = 1  # what lies a pixel further along the first axis
    size = {1: 64, 2: 32, 3: 16}[axes]
    cells = found(lambda x: CONV[axes](x, kernel, padding=2), axes, size=size)
    assert cells[0] == pytest.approx(-1, abs=0.06)
    assert cells[1:] == pytest.approx([0] * (axes - 1), abs=0.08)


def test_strided_layers_look_at_their_first_pixel():
    # A cell's middle is 1.5 pixels from its first pixel: .375 of it.
    cells = found(lambda x: x[:, :1, ::4, ::4], n=64, size=64)
    assert cells == pytest.approx([0.375, 0.375], abs=0.08)


def test_pooled_layers_look_at_their_middle():
    cells = found(lambda x: F.avg_pool2d(x[:, :1], 4), n=64, size=64)
    assert cells == pytest.approx([0, 0], abs=0.05)


def test_layers_that_mix_all_places_stay():
    weight = torch.randn(64, 32 * 32, generator=torch.Generator().manual_seed(1))
    moved = [
        found(lambda x, w=w: (x[:, 0].flatten(1) @ w.T).reshape(-1, 1, 4, 4))
        for w in weight.split(16)
    ]
    assert sum(cells != 0 for pair in moved for cells in pair) <= 1
    assert found(lambda x: x.mean((2, 3), keepdim=True)[:, :1].expand(-1, -1, 8, 8)) == [0, 0]


def test_what_lights_up_in_one_place_of_every_image_is_no_object():
    def with_an_edge(x):
        a = F.avg_pool2d(x[:, :1], 8)
        edge = torch.zeros_like(a)
        edge[..., 0] = 4
        return a / a.std() + edge

    assert found(with_an_edge, n=48, size=64) == pytest.approx([0, 0], abs=0.1)


@pytest.mark.parametrize("size", [13, 21, 33])
def test_strides_of_odd_sizes_end_where_they_began(size):
    assert found(lambda x: x[:, :1, ::2, ::2], n=48, size=size) == pytest.approx([0, 0], abs=0.1)


def test_one_cell_along_one_axis():
    cells = found(lambda x: x.mean(2, keepdim=True)[:, :1].roll(1, 3), n=48)
    assert cells == pytest.approx([0, 1], abs=0.1)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: torch.zeros(len(x), 1, 8, 8),
        lambda x: torch.full((len(x), 1, 8, 8), math.nan),
        lambda x: x[:, :1, :1, :1],  # one cell
        lambda x: F.avg_pool2d(x[:, :1].roll(8, 2) - x[:, :1].roll(8, 3), 16),  # two
    ],
    ids=["nothing", "NaN", "one cell", "two cells"],
)
def test_maps_that_tell_nothing_stay(f):
    assert found(f) == [0, 0]


@pytest.mark.parametrize("n", [1, 7])
def test_few_images_are_too_few(n):
    assert found(lambda x: x[:, :1].roll(1, 2), n=n) == [0, 0]


def test_eight_images_are_enough():
    assert found(lambda x: x[:, :1].roll(1, 2), n=8)[0] > 0.5


@pytest.mark.parametrize("batch", [1, 7, 16])
def test_it_does_not_matter_in_which_batches_images_come(batch):
    x = torch.randn(48, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    x[:, :, 2, 3] += 5  # lit in every image
    results = []
    for size in (48, batch):
        measure = Displacements(lambda inputs, rows: {"layer": inputs[0].roll(1, 2)})
        for part in x.split(size):
            measure.add((part,), slice(0, len(part)))
        results.append(measure.found()["layer"])
    assert results[0].any()
    torch.testing.assert_close(*results)


def test_images_that_do_not_count():
    x = torch.randn(48, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for count in (True, False):
        measure = Displacements(lambda inputs, rows: {"layer": inputs[0].roll(1, 2)}, count)
        measure.add((x,), slice(0, 48))
        assert bool(measure.found()["layer"].any()) == count


def unusual(maps: torch.Tensor) -> torch.Tensor:
    """Peaks less what these maps have in common."""
    found = peaks(maps)
    return found - found.mean(0)


def test_two_cells_have_no_side():
    a, b = torch.randn(2, 5, 1, 2, 3)
    assert [c.shape for c in correlate(unusual(a), unusual(b))] == [(5, 1), (5, 5)]


def test_no_layer_moves_by_more_than_a_cell_and_a_half():
    assert found(lambda x: x[:, :1].roll(2, 2))[0] == 1.5
    assert found(lambda x: F.avg_pool2d(x[:, :1].roll(7, 2), 4))[0] == 1.5
    assert found(lambda x: F.avg_pool2d(x[:, :1].roll(4, 2), 4))[0] == pytest.approx(1, abs=0.1)


def test_all_that_the_model_sees_is_mirrored():
    x, over = torch.rand(16, 1, 8, 8), torch.randint(-100, 3, (16, 2, 8, 8))
    coarse, age = torch.rand(16, 1, 4, 4), torch.rand(16, 3)
    seen = []

    def native_maps(inputs, rows):
        seen.append(inputs)
        return {"layer": inputs[0]}

    Displacements(native_maps).add((x, over, coarse, age), slice(0, 16))
    mirrored, plain = seen
    for got, given in zip(plain, (x, over, coarse, age), strict=True):
        assert got is given
    for got, given in zip(mirrored[:3], (x, over, coarse), strict=True):
        assert torch.equal(got, given.flip((2, 3)))
    assert mirrored[3] is age


def test_maps_with_other_axes_are_refused():
    measure = Displacements(lambda inputs, rows: {"layer": inputs[0].flatten(2)})
    with pytest.raises(ValueError, match=r"size \(8, 8\), but the feature maps .* have \(64,\)"):
        measure.add((torch.rand(4, 1, 8, 8),), slice(0, 4))


def test_correlate_equals_loops():
    a, b = torch.randn(2, 3, 1, 7, 6).double()
    rows, columns = correlate(unusual(a), unusual(b))
    assert rows.shape == columns.shape == (3, 9)
    ours, theirs = (torch.stack([replica.peaks(x[0]) for x in maps]) for maps in (a, b))
    for i in range(3):
        p, q = ours[i] - sum(ours) / 3, theirs[i] - sum(theirs) / 3
        c = torch.zeros(9, 9).double()
        for u in range(-4, 5):
            for v in range(-4, 5):
                for y in range(7):
                    for x in range(6):
                        if 0 <= y + u < 7 and 0 <= x + v < 6:
                            c[u + 4, v + 4] += p[y + u, x + v] * q[y, x]
        torch.testing.assert_close(rows[i], c.sum(1))
        torch.testing.assert_close(columns[i], c.sum(0))


def test_maps_correlate_alike_at_any_scale_and_level():
    a, b = torch.randn(2, 3, 1, 5, 6).double()
    of_one = correlate(unusual(a), unusual(b))
    of_other = correlate(unusual(1e9 * a - 7), unusual(1e-9 * b))
    for c, d in zip(of_one, of_other, strict=True):
        torch.testing.assert_close(c, d)


def test_centroid_of_a_peak():
    triangle = torch.tensor([0.0, 9, 0, 1, 2, 1, 0])
    assert centroid(triangle) == -2  # the highest peak alone
    assert centroid(torch.tensor([0.0, 9, 0, 0, 0, 6, 0, 0, 0])) == -3  # also where another is half
    assert centroid(torch.tensor([0.0, 0, 0, 6, 0, 0, 0, 9, 0])) == 3
    wide = torch.tensor([0.0, 1, 2, 3, 4, 3.5, 2.5, 2, 5e-1, 0, 0])
    core = (wide - 2).clamp(min=0)
    expected = ((core * torch.arange(-5, 6)).sum() / core.sum()).item()
    assert centroid(wide) == pytest.approx(expected)
    assert centroid(wide / 100) == pytest.approx(expected)
    assert math.isnan(centroid(torch.tensor([-1.0, -2, -1])))


def test_centroid_of_a_peak_that_the_edge_cuts():
    slopes = 9 - torch.arange(-4, 5).abs().float()
    for summit in range(-3, 4):
        shifted = 9 - (torch.arange(-4, 5) - summit).abs().float()
        assert centroid(shifted) == summit
    assert centroid(slopes) == 0
    assert centroid(torch.tensor([0.0, 0, 1, 2, 3])) == 2  # nothing is known beyond the edge


def test_long_signals_take_no_more_memory_than_a_few_times_their_own():
    a, b = torch.randn(2, 2, 1, 160_000)
    (c,) = correlate(unusual(a), unusual(b))  # each place with each: 200 GB
    assert c.shape == (2, 9)


def test_images_that_disagree_draw_it_to_zero():
    peaks = torch.eye(9).double()
    assert displacement(peaks[[6] * 16]) == 1  # half of two cells
    between = (peaks[[6] * 16] + peaks[[7] * 16]) / 2
    assert displacement(between) == 1.25
    assert 1 < displacement(peaks[[6, 7] * 8]) < 1.25
    chance = torch.randn(200, 16, 9, generator=torch.Generator().manual_seed(0))
    assert sum(displacement(c) != 0 for c in chance) < 20


def test_the_error_is_a_jackknife_held_against_what_is_typical():
    lags = torch.arange(-10, 11)
    middles = torch.tensor([3.0, 5, 4, 6, 5, 4, 2, 7, 5, 3, 4, 6, 5, 5, 4, 4])
    c = (4 - (lags - middles[:, None]).abs()).clamp(min=0).double()
    left_out = [centroid(c.sum(0) - c[i::8].sum(0)) / 2 for i in range(8)]
    mean = sum(left_out) / 8
    variance = 7 / 8 * sum((v - mean) ** 2 for v in left_out)
    expected = centroid(c.sum(0)) / 2 * 0.25 / (0.25 + variance)
    assert displacement(c) == pytest.approx(expected)
    assert variance > 0.005


# ---- in a fit


class Aside(nn.Sequential):
    """Lights up where the image does, but drawn a pixel further up."""

    def __init__(self) -> None:
        conv = nn.Conv2d(1, 4, (3, 1), padding=(1, 0), bias=False)
        conv.weight.data = torch.zeros(4, 1, 3, 1)
        conv.weight.data[:, 0, 2, 0] = torch.tensor([1.0, 2, 3, 4])
        super().__init__(
            conv, nn.ReLU(), nn.MaxPool2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        )


def spots(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and places; class 1 has a spot."""
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * torch.rand(n, 1, 32, 32, generator=generator)
    at = torch.randint(8, 24, (n, 2), generator=generator)
    for image, (i, j) in zip(x[1::2], at[1::2].tolist(), strict=True):
        image[0, i : i + 4, j : j + 4] += 2
    return x, torch.arange(n) % 2, at


@pytest.mark.parametrize("solver", ["auto", "cascade", "pattern"])
def test_the_map_lies_where_the_model_looks(solver):
    x, y, at = spots(120)
    middles = {}
    for place_layers in (True, False):
        hrcam = HRCAM(Aside(), ["1", "2"])
        fit_quietly(hrcam, [(x, y)], solver=solver, place_layers=place_layers)
        a = hrcam.attribute(x[1::2], 1).clamp(min=0).double()
        a = (a - a.amax((2, 3), keepdim=True) / 2).clamp(min=0)[:, 0]
        rows = (a.sum(2) * torch.arange(32)).sum(1) / a.sum((1, 2))
        middles[place_layers] = (rows - at[1::2, 0] - 1.5).mean().item()
    assert middles[False] == pytest.approx(-1, abs=0.3)
    assert abs(middles[True]) < 0.3


def test_the_report_says_by_how_much():
    x, y, _ = spots(120)
    hrcam = HRCAM(Aside(), ["1", "2"])
    report = fit_quietly(hrcam, [(x, y)]).report
    assert report.displacement.keys() == {"1", "2"}
    assert report.displacement["2"][0] == pytest.approx(-0.25, abs=0.1)
    assert "maps moved to where their layers look, in cells: 1 (" in str(report)
    fit_quietly(hrcam, [(x, y)], solver="pattern")
    assert hrcam.report.displacement == {}
    assert "moved" not in str(hrcam.report)


@pytest.mark.parametrize(
    ("contrast", "images"),
    [
        ([1.9, 2.1, math.nan], [1, 2, 4, 5]),  # too few of class 2 to tell
        ([1.0, 0.9, 1.2], [0, 1, 2, 3, 4, 5]),  # all or none
        (None, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_images_of_classes_without_a_place_have_no_say(contrast, images):
    few = Revisit(lambda *a: None, dict, None, ["cascade"], "cross_entropy")
    y = torch.cat([torch.eye(3)[[0, 1, 2, 0, 1, 2]], torch.full((1, 3), 1 / 3)])  # of none
    few.images.add(torch.arange(7), y)
    told = None if contrast is None else torch.tensor(contrast)
    (kept,), classes, count = few._with_places(told)
    assert kept.tolist() == images
    assert torch.equal(classes, y[images].argmax(1))
    assert count


def test_of_several_labels_the_one_with_a_place_speaks():
    few = Revisit(lambda *a: None, dict, None, ["cascade"], "binary_cross_entropy")
    few.images.add(torch.arange(4), torch.tensor([[1.0, 1, 0], [1, 0, 1], [1, 0, 0], [0, 0, 0]]))
    (kept,), classes, _ = few._with_places(torch.tensor([1.0, 5, 5]))
    assert kept.tolist() == [0, 1]
    assert classes.tolist() == [1, 2]


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_targets_of_no_class_leave_all_images(loss):
    few = Revisit(lambda *a: None, dict, None, ["pattern"], loss)
    few.images.add(torch.arange(3), torch.tensor([[0.4, 0.6], [0.5, 0.5], [0.5, 0.5]]))
    (kept,), _, _ = few._with_places(None)
    assert kept.tolist() == ([0, 1, 2] if loss == "mse" else [0])


def test_of_many_images_some_speak():
    few = Revisit(lambda *a: None, dict, None, ["cascade"], "cross_entropy")
    few.images.add(torch.arange(100), torch.eye(2)[torch.arange(100) % 2])
    (kept,), _, _ = few._with_places(torch.tensor([1.0, 3.0]))
    assert len(kept.unique()) == IMAGES
    assert (kept % 2 == 1).all()


def test_a_class_of_sixteen_images_tells_it_too():
    x, y, _ = spots(32)
    hrcam = fit_quietly(HRCAM(Aside(), ["1", "2"]), [(x, y)], place_layers=True, solver="pattern")
    assert hrcam.head.displacement["1"].tolist() == pytest.approx([-1, 0], abs=0.2)


def test_places_of_cached_features_are_those_of_the_first_fit(tmp_path):
    case = BY_NAME["residual2d"]
    options = {"solver": "ridge", "targets": "model", "place_layers": True, "cache": tmp_path}
    first, second = (fitted(case, **options) for _ in range(2))
    assert first.head.displacement.keys() == second.head.displacement.keys()
    for name, cells in first.head.displacement.items():
        torch.testing.assert_close(cells, second.head.displacement[name])


def test_the_report_is_a_copy():
    hrcam = fitted(BY_NAME["vgg2d"])
    before = {name: cells.clone() for name, cells in hrcam.head.displacement.items()}
    for cells in hrcam.report.displacement.values():
        cells += 1
    assert all(torch.equal(before[n], cells) for n, cells in hrcam.head.displacement.items())


def test_other_axes_than_the_maps_are_refused():
    refusal = "head: got a displacement along 1 axes, but the layer's maps have 2"
    with pytest.raises(ValueError, match=refusal):
        place(torch.rand(1, 1, 4, 4), [0.5])


def test_complete_and_saved(tmp_path):
    case = BY_NAME["residual2d"]
    hrcam, x = fitted(case), case.images()
    assert any(cells.any() for cells in hrcam.head.displacement.values())
    means = sum(a.mean((2, 3)) for a in hrcam.native_maps(x).values()) + hrcam.bias
    torch.testing.assert_close(means.float(), hrcam.predict(x))
    hrcam.save(tmp_path / "head")
    loaded = HRCAM.load(tmp_path / "head", hrcam.forward_func)
    assert torch.equal(loaded.attribute(x, 1), hrcam.attribute(x, 1))


def test_unknown_choice_is_refused():
    hrcam = HRCAM(BY_NAME["vgg2d"].model(), "stage2")
    with pytest.raises(ValueError, match="place_layers: got 'yes', expected one of 'auto', True"):
        hrcam.fit(training_batches(BY_NAME["vgg2d"]), place_layers="yes")
