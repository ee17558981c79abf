"""Fit HR-CAM in several processes: each reads its own share of the images, all get the same head.

    torchrun --nproc-per-node=2 examples/fit_on_many.py --images 2000 --save head.safetensors

For several machines add torchrun's ``--nnodes``, ``--node-rank`` and ``--rdzv-endpoint``. Only the
start of the group and the sampler differ from a fit in one process.
"""

import argparse
import os
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler
from torchvision.models import resnet18

from captum_hrcam import HRCAM, find_layers
from captum_hrcam.datasets import SimulatedPathology


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--solver", default="auto")
    parser.add_argument("--save", help="where the first rank puts the head")
    options = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if has_gpu else "gloo")
    if has_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    device = torch.device("cuda" if has_gpu else "cpu")

    torch.manual_seed(0)  # your trained network goes here; the same weights on every rank
    model = resnet18(num_classes=2).eval()
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    model.to(device)

    data = SimulatedPathology(options.images, options.size)
    loader = DataLoader(data, batch_size=32, sampler=DistributedSampler(data, shuffle=False))
    layers = find_layers(model, data[0][0][None].to(device))
    hrcam = HRCAM(model, layers)

    begin, used = time.perf_counter(), time.process_time()
    report = hrcam.fit(loader, solver=options.solver)
    took, used = time.perf_counter() - begin, time.process_time() - used
    print(
        f"rank {dist.get_rank()} of {dist.get_world_size()}: {len(loader.sampler)} images, "
        f"{took:.1f} s, {used:.1f} s of this process's own"
    )
    if dist.get_rank() == 0:
        print(report)
        if options.save:
            hrcam.save(options.save)
    dist.barrier()  # the first rank keeps the group; the others must not outlive it
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
