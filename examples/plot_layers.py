"""
Which layers: what each resolution adds
=======================================

A map is the sum of one part for each layer. Deep layers know the class but are coarse. Shallow
layers are fine but know little of the class. This page takes a map apart, then leaves layers out.
"""

import torch
from captum.attr import LayerActivation
from small_cnn import lesions, small_cnn, train

from captum_hrcam import HRCAM, find_layers
from captum_hrcam.metrics import pixel_average_precision
from captum_hrcam.visualize import comparison_figure, layers_figure, weights_figure

torch.manual_seed(0)
images, labels, _ = lesions(1000, seed=0)
model = train(small_cnn(2), images, labels)

x, y, masks = lesions(200, seed=1)
x, masks = x[y == 1], masks[y == 1]

# %%
# The layers that are found
# -------------------------
# ``find_layers`` takes one layer for each resolution: the deepest before each downsampling.

layers = find_layers(model, images[:1])
print(layers)

# %%
# Shares of the score
# -------------------
# The report says how much of the variance of each class's score comes from each layer. Here no
# layer has the score to itself.

hrcam = HRCAM(model, layers)
report = hrcam.fit([(images, labels)])
print(report)

# %%
# The parts of a map
# ------------------
# ``layer_maps`` gives the parts, which add up to the map. The plain sum has a baseline level over
# all tissue, which the score needs. ``fusion="evidence"`` keeps from each layer only what exceeds
# its ordinary level, that is, its usual level in the training data. From right to left the spots
# grow sharper, and the finest layer adds edges and texture. The outlines are the masks. All panels
# share a scale that suits the parts; the sum exceeds it.

parts = hrcam.layer_maps(x[:4], target=1, fusion="evidence")
limit = max(part.max().item() for part in parts.values())
figure, _ = layers_figure(
    x[:4], parts, masks=masks[:4], resolutions=report.resolutions, limit=limit
)

# %%
# The weights behind them
# -----------------------
# Each dot is a channel: its weight for "lesion", times the standard deviation of the channel over
# 100 images and all their cells (positions of the feature map), so that layers can be compared. The
# fine layers have few channels, with large weights of both signs. The deepest has many channels,
# with small weights.

deviations = {}
for name in layers:
    f = LayerActivation(model, model.get_submodule(name)).attribute(images[:100])
    deviations[name] = f.std((0, 2, 3))
weights_figure(hrcam, classes=["normative", "lesion"], target=1, scale=deviations)[0]

# %%
# Leaving layers out
# ------------------
# Now fit a separate head on the deepest layer alone, on the two deepest, and so on. The printed
# number is the average precision (AP) of a map's pixels against the mask; 1 is perfect.

maps = {}
for n, first in enumerate(reversed(layers), start=1):
    part = HRCAM(model, layers[-n:])
    part.fit([(images, labels)])
    name = f"{first} to stage4" if n > 1 else "stage4 alone"
    maps[name] = part.attribute(x, target=1)
    ap = pixel_average_precision(maps[name], masks).mean()
    print(f"{name}: pixel AP {ap:.2f}")

# %%
# The step from one layer to two is the largest, and each finer layer sharpens the map further. This
# is true on average. In the first row, which has the faintest lesion, the finer layers add tissue.

comparison_figure(x[:4], {k: a[:4] for k, a in maps.items()}, masks=masks[:4])[0]
