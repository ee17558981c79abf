"""Simulated pathology: reproducible, the lesion in the mask and nowhere else, no easy cue."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2

from captum_hrcam.datasets import SimulatedPathology


def test_item_depends_on_seed_and_index_alone():
    long, short = SimulatedPathology(50, 48, seed=3), SimulatedPathology(10, 48, seed=3)
    for i in (7, 2):
        assert torch.equal(long[i][0], short[i][0])
        assert torch.equal(long.mask(i), short.mask(i))
    assert not torch.equal(SimulatedPathology(10, 48, seed=4)[7][0], short[7][0])
    assert not torch.equal(short[5][0], short[7][0])


def test_classes_and_kinds_are_balanced():
    data = SimulatedPathology(40, 48)
    labels = [data[i][1] for i in range(40)]
    kinds = [data.kind(i) for i in range(40)]
    assert sum(labels) == 20
    assert kinds.count("localised") == kinds.count("diffuse") == 10
    assert all(
        (kind == "normative") == (label == 0) for kind, label in zip(kinds, labels, strict=True)
    )


def test_lesion_is_what_the_mask_says():
    plain, lesions = (SimulatedPathology(60, 64, contrast=c) for c in (0.0, 1.0))
    for i in range(60):
        added = (lesions[i][0] - plain[i][0])[0]  # the same anatomy and noise
        mask = lesions.mask(i)
        if lesions.kind(i) == "normative":
            assert not mask.any()
            assert not added.any()
        else:
            assert added[mask].min() > added[~mask].max() - 1e-6
            assert 0 < mask.float().mean() < 0.25


def test_masks_are_transformed_as_images():
    plain, turned = SimulatedPathology(4, 48), v2.RandomHorizontalFlip(p=1)
    data = SimulatedPathology(4, 48, transform=turned, mask_transform=turned)
    assert torch.equal(data[1][0], plain[1][0].flip(-1))
    assert torch.equal(data.mask(1), plain.mask(1).flip(-1))
    assert not torch.equal(data.mask(1), plain.mask(1))


def test_dark_lesions_have_the_masks_of_bright_ones():
    dark, bright = (SimulatedPathology(8, 48, contrast=c) for c in (-1.0, 1.0))
    for i in range(8):
        assert torch.equal(dark.mask(i), bright.mask(i))
        assert dark.mask(i).any() == (i % 2 == 1)


def test_index_may_be_a_tensor_or_numpys():
    data = SimulatedPathology(8, 48)
    for i in (torch.tensor(3), np.int64(3)):
        assert torch.equal(data[i][0], data[3][0])
        assert (data[i][1], data.kind(i)) == (data[3][1], data.kind(3))
        assert torch.equal(data.mask(i), data.mask(3))
    some = Subset(data, torch.randperm(8)[:4])
    assert len(next(iter(DataLoader(some, batch_size=4)))[0]) == 4


def test_diffuse_lesions_are_wider_and_fainter():
    data, plain = SimulatedPathology(120, 64), SimulatedPathology(120, 64, contrast=0.0)
    area, height = {}, {}
    for kind in ("localised", "diffuse"):
        items = [i for i in range(120) if data.kind(i) == kind]
        area[kind] = np.mean([data.mask(i).float().mean() for i in items])
        height[kind] = np.mean([(data[i][0] - plain[i][0]).max() for i in items])
    assert area["diffuse"] > 2 * area["localised"]
    assert height["diffuse"] < height["localised"]


def test_global_intensities_do_not_give_the_class_away():
    data = SimulatedPathology(600, 64, seed=5)
    images = [data[i][0] for i in range(600)]
    figures = [[x.mean(), x.std(), x.min(), x.max()] for x in images]
    model = make_pipeline(StandardScaler(), LogisticRegression())
    assert cross_val_score(model, np.array(figures), np.arange(600) % 2, cv=5).mean() < 0.70


def test_works_in_a_loader_with_workers_and_transform():
    data = SimulatedPathology(8, 32, transform=lambda x: x.repeat(3, 1, 1))
    images, labels = next(iter(DataLoader(data, batch_size=8, num_workers=1)))
    assert images.shape == (8, 3, 32, 32)
    assert labels.tolist() == [0, 1] * 4


@pytest.mark.parametrize(
    ("arguments", "message"), [((0,), "n: got 0"), ((4, 16), "size: got 16, expected at least 32")]
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SimulatedPathology(*arguments)


def test_index_out_of_range_ends_iteration():
    data = SimulatedPathology(3, 32)
    assert len(list(data)) == len(data) == 3
    with pytest.raises(IndexError):
        data.mask(3)
