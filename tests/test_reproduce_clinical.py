"""The paper's clinical experiments from the command line, on tiny data in the real layouts."""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import truncate, write_isic, write_mura, write_neuromelanin
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

import reproduce_paper  # noqa: E402
from paper import folds, isic, neuromelanin  # noqa: E402
from paper.outcome import Outcome, for_fit  # noqa: E402
from paper.pictures import Pictures, Split, apart, first_of_each, to_pixels  # noqa: E402
from paper.scores import scores  # noqa: E402

from captum_hrcam.datasets import ISIC2019  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:paper.outcome")

SMALL = ["--image-size", 64, "--batch-size", 12, "--epochs", 1, "--weights", "none"]
BRAIN_STEM = ["--slices", 3, 5, "--box", 6, 26, 4, 24]
SCORES = {"accuracy", "balanced_accuracy", "f1_micro", "f1_macro", "auroc"}


def command(name: str, root: Path, out: Path, *more: object) -> list[str]:
    return [str(part) for part in (name, "--root", root, "--out", out, *SMALL, *more)]


def run_isic(folder: Path, out: Path) -> None:
    """By two processes, each with another that reads."""
    root = write_isic(folder, lesions=3)
    masks = root / "ISIC2018_Task1_Training_GroundTruth"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node=2", "examples/reproduce_paper.py"]
    ran = subprocess.run(
        torchrun + command("isic", root, out, "--masks", masks, "--workers", 1),
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]


def run_mura(folder: Path, out: Path) -> None:
    root = write_mura(folder)
    reproduce_paper.main(command("mura", root, out, "--arch", "vgg19", "--workers", 0))


def run_neuromelanin(folder: Path, out: Path) -> None:
    root, more = write_neuromelanin(folder), ["--times", 2, "--folds", 2, *BRAIN_STEM]
    reproduce_paper.main(command("neuromelanin", root, out, *more, "--workers", 0))


RUNS = {"isic": run_isic, "mura": run_mura, "neuromelanin": run_neuromelanin}


@pytest.fixture(scope="module", params=list(RUNS))
def done(request, tmp_path_factory) -> Iterator[tuple[str, Path, dict]]:
    """An experiment, its folder, its metrics.json."""
    folder = tmp_path_factory.mktemp(request.param)
    RUNS[request.param](folder / "data", folder / "out")
    found = json.loads((folder / "out" / "metrics.json").read_text(), parse_constant=pytest.fail)
    yield request.param, folder / "out", found
    for checkpoint in folder.rglob("*.pt"):
        checkpoint.unlink()  # 280 MB


def test_figures_are_written(done):
    _, out, _ = done
    for name in ("comparison", "layers", "weights"):
        with Image.open(out / f"{name}.png") as figure:
            assert figure.format == "PNG"
            assert min(figure.size) > 200


def test_scores_are_written(done):
    name, _, found = done
    binary = name != "isic"
    for split in found.get("folds", [found]):
        for scored in ("model", "head", "paper_head"):
            wanted = SCORES | {"f1_positive"} if binary else SCORES
            assert set(split[scored]) >= wanted
            assert all(0 <= split[scored][score] <= 1 for score in wanted)
        for head in ("head", "paper_head"):
            assert 0 <= split[head]["agreement_with_model"] <= 1
            assert len(split[head]["shares"]) == 5
        assert split["initialised"] == "random"
        assert split["absent"] == []
        assert split["drawn"]
    assert found["options"]["experiment"] == name
    assert found["processes"] == (2 if name == "isic" else 1)


def test_a_step_takes_the_images_of_all_processes(done):
    name, out, found = done
    if name != "isic":
        pytest.skip("one process")
    (state, *_) = torch.load(out / "resnet50.pt", weights_only=True)["optimizer"]["state"].values()
    assert state["step"] == found["images"]["train"] // 12


def test_each_fold_is_trained_without_the_subjects_it_is_tested_on(done, tmp_path):
    name, out, found = done
    if name != "neuromelanin":
        pytest.skip("split by lesion or by the data set itself")
    sides = json.loads((out / "folds.json").read_text())
    for fold, metrics in zip(sides, found["folds"], strict=True):
        assert not set(fold["train"]) & set(fold["test"])
        assert len({*fold["train"], *fold["test"]}) == 10
        assert metrics["images"] == {k: 2 * len(subjects) for k, subjects in fold.items()}
        drawn = [case.split(",")[0] for case in metrics["drawn"]]
        assert len(drawn) == 3  # of both folds together four patients and two others
        assert set(drawn) <= set(fold["test"])
    assert not set(sides[0]["test"]) & set(sides[1]["test"])
    for head in ("model", "head", "paper_head"):
        for score in (*SCORES, "f1_positive"):
            first, second = (fold[head][score] for fold in found["folds"])
            assert found["mean"][head][score] == pytest.approx((first + second) / 2)
            assert found["sd"][head][score] == pytest.approx(abs(first - second) / 2**0.5)
        n = [fold["images"]["test"] for fold in found["folds"]]
        right = [fold[head]["accuracy"] for fold in found["folds"]]
        assert found["pooled"][head]["accuracy"] == pytest.approx(np.average(right, weights=n))

    root = write_neuromelanin(tmp_path)
    with pytest.raises(SystemExit, match=r"--out: .* checkpoints have seen"):
        reproduce_paper.main(command("neuromelanin", root, out, "--folds", 3, *BRAIN_STEM))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("isic", "challenge.isic-archive.com"),
        ("mura", "stanfordmlgroup.github.io"),
        ("neuromelanin", "participants.tsv"),
    ],
)
def test_data_that_are_not_there_are_refused(name, said, tmp_path):
    out, root = tmp_path / "out", tmp_path / "absent"
    with pytest.raises(SystemExit, match=said) as refused:
        reproduce_paper.main(command(name, root, out))
    assert str(refused.value).startswith(f"{name}: {root}")
    assert not out.exists()


def test_a_damaged_scan_is_refused_before_any_training(tmp_path):
    root, out = write_neuromelanin(tmp_path / "data", 2, 2), tmp_path / "out"
    damaged = next(root.glob("sub-03/anat/*.nii.gz"))
    truncate(damaged)
    with pytest.raises(SystemExit, match=damaged.name):
        reproduce_paper.main(command("neuromelanin", root, out))
    assert not out.exists()


def test_one_split_holds_out_whole_subjects(tmp_path):
    root = write_neuromelanin(tmp_path)
    options = reproduce_paper.parse(command("neuromelanin", root, tmp_path, *BRAIN_STEM))
    (split,) = neuromelanin.splits(options)
    sides = [set(split.subjects[side]) for side in ("train", "test")]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 10
    assert len(split.train) == 10 * len(split.plain) == 10 * 2 * len(sides[0])
    assert [split.test[i][1] for i, _, _ in split.cases] == [c for _, c, _ in split.cases]


def test_classes_without_an_image_are_named_and_left_out():
    probability = np.eye(3)[[0, 0, 2, 1]]  # the third image is of class 1, guessed as the absent 2
    y = np.array([0, 0, 1, 1])
    found = scores({"model": probability, "head": probability[::-1]}, y, ["a", "b", "c"])
    assert found["absent"] == ["c"]
    assert found["model"] == pytest.approx(
        {
            "accuracy": 3 / 4,
            "balanced_accuracy": 3 / 4,
            "f1_micro": 3 / 4,
            "f1_macro": (1 + 2 / 3) / 2,
            "auroc": (1 + 3 / 4) / 2,
        }
    )
    assert found["head"]["agreement_with_model"] == 0


def test_figures_that_are_not_defined_are_null():
    certain = np.array([[0.9, 0.1], [0.2, 0.8]])
    found = scores({"model": certain}, np.array([0, 0]), ["normal", "abnormal"])
    assert found["absent"] == ["abnormal"]
    assert found["model"]["auroc"] is found["model"]["f1_positive"] is None
    assert found["model"]["balanced_accuracy"] == 1 / 2
    there = scores({"model": certain}, np.array([0, 1]), ["normal", "abnormal"])
    assert there["model"]["f1_positive"] == there["model"]["auroc"] == 1
    outcomes = [
        Outcome(None, metrics, {"model": certain}, np.array(y), [], None)
        for metrics, y in ((found, [0, 0]), (there, [0, 1]))
    ]
    over = folds.over_folds(outcomes, ["normal", "abnormal"])
    assert over["mean"]["model"]["auroc"] == 1  # of the one fold that has it
    assert over["sd"]["model"]["auroc"] is None
    assert over["pooled"]["absent"] == []


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


def test_heads_are_chosen_on_patients_that_they_are_not_solved_on():
    groups = [f"sub-{i // 3}" for i in range(60)]
    targets = [i // 3 % 2 for i in range(60)]
    held = apart(targets, groups)
    split = Split(None, TensorDataset(torch.arange(60)), None, [], [], [], held=held)
    solve, choose = for_fit(split, DataLoader)
    sides = [{groups[i] for (i,) in part.dataset} for part in (solve, choose)]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 20
    assert {targets[i] for i in held} == {0, 1}
    assert len(held) == 12
    plain, none = for_fit(replace(split, held=[]), DataLoader)
    assert len(plain.dataset) == 60
    assert none is None


def test_more_folds_than_subjects_of_a_group_are_refused():
    with pytest.raises(ValueError, match=r"--folds: got 4, but the smaller group has 3"):
        neuromelanin.by_subject([f"sub-{k}" for k in range(10)], [0] * 3 + [1] * 7, 4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
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
