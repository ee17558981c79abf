"""Times measured side by side in one run."""

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


def interleaved(
    run: Callable[[], object], base: Callable[[], object], rounds: int, at_least: float = 0
) -> list[tuple[float, float]]:
    """Seconds of ``run`` and of ``base``, a pair for each round, who goes first in turn; so what
    else the machine does falls on both sides alike.

    Args:
        rounds: how many at least.
        at_least: seconds; short runs get as many rounds as these hold.
    """
    run(), base()
    found: list[tuple[float, float]] = []
    begin = time.perf_counter()
    while len(found) < rounds or time.perf_counter() - begin < at_least:
        first, second = (run, base) if len(found) % 2 else (base, run)
        times = {first: seconds(first), second: seconds(second)}
        found.append((times[run], times[base]))
    return found


def machine() -> str:
    """What the figures were measured on."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return (
        f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, captum "
        f"{captum.__version__}"
    )
