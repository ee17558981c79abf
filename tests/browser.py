"""The cases that the case browser is tested on, and the browser it is tested in."""

import shutil

import torch

from captum_hrcam.visualize import Case

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic"),
]
K, SIZE = 2, (24, 32)
LAYERS = {"early": (12, 16), "late": (3, 4)}


def case(seed: int, **changes: object) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def maps(size: tuple[int, int]) -> torch.Tensor:
        return torch.randn(K, *size, generator=generator)

    mask = torch.zeros(SIZE)
    mask[4:9, 5:11] = 1
    given = {
        "image": torch.rand(1, *SIZE, generator=generator),
        "layer_maps": {name: maps(size) for name, size in LAYERS.items()},
        "maps": {"CAM": maps((3, 4)), "Grad-CAM": maps((6, 8))},
        "scores": [-1.5, 2.25],
        "mask": mask,
        "title": f"scan {seed}",
        "bias": [1.0, -28.6],
    }
    return Case(**(given | changes))


CASES = [case(0), case(1, mask=None), case(2)]
