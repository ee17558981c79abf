"""What the benchmarks are built of: sections of RESULTS.md, and images with true masks."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from images import KINDS
from networks import NETWORKS, train
from results import write_section


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


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_train(name):
    x, y, _ = KINDS["gratings"](8, 0, False)
    model = train(name, x, y, epochs=1, seed=0, turn=False, batch_size=4)
    assert not model.training
    assert model(x).shape == (8, 4)
