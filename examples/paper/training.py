"""Train a classifier: resumable, on a CPU, one GPU, or many under torchrun."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler
from tqdm.auto import tqdm


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


def is_first() -> bool:
    """Whether this process is the one that writes files."""
    return not dist.is_initialized() or dist.get_rank() == 0


def train(
    model: nn.Module,
    data: Dataset,
    *,
    epochs: int,
    batch_size: int,
    device: torch.device,
    checkpoint: Path,
    lr: float = 1e-3,
    workers: int = 0,
    class_weights: Tensor | None = None,
    seed: int = 0,
) -> None:
    """AdamW under a one-cycle schedule; a run that was cut off goes on after its last epoch.

    Args:
        model: is trained in place and left on ``device``, in eval mode.
        data: (image, label) items, augmentation included.
        batch_size: of all processes together.
        checkpoint: written whole after each epoch; removed by nobody.
        class_weights: (K,), of the cross-entropy.
        seed: of order and augmentation, for each epoch anew: a resumed run repeats neither.
    """
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    model.to(device, memory_format=torch.channels_last)
    wrapped = DistributedDataParallel(model) if ranks > 1 else model
    sampler = DistributedSampler(data, seed=seed) if ranks > 1 else None
    loader = DataLoader(
        data,
        batch_size=batch_size // ranks,
        sampler=sampler,
        shuffle=sampler is None,
        drop_last=len(data) > batch_size,  # BatchNorm cannot train on one image
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    criterion = nn.CrossEntropyLoss(None if class_weights is None else class_weights.to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=lr, total_steps=epochs * len(loader)
    )
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "scaler": scaler}
    first = _resume(checkpoint, epochs, parts, device)
    for epoch in range(first, epochs):
        torch.manual_seed(seed * 1000 + epoch)
        if sampler:
            sampler.set_epoch(epoch)
        model.train()
        bar = tqdm(loader, desc=f"epoch {epoch + 1} of {epochs}", disable=not is_first())
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
        if is_first():
            _save(checkpoint, epoch + 1, epochs, parts)
    model.eval()


def _save(checkpoint: Path, done: int, epochs: int, parts: dict) -> None:
    """Whole or not at all: a run killed while it writes leaves the earlier checkpoint."""
    state = {name: part.state_dict() for name, part in parts.items()}
    partial = checkpoint.with_suffix(".partial")
    torch.save({"done": done, "epochs": epochs, **state}, partial)
    os.replace(partial, checkpoint)


def _resume(checkpoint: Path, epochs: int, parts: dict, device: torch.device) -> int:
    """Load what an earlier run left; the number of epochs done."""
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, map_location=device, weights_only=True)
    if state["epochs"] != epochs:
        raise SystemExit(
            f"--epochs: got {epochs}, but {checkpoint} is of a run of {state['epochs']}, whose "
            "learning rate follows that number. Say the same, or name another --checkpoint."
        )
    for name, part in parts.items():
        part.load_state_dict(state[name])
    if is_first():
        print(f"going on from {checkpoint}: {state['done']} of {epochs} epochs done")
    return state["done"]
