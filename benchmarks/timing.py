"""Ratios of time, measured side by side in one run."""

import platform
import time
from collections.abc import Callable

import captum
import torch


def seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def ratios(run: Callable[[], object], base: Callable[[], object], rounds: int) -> list[float]:
    """Time of ``run`` over time of ``base``, one figure per round, who goes first in turn; so what
    else the machine does falls on both sides alike."""
    run(), base()
    found = []
    for i in range(rounds):
        pair = [run, base] if i % 2 else [base, run]
        times = {f: seconds(f) for f in pair}
        found.append(times[run] / times[base])
    return found


def machine() -> str:
    """What the figures were measured on."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return (
        f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, captum "
        f"{captum.__version__}"
    )
