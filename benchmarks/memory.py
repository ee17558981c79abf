"""Peak memory of HR-CAM's maps against a bare forward pass, each in a process of its own.

    make bench

On a CPU this is the process's peak resident memory, including PyTorch itself; on a GPU it is the
most that PyTorch allocated there.
"""

import argparse
import resource
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
    for _ in range(3):
        run()
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def apart(what: str, options: argparse.Namespace) -> float:
    """The peak in a new process, in MiB."""
    command = [sys.executable, __file__, "--one", what, "--model", options.model]
    command += ["--batch", str(options.batch), "--size", str(options.size)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


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
        middle = statistics.median(peaks[what] for peaks in rounds)
        ratio = statistics.median(peaks[what] / peaks[WHAT[0]] for peaks in rounds)
        rows.append([what, f"{middle:.0f}", f"{ratio:.3f}", *verdict(ratio, LIMITS.get(what))])
        print(*rows[-1], flush=True)
    text = (
        f"## Memory\n\n`python benchmarks/memory.py`: {options.model}, batch {options.batch}, "
        f"{options.size} px; peak MiB, medians of {options.rounds} processes each; {machine()}.\n\n"
        + table(["what", "MiB", "over bare forward", "at most", "met"], rows)
    )
    write_section(Path(__file__).with_name("RESULTS.md"), "memory", text)


if __name__ == "__main__":
    main()
