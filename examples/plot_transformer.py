"""
Transformers: Swin and ViT
==========================

Transformers keep their feature maps in other layouts. ``reshape_transform`` turns a layer's tensor
into (N, C, H, W), and the rest is as for a CNN. Whether the map means anything is another question.
This page asks it of a network that classifies by the averages of its maps, and of one that does
not.
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
# torchvision's transformers take three channels. Here these are three windows of the grey values,
# such as one sets at a radiology workstation. Lesions have double contrast, since small
# transformers learn slowly.


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
# Swin's layers give (N, H, W, C), in stages of falling resolution. Swin classifies by the average
# of the last stage, as CNNs do. ``find_layers`` takes the same transform as ``HRCAM``.


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
# ViT's blocks give (N, 1 + 64, C). All have the same resolution, so there is nothing for
# ``find_layers`` to choose. Deep blocks mix information from all positions of the image. The
# report's second line (*support*) says whether the maps still mark what the model uses: what they
# mark least must matter less to the model. Where the maps do not, the default leaves out the deeper
# blocks.


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
# Both fits kept the cascade, so the agreement of their layers draws the sharper map. For comparison
# there is a Gaussian in the middle of the image, which knows no model.

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
# ViT decides by its class token, which is not among the averaged patches. So the head agrees less
# with the model (the report warns), and a patch may hold what was seen elsewhere in the image. The
# map therefore has spots far from any lesion. Swin decides by the average of its last stage, and
# its map keeps to the lesions.

comparison_figure(x[:4], {k: a[:4] for k, a in maps.items()}, masks=masks[:4])[0]
