"""Run by torchrun in test_reproduce_paper.py: one rank trains a small network on its shard.

torchrun --nproc-per-node=2 tests/train_ranks.py OUT
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from paper.networks import Network
from paper.training import device_group, rank, train

N = 8  # all of them in each step, whose order then does not matter


def trained(device: torch.device, checkpoint: Path) -> dict[str, Tensor]:
    """Weights after three steps."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    data = TensorDataset(torch.randn(N, 3, 8, 8), torch.arange(N) % 2)
    train(
        Network(model, "4", "random"),
        data,
        epochs=3,
        batch_size=N,
        device=device,
        checkpoint=checkpoint,
        settings={},
        lr=0.1,
    )
    return model.state_dict()


if __name__ == "__main__":
    out = Path(sys.argv[1])
    with device_group() as device:
        weights = trained(device, out / "checkpoint.pt")
    torch.save(weights, out / f"{rank()}.pt")
