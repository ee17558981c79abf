"""The paper's clinical experiments from the command line, on tiny data in the real layouts."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from layouts import write_isic, write_mura, write_neuromelanin
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

from paper import folds, isic, neuromelanin  # noqa: E402
from paper.experiment import Pictures, Split, first_of_each, to_pixels  # noqa: E402

from captum_hrcam.datasets import ISIC2019  # noqa: E402

SMALL = ["--image-size", "64", "--batch-size", "12", "--epochs", "1", "--weights", "none"]
SMALL += ["--workers", "0"]
BRAIN_STEM = ["--slices", "3", "5", "--box", "6", "26", "4", "24"]
DATA = {
    "isic": lambda folder: write_isic(folder, lesions=3),
    "mura": write_mura,
    "neuromelanin": write_neuromelanin,
}
WANTED = {
    "isic": ["--arch", "resnet50"],
    "mura": ["--arch", "vgg19"],
    "neuromelanin": ["--arch", "resnet50", "--times", "2", *BRAIN_STEM],
}
SCORES = {"accuracy", "balanced_accuracy", "f1_micro", "f1_macro", "auroc"}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "examples/reproduce_paper.py", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module", params=list(DATA))
def done(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    root, out = DATA[request.param](folder / "data"), folder / "out"
    more = WANTED[request.param]
    if request.param == "isic":
        more = [*more, "--masks", root / "ISIC2018_Task1_Training_GroundTruth"]
    ran = run(request.param, "--root", root, "--out", out, *more, *SMALL)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return request.param, out


def test_figures_are_written(done):
    _, out = done
    for name in ("comparison", "layers", "weights"):
        with Image.open(out / f"{name}.png") as figure:
            assert figure.format == "PNG"
            assert min(figure.size) > 200


def test_scores_are_written(done):
    name, out = done
    found = json.loads((out / "metrics.json").read_text())
    for scored in ("model", "head", "paper_head"):
        assert set(found[scored]) >= SCORES
        assert all(0 <= found[scored][score] <= 1 for score in SCORES)
    for head in ("head", "paper_head"):
        assert 0 <= found[head]["agreement_with_model"] <= 1
        assert len(found[head]["shares"]) == 5
    assert found["options"]["experiment"] == name
    assert found["initialised"] == "random"
    assert found["drawn"]


def test_subjects_of_the_one_split_are_told(done):
    name, out = done
    if name != "neuromelanin":
        pytest.skip("split by lesion or by the data set itself")
    (fold,) = json.loads((out / "folds.json").read_text())
    assert len(fold["train"]) + len(fold["test"]) == 10
    assert not set(fold["train"]) & set(fold["test"])
    assert json.loads((out / "metrics.json").read_text())["images"]["train"] == 2 * len(
        fold["train"]
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("isic", "challenge.isic-archive.com"),
        ("mura", "stanfordmlgroup.github.io"),
        ("neuromelanin", "participants.tsv"),
    ],
)
def test_data_that_are_not_there_are_refused(name, said, tmp_path):
    out = tmp_path / "out"
    ran = run(name, "--root", tmp_path / "absent", "--out", out, *SMALL)
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"{name}: {tmp_path / 'absent'}")
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not out.exists()


def test_each_fold_is_trained_without_the_subjects_it_is_tested_on(tmp_path):
    root, out = write_neuromelanin(tmp_path / "data", 3, 3), tmp_path / "out"
    options = ["--root", root, "--out", out, "--times", 3, *BRAIN_STEM, *SMALL]
    ran = run("neuromelanin", "--folds", 2, *options)
    assert ran.returncode == 0, ran.stderr[-3000:]
    sides = json.loads((out / "folds.json").read_text())
    assert len(sides) == 2
    for fold in sides:
        assert not set(fold["train"]) & set(fold["test"])
        assert len({*fold["train"], *fold["test"]}) == 6
    assert not set(sides[0]["test"]) & set(sides[1]["test"])
    found = json.loads((out / "metrics.json").read_text())
    for k, fold in enumerate(found["folds"], start=1):
        alone = json.loads((out / f"fold{k}" / "metrics.json").read_text())
        assert fold["model"] == alone["model"]
        assert (out / f"fold{k}" / "comparison.png").exists()
    for head in ("model", "head", "paper_head"):
        accuracies = [fold[head]["accuracy"] for fold in found["folds"]]
        assert found["mean"][head]["accuracy"] == pytest.approx(sum(accuracies) / 2)
        spread = abs(accuracies[0] - accuracies[1]) / 2**0.5
        assert found["sd"][head]["accuracy"] == pytest.approx(spread)

    again = run("neuromelanin", "--folds", 3, *options)
    assert again.returncode == 1
    assert "--out" in again.stderr
    assert "checkpoints have seen" in again.stderr


def test_an_image_too_small_for_maps_is_refused(tmp_path):
    ran = run("isic", "--image-size", 32, "--out", tmp_path / "out")
    assert ran.returncode == 2
    assert "--image-size: got 32, expected 64 or more" in ran.stderr
    assert not (tmp_path / "out").exists()


def test_folds_hold_out_whole_subjects_of_both_groups_once():
    subjects = [f"sub-{k:02d}" for k in range(14) for _ in range(1 + k % 3)]
    targets = [int(subject > "sub-05") for subject in subjects]
    left_out = []
    for train, test in neuromelanin.by_subject(subjects, targets, 4):
        assert sorted(train + test) == list(range(len(subjects)))
        assert not {subjects[i] for i in train} & {subjects[i] for i in test}
        assert {targets[i] for i in test} == {targets[i] for i in train} == {0, 1}
        left_out += test
    assert sorted(left_out) == list(range(len(subjects)))


def test_more_folds_than_subjects_of_a_group_are_refused():
    with pytest.raises(ValueError, match=r"--folds: got 4, but the smaller group has 3"):
        neuromelanin.by_subject([f"sub-{k}" for k in range(10)], [0] * 3 + [1] * 7, 4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"folds": 0}, "--folds: got 0"),
        ({"folds": 2, "checkpoint": Path("x.pt")}, "--checkpoint: got x.pt for 2 folds"),
        ({"box": [0, 99, 0, 99]}, "box: got (y0, y1, x0, x1) = (0, 99, 0, 99)"),
        ({"slices": [2, 99]}, "slices: got (2, 99)"),
    ],
)
def test_options_that_do_not_fit_are_refused(given, said, tmp_path):
    parser = argparse.ArgumentParser()
    neuromelanin.add_options(parser)
    options = vars(parser.parse_args([])) | {"checkpoint": None, "image_size": 64}
    options["root"] = write_neuromelanin(tmp_path, 2, 2)
    with pytest.raises(ValueError, match=re.escape(said)):
        neuromelanin.splits(argparse.Namespace(**options | given))


def test_each_slice_is_drawn_ten_times_each_time_another():
    source = [(torch.rand(1, 20, 20), 0), (torch.rand(1, 20, 20), 1)]
    pictures = Pictures(source, to_pixels(32, gray=True, augment=True), times=10)
    assert len(pictures) == 20
    torch.manual_seed(0)
    drawn = [pictures[i] for i in range(20)]
    assert [label for _, label in drawn] == [0, 1] * 10
    assert all(image.shape == (3, 32, 32) for image, _ in drawn)
    assert len({image.sum().item() for image, label in drawn if label == 0}) > 5


def test_pictures_are_three_equal_channels_of_what_was_grey():
    gray = Image.new("L", (30, 20), 51).convert("RGB")
    assert torch.allclose(to_pixels(32)(gray), torch.full((3, 32, 32), 0.2))


def test_classes_weigh_the_more_the_rarer_they_are():
    weights = isic.balanced([0, 0, 0, 1], 2)
    assert weights.tolist() == pytest.approx([2 / 3, 2])


def test_masks_are_squeezed_as_the_images_are(tmp_path):
    root = write_isic(tmp_path, lesions=2)
    data = ISIC2019(root, "all", masks=root / "ISIC2018_Task1_Training_GroundTruth")
    bare = next(i for i in range(len(data)) if i not in data.masked)
    drawn = isic.masks(data, [data.masked[0], bare], 64)
    assert drawn.shape == (2, 64, 64)
    share = data.mask(data.masked[0]).float().mean().item()
    assert drawn[0].float().mean().item() == pytest.approx(share, rel=0.1)
    assert not drawn[1].any()
    # The lesion of class 0 is dark: it is where the resized image is, too.
    image = to_pixels(64)(data[data.masked[0]][0])[0]
    assert image[drawn[0]].mean() < 0.3 < image[~drawn[0]].mean()


def test_the_first_case_of_each_kind_is_drawn():
    assert first_of_each("bacab", [4, 5, 6, 7, 8]) == [5, 4, 6]


def test_an_earlier_run_on_other_subjects_is_not_gone_on_with(tmp_path):
    def of(train, test):
        data = Pictures([], to_pixels(32))
        subjects = {"train": train, "test": test}
        return Split(data, data, data, [], [], [], subjects=subjects)

    folds.keep_subjects([of(["a"], ["b"])], tmp_path)
    folds.keep_subjects([of(["a"], ["b"])], tmp_path)
    with pytest.raises(SystemExit, match="Name another --out"):
        folds.keep_subjects([of(["b"], ["a"])], tmp_path)
