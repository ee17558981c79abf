"""What the benchmarks are built of: sections of RESULTS.md, and images with true masks."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from images import KINDS
from networks import NETWORKS, train
from real import SETS, SIZE, real
from results import write_section
from scale import solve
from scale import write as write_features


def test_a_section_replaces_itself_and_leaves_the_others(tmp_path):
    path = tmp_path / "RESULTS.md"
    write_section(path, "speed", "fast")
    write_section(path, "localization", "there")
    write_section(path, "speed", "faster")
    text = path.read_text()
    assert text.startswith("# Measured")
    assert text.count("<!-- speed -->") == text.count("<!-- localization -->") == 2
    assert text.index("faster") < text.index("there")
    assert "fast\n" not in text
    assert text.count("Measured at commit ") == 2
    write_section(path, "speed", "faster")
    assert path.read_text() == text


@pytest.mark.parametrize("kind", KINDS)
def test_images_come_with_masks_of_what_tells_the_class(kind):
    draw = KINDS[kind]
    x, y, masks = draw(20, 3, True)
    again, other = draw(20, 3, True), draw(20, 4, True)
    assert torch.equal(x, again.x)
    assert not torch.equal(x, other.x)
    assert len(x) == len(y) == len(masks) == 20
    assert masks.shape[1:] == x.shape[2:]
    share = masks.float().mean((1, 2))
    assert (share > 0).all()
    assert share.max() < 0.35


def test_test_digits_are_no_training_digits():
    from images import _digits

    images, target = _digits()
    seen, unseen = images[:1200].reshape(1200, -1), images[1200:].reshape(-1, 64)
    assert (torch.cdist(torch.tensor(unseen), torch.tensor(seen)).min(1).values > 0).all()
    assert set(target[1200:]) == set(range(10))


def write(path, *box):
    """A grey picture of 48 x 32 with a white box, none by default."""
    pixels = np.zeros((32, 48), np.uint8)
    if box:
        top, left, bottom, right = box
        pixels[top:bottom, left:right] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_brains(data, patient, slice, *box):
    name = f"TCGA_{patient}_1"
    write(data / "kaggle_3m" / name / f"{name}_{slice}.tif", 0, 0, patient, patient)
    write(data / "kaggle_3m" / name / f"{name}_{slice}_mask.tif", *box)


def test_brains_are_held_out_by_patient_and_tested_where_there_is_a_tumour(tmp_path):
    for patient in range(1, 11):
        write_brains(tmp_path, patient, 1)
        write_brains(tmp_path, patient, 2, 8, 12, 16, 24)
    train, test = (real("brain tumours", 100, 0, part, tmp_path) for part in (False, True))
    assert train.x.shape == (14, 3, SIZE, SIZE)
    assert train.y.sum() == 7
    assert torch.equal(train.masks.any(2).any(1), train.y == 1)
    assert torch.equal(test.y, torch.ones(3, dtype=torch.long))
    assert test.masks[:, SIZE // 4 : SIZE // 2, SIZE // 4 : SIZE // 2].all()
    assert test.masks.sum() == 3 * (SIZE // 4) ** 2
    marks = [set(part.x.sum((1, 2, 3)).round().tolist()) for part in (train, test)]
    assert not marks[0] & marks[1]  # a patient's mark is as large as the number
    other = real("brain tumours", 100, 1, True, tmp_path)
    assert set(other.x.sum((1, 2, 3)).round().tolist()) != marks[1]
    assert len(real("brain tumours", 5, 0, False, tmp_path).x) == 5


def test_masks_of_a_breast_are_added_up(tmp_path):
    folder = tmp_path / "Dataset_BUSI_with_GT"
    for i in range(1, 11):
        for name, *boxes in (
            ("normal", ()),
            ("benign", (0, 0, 16, 24)),
            ("malignant", (0, 0, 16, 24), (16, 24, 32, 48)),
        ):
            write(folder / name / f"{name} ({i}).png", 0, 0, 4, 4)
            for j, box in enumerate(boxes):
                write(folder / name / f"{name} ({i})_mask{f'_{j}' if j else ''}.png", *box)
    train, test = (real("breast tumours", 100, 0, part, tmp_path) for part in (False, True))
    assert len(train.x) == 21
    assert set(train.y.tolist()) == {0, 1, 2}
    assert train.x.shape[1:] == (1, SIZE, SIZE)
    for part in (train, test):
        share = part.masks.float().mean((1, 2))
        assert torch.equal(share, part.y / 4)
    assert 0 not in test.y


@pytest.mark.parametrize("kind", SETS)
def test_a_missing_set_is_named(kind, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no images of '{kind}'.*real.py says where"):
        real(kind, 10, 0, True, tmp_path)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_train(name):
    x, y, _ = KINDS["gratings"](8, 0, False)
    model = train(name, x, y, epochs=1, seed=0, turn=False, batch_size=4)
    assert not model.training
    assert model(x).shape == (8, 4)


def test_a_ridge_head_is_solved_on_features_from_disk(tmp_path):
    figures = solve(write_features(1000, tmp_path / "rows"), penalty=100.0).figures
    assert figures["penalty"] == 100.0
    assert figures["head_accuracy"] > 0.2  # of eight classes
