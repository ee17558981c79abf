"""What holds for every map and mask: ranges, invariances, identities (by hypothesis)."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from captum_hrcam import metrics

T = 0.4
THRESHOLDED = {
    "sensitivity": lambda a, m: metrics.sensitivity(a, m, T),
    "specificity": lambda a, m: metrics.specificity(a, m, T),
    "iou": lambda a, m: metrics.iou(a, m, T),
    "dice": lambda a, m: metrics.dice(a, m, T),
    "iou otsu": lambda a, m: metrics.iou(a, m, metrics.otsu_threshold(a)),
}
RANKING = {
    "pixel_average_precision": metrics.pixel_average_precision,
    "pixel_auroc": metrics.pixel_auroc,
    "sensitivity_at_specificity": lambda a, m: metrics.sensitivity_at_specificity(a, m, 0.75),
    "pointing_game": metrics.pointing_game,
}
PER_IMAGE = {**THRESHOLDED, **RANKING, "energy_pointing": metrics.energy_pointing}
quick = settings(max_examples=25, deadline=None)
few = settings(max_examples=12, deadline=None)  # boxes at 99 thresholds


@st.composite
def pairs(draw, dims: int = 2, n: int = 3):
    """(maps, masks): whole numbers, so that scaling by whole numbers is exact; many ties."""
    shape = (draw(st.integers(1, n)), *draw(npst.array_shapes(min_dims=dims, max_dims=dims)))
    maps = draw(npst.arrays(np.int64, shape, elements=st.integers(-30, 30)))
    return maps.astype(float), draw(npst.arrays(bool, shape))


same = np.testing.assert_array_equal


@pytest.mark.parametrize("name", PER_IMAGE)
@quick
@given(data=pairs())
def test_range_and_batch(name, data):
    """In 0..1 or NaN; a batch is its images one by one."""
    figures = PER_IMAGE[name](*data)
    assert np.all(np.isnan(figures) | ((figures >= 0) & (figures <= 1)))
    same(figures, [PER_IMAGE[name](a, m) for a, m in zip(*data, strict=True)])


@pytest.mark.parametrize("name", PER_IMAGE)
@quick
@given(data=pairs())
def test_undefined_depends_on_the_mask_alone(name, data):
    maps, masks = data
    other = np.random.default_rng(0).normal(size=maps.shape)
    same(np.isnan(PER_IMAGE[name](maps, masks)), np.isnan(PER_IMAGE[name](other, masks)))


@pytest.mark.parametrize("name", PER_IMAGE)
@quick
@given(data=pairs(), seed=st.integers(0, 99))
def test_space_does_not_matter(name, data, seed):
    """Volumes of depth one, and pixels moved about together with their mask, score the same."""
    maps, masks = data
    figures = PER_IMAGE[name](maps, masks)
    same(PER_IMAGE[name](maps[..., None], masks[..., None]), figures)
    same(PER_IMAGE[name](maps[:, None, None], masks[:, None, None]), figures)
    order = np.random.default_rng(seed).permutation(maps[0].size)
    moved = [x.reshape(len(x), -1)[:, order].reshape(x.shape) for x in (maps, masks)]
    np.testing.assert_allclose(PER_IMAGE[name](*moved), figures, rtol=1e-12)


@pytest.mark.parametrize("name", RANKING)
@quick
@given(data=pairs())
def test_rank_metrics_see_ranks_only(name, data):
    maps, masks = data
    same(RANKING[name](maps**3 + maps, masks), RANKING[name](maps, masks))
    same(RANKING[name](np.exp(maps / 8), masks), RANKING[name](maps, masks))


@pytest.mark.parametrize("name", THRESHOLDED)
@quick
@given(data=pairs(), scale=st.integers(1, 9), shift=st.integers(-99, 99))
def test_scaled_metrics_see_no_scale(name, data, scale, shift):
    maps, masks = data
    same(THRESHOLDED[name](scale * maps + shift, masks), THRESHOLDED[name](maps, masks))


@few
@given(data=pairs(), scale=st.integers(1, 9), shift=st.integers(-99, 99))
def test_set_metrics_see_no_scale(data, scale, shift):
    maps, masks = data
    assume(masks.any((1, 2)).all())
    other = scale * maps + shift
    same(metrics.min_max(other), metrics.min_max(maps))
    assert metrics.pxap(other, masks) == metrics.pxap(maps, masks)
    assert metrics.max_box_acc_v2(other, masks) == metrics.max_box_acc_v2(maps, masks)


@quick
@given(data=pairs())
def test_min_max_spans_0_to_1(data):
    for a, s in zip(data[0], metrics.min_max(data[0]), strict=True):
        assert (s.min(), s.max()) == ((0, 1) if np.ptp(a) else (0, 0))


@quick
@given(data=pairs(), low=st.floats(0, 1), high=st.floats(0, 1))
def test_thresholds_trade_sensitivity_for_specificity(data, low, high):
    low, high = sorted((low, high))
    maps, masks = data[0], data[1].copy()
    assume(masks.any((1, 2)).all() and not masks.all((1, 2)).any())
    assert (metrics.sensitivity(*data, low) >= metrics.sensitivity(*data, high)).all()
    assert (metrics.specificity(*data, low) <= metrics.specificity(*data, high)).all()
    assert (metrics.sensitivity(maps, masks, 0.0) == 1).all()


@quick
@given(data=pairs(), t=st.floats(0, 1))
def test_identities(data, t):
    maps, masks = data
    overlap = metrics.iou(maps, masks, t)
    np.testing.assert_allclose(metrics.dice(maps, masks, t), 2 * overlap / (1 + overlap))
    # The background's specificity is the sensitivity of a mask turned around.
    marked = metrics.sensitivity(maps, ~masks, t)
    np.testing.assert_allclose(metrics.specificity(maps, masks, t), 1 - marked)
    auroc = metrics.pixel_auroc(maps, masks)
    np.testing.assert_allclose(metrics.pixel_auroc(-maps, masks), 1 - auroc)
    np.testing.assert_allclose(metrics.pixel_auroc(maps, ~masks), 1 - auroc)


@quick
@given(data=pairs(n=1))
def test_pooled_over_one_image_is_its_average_precision(data):
    expected = metrics.pixel_average_precision(*data)[0]
    np.testing.assert_allclose(metrics.pxap(*data), expected)


@quick
@given(data=pairs(), cut=st.integers(0, 3))
def test_histograms_are_exact_where_bins_tell_values_apart(data, cut):
    """Scaled whole numbers a span of 60 wide are at least 1/3600 apart; batches don't matter."""
    maps, masks = data
    pooled = metrics.PooledAveragePrecision(bins=100_000)
    for part in (slice(0, cut), slice(cut, None)):
        if len(maps[part]):
            pooled.update(maps[part], masks[part])
    np.testing.assert_allclose(pooled.compute(), metrics.pxap(maps, masks))


@quick
@given(data=pairs(dims=3))
def test_vxap_of_volumes(data):
    maps, masks = data
    flat = maps.reshape(len(maps), -1, 1), masks.reshape(len(maps), -1, 1)
    same(metrics.vxap(maps, masks), metrics.pxap(*flat))


@few
@given(data=pairs())
def test_boxes(data):
    maps, masks = data
    assume(masks.any((1, 2)).all())
    largest = metrics.max_box_acc_v2(maps, masks)
    every = metrics.max_box_acc_v2(maps, masks, contours="all")
    assert 0 <= largest <= every <= 1
    assert metrics.max_box_acc_v2(maps[..., None], masks[..., None]) == largest
    assert (
        metrics.max_box_acc_v2(maps.swapaxes(1, 2), masks.swapaxes(1, 2), contours="all") == every
    )
    told = ~masks.all((1, 2))  # a map that is its full mask is constant, and marks nothing
    own = metrics.max_box_acc_v2(masks.astype(float), masks, contours="all")
    assert own == pytest.approx(told.mean())
