"""Two ranks find the head that one process finds; where one fails, the other ends with an error."""

import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import ranks
import torch
from test_placing import spots
from torch.utils.data import DataLoader, DistributedSampler

from captum_hrcam import group

SCRIPT = Path(ranks.__file__)
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """What both ranks wrote."""
    folder = tmp_path_factory.mktemp("ranks")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    subprocess.run(
        [*torchrun, "--standalone", SCRIPT, folder], check=True, env=ENVIRONMENT, timeout=300
    )
    return folder


def assert_same(found: dict, expected: dict, relative: float) -> None:
    scale = max(w.abs().max() for w in expected["weights"].values())
    for name, weight in expected["weights"].items():
        assert (found["weights"][name] - weight).abs().max() <= relative * scale, name
        torch.testing.assert_close(
            found["spread"][name], expected["spread"][name], rtol=0.2, atol=0
        )  # of other images
    assert (found["bias"] - expected["bias"]).abs().max() <= relative * scale
    assert found["figures"]["n"] == expected["figures"]["n"]
    assert found["figures"]["penalty"] == expected["figures"]["penalty"]


@pytest.mark.parametrize("name", ranks.SOLVERS)
def test_ranks_end_with_one_head(out, name):
    first, second = (torch.load(out / f"{name}-{rank}.pt") for rank in range(2))
    assert_same(first, second, 0)
    assert first["figures"] == second["figures"]
    for name, cells in first["displacement"].items():
        assert torch.equal(second["displacement"][name], cells)


@pytest.mark.parametrize("name", ["pattern", "information", "ridge", "two passes"])
def test_the_head_is_that_of_one_process(out, name, tmp_path):
    loader = DataLoader(ranks.data(), batch_size=7)
    ranks.save(ranks.fit(loader, **ranks.SOLVERS[name]), tmp_path / "one")
    one, two = torch.load(tmp_path / "one"), torch.load(out / f"{name}-0.pt")
    assert_same(two, one, 1e-5)
    assert two["figures"]["auroc"] == pytest.approx(one["figures"]["auroc"])


def test_a_batch_of_repeats_alone_adds_nothing(out):
    for rank in range(2):
        cached, kept = (torch.load(out / f"{name}-{rank}.pt") for name in ("cached", "ridge"))
        assert_same(cached, kept, 1e-5)


@pytest.mark.parametrize("name", ["cascade", "auto"])
def test_a_cascade_of_as_many_images_is_that_of_one_process(out, name, tmp_path):
    loader = DataLoader(ranks.data(), batch_size=7)
    ranks.save(ranks.fit(loader, **ranks.SOLVERS[name]), tmp_path / "one")
    one, two = torch.load(tmp_path / "one"), torch.load(out / f"{name}-0.pt")
    assert two["figures"]["solver"] == one["figures"]["solver"]
    assert_same(two, one, 1e-4)


@pytest.mark.parametrize("name", ["pattern", "ridge"])
def test_uneven_shards_and_a_rank_without_some_classes(out, name, tmp_path):
    x, y = ranks.data().tensors
    options = {"solver": name} | ({"penalty": 0.1} if name == "ridge" else {})
    ranks.save(ranks.fit([(x, y)], **options), tmp_path / "one")
    one, two = torch.load(tmp_path / "one"), torch.load(out / f"{name} by class-1.pt")
    assert_same(two, one, 1e-5)


def test_a_rank_without_a_place_leaves_the_measure_to_the_other(out, tmp_path):
    x, y, _ = spots(120)
    ranks.save(ranks.placed(x, y), tmp_path / "one")
    found = [torch.load(out / f"placed by class-{rank}.pt")["displacement"] for rank in range(2)]
    expected = torch.load(tmp_path / "one")["displacement"]
    for name, cells in expected.items():
        assert torch.equal(found[0][name], found[1][name])
        torch.testing.assert_close(found[0][name], cells, rtol=0, atol=0.05)
    assert expected["1"].tolist() == pytest.approx([-1, 0], abs=0.1)


def test_ranks_leave_out_the_same_layers(out):
    found = [torch.load(out / f"cluttered by class-{rank}.pt") for rank in range(2)]
    for name in ranks.LAYERS:
        assert torch.equal(found[0]["weights"][name], found[1]["weights"][name])
    kept = [name for name, weight in found[0]["weights"].items() if weight.any()]
    assert kept == ["wide", "deep"]
    assert found[0]["figures"] == found[1]["figures"]


def test_a_failure_on_one_rank_is_an_error_on_all(out):
    assert (out / "error-1").read_text() == "OSError: disk of rank 1"
    assert (
        (out / "error-0")
        .read_text()
        .startswith("RuntimeError: reading the data failed on rank 1 of 2")
    )


def test_a_rank_that_dies_is_an_error_of_the_other():
    worker = (
        "import os, sys, torch.distributed as dist; sys.path.insert(0, sys.argv[1]); import ranks\n"
        "dist.init_process_group('gloo')\n"
        "def dying():\n"
        "    yield ranks.data().tensors\n"
        "    os._exit(3)\n"
        "data = dying() if dist.get_rank() else [ranks.data().tensors]\n"
        "ranks.fit(data, solver='pattern')"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", worker, SCRIPT.parent],
            env=ENVIRONMENT | address | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    _, told = both[0].communicate(timeout=200)
    assert both[0].returncode != 0
    assert b"Connection" in told, told.decode()[-2000:]
    assert both[1].wait() == 3


def test_the_example_runs(tmp_path):
    example = SCRIPT.parent.parent / "examples" / "fit_on_many.py"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    options = ["--images", "30", "--size", "32", "--solver", "pattern", "--save", tmp_path / "head"]
    told = subprocess.run(
        [*torchrun, "--standalone", example, *options],
        env=ENVIRONMENT,
        timeout=300,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "rank 0 of 2: 15 images" in told
    assert "rank 1 of 2: 15 images" in told
    assert "fitted on 30 images" in told
    assert (tmp_path / "head").exists()


def test_adam_is_for_one_process(monkeypatch):
    monkeypatch.setattr(group, "size", lambda: 2)
    with pytest.raises(ValueError, match=r"solver: got 'adam' in a group of 2 ranks.*'ridge'"):
        ranks.fit([ranks.data().tensors], solver="adam")


def test_without_a_group_everything_stays_as_it_is():
    x = torch.arange(3.0)
    assert group.size() == 1
    assert group.rank() == 0
    assert group.total(x) is x
    assert group.gather(x) is x
    assert group.from_first(x) is x
    assert group.n_unrepeated([1, 2]) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(OSError, match="mine"), group.in_step("reading"):
            raise OSError("mine")


@pytest.mark.parametrize(("drop_last", "expected"), [(False, ranks.N), (True, None)])
def test_the_images_of_a_sampler_that_repeats_are_known(drop_last, expected):
    sampler = DistributedSampler(ranks.data(), 2, 0, drop_last=drop_last)
    assert group.n_unrepeated(DataLoader(ranks.data(), sampler=sampler)) == expected
