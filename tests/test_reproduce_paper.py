"""The paper's experiments from the command line, at small size."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

ROOT = Path(__file__).parent.parent
SMALL = ["--images", "36", "--image-size", "64", "--batch-size", "12", "--epochs", "1"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "examples/reproduce_paper.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module", params=["resnet50", "vgg19"])
def simulated(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    done = run("simulated", "--arch", request.param, "--out", str(out), *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, request.param, done


def test_figures_are_written(simulated):
    out, _, _ = simulated
    for name in ("comparison", "layers", "weights", "boxes", "roc"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_scores_of_model_and_heads_are_written(simulated):
    out, arch, _ = simulated
    found = json.loads((out / "metrics.json").read_text())
    for name in ("model", "head", "paper_head"):
        assert set(found[name]) >= {"accuracy", "balanced_accuracy", "f1_macro", "auroc"}
    assert found["paper_head"]["solver"] == "adam"
    assert len(found["head"]["shares"]) == 5
    assert found["options"]["arch"] == arch


def test_every_method_is_measured_and_tested(simulated):
    out, _, _ = simulated
    summary, tests = pd.read_csv(out / "summary.csv"), pd.read_csv(out / "tests.csv")
    ours = {"HR-CAM", "HR-CAM, paper's head", "HR-CAM, agreement"}
    methods = {"CAM", "Grad-CAM", "centred Gaussian"} | ours
    assert set(summary["method"]) == methods
    assert {"sensitivity 0.3", "specificity 0.8", "pixel AP"} <= set(summary["metric"])
    assert set(summary["n"]) == {6}
    assert set(tests["method"]) == {"CAM", "Grad-CAM"}
    assert set(tests["reference"]) == {"HR-CAM", "HR-CAM, paper's head"}


def test_goes_on_where_it_was(simulated):
    out, arch, _ = simulated
    if arch != "resnet50":
        pytest.skip("once is enough")
    before = torch.load(out / f"{arch}.pt", weights_only=True)["model"]
    done = run("simulated", "--arch", arch, "--out", str(out), *SMALL)
    assert "1 of 1 epochs done" in done.stdout
    after = torch.load(out / f"{arch}.pt", weights_only=True)["model"]
    assert all(torch.equal(v, after[k]) for k, v in before.items())


def test_another_number_of_epochs_is_refused(simulated):
    out, arch, _ = simulated
    done = run("simulated", "--arch", arch, "--out", str(out), *SMALL[:-1], "3")
    assert done.returncode != 0
    assert "--epochs: got 3" in done.stderr
