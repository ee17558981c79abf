"""Masks through their transform."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2 as T

from captum_hrcam.datasets.masks import transformed

MASK = torch.arange(24).reshape(4, 6) % 6 > 2


def test_without_a_transform_a_mask_is_itself():
    assert transformed(MASK, None) is MASK


def test_a_transform_of_images_takes_the_nearest_neighbour_and_leaves_values_alone():
    of_images = T.Compose(
        [
            T.PILToTensor(),
            T.Resize((8, 12)),
            T.CenterCrop(6),
            T.ToDtype(torch.float32, scale=True),
            T.Normalize([0.5], [0.25]),
        ]
    )
    given = transformed(MASK, of_images)
    assert type(given) is torch.Tensor
    assert torch.equal(given, MASK.repeat_interleave(2, 0).repeat_interleave(2, 1)[1:7, 3:9])


def test_a_function_may_be_the_transform():
    assert torch.equal(transformed(MASK, lambda mask: mask[::2, ::2].float()), MASK[::2, ::2] * 1.0)


def test_what_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match="mask_transform: gave ndarray, expected a tensor"):
        transformed(MASK, np.asarray)
