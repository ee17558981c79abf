"""
A network without labels
========================

Often you have a network's weights but no labels. The head can then learn from what the network
itself says: ``targets="model"`` needs only images.
"""

import torch
from small_cnn import lesions, small_cnn, train
from torch.utils.data import DataLoader

from captum_hrcam import HRCAM, find_layers
from captum_hrcam.metrics import pixel_average_precision
from captum_hrcam.visualize import comparison_figure

torch.manual_seed(0)
model = train(small_cnn(2), *lesions(1000, seed=0)[:2])  # yours; how it was trained is forgotten
layers = find_layers(model, torch.zeros(1, 1, 64, 64))

# %%
# Images alone
# ------------
# There are 600 other images, half of them with a lesion. Their labels are kept for the comparison
# below. With ``targets="model"`` a batch may hold only images.

images, labels, _ = lesions(600, seed=2)
unlabelled = HRCAM(model, layers)
print(unlabelled.fit(DataLoader(images, batch_size=50), targets="model"))

# %%
# In this report the model is the teacher. The model's accuracy is 1 by definition, and the head's
# accuracy is its agreement with the model. This agreement is the figure to look at. It cannot say
# whether the model is right.
#
# The same images with labels
# ---------------------------

labelled = HRCAM(model, layers)
print(labelled.fit([(images, labels)]))

# %%
# Two heads, nearly one map
# -------------------------
# The two heads are compared on test images: by their maps against the masks, and by the correlation
# of the two maps over each image's pixels.

x, y, masks = lesions(200, seed=1)
x, masks = x[y == 1], masks[y == 1]
maps = {
    "with labels": labelled.attribute(x, target=1),
    "without labels": unlabelled.attribute(x, target=1),
}
for name, a in maps.items():
    print(f"{name}: pixel AP {pixel_average_precision(a, masks).mean():.2f}")
pairs = zip(*maps.values(), strict=True)
alike = torch.stack([torch.corrcoef(torch.stack(pair).flatten(1))[0, 1] for pair in pairs])
print(f"correlation of the two: median {alike.median():.3f}, least {alike.min():.3f}")

# %%

comparison_figure(x[:4], {k: a[:4] for k, a in maps.items()}, masks=masks[:4])[0]
