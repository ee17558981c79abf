"""MURA on a small data set in the real layout."""

import pickle

import pytest
import torch
from layouts import run_examples, truncate, write_mura
from torch.utils.data import DataLoader
from torchvision.transforms import v2 as T

from captum_hrcam.datasets.mura import MURA


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Read only."""
    return write_mura(tmp_path_factory.mktemp("mura"))


@pytest.fixture
def small(tmp_path):
    """To damage."""
    return write_mura(tmp_path, patients=2)


def test_contents(root):
    data = MURA(root, "train")
    assert data.classes == ("negative", "positive")
    assert len(data) == 16  # what the table lists, not the junk files
    assert data.names[2] == "train/XR_SHOULDER/patient00002/study1_positive/image1.png"
    assert data.targets == [0, 0, 1, 1] * 4
    assert data.patients[2] == "patient00002"
    assert data.study_types == ["XR_SHOULDER"] * 8 + ["XR_WRIST"] * 8
    assert {data[i][0].mode for i in range(4)} == {"RGB"}
    assert data[2][1] == 1
    assert "positive 8" in repr(data)


def test_root_is_the_folder_or_its_parent(root):
    assert MURA(root).names == MURA(str(root.parent)).names == MURA(root.parent, "train").names


def test_renamed_folder(small):
    renamed = small.rename(small.parent / "mura (1)")
    assert MURA(renamed, "valid")[0][1] == 0


def test_no_patient_in_both_splits(root):
    assert not set(MURA(root, "train").patients) & set(MURA(root, "valid").patients)


@pytest.mark.parametrize("study_type", ["shoulder", "XR_SHOULDER", ["Shoulder"]])
def test_study_type(root, study_type):
    data = MURA(root, "valid", study_type=study_type)
    assert set(data.study_types) == {"XR_SHOULDER"}
    assert len(data) == len(data.targets) == len(data.patients) == 8


def test_several_study_types(root):
    assert len(MURA(root, study_type=["shoulder", "XR_WRIST"])) == len(MURA(root))


def test_transforms_and_workers(root):
    transform = T.Compose([T.Resize((16, 16)), T.PILToTensor()])
    data = MURA(root, transform=transform, target_transform=float)
    copy = pickle.loads(pickle.dumps(data))  # as a spawned worker gets it
    loader = DataLoader(copy, batch_size=8, num_workers=2, multiprocessing_context="fork")
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert images.shape == (16, 3, 16, 16)
    assert labels.tolist() == data.targets
    assert labels.is_floating_point()


def test_docstring_examples(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    assert run_examples(MURA, {"MURA": MURA}).failed == 0


class TestErrors:
    def test_missing_folder_says_where_to_get_it(self, tmp_path):
        expected = r"nowhere: not found.*stanfordmlgroup.*registration.*Research Use Agreement"
        with pytest.raises(FileNotFoundError, match=expected):
            MURA(tmp_path / "nowhere")

    def test_missing_table(self, small):
        (small / "valid_image_paths.csv").unlink()
        with pytest.raises(FileNotFoundError, match=r"valid_image_paths.csv: not found"):
            MURA(small, "valid")

    def test_missing_image(self, small):
        (small / MURA(small).names[1]).unlink()
        with pytest.raises(FileNotFoundError, match=r"image2.png: listed in .* 1 of 8 listed"):
            MURA(small)

    def test_missing_study_folder(self, small):
        (small / "train" / "XR_WRIST").rename(small / "moved")
        with pytest.raises(FileNotFoundError, match=r"XR_WRIST.*image1.png: listed .* 4 of 8"):
            MURA(small)
        assert len(MURA(small, study_type="shoulder")) == 4  # the others need not be there

    @pytest.mark.parametrize(
        "line", ["MURA-v1.1/train/XR_HAND/patient00001/study1/image1.png", "path"]
    )
    def test_line_without_label(self, small, line):
        table = small / "train_image_paths.csv"
        table.write_text(table.read_text() + line + "\n")
        with pytest.raises(ValueError, match=rf"train_image_paths.csv, line 9: got '{line}'"):
            MURA(small)

    def test_unknown_or_absent_study_type(self, small):
        with pytest.raises(ValueError, match=r"study_type: got \['knee'\], expected of XR_ELBOW"):
            MURA(small, study_type=["wrist", "knee"])
        with pytest.raises(ValueError, match=r"lists no image of XR_HAND"):
            MURA(small, study_type="hand")

    def test_truncated_image(self, small):
        data = MURA(small)
        truncate(data.path(1))
        with pytest.raises(OSError, match=r"image2.png: cannot be read as an image"):
            data[1]

    def test_unknown_split(self, small):
        with pytest.raises(ValueError, match=r"split: got 'test', expected one of 'train', 'val"):
            MURA(small, "test")
