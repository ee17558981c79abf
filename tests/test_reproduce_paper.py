"""The paper's simulated experiment from the command line, at small size; networks and training."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
import train_ranks
from torch import nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

import reproduce_paper  # noqa: E402
from paper import simulated  # noqa: E402
from paper.networks import build  # noqa: E402

from captum_hrcam import CAM, find_layers  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:paper.outcome")

N, EPOCHS = 36, 2
SMALL = ["--images", N, "--image-size", 64, "--batch-size", 12, "--epochs", EPOCHS]


def run(out: Path, *more: object) -> None:
    """With the small options, or those in ``more``."""
    reproduce_paper.main(["simulated", *map(str, ["--out", out, *SMALL, *more])])


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Iterator[Path]:
    """A run that was cut off in its second epoch, and gone on with."""
    out, augment, seen = tmp_path_factory.mktemp("simulated"), simulated.AUGMENT, []

    def breaks_off(image: torch.Tensor) -> torch.Tensor:
        seen.append(image)
        if len(seen) > N + 20:
            raise KeyboardInterrupt
        return augment(image)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated, "AUGMENT", breaks_off)
        with pytest.raises(KeyboardInterrupt):
            run(out)
    assert torch.load(out / "resnet50.pt", weights_only=True)["done"] == 1
    assert not (out / "metrics.json").exists()
    run(out)
    yield out
    (out / "resnet50.pt").unlink()  # 280 MB


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(out, tmp_path):
    options = reproduce_paper.parse(["simulated", "--out", str(tmp_path), *map(str, SMALL)])
    (split,) = simulated.splits(options)
    checkpoint = tmp_path / "resnet50.pt"
    network = reproduce_paper.trained(split, options, torch.device("cpu"), checkpoint)
    resumed = torch.load(out / "resnet50.pt", weights_only=True)
    assert resumed["done"] == EPOCHS
    for name, value in network.model.state_dict().items():
        torch.testing.assert_close(resumed["model"][name], value, rtol=0, atol=0)
    # What is done is not done again.
    again = reproduce_paper.trained(split, options, torch.device("cpu"), out / "resnet50.pt")
    assert torch.equal(again.model.fc.weight, network.model.fc.weight)
    checkpoint.unlink()


@pytest.mark.parametrize(
    ("option", "given", "said"),
    [
        ("--epochs", 3, "--epochs: got 3, but .*resnet50.pt is of a run with 2"),
        ("--batch-size", 9, "--batch-size: got 9, but .*resnet50.pt is of a run with 12"),
        ("--weights", "imagenet", "--weights: got imagenet, but .* is of a run with none"),
    ],
)
def test_other_settings_do_not_go_on_from_a_checkpoint(out, option, given, said, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(out))  # no weights here
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(SystemExit, match=said):
        run(out, option, given)


def test_figures_are_written(out):
    for name in ("comparison", "layers", "weights", "boxes", "roc"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_scores_of_model_and_heads_are_written(out):
    found = json.loads((out / "metrics.json").read_text())
    for name in ("model", "head", "paper_head"):
        assert set(found[name]) >= {"accuracy", "balanced_accuracy", "f1_macro", "auroc"}
    assert found["paper_head"]["solver"] == "adam"
    assert len(found["head"]["shares"]) == 5
    assert found["options"]["epochs"] == EPOCHS
    assert found["initialised"] == "random"


def test_every_method_is_measured_and_tested(out):
    summary, tests = pd.read_csv(out / "summary.csv"), pd.read_csv(out / "tests.csv")
    ours = {"HR-CAM", "HR-CAM, paper's head", "HR-CAM, agreement"}
    methods = {"CAM", "Grad-CAM", "centred Gaussian"} | ours
    assert set(summary["method"]) == methods
    assert {"sensitivity 0.3", "specificity 0.8", "pixel AP"} <= set(summary["metric"])
    assert set(summary["n"]) == {6}
    assert set(tests["method"]) == {"CAM", "Grad-CAM"}
    assert set(tests["reference"]) == {"HR-CAM", "HR-CAM, paper's head"}


@pytest.mark.parametrize(
    ("option", "given", "said"),
    [
        ("--image-size", "32", "--image-size: got 32, expected 64 or more"),
        ("--epochs", "0", "--epochs: got 0, expected 1 or more"),
        ("--batch-size", "few", "--batch-size: got few, expected 1 or more"),
        ("--images", "29", "--images: got 29, expected 30 or more"),
    ],
)
def test_numbers_too_small_are_refused(option, given, said, tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        reproduce_paper.main(["simulated", "--out", str(out), option, given])
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_two_processes_train_as_one_does(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    subprocess.run(
        [*torchrun, "--nproc-per-node=2", train_ranks.__file__, tmp_path],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone = train_ranks.trained(torch.device("cpu"), tmp_path / "alone.pt")
    for name, value in alone.items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("arch", ["resnet50", "vgg19"])
def test_networks_end_in_pooling_and_one_layer(arch):
    network = build(arch, 3, standardize=True)
    model, images = network.model.eval(), torch.rand(2, 3, 64, 64)
    layers = find_layers(model, images)
    assert len(layers) == 5
    if arch == "vgg19":
        # As in torchvision's: the activations before each max-pool; the last pool is gone.
        assert layers == [f"features.{i}" for i in (3, 8, 17, 26, 35)]
        assert all(isinstance(model.get_submodule(name), nn.ReLU) for name in layers)
    cam = CAM(model, layers[-1], network.classifier)
    with torch.no_grad():
        torch.testing.assert_close(cam.predict(images), model(images), rtol=1e-4, atol=1e-4)
