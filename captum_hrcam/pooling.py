"""Global average pooling, the paper's GAP, and the variance that it averages away."""

import torch
from torch import Tensor

SQUARES = 2**21  # values squared at a time: 8 MB, which an allocator keeps at hand
CANCELLED = 1e-3  # share of the squared mean; a smaller variance has lost four of seven digits


def accumulator_dtype(f: Tensor) -> torch.dtype:
    """float32 for half precisions, else the tensor's own: sums over maps must not lose digits."""
    return torch.float64 if f.dtype == torch.float64 else torch.float32


def widest_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on Apple's MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def gap(f: Tensor) -> Tensor:
    """Global average pooling, the paper's GAP: (N, C, *spatial) -> (N, C)."""
    return f.flatten(2).mean(2, dtype=accumulator_dtype(f))


def spatial_variance(f: Tensor, mean: Tensor) -> Tensor:
    """Variance of each feature map over its cells, (N, C).

    It is the mean square less the squared mean; where the mean is large, the mean of the squared
    deviations.

    Args:
        f: feature maps (N, C, *spatial).
        mean: their averages, ``gap(f)``.
    """
    cells, squared = f.flatten(2), mean**2
    variance = (_mean_square(cells, accumulator_dtype(f)) - squared).clamp(min=0)
    # A difference of nearly equal numbers has no digits left: here deviations are squared instead.
    lost = variance < CANCELLED * squared
    if lost.any():
        about = cells[lost].to(mean.dtype) - mean[lost][:, None]
        variance[lost] = about.square().mean(1)
    return variance


def _mean_square(cells: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean square over cells, (N, C), of (N, C, cells)."""
    if cells.is_cuda or cells.stride(2) == 1:
        # The norm reads the maps once and writes nothing of their size: as cheap as the average.
        return torch.linalg.vector_norm(cells, dim=2, dtype=dtype) ** 2 / cells.shape[2]
    # With channels_last it steps over all channels from cell to cell, and squares are faster.
    images = max(1, SQUARES // (cells.shape[1] * cells.shape[2]))
    return torch.cat([some.to(dtype).square().mean(2) for some in cells.split(images)])
