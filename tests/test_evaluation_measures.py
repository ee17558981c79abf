"""The whole set's figures, batch by batch, against those of all maps at once."""

import numpy as np
import pytest
import torch
from evaluated import DATA, cnn, methods_of, of_set, whole
from torch import nn

from captum_hrcam import CAM, compare, evaluate, metrics
from captum_hrcam.evaluation.measures import ORACLE_IOU, SetFigures


@pytest.fixture
def model() -> nn.Sequential:
    return cnn().eval()


@pytest.mark.parametrize("seed", range(10))
def test_set_figures_are_those_of_all_maps_also_at_the_grid_s_own_values(seed):
    """Few hundredths and few pixels: values that are thresholds, boxes whose IoU is a level."""
    rng = np.random.default_rng(seed)
    maps, masks = rng.integers(0, 4, (5, 5, 5)) / 100, np.zeros((5, 5, 5), dtype=bool)
    for a, m in zip(maps, masks, strict=True):
        (y, x), (v, u) = rng.integers(0, 3, (2, 2))
        a[y : y + 2, x : x + 3] = rng.choice([0.0, 0.02, 0.5])
        a[0, 0], a[4, 4] = 0, 1
        m[v : v + 2, u : u + 2] = True
    masks[3] = False
    some = masks.any((1, 2))
    figures = SetFigures(spatial_dims=2)
    figures.update(maps[:2, None], masks[:2])
    figures.update(maps[2:], masks[2:])
    best = metrics.oracle_threshold(maps[some], masks[some])
    assert figures.compute() == {
        "PxAP": pytest.approx(metrics.pxap(maps, masks)),
        "MaxBoxAccV2": pytest.approx(metrics.max_box_acc_v2(maps[some], masks[some])),
        ORACLE_IOU: pytest.approx(metrics.iou(maps[some], masks[some], best).mean()),
    }


def test_each_level_of_the_box_iou_has_its_own_threshold():
    maps, masks = np.full((3, 8, 8), 0.2), np.zeros((3, 8, 8))
    masks[:, :4, :4] = 1
    maps[0, 7, 7], maps[0, :4, :4] = 0, 1  # the object's box above 0.2, 16 / 64 below
    maps[1:] = 0
    maps[1:, :6, :6], maps[1:, 5, 5] = 0.2, 1  # 16 / 36 below, none above
    figures = SetFigures(spatial_dims=2)
    figures.update(maps, masks)
    by_hand = (2 / 3 + 1 / 3 + 1 / 3) / 3
    assert figures.compute()["MaxBoxAccV2"] == pytest.approx(by_hand)
    assert metrics.max_box_acc_v2(maps, masks) == pytest.approx(by_hand)


def test_set_figures_without_any_object_are_undefined(model):
    images, labels, masks, _ = whole()
    result = evaluate(CAM(model, "3"), [(images, labels, torch.zeros_like(masks))])
    assert np.isnan(list(of_set(result, "CAM").values())).all()
    assert "nan" in str(result)


def test_pxap_of_a_small_set_is_exact(model):
    result = evaluate(methods_of(model), DATA)
    found = result.pooled.query("method == 'Grad-CAM' and metric == 'PxAP'")["value"].item()
    images, labels, masks, _ = whole()
    maps = compare(methods_of(model), images, labels)["Grad-CAM"]
    assert found == metrics.pxap(maps, masks)
