"""Measure times side by side in one run."""

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
    """Time ``run`` and ``base`` in turn: a pair of seconds for each round. They take turns at going
    first, so that whatever else the machine does affects both alike.

    Args:
        run: what to time.
        base: what to compare it with.
        rounds: the least number of rounds.
        at_least: seconds; short runs get as many rounds as fit into them.
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
    """The machine and versions that the figures were measured with."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return (
        f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, captum "
        f"{captum.__version__}"
    )
