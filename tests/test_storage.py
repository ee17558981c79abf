"""Heads on disk: whole or not at all, read without running code."""

import os
import pickle
import re

import pytest
import torch
from conftest import BY_NAME, fitted

from captum_hrcam import HRCAM
from captum_hrcam.storage import FORMAT, VERSION

CASE = BY_NAME["vgg2d"]


def test_everything_a_map_needs_is_kept(tmp_path):
    hrcam = fitted(CASE, solver="pattern")  # which is centred
    hrcam.save(tmp_path / "head.pt")
    head = HRCAM.load(tmp_path / "head.pt", CASE.model()).head
    for field in ("weights", "mean_score", "spread"):
        for name, value in getattr(hrcam.head, field).items():
            assert torch.equal(getattr(head, field)[name], value)
    assert torch.equal(head.bias, hrcam.bias)
    assert head.centred is True


def test_layer_inputs_are_remembered(tmp_path):
    hrcam = HRCAM(CASE.model(), "pool1", attribute_to_layer_input=True)
    hrcam.fit([(torch.randn(12, 2, 8, 12), torch.arange(12) % 3)])
    hrcam.save(tmp_path / "head.pt")
    loaded = HRCAM.load(tmp_path / "head.pt", hrcam.forward_func)
    assert loaded.attribute_to_layer_input
    assert torch.equal(loaded.attribute(CASE.images(), 1), hrcam.attribute(CASE.images(), 1))


def test_layers_may_have_other_names_in_another_model(tmp_path):
    hrcam = fitted(CASE)
    hrcam.save(tmp_path / "head.pt")
    wrapped = torch.nn.Sequential(hrcam.forward_func)
    loaded = HRCAM.load(tmp_path / "head.pt", wrapped, ["0.stage1", "0.stage2", "0.stage3"])
    assert torch.equal(loaded.attribute(CASE.images(), 1), hrcam.attribute(CASE.images(), 1))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file '.*absent\.pt'; save a fitted HRCAM"):
        HRCAM.load(tmp_path / "absent.pt", CASE.model())


def test_truncated_file_is_named(tmp_path):
    path = tmp_path / "head.pt"
    fitted(CASE).save(path)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"head\.pt' is truncated or was not written"):
            HRCAM.load(path, CASE.model())


@pytest.mark.parametrize(
    "content",
    [
        {"weights": torch.ones(2)},
        [1, 2],
        {"format": FORMAT, "version": VERSION},
        {"format": FORMAT, "version": VERSION, "head": {}, "attribute_to_layer_input": False},
    ],
)
def test_foreign_file_is_named(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt' is truncated or was not written"):
        HRCAM.load(tmp_path / "other.pt", CASE.model())


def test_code_in_a_file_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    (tmp_path / "bomb.pt").write_bytes(pickle.dumps(Bomb()))
    torch.save({"format": FORMAT, "version": VERSION, "head": Bomb()}, tmp_path / "zipped.pt")
    for name in ("bomb.pt", "zipped.pt"):
        with pytest.raises(ValueError, match=name):
            HRCAM.load(tmp_path / name, CASE.model())
    assert not (tmp_path / "exploded").exists()


def test_newer_format_says_what_to_do(tmp_path):
    torch.save({"format": FORMAT, "version": VERSION + 1}, tmp_path / "new.pt")
    with pytest.raises(ValueError, match=f"version {VERSION + 1}.*Update captum-hrcam"):
        HRCAM.load(tmp_path / "new.pt", CASE.model())


def test_other_number_of_layers_is_refused(tmp_path):
    fitted(CASE).save(tmp_path / "head.pt")
    with pytest.raises(ValueError, match=r"got 1 layers, but .* holds 3: stage1, stage2, stage3"):
        HRCAM.load(tmp_path / "head.pt", CASE.model(), "stage1")


def test_other_model_is_refused_by_layer_name(tmp_path):
    fitted(CASE).save(tmp_path / "head.pt")
    with pytest.raises(ValueError, match="no layer 'stage1'"):
        HRCAM.load(tmp_path / "head.pt", torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)))


def test_failed_save_keeps_the_earlier_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "head.pt"
    fitted(CASE).save(path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fitted(CASE, solver="ridge", penalty=1.0).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["head.pt"]


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "no"))):
        fitted(CASE).save(tmp_path / "no" / "head.pt")


def test_saving_before_fitting_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="no head yet"):
        HRCAM(CASE.model(), "stage1").save(tmp_path / "head.pt")
    assert os.listdir(tmp_path) == []
