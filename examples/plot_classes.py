"""
Many classes: all their maps in one pass
========================================

There are ten classes, and each image shows two of them. A network says which digits it sees, and
``class_maps`` says where. It gives the maps of all ten classes in the one forward pass that scores
the image.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from small_cnn import small_cnn, train
from torch import Tensor

from captum_hrcam import HRCAM, find_layers
from captum_hrcam.metrics import pointing_game
from captum_hrcam.visualize import comparison_figure

# %%
# Two digits in each image
# ------------------------
# The data are scikit-learn's handwritten digits, dark on a bright background. The first 1,200 are
# for training. Each image shows two digits of different classes side by side, each somewhere in its
# half. A label is a row of ten zeros and ones. Nothing says which digit is on the left.

torch.manual_seed(0)
digits = load_digits()


def draw(n: int, seed: int, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Images (n, 1, 32, 64), labels (n, 10), and of each class the pixels (n, 10, 32, 64)."""
    rng = np.random.default_rng(seed)
    shapes, classes = digits.images[rows] / 16, digits.target[rows]
    ink = torch.zeros(n, 10, 32, 64)
    for i in range(n):
        for side, c in enumerate(rng.choice(10, 2, replace=False)):
            shape = torch.tensor(shapes[rng.choice(np.flatnonzero(classes == c))])
            size = int(rng.integers(18, 25))
            big = F.interpolate(shape[None, None], size=(size, size), mode="bicubic")[0, 0]
            top, left = rng.integers(0, 33 - size, 2)
            ink[i, c, top : top + size, 32 * side + left : 32 * side + left + size] = big
    ground = 1 - 0.8 * ink.sum(1, keepdim=True).clamp(0, 1)
    images = ground + torch.tensor(rng.normal(0, 0.1, ground.shape), dtype=torch.float32)
    return images, ink.amax((2, 3)).round(), ink > 0.5


images, labels, _ = draw(2000, 0, slice(1200))
x, y, masks = draw(200, 1, slice(1200, None))

# %%
# Network and head
# ----------------
# With several labels per image there are ten yes-or-no questions, so both the network and the head
# use binary cross-entropy.

model = train(small_cnn(10), images, labels, epochs=15)
hrcam = HRCAM(model, find_layers(model, images[:1]))
report = hrcam.fit([(images, labels)], loss="binary_cross_entropy")
print(report)

# %%
# One image, ten maps
# -------------------
# ``fusion="agreement"`` marks what all layers agree on. All maps are on one scale, and red is above
# the ordinary, that is, above what is usual in the training data. Each title gives the head's
# probability that the digit is there. The maps of digits that are not there mark strokes that they
# share with digits that are.

maps = hrcam.class_maps(x, fusion="agreement")  # (200, 10, 32, 64)
probability = hrcam.predict(x).sigmoid()  # (200, 10)

figure, axes = plt.subplots(3, 4, figsize=(7.2, 3.2), layout="constrained")
panels = axes.ravel()
for ax in panels:
    ax.set(xticks=[], yticks=[])
panels[0].imshow(x[1, 0], cmap="gray")
limit = maps[1].abs().max()
for c in range(10):
    panels[1 + c].imshow(maps[1, c], cmap="RdBu_r", vmin=-limit, vmax=limit)
    panels[1 + c].set_title(f"{c}: {probability[1, c]:.2f}", fontsize="small")
panels[11].remove()

# %%
# Two maps of one image
# ---------------------
# Now the maps of the two digits that are there. The pointing game counts, over all test images, how
# often a digit's map has its maximum on that digit.

hits = pointing_game(maps[y == 1], masks[y == 1])
chance = masks[y == 1].float().mean()
print(f"maximum on its digit: {hits.mean():.1%} of {len(hits)} maps; by chance {chance:.1%}")

# %%

rows = torch.arange(4)
there = y[rows].nonzero()[:, 1].reshape(4, 2)  # the two digits of each, the smaller first
comparison_figure(
    x[rows],
    {"the smaller digit": maps[rows, there[:, 0]], "the larger digit": maps[rows, there[:, 1]]},
    masks=(masks[rows, there[:, 0]] | masks[rows, there[:, 1]]),
    captions=[f"{a} and {b}" for a, b in there.tolist()],
)[0]
