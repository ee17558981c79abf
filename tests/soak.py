"""``make soak``: 10,000 calls, good and refused, after which nothing has grown."""

import argparse
import contextlib
import gc
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from conftest import BY_NAME, State, fitted

from captum_hrcam import HRCAM

CASE = BY_NAME["vgg2d"]
MIB = 2**20


def resident() -> int:
    """Bytes of memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def figures() -> dict[str, int]:
    """What must not grow."""
    gc.collect()
    return {
        "resident MiB": round(resident() / MIB),
        "open files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "tensors": sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()),
        "objects": len(gc.get_objects()),
    }


def calls(hrcam: HRCAM, path: Path) -> list[Callable[[], object]]:
    """What is called in turn; the last three are refused or break in the middle."""
    x = CASE.images()

    def save_and_load() -> None:
        hrcam.save(path)
        HRCAM.load(path, hrcam.forward_func).attribute(x, 1)

    return [
        lambda: hrcam.attribute(x, 1),
        lambda: hrcam.attribute(x, [0, 1, 2, 0], fusion="evidence"),
        lambda: hrcam.layer_maps(x, 2),
        lambda: hrcam.class_maps(x, fusion="agreement"),
        lambda: hrcam.predict(x),
        save_and_load,
        lambda: hrcam.attribute(x, 7),
        lambda: hrcam.attribute(x[:, :1], 1),
        lambda: HRCAM.load(path.parent, hrcam.forward_func),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    n = parser.parse_args().calls
    hrcam = fitted(CASE)
    state = State(hrcam.forward_func)
    with tempfile.TemporaryDirectory() as folder:
        todo = calls(hrcam, Path(folder) / "head")
        figures()  # what measuring takes is there from the start
        begin, early = time.perf_counter(), {}
        for i in range(n):
            with contextlib.suppress(AssertionError, RuntimeError, FileNotFoundError):
                todo[i % len(todo)]()
            if i + 1 in (n // 10, n):
                now = figures()
                early = early or now
                print(f"after {i + 1:>6} calls, {time.perf_counter() - begin:6.0f} s:", now)
        assert os.listdir(folder) == ["head"]
    state.assert_unchanged()
    grown = {kind: now[kind] - value for kind, value in early.items()}
    print("grown since the first tenth:", grown)
    assert all(grown[kind] <= 0 for kind in ("open files", "threads", "tensors")), grown
    assert grown["resident MiB"] <= 2, grown
    assert grown["objects"] <= 100, grown
    print("flat; hooks, modes, weights, gradients and random state as before")


if __name__ == "__main__":
    main()
