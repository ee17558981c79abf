"""HRCAM's own head, or one fitted anew, on a copy of its model."""

import pytest
import torch
from conftest import BY_NAME, fit_quietly, training_batches

from captum_hrcam import HRCAM
from captum_hrcam.faithfulness import head_kept, head_refitted


def test_layers_inputs_and_transforms_go_along():
    case = BY_NAME["vgg2d"]
    model = case.model().eval()
    hrcam = HRCAM(
        model,
        [model.stage2, model.stage3],
        attribute_to_layer_input=True,
        reshape_transform=lambda f: f.flip(2),
    )
    loader = training_batches(case)
    fit_quietly(hrcam, loader)
    methods = {"kept": head_kept(hrcam), "anew": head_refitted(hrcam, loader, solver="cascade")}
    for build in methods.values():
        own = hrcam.attribute(case.images(), 1)
        torch.testing.assert_close(build(case.model().eval()).attribute(case.images(), 1), own)


def test_heads_that_cannot_be_put_on_a_copy_are_refused():
    case = BY_NAME["vgg2d"]
    model = case.model()
    with pytest.raises(RuntimeError, match="no head yet"):
        head_kept(HRCAM(model, "stage1"))
    around = HRCAM(lambda x: model(x), model.stage1)
    for build in (head_kept, lambda h: head_refitted(h, [])):
        with pytest.raises(ValueError, match="Build it on the model itself"):
            build(around)
        with pytest.raises(TypeError, match="hrcam: got VGGLike"):
            build(model)
    with pytest.raises(TypeError, match="read once"):
        head_refitted(HRCAM(model, "stage1"), iter(training_batches(case)))
