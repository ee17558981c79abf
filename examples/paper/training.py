"""Train a classifier on a CPU, a GPU, or many under torchrun; training can be resumed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler
from tqdm.auto import tqdm

from paper.networks import Network


@contextmanager
def device_group() -> Iterator[torch.device]:
    """This process's device; under torchrun one process per GPU, or per CPU with gloo."""
    if "RANK" not in os.environ:
        yield torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return
    local = int(os.environ["LOCAL_RANK"])
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield torch.device("cuda", local) if on_gpu else torch.device("cpu")
    finally:
        dist.destroy_process_group()


def n_processes() -> int:
    """The number of processes that train together, as torchrun sets it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """This process's number among those that train; the first, 0, writes the files."""
    return int(os.environ.get("RANK", 0))


def loader(
    data: Dataset, batch_size: int, workers: int, device: torch.device, **options
) -> DataLoader:
    """Batches, read by ``workers`` processes into memory that a GPU copies from."""
    pin = device.type == "cuda"
    return DataLoader(data, batch_size, num_workers=workers, pin_memory=pin, **options)


def train(
    network: Network,
    data: Dataset,
    *,
    epochs: int,
    batch_size: int,
    device: torch.device,
    checkpoint: Path,
    settings: dict,
    lr: float = 1e-3,
    workers: int = 0,
    class_weights: Tensor | None = None,
    seed: int = 0,
) -> None:
    """Train with AdamW under a one-cycle schedule.

    A run that was cut off continues after its last epoch.

    Args:
        network: its model is trained in place and left on ``device``, in eval mode.
        data: (image, label) items, with augmentation.
        batch_size: of all processes together.
        checkpoint: the file written whole after each epoch; it is never removed.
        settings: the options of the run; a run with others does not continue from the checkpoint.
        class_weights: (K,), the classes' weights in the cross-entropy.
        seed: of order and augmentation. It is set anew for each epoch, so that a resumed run does
            not repeat those of earlier epochs.
    """
    together = n_processes()
    sampler = DistributedSampler(data, seed=seed) if together > 1 else None
    batches = loader(
        data,
        batch_size // together,
        workers,
        device,
        sampler=sampler,
        shuffle=sampler is None,
        drop_last=len(data) > batch_size,  # BatchNorm cannot train on one image
    )
    model = network.model.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-2)
    done = _resume(checkpoint, settings, network, optimizer)
    # Continues from the epochs done, not a saved state: torchrun may now run more processes.
    steps = len(batches)
    schedule = OneCycleLR(
        optimizer, max_lr=lr, total_steps=epochs * steps, last_epoch=done * steps - 1
    )
    criterion = nn.CrossEntropyLoss(None if class_weights is None else class_weights.to(device))
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    wrapped = DistributedDataParallel(model) if together > 1 else model
    for epoch in range(done, epochs):
        torch.manual_seed((seed * 1000 + epoch) * together + rank())
        if sampler:
            sampler.set_epoch(epoch)
        model.train()
        bar = tqdm(batches, desc=f"epoch {epoch + 1} of {epochs}", disable=rank() > 0)
        for images, labels in bar:
            images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
            with torch.autocast(device.type, enabled=scaler.is_enabled()):
                loss = criterion(wrapped(images), labels.to(device, non_blocking=True))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}")
        if rank() == 0:
            state = {"done": epoch + 1, "settings": settings, "initialised": network.initialised}
            state |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            _save(checkpoint, state)
    model.eval()


def _save(checkpoint: Path, state: dict) -> None:
    """Save whole or not at all: a run killed while it writes leaves the earlier checkpoint."""
    partial = checkpoint.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, checkpoint)


def _resume(
    checkpoint: Path, settings: dict, network: Network, optimizer: torch.optim.Optimizer
) -> int:
    """Load what an earlier run left, and return the number of epochs done."""
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    for name, value in settings.items():
        known = state["settings"].get(name)
        if known != value:
            raise SystemExit(
                f"--{name.replace('_', '-')}: got {value}, but {checkpoint} is of a run with "
                f"{known}. Say the same, or name another --out or --checkpoint."
            )
    network.model.load_state_dict(state["model"])
    network.initialised = state["initialised"]
    optimizer.load_state_dict(state["optimizer"])
    if rank() == 0:
        print(f"going on from {checkpoint}: {state['done']} epochs done")
    return state["done"]
