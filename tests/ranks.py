"""Run by torchrun in test_group.py: one rank of a group fits heads on its shard of the data.

torchrun --nproc-per-node=2 tests/ranks.py OUT
"""

import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

sys.path.insert(0, str(Path(__file__).parent))

from cases import CASES
from test_edges import LAYERS, Clutter, squares
from test_placing import Aside, spots

from captum_hrcam import HRCAM

CASE = next(case for case in CASES if case.name == "vgg2d")
N = 61  # of two ranks one gets an image twice, to have as many
SOLVERS = {
    "pattern": {"solver": "pattern"},
    "information": {"solver": "pattern", "balance_layers": "information"},
    "ridge": {"solver": "ridge"},
    "two passes": {"solver": "ridge", "penalty": 0.1, "n_passes": 2},
    "cascade": {"solver": "cascade"},
    "auto": {"solver": "auto"},
}


def data() -> TensorDataset:
    """Images of three classes, one channel brighter in two of them."""
    x = torch.randn(N, 2, *CASE.size, generator=torch.Generator().manual_seed(0))
    y = torch.arange(N) % 3
    x[y == 1, 0] += 1
    x[y == 2, 1] += 1
    return TensorDataset(x, y)


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return CASE.model().eval()


def fit(loader: object, **options: object) -> HRCAM:
    hrcam = HRCAM(model(), CASE.layers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        hrcam.fit(loader, **options)  # type: ignore[arg-type]
    return hrcam


def by_class(rank: int) -> list[tuple[torch.Tensor, ...]]:
    """Uneven shards: rank 1 has the last class alone, rank 0 the other two."""
    x, y = data().tensors
    mine = (y == 2) == bool(rank)
    return [(x[mine], y[mine])]


def placed(*rows: torch.Tensor) -> HRCAM:
    """Of images with a spot and without."""
    hrcam = HRCAM(Aside(), ["1", "2"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        hrcam.fit([rows], solver="pattern", place_layers=True)
    return hrcam


def cluttered(*rows: torch.Tensor) -> HRCAM:
    """By a model that does not depend on what its finest layer marks."""
    hrcam = HRCAM(Clutter(), LAYERS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        hrcam.fit([rows])
    return hrcam


def failing(rank: int):
    """Rank 1's data break in the middle."""
    x, y = data().tensors
    yield x, y
    if rank == 1:
        raise OSError("disk of rank 1")


def save(hrcam: HRCAM, path: Path) -> None:
    head = hrcam.head
    found = {"weights": hrcam.weights, "bias": hrcam.bias, "spread": head.spread}
    found |= {"displacement": head.displacement}
    report = hrcam.report
    assert report is not None
    figures = {"n": report.n, "penalty": report.penalty, "auroc": report.head_auroc}
    figures |= {"forwards": report.extra_forwards, "solver": report.solver}
    torch.save(found | {"figures": figures}, path)


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for name, options in SOLVERS.items():
        sampler = DistributedSampler(data(), shuffle=False)
        loader = DataLoader(data(), batch_size=7, sampler=sampler)
        save(fit(loader, **options), out / f"{name}-{rank}.pt")
    # The last batch of rank 1 holds only the image that it gets twice.
    loader = DataLoader(data(), batch_size=5, sampler=sampler)
    save(fit(loader, solver="ridge", cache=out / "cache"), out / f"cached-{rank}.pt")
    for name in ("pattern", "ridge"):
        options = {"solver": name} | ({"penalty": 0.1} if name == "ridge" else {})
        hrcam = fit(by_class(rank), **options)
        save(hrcam, out / f"{name} by class-{rank}.pt")
    x, y, _ = spots(120)
    mine = y == rank
    save(placed(x[mine], y[mine]), out / f"placed by class-{rank}.pt")
    x, y, _ = squares(200, 0)
    mine = (y == 1) == bool(rank)
    save(cluttered(x[mine], y[mine]), out / f"cluttered by class-{rank}.pt")
    head = hrcam.head
    try:
        hrcam.fit(failing(rank))
    except (OSError, RuntimeError) as error:
        assert hrcam.head is head
        (out / f"error-{rank}").write_text(f"{type(error).__name__}: {error}")
    dist.barrier()  # gloo of torch 2.4 waits for ever where the other rank is gone
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
