"""
Completeness: the map adds up to the score
==========================================

The mean of a map over its pixels, plus the bias, is the score of its class. So a map is the score
itself, laid out over the image, and the layers' parts of the map split the score among the layers.
"""

import matplotlib.pyplot as plt
import torch
from small_cnn import lesions, small_cnn, train

from captum_hrcam import HRCAM, find_layers

torch.manual_seed(0)
images, labels, _ = lesions(1000, seed=0)
model = train(small_cnn(2), images, labels)
hrcam = HRCAM(model, find_layers(model, images[:1]))
hrcam.fit([(images, labels)])
x, y, masks = lesions(100, seed=1)

# %%
# The identity
# ------------
# The identity holds for each image and class, up to rounding, if the image's size is a whole
# multiple of each layer's: here 1, 2, 4 and 8 times. (For other sizes it holds at the layers' own
# resolution.)

maps = hrcam.class_maps(x)  # (100, 2, 64, 64)
scores = hrcam.predict(x)  # (100, 2)
added = maps.mean((2, 3)) + hrcam.bias.float()
for means, score in zip(added[:4].tolist(), scores[:4].tolist(), strict=True):
    print("mean + bias", *(f"{m:9.4f}" for m in means), "  score", *(f"{s:9.4f}" for s in score))
print(f"largest difference in all images: {(added - scores).abs().max():.1e}")

# %%
# The log-odds
# ------------
# With two classes, the difference of their scores decides. A map is linear in the head, so the
# difference of the two classes' maps is the map of that difference. It is complete as well, and so
# is the difference of each layer's two parts.

lesion, normative = hrcam.layer_maps(x, target=1), hrcam.layer_maps(x, target=0)
parts = {name: (lesion[name] - normative[name])[:, 0] for name in lesion}  # (100, 64, 64) each
odds_map = torch.stack([*parts.values()]).sum(0)
odds = scores[:, 1] - scores[:, 0]
bias = float(hrcam.bias[1] - hrcam.bias[0])

# %%
# The figure shows four slices: the slice with the lowest and the one with the highest score, among
# those without a lesion and among those with one.

shown = []
for kind in (0, 1):
    of_kind = (y == kind).nonzero()[:, 0]
    shown += [of_kind[odds[of_kind].argmin()].item(), of_kind[odds[of_kind].argmax()].item()]

# %%
# On the right each bar begins where the last one ended: first the bias, then the mean of each
# layer's part. The black bar is the head's log-odds and ends at the same point. Red is evidence for
# a lesion, blue evidence against it. Where a slice without a lesion scores high, or one with a
# lesion scores low, the map shows why. The background outside the patient's head has a faintly red
# level, too: the mean of the map is over all pixels.

figure, axes = plt.subplots(
    4, 3, figsize=(7, 8), width_ratios=(1, 1, 1.4), sharex="col", layout="constrained"
)
limit = odds_map[shown].abs().max()
for (left, middle, right), i in zip(axes, shown, strict=True):
    left.imshow(x[i, 0], cmap="gray")
    middle.imshow(odds_map[i], cmap="RdBu_r", vmin=-limit, vmax=limit)
    for ax, color in ((left, "cyan"), (middle, "black")):
        ax.set(xticks=[], yticks=[])
        if y[i]:
            ax.contour(masks[i], [0.5], colors=color, linewidths=1.2)
    left.set_ylabel("lesion" if y[i] else "no lesion")
    steps = torch.tensor([bias, *(part[i].mean() for part in parts.values())])
    colors = ["tab:red" if step > 0 else "tab:blue" for step in steps]
    right.barh(["bias", *parts], steps, left=steps.cumsum(0) - steps, color=colors)
    right.barh("sum", odds[i], color="black")
    right.axvline(0, color="black", linewidth=0.8)
    right.invert_yaxis()
    right.set_title(f"log-odds {odds[i]:.1f}", fontsize="medium")
axes[0, 0].set_title("image", fontsize="medium")
axes[0, 1].set_title("map of the log-odds", fontsize="medium")
