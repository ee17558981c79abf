"""
Transformers: Swin and ViT
==========================

Transformers keep their feature maps in other layouts. ``reshape_transform`` turns a layer's tensor
into (N, C, H, W), and the rest is as for a CNN. Whether the map means anything is another question;
this page asks it for a network that averages its maps, and for one that does not.
"""

import torch
from small_cnn import lesions, train
from torch import Tensor
from torchvision.models import SwinTransformer, VisionTransformer

from captum_hrcam import HRCAM, find_layers
from captum_hrcam.metrics import centred_gaussian, pixel_average_precision
from captum_hrcam.visualize import comparison_figure

# %%
# Images of three channels
# ------------------------
# torchvision's transformers take three channels: here three windows of the grey values, as one sets
# them at a workstation. Lesions have double contrast, since small transformers learn slowly.


def windows(grey: Tensor) -> Tensor:
    """(N, 1, H, W) -> (N, 3, H, W) in -1..1."""
    levels = torch.tensor([0.4, 0.6, 0.8])[:, None, None]
    return ((grey - levels) / 0.1).clamp(-1, 1)


torch.manual_seed(0)
slices, labels, _ = lesions(800, seed=0, contrast=2)
images = windows(slices)

# %%
# Swin: channels last
# -------------------
# Its layers give (N, H, W, C), in stages of falling resolution, and it classifies by the average of
# the last one, as CNNs do. ``find_layers`` takes the same transform.


def channels_first(f: Tensor) -> Tensor:
    return f.permute(0, 3, 1, 2)


swin = SwinTransformer(
    patch_size=[2, 2],
    embed_dim=16,
    depths=[1, 1, 1],
    num_heads=[2, 4, 8],
    window_size=[4, 4],
    stochastic_depth_prob=0.0,
    num_classes=2,
)
train(swin, images, labels, epochs=8, batch_size=20, lr=2e-3)
stages = find_layers(swin, images[:1], reshape_transform=channels_first)
print(stages)
of_swin = HRCAM(swin, stages, reshape_transform=channels_first)
print(of_swin.fit([(images, labels)]))

# %%
# ViT: a class token and a grid of patches
# ----------------------------------------
# Its blocks give (N, 1 + 64, C), all of one resolution, so there is nothing to find. Deep blocks
# mix all places: the report's first line says whether the maps still mark what the model uses (what
# they mark least must count for less), and the default leaves out the deeper ones where not.


def grid(f: Tensor) -> Tensor:
    """Without the class token, 8 x 8 patches."""
    return f[:, 1:].transpose(1, 2).unflatten(2, (8, 8))


vit = VisionTransformer(
    image_size=64, patch_size=8, num_layers=3, num_heads=4, hidden_dim=48, mlp_dim=96, num_classes=2
)
train(vit, images, labels, epochs=8, batch_size=20, lr=1e-3)
blocks = [f"encoder.layers.encoder_layer_{i}" for i in range(3)]
of_vit = HRCAM(vit, blocks, reshape_transform=grid)
print(of_vit.fit([(images, labels)]))

# %%
# What the maps are worth
# -----------------------
# Both kept the cascade, so their layers' agreement draws the sharper picture. Beside both a
# Gaussian in the middle of the image, which knows no model.

x, y, masks = lesions(100, seed=1, contrast=2)
x, masks = x[y == 1], masks[y == 1]
maps = {
    name: hrcam.attribute(windows(x), target=1, fusion="agreement")
    for name, hrcam in (("Swin", of_swin), ("ViT", of_vit))
}
gaussian = torch.tensor(centred_gaussian((64, 64))).expand(len(x), 64, 64)
for name, a in (maps | {"centred Gaussian": gaussian}).items():
    print(f"{name}: pixel AP {pixel_average_precision(a, masks).mean():.2f}")

# %%
# ViT decides by its class token, which is not among the averaged patches: its head agrees with it
# less (the report warns), and a patch may hold what was seen elsewhere. So its map has spots far
# from any lesion. Swin decides by the average of the last map, and its map keeps to the lesions.

comparison_figure(x[:4], {k: a[:4] for k, a in maps.items()}, masks=masks[:4])[0]
