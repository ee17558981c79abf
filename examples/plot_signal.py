"""
Signals: which beat is abnormal?
================================

In one dimension a map runs along time. A network learns to tell simulated electrocardiograms with
an abnormal beat from those without. The map says which beat is abnormal.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from captum.attr import LayerGradCam
from small_cnn import small_cnn, train
from torch import Tensor

from captum_hrcam import HRCAM, compare, find_layers
from captum_hrcam.metrics import pixel_average_precision, pointing_game

torch.manual_seed(0)
RATE, LENGTH = 100, 512  # samples a second, samples

# %%
# Simulated electrocardiograms
# ----------------------------
# Each signal is five seconds of one lead. A beat is a sum of bumps: P wave, QRS complex, T wave. In
# every second signal one beat comes from the ventricle (a premature ventricular contraction). It
# comes early and without a P wave, its QRS is wide, its T wave is upside down, and a pause follows.
# Rate, heights, noise and a wandering baseline vary in the same way in both classes.

NORMAL = [(-0.16, 0.025, 0.15), (-0.03, 0.01, -0.12), (0, 0.012, 1.0), (0.03, 0.01, -0.2)]
NORMAL += [(0.24, 0.045, 0.3)]  # (seconds from the R peak, width, height)
ABNORMAL = [(-0.02, 0.045, 0.9), (0.07, 0.04, -0.5), (0.28, 0.06, -0.3)]


def signal(rng: np.random.Generator, abnormal: bool) -> tuple[np.ndarray, np.ndarray]:
    """One signal (512,), and which samples belong to an abnormal beat."""
    t = np.arange(LENGTH) / RATE
    period, at = rng.uniform(0.7, 1.0), rng.uniform(0.1, 0.5)
    beats = np.arange(at, t[-1] + 1, period)
    odd = int(rng.integers(1, 4)) if abnormal else -1
    y, mask = 0.1 * np.sin(2 * np.pi * (t / rng.uniform(2, 6) + rng.uniform())), np.zeros(LENGTH)
    for i, beat in enumerate(beats):
        beat += rng.normal(0, 0.02) - (0.3 * period if i == odd else 0)
        height = rng.uniform(0.8, 1.2)
        for when, width, size in ABNORMAL if i == odd else NORMAL:
            y += height * size * np.exp(-(((t - beat - when) / width) ** 2) / 2)
        if i == odd:
            mask = (t > beat - 0.12) & (t < beat + 0.42)
    return y + rng.normal(0, 0.05, LENGTH), mask


def draw(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Signals (n, 1, 512), labels (n,), and the abnormal beat's samples (n, 512)."""
    rng = np.random.default_rng(seed)
    signals, masks = zip(*(signal(rng, i % 2 == 1) for i in range(n)), strict=True)
    x = torch.tensor(np.stack(signals), dtype=torch.float32)[:, None]
    return x, torch.arange(n) % 2, torch.tensor(np.stack(masks)) > 0


signals, labels, _ = draw(600, seed=0)
x, y, masks = draw(200, seed=1)

# %%
# Network and head
# ----------------

model = train(small_cnn(2, ndim=1), signals, labels, epochs=6)
layers = find_layers(model, signals[:1])
hrcam, of_deepest = HRCAM(model, layers), HRCAM(model, layers[2:])
print(hrcam.fit([(signals, labels)]))
of_deepest.fit([(signals, labels)])

# %%
# The maps along time
# -------------------
# The metrics take images and volumes, so each signal is passed as an image of one row.

x, masks = x[y == 1], masks[y == 1]
methods = {"Grad-CAM": LayerGradCam(model, model.stage4), "HR-CAM": hrcam}
maps = compare(methods, x, target=1)  # (100, 1, 512) each
maps["HR-CAM, agreement"] = hrcam.attribute(x, target=1, fusion="agreement")
maps["HR-CAM of the two deepest layers"] = of_deepest.attribute(x, target=1)
for name, a in maps.items():
    row, beat = a[:, :, None], masks[:, None, None]  # (100, 1, 1, 512)
    ap, hits = pixel_average_precision(row, beat).mean(), pointing_game(row, beat).mean()
    print(f"{name}: average precision {ap:.2f}, maximum in the abnormal beat {hits:.0%}")
print(f"by chance {masks.float().mean():.2f}")

# %%
# All maps find the beat. HR-CAM's say which waves of it are abnormal, and what the layers agree on
# says it most clearly: the wide QRS with its deep end, and the T wave that is upside down. The mask
# is the whole beat, which the two deepest layers cover, so that average precision favours them. The
# abnormal beat is shaded, and each map has its own scale.

t = torch.arange(LENGTH) / RATE
figure, axes = plt.subplots(
    6, 1, figsize=(7.2, 6.5), sharex=True, height_ratios=[3, 2] * 3, layout="constrained"
)
for i, (top, below) in enumerate(axes.reshape(3, 2)):
    top.plot(t, x[i, 0], color="black", linewidth=0.8)
    for name, a in maps.items():
        below.plot(t, a[i, 0] / a[i, 0].abs().max(), label=name, linewidth=1)
    below.axhline(0, color="grey", linewidth=0.5)
    begin, end = t[masks[i]][[0, -1]]
    for ax, label in ((top, "signal"), (below, "maps")):
        ax.axvspan(begin, end, color="gold", alpha=0.25)
        ax.set(yticks=[], ylabel=label)
axes[-1].set(xlabel="seconds", xlim=(0, LENGTH / RATE))
figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper center", ncols=3)
