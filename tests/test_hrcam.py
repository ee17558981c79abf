"""HR-CAM against the slow replica, and the identities it promises."""

import pytest
import replica
import torch
from conftest import fitted


def test_attribute_equals_replica(case):
    hrcam, x = fitted(case), case.images()
    maps = replica.feature_maps(hrcam.forward_func, hrcam.layers, x)
    for c in range(3):
        expected = replica.class_map(maps, hrcam.weights, c, case.size)
        torch.testing.assert_close(
            hrcam.attribute(x, target=c).double(), expected, rtol=1e-4, atol=1e-5
        )


def test_predict_equals_replica(case):
    hrcam, x = fitted(case), case.images()
    maps = replica.feature_maps(hrcam.forward_func, hrcam.layers, x)
    expected = replica.scores(maps, hrcam.weights, hrcam.bias)
    torch.testing.assert_close(hrcam.predict(x).double(), expected, rtol=1e-4, atol=1e-5)


def test_mean_of_map_plus_bias_is_score(case):
    if not case.whole_factors:
        pytest.skip("completeness at the input's size needs whole upscale factors")
    hrcam, x = fitted(case), case.images()
    means = hrcam.class_maps(x).flatten(2).mean(2)
    torch.testing.assert_close(means + hrcam.bias.float(), hrcam.predict(x), rtol=1e-4, atol=1e-5)


def test_layer_maps_add_up(case):
    hrcam, x = fitted(case), case.images()
    for fusion in ("sum", "evidence"):
        parts = hrcam.layer_maps(x, target=2, fusion=fusion)
        assert list(parts) == list(case.layers)
        whole = hrcam.attribute(x, target=2, fusion=fusion)
        torch.testing.assert_close(sum(parts.values()), whole, rtol=1e-4, atol=1e-5)


def test_class_maps_equal_attribute(case):
    hrcam, x = fitted(case), case.images()
    maps = hrcam.class_maps(x)
    for c in range(3):
        torch.testing.assert_close(maps[:, c : c + 1], hrcam.attribute(x, c), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", ["pattern", "ridge", "adam"])
def test_batch_equals_one_by_one(case, solver):
    hrcam, x = fitted(case, solver=solver), case.images()
    targets = [0, 2, 1, 2]
    batch = hrcam.attribute(x, target=targets)
    single = torch.cat([hrcam.attribute(x[i : i + 1], targets[i]) for i in range(4)])
    torch.testing.assert_close(batch, single, rtol=1e-4, atol=1e-5)


def test_save_and_load_round_trip(case, tmp_path):
    hrcam, x = fitted(case), case.images()
    hrcam.save(tmp_path / "hrcam.pt")
    loaded = type(hrcam).load(tmp_path / "hrcam.pt", hrcam.forward_func)
    assert torch.equal(loaded.attribute(x, 1), hrcam.attribute(x, 1))
    assert torch.equal(
        loaded.attribute(x, 1, fusion="evidence"), hrcam.attribute(x, 1, fusion="evidence")
    )
