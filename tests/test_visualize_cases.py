"""Cases of a case browser: what they refuse, and what is collected of methods."""

import numpy as np
import pytest
import torch
from browser import SIZE, case
from captum.attr import LayerGradCam
from conftest import BY_NAME, fitted

from captum_hrcam import CAM, compare
from captum_hrcam.fusion import upsample
from captum_hrcam.visualize import collect_cases

OF = BY_NAME["vgg2d"]


def test_cases_hold_what_the_methods_say():
    hrcam = fitted(OF)
    model, last, x = hrcam.forward_func.eval(), OF.layers[-1], OF.images()
    methods = [CAM(model, last), LayerGradCam(model, hrcam.layers[last])]
    masks = torch.rand(4, 1, *OF.size) > 0.5
    collected = collect_cases(
        hrcam, x, targets=[2, 0], methods=methods, shown=x[:, :1], masks=masks, titles=[*"abcd"]
    )
    for i, one in enumerate(collected):
        for k, target in enumerate([2, 0]):
            total = sum(upsample(a[None], OF.size)[0, k] for a in one.layer_maps.values())
            torch.testing.assert_close(total, hrcam.attribute(x, target)[i, 0])
            for name, a in compare(methods, x, target).items():
                torch.testing.assert_close(one.maps[name][k], a[i, 0])
            assert one.scores[k] == pytest.approx(float(hrcam.predict(x)[i, target]), abs=1e-5)
        assert np.array_equal(one.mask, masks[i, 0])
        assert np.array_equal(one.image, x[i, :1])
        assert one.title == "abcd"[i]
        means = sum(a.mean((1, 2)) for a in one.layer_maps.values())
        np.testing.assert_allclose(means + one.bias, one.scores, atol=1e-5)


@pytest.mark.parametrize("fusion", ["evidence", "agreement"])
def test_cases_of_other_fusions_add_up_to_their_map(fusion):
    hrcam, x = fitted(OF), OF.images()
    expected = hrcam.class_maps(x, fusion=fusion)
    for one, of_classes in zip(
        collect_cases(hrcam, x, shown=x[:, :1], fusion=fusion), expected, strict=True
    ):
        total = sum(upsample(a[None], OF.size)[0] for a in one.layer_maps.values())
        torch.testing.assert_close(total, of_classes)
        assert one.bias is None  # no sum that a bias would complete


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"shown": None}, ValueError, "^images: got shape .* 1 or 3 channels.*shown="),
        ({"shown": torch.rand(4, 2, *OF.size)}, ValueError, "^shown: got shape .* 1 or 3 channels"),
        ({"fusion": "mean"}, ValueError, "fusion: got 'mean', expected one of"),
        ({"shown": torch.rand(3, 1, *OF.size)}, ValueError, "shown: got 3 pictures of 4"),
        ({"targets": []}, ValueError, "targets: got none"),
        ({"targets": [3]}, AssertionError, "target: got 3"),
        ({"masks": torch.ones(4, 3, 3)}, ValueError, "masks: got shape"),
        ({"masks": [*torch.ones(3, *OF.size), None]}, ValueError, "masks: got a list of 4.*zeros"),
        ({"shown": torch.rand(1, *OF.size)}, ValueError, r"^shown: got shape .*image\[None\]"),
        ({"titles": ["a"]}, ValueError, "titles: got 1 for 4"),
        (
            {"scores": torch.ones(4, 2)},
            ValueError,
            r"scores: got shape \(4, 2\), expected \(4, 3\)",
        ),
    ],
)
def test_what_cannot_be_collected_is_refused(changes, error, message):
    x = OF.images()
    with pytest.raises(error, match=message):
        collect_cases(fitted(OF, solver="pattern"), x, **({"shown": x[:, :1]} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": torch.rand(2, *SIZE)}, "image: got shape .*1 or 3 channels"),
        ({"layer_maps": {}}, "layer_maps: got no layer"),
        (
            {"maps": {"CAM": torch.rand(3, 3, 4)}},
            r"maps\['CAM'\]: got shape \(3, 3, 4\), expected 2",
        ),
        ({"scores": [1.0]}, r"scores: got shape \(1,\)"),
        ({"bias": [1.0]}, r"bias: got shape \(1,\)"),
        ({"mask": torch.zeros(5, 5)}, "mask"),
        ({"image": torch.full((1, *SIZE), torch.nan)}, "image: NaN or infinity"),
    ],
)
def test_a_case_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        case(0, **changes)


def test_volumes_are_refused_by_the_name_that_they_were_passed_by():
    volume = BY_NAME["vgg3d"]
    with pytest.raises(ValueError, match=r"^images: got shape .*slices_figure"):
        collect_cases(fitted(volume, solver="pattern"), volume.images())
