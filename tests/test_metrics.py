"""Every metric of METRICS.md against its definition written out in loops, and its edge cases."""

import itertools
import math
import warnings

import numpy as np
import pytest

from captum_hrcam import metrics

NAN = float("nan")


def images(n: int = 6, size: tuple[int, ...] = (5, 7), seed: int = 0, levels: int = 12):
    """Signed maps with ties, and masks neither empty nor full."""
    rng = np.random.default_rng(seed)
    maps = rng.integers(-levels, levels, (n, *size)) / 4
    masks = rng.random((n, *size)) < 0.3
    masks.reshape(n, -1)[:, 0], masks.reshape(n, -1)[:, 1] = True, False
    return maps, masks


SIZES = [(5, 7), (3, 4, 5)]


# The definitions, slowly: plain floats, one pixel at a time.


def pixels(a, m):
    return list(zip(np.ravel(a).tolist(), np.ravel(m).tolist(), strict=True))


def scaled(a):
    values = np.ravel(a).tolist()
    low, high = min(values), max(values)
    return np.reshape([(v - low) / (high - low) for v in values], np.shape(a))


def counts(a, m, t):
    tp = fp = fn = tn = 0
    for value, inside in pixels(a, m):
        tp += value >= t and inside
        fp += value >= t and not inside
        fn += value < t and inside
        tn += value < t and not inside
    return tp, fp, fn, tn


def slow_average_precision(pairs):
    n_inside = sum(inside for _, inside in pairs)
    total, recall_before = 0.0, 0.0
    for t in sorted({value for value, _ in pairs}, reverse=True):
        marked = [inside for value, inside in pairs if value >= t]
        recall = sum(marked) / n_inside
        total += (recall - recall_before) * sum(marked) / len(marked)
        recall_before = recall
    return total


def slow_auroc(pairs):
    inside = [value for value, is_in in pairs if is_in]
    outside = [value for value, is_in in pairs if not is_in]
    wins = sum((i > o) + (i == o) / 2 for i in inside for o in outside)
    return wins / (len(inside) * len(outside))


def slow_sensitivity_at(a, m, wanted):
    best = 0.0
    for t in np.unique(a):
        tp, fp, fn, tn = counts(a, m, t)
        if tn / (tn + fp) >= wanted:
            best = max(best, tp / (tp + fn))
    return best


def slow_components(marked):
    """Sets of indices that touch, at a side or a corner: a flood fill."""
    left = set(zip(*np.nonzero(marked), strict=True))
    components = []
    while left:
        found, todo = set(), [min(left)]
        while todo:
            here = todo.pop()
            if here not in left:
                continue
            left.remove(here)
            found.add(here)
            steps = itertools.product((-1, 0, 1), repeat=len(here))
            todo += [tuple(h + s for h, s in zip(here, step, strict=True)) for step in steps]
        components.append(found)
    return components


def slow_box(component):
    """Every index in the box around a component."""
    ranges = [range(min(axis), max(axis) + 1) for axis in zip(*component, strict=True)]
    return set(itertools.product(*ranges))


def slow_max_box_acc(maps, masks, thresholds, levels, largest):
    accuracy = []
    for level in levels:
        shares = []
        for t in thresholds:
            met = 0
            for a, m in zip(maps, masks, strict=True):
                found = slow_components(scaled(a) >= t)
                if largest:
                    found = [max(found, key=len)]  # the first of equals
                objects = [slow_box(c) for c in slow_components(m)]
                met += any(
                    len(p & q) / len(p | q) >= level for p in map(slow_box, found) for q in objects
                )
            shares.append(met / len(maps))
        accuracy.append(max(shares))
    return sum(accuracy) / len(accuracy)


# Each metric against its loops.


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_thresholded_metrics(size, t):
    maps, masks = images(size=size)
    for i, (a, m) in enumerate(zip(maps, masks, strict=True)):
        tp, fp, fn, tn = counts(scaled(a), m, t)
        assert metrics.sensitivity(maps, masks, t)[i] == tp / (tp + fn)
        assert metrics.specificity(maps, masks, t)[i] == tn / (tn + fp)
        assert metrics.iou(maps, masks, t)[i] == tp / (tp + fp + fn)
        assert metrics.dice(maps, masks, t)[i] == 2 * tp / (2 * tp + fp + fn)


def test_one_threshold_per_image():
    maps, masks = images(3)
    t = np.array([0.2, 0.5, 0.9])
    expected = [metrics.iou(maps[i], masks[i], t[i]) for i in range(3)]
    assert metrics.iou(maps, masks, t).tolist() == expected
    assert len(set(expected)) == 3


@pytest.mark.parametrize("size", SIZES)
def test_rank_metrics(size):
    maps, masks = images(size=size)
    for i, (a, m) in enumerate(zip(maps, masks, strict=True)):
        expected = slow_average_precision(pixels(a, m))
        assert metrics.pixel_average_precision(maps, masks)[i] == pytest.approx(expected)
        assert metrics.pixel_auroc(maps, masks)[i] == pytest.approx(slow_auroc(pixels(a, m)))
        for wanted in (0.5, 0.9, 0.95, 1.0):
            found = metrics.sensitivity_at_specificity(maps, masks, wanted)[i]
            assert found == pytest.approx(slow_sensitivity_at(a, m, wanted)), wanted


def test_a_specificity_met_exactly_counts():
    """For every share of background pixels above the object: 1 - 9 / 10 is not 1 / 10."""
    for n in (10, 20, 25):
        for above in range(n + 1):
            maps = np.array([[1.0, *[2.0] * above, *[0.0] * (n - above)]])
            mask = np.array([[1, *[0] * n]])
            kept = (n - above) / n
            assert metrics.sensitivity_at_specificity(maps, mask, kept) == 1, (n, above)
            if above:
                more = min(1.0, kept + 0.5 / n)
                assert metrics.sensitivity_at_specificity(maps, mask, more) == 0, (n, above)


def test_every_value_of_the_map_is_a_threshold():
    """Also those on a straight piece of the ROC curve: each value once inside, once outside."""
    maps, mask = np.array([[3, 2, 1, 0], [3, 2, 1, 0]]), np.array([[1] * 4, [0] * 4])
    found = [metrics.sensitivity_at_specificity(maps, mask, k / 4) for k in range(5)]
    assert found == [1, 0.75, 0.5, 0.25, 0]


@pytest.mark.parametrize("size", SIZES)
def test_pointing(size):
    maps, masks = images(size=size, levels=3)
    for i, (a, m) in enumerate(zip(maps, masks, strict=True)):
        top = [inside for value, inside in pixels(a, m) if value == a.max()]
        assert metrics.pointing_game(maps, masks)[i] == pytest.approx(sum(top) / len(top))
        energy = sum(value for value, inside in pixels(a, m) if value > 0 and inside)
        total = sum(value for value, _ in pixels(a, m) if value > 0)
        assert metrics.energy_pointing(maps, masks)[i] == pytest.approx(energy / total)


@pytest.mark.parametrize(("pooled", "size"), [(metrics.pxap, (5, 7)), (metrics.vxap, (3, 4, 5))])
def test_pooled_average_precision(pooled, size):
    maps, masks = images(size=size)
    masks[1] = False  # an image without an object adds background pixels
    maps *= np.arange(1, 7).reshape(6, *[1] * len(size))  # undone by the scaling of each map
    pairs = [p for a, m in zip(maps, masks, strict=True) for p in pixels(scaled(a), m)]
    assert pooled(maps, masks) == pytest.approx(slow_average_precision(pairs))
    without_scaling = [p for a, m in zip(maps, masks, strict=True) for p in pixels(a, m)]
    assert pooled(maps, masks) != pytest.approx(slow_average_precision(without_scaling))


@pytest.mark.parametrize("bins", [1000, 10_000])
def test_histograms_come_close_to_exact(bins):
    rng = np.random.default_rng(0)
    masks = rng.random((4, 60, 60)) < 0.2
    maps = rng.normal(size=masks.shape) + masks
    exact = metrics.pxap(maps, masks)
    streamed = metrics.pxap(maps, masks, exact_below=0, bins=bins)
    assert 0 < abs(streamed - exact) < 1 / bins  # 0 would mean: not the histogram's figure


@pytest.mark.parametrize("sigma", [1, 2, 3])
def test_histograms_are_right_of_maps_of_a_few_high_peaks(sigma):
    rng = np.random.default_rng(0)
    masks = rng.random((6, 100, 100)) < 0.1
    maps = np.exp(sigma * (rng.normal(size=masks.shape) + masks))
    assert metrics.pxap(maps, masks, exact_below=0) == pytest.approx(
        metrics.pxap(maps, masks), abs=1e-3
    )


@pytest.mark.parametrize(
    ("pooled", "size"), [(metrics.pxap, (60, 60)), (metrics.vxap, (15, 15, 16))]
)
def test_exact_up_to_a_size_and_ten_thousand_bins_beyond(pooled, size):
    rng = np.random.default_rng(0)
    masks = rng.random((4, *size)) < 0.2
    maps = rng.normal(size=masks.shape) + masks
    exact = pooled(maps, masks, exact_below=maps.size)
    assert exact == pooled(maps, masks)
    streamed = pooled(maps, masks, exact_below=maps.size - 1)
    assert streamed != exact
    by_bins = [pooled(maps, masks, exact_below=0, bins=bins) for bins in (9_999, 10_000, 10_001)]
    assert streamed == by_bins[1]
    assert streamed not in (by_bins[0], by_bins[2])
    stream = metrics.PooledAveragePrecision(len(size))
    stream.update(maps, masks)
    assert stream.compute() == streamed


@pytest.mark.parametrize("contours", ["largest", "all"])
@pytest.mark.parametrize("size", [(6, 7), (3, 4, 4)])
def test_max_box_acc_v2(contours, size):
    rng = np.random.default_rng(3)
    masks = np.zeros((5, *size), bool)
    masks[(slice(None), *[slice(1, 3)] * len(size))] = True
    masks[0, ..., -1] = True  # two objects
    maps = rng.normal(size=masks.shape) + 1.5 * masks
    thresholds, levels = [0.2, 0.4, 0.55, 0.7, 0.85], [0.2, 0.3, 0.5, 0.7]
    expected = slow_max_box_acc(maps, masks, thresholds, levels, contours == "largest")
    found = metrics.max_box_acc_v2(
        maps, masks, contours=contours, thresholds=thresholds, iou_levels=levels
    )
    assert found == pytest.approx(expected)
    assert 0 < found < 1


def test_all_contours_are_kinder_than_the_largest():
    masks = np.zeros((1, 8, 8))
    masks[0, 0:2, 0:2] = 1
    maps = masks.copy()
    maps[0, 4:8, 4:8] = 1  # a larger mark elsewhere
    assert metrics.max_box_acc_v2(maps, masks) == 0
    assert metrics.max_box_acc_v2(maps, masks, contours="all") == 1


def test_boxes_apart_share_nothing_and_no_box_meets_nothing():
    masks, maps = np.zeros((1, 6, 6)), np.zeros((1, 6, 6))
    masks[0, :2, :2] = maps[0, 4:, 4:] = 1  # apart in both directions
    assert metrics.max_box_acc_v2(maps=maps, masks=masks, iou_levels=[0.01]) == 0
    assert metrics.max_box_acc_v2(maps, masks, iou_levels=[0]) == 1
    assert metrics.max_box_acc_v2(np.ones((1, 6, 6)), masks, iou_levels=[0]) == 1


def test_a_pixel_at_the_threshold_is_marked():
    a, mask = np.zeros((1, 6, 6)), np.zeros((1, 6, 6))
    a[0, 1:3, 1:3] = mask[0, 1:3, 1:3] = 1
    assert metrics.max_box_acc_v2(a, mask, thresholds=[1], iou_levels=[1]) == 1
    assert metrics.max_box_acc_v2(a, mask, thresholds=[0], iou_levels=[1]) == 0


def test_pixels_that_touch_at_a_corner_are_one_contour():
    mask = np.eye(4)
    maps = mask.copy()
    maps[0, 0] = 0  # the box of three of four: 9 / 16
    assert metrics.max_box_acc_v2(maps, mask, iou_levels=[9 / 16]) == 1
    assert metrics.max_box_acc_v2(maps, mask, iou_levels=[9 / 16 + 1e-6]) == 0


def test_each_iou_level_has_its_own_best_threshold_for_all_images():
    """IoU by threshold: image one 1/2, 1; image two 1, 1/2. At .7 each t serves one image."""
    masks = np.zeros((2, 1, 8))
    masks[0, 0, :2] = masks[1, 0, :4] = 1
    maps = np.zeros((2, 1, 8))
    maps[:, 0, :4], maps[:, 0, :2] = 0.5, 1
    found = metrics.max_box_acc_v2(maps, masks, thresholds=[0.4, 0.9])
    assert found == pytest.approx((1 + 1 + 1 / 2) / 3)


# Thresholds.


def slow_otsu(values):
    """The split with the least variance within the two groups."""
    best, threshold = math.inf, None
    for t in np.unique(values)[1:]:
        low, high = values[values < t], values[values >= t]
        within = len(low) * low.var() + len(high) * high.var()
        if within < best:
            best, threshold = within, t
    return threshold


@pytest.mark.parametrize("size", SIZES)
def test_otsu(size):
    maps = np.random.default_rng(0).gamma(1.5, size=(5, *size))
    found = metrics.otsu_threshold(maps)
    assert found.source == "otsu"
    assert found.value == pytest.approx([slow_otsu(scaled(a)) for a in maps])


def test_otsu_marks_the_upper_group():
    a = np.array([[0.0, 1.0, 1.5], [9.0, 9.5, 10.0]])
    assert metrics.iou(a, a > 5, metrics.otsu_threshold(a)) == 1
    assert isinstance(metrics.otsu_threshold(a).value, float)


@pytest.mark.parametrize("score", [metrics.iou, metrics.dice])
def test_best_threshold(score):
    maps, masks = images(8)
    means = [(np.mean(score(maps, masks, k / 100)), -k) for k in range(1, 100)]
    best = -max(means)[1] / 100  # of equals the lowest
    assert metrics.oracle_threshold(maps, masks, score).value == best
    assert metrics.validation_threshold(maps, masks, score).value == best


def test_a_threshold_says_where_it_comes_from():
    maps, masks = images(2)
    assert str(metrics.oracle_threshold(maps, masks)).endswith("(oracle)")
    assert str(metrics.validation_threshold(maps, masks)).endswith("(validation)")
    assert str(metrics.otsu_threshold(maps)) == "per image (otsu)"
    oracle = metrics.oracle_threshold(maps, masks)
    assert (
        metrics.iou(maps, masks, oracle).tolist() == metrics.iou(maps, masks, oracle.value).tolist()
    )


def test_best_threshold_passes_over_images_without_object_and_says_so():
    maps, masks = images(5)
    masks[2] = False
    rest = [0, 1, 3, 4]
    with pytest.warns(UserWarning, match="1 of 5 images"):
        found = metrics.oracle_threshold(maps, masks)
    assert found.value == metrics.oracle_threshold(maps[rest], masks[rest]).value


@pytest.mark.parametrize("several", [True, False])
def test_no_threshold_is_best_for_empty_masks_alone(several):
    maps, masks = images(5)
    given, n = ((maps, masks), 5) if several else ((maps[0], masks[0]), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none of the other images, as there are no others
        with pytest.raises(ValueError, match=f"masks: .* {n} of {n} images, as for an empty mask"):
            metrics.oracle_threshold(given[0], np.zeros_like(given[1]))


# Scaling and the baseline.


def test_min_max_scales_each_map_and_keeps_the_shape():
    maps, _ = images(3)
    found = metrics.min_max(maps[:, None])
    assert found.shape == (3, 1, 5, 7)
    assert found.dtype == np.float64
    for a, s in zip(maps, found[:, 0], strict=True):
        np.testing.assert_array_equal(s, scaled(a))


def test_min_max_of_a_constant_is_zero_and_leaves_the_input_alone():
    maps = np.full((2, 3, 3), -7.0)
    assert not metrics.min_max(maps).any()
    assert (maps == -7).all()


@pytest.mark.parametrize("shape", [(5, 9), (4, 6), (3, 5, 7), (1, 1)])
def test_centred_gaussian(shape):
    found = metrics.centred_gaussian(shape, sigma=0.2)
    assert found.shape == shape
    for index in np.ndindex(*shape):
        r2 = sum(((i + 0.5 - n / 2) / (0.2 * n)) ** 2 for i, n in zip(index, shape, strict=True))
        assert found[index] == pytest.approx(math.exp(-r2 / 2))


def test_centred_gaussian_refuses_what_is_no_size():
    with pytest.raises(ValueError, match=r"shape=\(0, 3\)"):
        metrics.centred_gaussian((0, 3))
    with pytest.raises(ValueError, match="sigma=0"):
        metrics.centred_gaussian((3, 3), sigma=0)


# Edges: what is undefined is NaN, whatever the map.

EDGES = {  # name: (metric, empty mask, full mask, constant map, map below zero: -2 out, -1 in)
    "sensitivity": (lambda a, m: metrics.sensitivity(a, m, 0.5), NAN, 1 / 4, 0, 1),
    "specificity": (lambda a, m: metrics.specificity(a, m, 0.5), 3 / 4, NAN, 1, 1),
    "iou": (lambda a, m: metrics.iou(a, m, 0.5), NAN, 1 / 4, 0, 1),
    "dice": (lambda a, m: metrics.dice(a, m, 0.5), NAN, 2 / 5, 0, 1),
    "iou otsu": (lambda a, m: metrics.iou(a, m, metrics.otsu_threshold(a)), NAN, 1 / 4, 0, 1),
    "pixel_average_precision": (metrics.pixel_average_precision, NAN, 1, 1 / 4, 1),
    "pixel_auroc": (metrics.pixel_auroc, NAN, NAN, 1 / 2, 1),
    "sensitivity_at_specificity": (metrics.sensitivity_at_specificity, NAN, NAN, 0, 1),
    "pointing_game": (metrics.pointing_game, NAN, 1, 0, 1),
    "energy_pointing": (metrics.energy_pointing, NAN, 1, 1 / 4, 0),
    "pxap": (metrics.pxap, NAN, 1, 1 / 4, 1),
    "pxap streamed": (lambda a, m: metrics.pxap(a, m, exact_below=0), NAN, 1, 1 / 4, 1),
}
OBJECT = np.array([[0, 1], [0, 0]])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", EDGES)
def test_edges(name):
    metric, empty, full, constant, negative = EDGES[name]
    a = np.array([[0.0, 4.0], [1.0, 0.0]])
    cases = [
        (a, np.zeros((2, 2)), empty),
        (a, np.ones((2, 2)), full),
        (np.full((2, 2), 3.0), OBJECT, constant),
        (OBJECT - 2.0, OBJECT, negative),
    ]
    for maps, mask, expected in cases:
        found = metric(maps, mask)
        assert isinstance(found, float)
        assert found == pytest.approx(expected, nan_ok=True), (maps, mask)


def test_a_constant_map_of_zero_or_below_has_no_energy():
    assert metrics.energy_pointing(np.zeros((2, 2)), OBJECT) == 0
    assert metrics.energy_pointing(np.full((2, 2), -1.0), OBJECT) == 0


def test_one_pixel():
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    assert metrics.sensitivity(one, one, 0.5) == 0  # a constant map is scaled to 0
    assert metrics.sensitivity(one, one, 0.0) == 1
    assert metrics.specificity(one, zero, 0.5) == 1
    assert metrics.pixel_average_precision(one, one) == 1
    assert math.isnan(metrics.pixel_auroc(one, one))
    assert metrics.pointing_game(one, one) == 0
    assert metrics.energy_pointing(one, one) == 1
    assert metrics.max_box_acc_v2(one, one) == 0


def test_max_box_acc_leaves_out_empty_masks_and_says_so():
    mask = np.zeros((4, 6, 6))
    mask[:2, 1:4, 1:4] = 1
    maps = mask + np.eye(6) / 10
    maps[1] = -maps[1]
    with pytest.warns(UserWarning, match="2 of 4 images") as seen:
        found = metrics.max_box_acc_v2(maps, mask)
    assert seen[0].filename == __file__, "a warning shows the caller's line"
    assert found == metrics.max_box_acc_v2(maps[:2], mask[:2])
    with pytest.warns(UserWarning, match="4 of 4"):
        assert math.isnan(metrics.max_box_acc_v2(maps, np.zeros_like(mask)))


def test_a_constant_map_has_no_box():
    assert metrics.max_box_acc_v2(np.ones((1, 4, 4)), np.ones((1, 4, 4))) == 0


def test_the_stream_counts_what_came():
    maps, masks = images(5)
    masks[[1, 3]] = False
    pooled = metrics.PooledAveragePrecision()
    assert math.isnan(pooled.compute())
    pooled.update(maps[:2], masks[:2])
    pooled.update(maps[2:, None], masks[2:])
    assert (pooled.n_images, pooled.n_empty) == (5, 2)
    assert pooled.compute() == metrics.pxap(maps, masks, exact_below=0)


def test_the_stream_takes_images_of_several_sizes():
    pooled = metrics.PooledAveragePrecision()
    pairs = []
    for seed, size in enumerate([(5, 7), (3, 4)]):
        maps, masks = images(2, size, seed)
        pooled.update(maps, masks)
        pairs += [p for a, m in zip(maps, masks, strict=True) for p in pixels(scaled(a), m)]
    assert pooled.compute() == pytest.approx(slow_average_precision(pairs))


@pytest.mark.parametrize("score", [metrics.pixel_average_precision, metrics.pxap])
def test_average_precision_of_a_full_mask_is_one_and_not_its_rounding(score):
    maps = np.full((1, 4, 5), -3.0)
    maps[0, 0] = [-2, 0, 0, -1, -3]  # 2 / 20 + 1 / 20 + 1 / 20 + 16 / 20 rounds above 1
    assert np.all(score(maps, np.ones((1, 4, 5))) == 1)


def test_the_stream_is_exact_as_long_as_it_keeps_all_pixels():
    maps, masks = images(5)
    maps = maps**9  # nearly all values in the lowest bin
    exact, counted = metrics.pxap(maps, masks), metrics.pxap(maps, masks, exact_below=0)
    assert exact != counted
    for exact_below, expected in ((maps.size, exact), (maps.size - 1, counted), (1, counted)):
        pooled = metrics.PooledAveragePrecision(exact_below=exact_below)
        for a, m in zip(maps, masks, strict=True):
            pooled.update(a, m)
        assert (pooled.n_images, pooled.compute()) == (5, expected)


@pytest.mark.parametrize("exact_below", [0, 10_000])
@pytest.mark.parametrize("size", SIZES)
def test_the_stream_s_roc_is_that_of_all_pixels(size, exact_below):
    maps, masks = images(5, size)
    masks[3] = False
    pooled = metrics.PooledAveragePrecision(len(size), exact_below=exact_below)
    pooled.update(maps[:2], masks[:2])
    pooled.update(maps[2:], masks[2:])
    pairs = [p for a, m in zip(maps, masks, strict=True) for p in pixels(scaled(a), m)]
    inside, outside = ([a for a, m in pairs if m == is_object] for is_object in (True, False))
    by_hand = [(0.0, 0.0)]
    for t in sorted({a for a, _ in pairs}, reverse=True):
        rates = [sum(a >= t for a in values) / len(values) for values in (outside, inside)]
        by_hand.append(tuple(rates))
    np.testing.assert_allclose(np.transpose(pooled.roc()), by_hand)


def test_the_stream_s_roc_has_a_point_for_each_bin_at_most():
    rng = np.random.default_rng(0)
    pooled = metrics.PooledAveragePrecision(bins=1000, exact_below=10**6)
    for _ in range(3):
        pooled.update(rng.random((1, 200, 200)), rng.random((1, 200, 200)) < 0.5)
    fpr, tpr = pooled.roc()
    assert len(fpr) == len(tpr) <= 4 * 1000 + 2


def test_the_stream_s_roc_is_undefined_without_an_object_or_background():
    pooled = metrics.PooledAveragePrecision()
    assert np.isnan(pooled.roc()).all()
    for full, (of_background, of_objects) in ((True, (True, False)), (False, (False, True))):
        pooled = metrics.PooledAveragePrecision()
        pooled.update(np.eye(3)[None], np.full((1, 3, 3), full))
        fpr, tpr = pooled.roc()
        assert np.isnan(fpr).all() == of_background
        assert np.isnan(tpr).all() == of_objects
