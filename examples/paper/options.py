"""The options that all experiments have."""

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path

from paper.training import n_processes

SMALLEST = 64  # pixels; the networks' last maps have a 32nd of this, and one cell is no map


def add_options(parser: ArgumentParser, *, weights: str, lr: float, workers: int) -> None:
    """Add the options, with defaults that differ between drawn images and photographs."""
    add, default = parser.add_argument, "default %(default)s"
    out = "folder for figures, metrics and checkpoint"
    add("--out", type=Path, metavar="DIR", required=True, help=out)
    add("--arch", choices=["resnet50", "vgg19"], default="resnet50", help=default)
    add(
        "--weights",
        choices=["imagenet", "none"],
        default=weights,
        help=f"the network starts from; {default}",
    )
    size = f"squares, {SMALLEST} pixels or more; {default}"
    add("--image-size", metavar="N", type=at_least(SMALLEST), default=224, help=size)
    add("--epochs", metavar="N", type=at_least(1), default=20, help=default)
    together = f"of all processes together; {default}"
    add("--batch-size", metavar="N", type=at_least(n_processes()), default=32, help=together)
    largest = f"largest learning rate of the one-cycle schedule; {default}"
    add("--lr", metavar="RATE", type=float, default=lr, help=largest)
    reading = f"processes that read images; {default}"
    add("--workers", metavar="N", type=at_least(0), default=workers, help=reading)
    named = "by default in --out, named after --arch"
    add("--checkpoint", type=Path, metavar="FILE", help=named)


def default_workers() -> int:
    """The workers of a training process: its share of the cores less one for itself, at most 8."""
    return min(8, max(0, (os.cpu_count() or 1) // n_processes() - 1))


def at_least(fewest: int) -> Callable[[str], int]:
    """A parser of whole numbers that says what is wrong with anything else."""

    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < fewest:
            raise ArgumentTypeError(f"got {text}, expected {fewest} or more")
        return int(text)

    return whole


def settings(options: Namespace) -> dict:
    """The options that decide the numbers: all except paths and the number of workers."""
    return {k: v for k, v in vars(options).items() if not isinstance(v, Path) and k != "workers"}
