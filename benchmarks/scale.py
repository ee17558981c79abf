"""Time and memory of a ridge head fitted on a million images' features, read from disk.

    make bench-scale

Writes features of ``--images`` images (15.6 GB for a million) to ``--folder``, as a fit with
``cache`` does, and solves the head on them. Reports time and peak resident memory.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch
from fitting import CLASSES, features
from results import table, write_section
from timing import machine
from torch import nn

from captum_hrcam.features import FeatureCollector, held_out
from captum_hrcam.fitting import Fitted, fit_head
from captum_hrcam.layer_counts import LeftOut
from captum_hrcam.recipe import Recipe
from captum_hrcam.rows import RowFile

CHANNELS = {"relu": 64, "layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048}
BATCH = 2000
LIMIT = 2.0  # GiB


def write(images: int, file: Path) -> FeatureCollector:
    """Write the features batch by batch, as a fit does."""
    generator = torch.Generator().manual_seed(1)
    collector = FeatureCollector(RowFile(file))
    for positions in torch.arange(images).split(BATCH):
        y = positions % CLASSES
        hot = nn.functional.one_hot(y, CLASSES)
        z = features(y, sum(CHANNELS.values()), generator)
        collector.add(held_out(positions), z, torch.ones_like(z), hot.double(), 3 * hot.float())
    return collector


def solve(collector: FeatureCollector, penalty: float | None) -> Fitted:
    """Solve a ridge head on written features, as a fit does."""
    recipe = Recipe(solver="ridge", penalty=penalty or "auto")
    return fit_head(collector, None, CHANNELS, recipe, None, LeftOut())


def resident() -> float:
    """The peak resident memory so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="for the features; a temporary one by default")
    parser.add_argument("--penalty", type=float, help="by default chosen, as fit does")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        begin = time.perf_counter()
        collector = write(options.images, Path(folder) / "rows")
        print(f"written in {time.perf_counter() - begin:.0f} s", flush=True)
        begin = time.perf_counter()
        figures = solve(collector, options.penalty).figures
        took = time.perf_counter() - begin
        size = (Path(folder) / "rows").stat().st_size / 1e9
    rows = [
        ["images x features", f"{options.images:,} x {sum(CHANNELS.values()):,}"],
        ["features on disk", f"{size:.1f} GB"],
        ["solve", f"{took:.0f} s"],
        ["peak resident memory", f"{resident():.2f} GiB"],
        ["at most", f"{LIMIT:.2f} GiB"],
        ["penalty chosen", f"{figures['penalty']:g}"],
        ["accuracy, held out", f"{figures['head_accuracy']:.3f}"],
    ]
    for row in rows:
        print(*row)
    command = f"python benchmarks/scale.py --images {options.images}"
    text = f"## Scale\n\n`{command}`: a ridge head from disk; {machine()}.\n\n"
    write_section(Path(__file__).with_name("RESULTS.md"), "scale", text + table(["", ""], rows))


if __name__ == "__main__":
    main()
