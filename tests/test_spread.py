"""How far maps vary over space: against numpy, image by image."""

import numpy as np
import pytest
import torch

from captum_hrcam.spread import contrast, over_space, typical

GENERATOR = torch.Generator().manual_seed(0)
Y = torch.nn.functional.one_hot(torch.arange(20) % 3, 3)
MAPS = torch.randn(20, 3, 3, 2, generator=GENERATOR) * (1 + 2 * Y[:, :, None, None])
VARIANCE = np.var(MAPS.double().numpy(), axis=(2, 3))


def test_variance_is_over_the_cells():
    np.testing.assert_allclose(over_space(MAPS), VARIANCE)


def test_typical_is_the_root_of_the_mean_over_images():
    weights = torch.ones(20)
    np.testing.assert_allclose(typical(over_space(MAPS), weights), np.sqrt(VARIANCE.mean(0)))
    weights[:5] = 3  # as if these came three times
    expected = np.sqrt((VARIANCE.sum(0) + 2 * VARIANCE[:5].sum(0)) / 30)
    np.testing.assert_allclose(typical(over_space(MAPS), weights), expected)


def test_contrast_compares_images_of_a_class_with_the_others():
    own = Y.bool().numpy()
    expected = [
        np.sqrt(VARIANCE[own[:, c], c].mean() / VARIANCE[~own[:, c], c].mean()) for c in range(3)
    ]
    np.testing.assert_allclose(contrast(over_space(MAPS), Y), expected)
    assert min(expected) > 2


def test_soft_targets_count_in_part():
    y = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.25, 0.0], [0.0, 1.0]] * 4)
    variance = torch.tensor([[4.0, 9.0], [4.0, 1.0], [1.0, 1.0], [1.0, 9.0]] * 4)
    own, others = (2 * 4 + 0.25 * 1) / 2.25, 1
    assert contrast(variance, y).tolist() == pytest.approx([(own / others) ** 0.5, 3])


@pytest.mark.parametrize(("n", "is_told"), [(3, False), (4, True)])
def test_fewer_than_four_images_tell_nothing(n, is_told):
    for n_own in (n, 20 - n):  # of the class, of others
        y = (torch.arange(20) < n_own).double()[:, None]
        assert contrast(torch.ones(20, 1), y).isfinite().all() == is_told


def test_flat_maps_have_no_contrast():
    assert contrast(over_space(torch.ones(20, 3, 4, 4)), Y).tolist() == [0, 0, 0]
