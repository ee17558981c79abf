"""
A volume in 3D
==============

Feature maps (N, C, X, Y, Z) give maps (N, 1, X, Y, Z). Only two things are special about volumes:
the way to look at them, and the affine that takes a map back to the scanner.
"""

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from small_cnn import small_cnn, train
from torch import Tensor

from captum_hrcam import HRCAM, find_layers
from captum_hrcam.metrics import pixel_average_precision, pointing_game
from captum_hrcam.visualize import slices_figure

torch.manual_seed(0)
SIZE = 32

# %%
# Simulated volumes
# -----------------
# Each volume is a brain without its skull, with two ventricles and noise, a little different each
# time. Every second one has a brighter lesion with a radius of 2 to 4 voxels. The axes run to the
# right, to the front and up, with 5 mm per voxel.

axis = torch.linspace(-1, 1, SIZE)
grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))  # (3, X, Y, Z)


def inside(centre: Tensor, radii: Tensor) -> Tensor:
    """1 in an ellipsoid, 0 outside, soft over a voxel."""
    distance = ((grid - centre[:, None, None, None]) / radii[:, None, None, None]).norm(dim=0)
    return torch.sigmoid((1 - distance) * radii.min() * SIZE)


def draw(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Volumes (n, 1, X, Y, Z), labels (n,) and masks (n, X, Y, Z)."""
    rng = torch.Generator().manual_seed(seed)

    def between(low: float, high: float, count: int = 3) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=rng)

    volumes, masks = [], []
    for i in range(n):
        middle, radii = between(-0.05, 0.05), torch.tensor([0.68, 0.85, 0.72]) * between(0.9, 1.1)
        brain = inside(middle, radii)
        volume = 0.5 * brain
        for side in (-1, 1):
            at = middle + torch.tensor([0.16 * side, 0, 0.08]) + between(-0.03, 0.03)
            volume -= 0.3 * inside(at, torch.tensor([0.09, 0.25, 0.14]) * between(0.8, 1.2))
        where = between(-1, 1)
        where = middle + 0.7 * radii * where / where.norm().clamp(min=1)
        lesion = inside(where, between(0.14, 0.26, 1).expand(3)) * brain * (i % 2)
        volume += between(0.25, 0.35, 1) * lesion
        noise = 0.05 * torch.randn(volume.shape, generator=rng)
        volumes.append(volume * between(0.9, 1.1, 1) + noise)
        masks.append(lesion > 0.5)
    return torch.stack(volumes)[:, None], torch.arange(n) % 2, torch.stack(masks)


volumes, labels, _ = draw(300, seed=0)
x, y, masks = draw(40, seed=1)

# %%
# Network and head
# ----------------
# These are as in 2D, but with three-dimensional convolutions.

model = small_cnn(2, widths=(4, 8, 16, 32), ndim=3)
train(model, volumes, labels, epochs=8, batch_size=20)
hrcam = HRCAM(model, find_layers(model, volumes[:1]))
print(hrcam.fit([(volumes, labels)]))

# %%
# Maps of volumes
# ---------------
# The metrics take volumes, too.

x, masks = x[y == 1], masks[y == 1]
maps = {
    "HR-CAM": hrcam.attribute(x, target=1),  # (20, 1, 32, 32, 32)
    "HR-CAM, agreement": hrcam.attribute(x, target=1, fusion="agreement"),
}
for name, a in maps.items():
    hits = pointing_game(a, masks).mean()
    print(f"{name}: voxel AP {pixel_average_precision(a, masks).mean():.2f}, pointing {hits:.2f}")

# %%
# Orthogonal slices
# -----------------
# The slices go through the voxel where the first map is highest. They are drawn as radiologists
# look at them: from below and from the front, so that the patient's right is on the left, and the
# sagittal slice with the front on the left. The affine gives these directions: 5 mm voxels, axes to
# the right, front and up. The outlines are the mask.

affine = np.diag([5.0, 5.0, 5.0, 1.0])
slices_figure(x[0], {k: a[0] for k, a in maps.items()}, mask=masks[0], affine=affine)[0]

# %%
# Back to the scanner
# -------------------
# The map has the same array shape as the volume, so it takes the volume's affine. Save it signed
# and unscaled; a viewer then lays it over the scan.

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "map.nii.gz")
    nib.Nifti1Image(maps["HR-CAM"][0, 0].numpy(), affine).to_filename(path)
    saved = nib.load(path)
    print(saved.shape, saved.get_data_dtype(), nib.aff2axcodes(saved.affine))
highest = np.unravel_index(maps["HR-CAM"][0, 0].argmax().item(), saved.shape)
print("highest at", nib.affines.apply_affine(affine, highest), "mm")
