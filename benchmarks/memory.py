"""Peak memory of HR-CAM's maps against a bare forward pass, each in a process of its own.

    make bench

On a CPU (of Linux) this is the process's peak resident memory, less what it held before, which is
PyTorch and the model; on a GPU it is the most that PyTorch allocated there.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from results import table, verdict, write_section
from speed import DEVICE, runs
from timing import machine

WHAT = [
    "bare forward",
    "attribute",
    "attribute, agreement",
    "class_maps, 8 classes",
    "Captum LayerGradCam, last layer",
    "torchcam LayerCAM, 4 layers fused",
]
LIMITS = {"attribute": 1.02}


def peak(what: str, name: str, batch: int, size: int) -> float:
    """The peak in this process, in MiB."""
    run = runs(name, batch, size)[what]
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    for _ in range(3):
        run()
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """This process's resident memory, now (VmRSS) or at its peak (VmHWM), in MiB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if field in line)
    return int(line.split()[1]) / 2**10


def apart(what: str, options: argparse.Namespace) -> float:
    """The peak in a new process, in MiB."""
    command = [sys.executable, __file__, "--one", what, "--model", options.model]
    command += ["--batch", str(options.batch), "--size", str(options.size)]
    env = os.environ | {"MALLOC_ARENA_MAX": "1"}  # else each thread keeps freed memory of its own
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=WHAT, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(peak(options.one, options.model, options.batch, options.size))
        return
    rounds = [{what: apart(what, options) for what in WHAT} for _ in range(options.rounds)]
    rows = []
    for what in WHAT:
        found = [peaks[what] for peaks in rounds]
        ratio = statistics.median(peaks[what] / peaks[WHAT[0]] for peaks in rounds)
        middle, spread = statistics.median(found), f"{min(found):.0f} to {max(found):.0f}"
        cells = [what, f"{middle:.0f}", spread, f"{ratio:.3f}"]
        rows.append([*cells, *verdict(ratio, LIMITS.get(what))])
        print(*rows[-1], flush=True)
    text = (
        f"## Memory\n\n`python benchmarks/memory.py`: {options.model}, batch {options.batch}, "
        f"{options.size} px; peak MiB beyond what the process held before, medians of "
        f"{options.rounds} processes each; {machine()}.\n\n"
        + table(["what", "MiB", "least to most", "over bare forward", "at most", "met"], rows)
    )
    write_section(Path(__file__).with_name("RESULTS.md"), "memory", text)


if __name__ == "__main__":
    main()
