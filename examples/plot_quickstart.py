"""
Quickstart: where is the lesion?
================================

A small CNN learns to tell simulated brain slices with a lesion from those without. It never sees a
mask. Three methods then draw class activation maps of where the CNN found the lesion, and the known
masks show which map is right. ``make demo`` runs this file.
"""

import argparse
import functools
from collections import OrderedDict
from pathlib import Path

import pandas as pd
import torch
from captum.attr import LayerGradCam
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

from captum_hrcam import CAM, HRCAM, compare, find_layers, metrics
from captum_hrcam.datasets import SimulatedPathology
from captum_hrcam.visualize import comparison_figure

parser = argparse.ArgumentParser(description="Train a small CNN, fit HR-CAM, compare the maps.")
parser.add_argument("--images", type=int, default=2000, help="training images")
parser.add_argument("--size", type=int, default=80, help="pixels per side")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--out", type=Path, help="folder for comparison.png")
parser.add_argument("-f", help=argparse.SUPPRESS)  # what a notebook's kernel is started with
options = parser.parse_args()
torch.manual_seed(0)

# %%
# Data
# ----
# There are two classes: normative anatomy + noise, and the same with localised or diffuse lesions.
# The test images come from another seed.


def load(n: int, seed: int) -> tuple[SimulatedPathology, TensorDataset]:
    data = SimulatedPathology(n, options.size, seed=seed)
    images, labels = zip(*(data[i] for i in range(n)), strict=True)
    return data, TensorDataset(torch.stack(images), torch.tensor(labels))


_, train_set = load(options.images, seed=0)
test_data, test_set = load(max(options.images // 5, 20), seed=1)
train_loader = DataLoader(train_set, batch_size=50, shuffle=True)

# %%
# A classifier
# ------------
# Any CNN will do. This one has four stages, each at half the resolution of the one before.


def stage(n_in: int, n_out: int) -> nn.Sequential:
    conv = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True))


model = nn.Sequential(
    OrderedDict(
        stage1=stage(1, 16),
        pool1=nn.MaxPool2d(2),
        stage2=stage(16, 32),
        pool2=nn.MaxPool2d(2),
        stage3=stage(32, 64),
        pool3=nn.MaxPool2d(2),
        stage4=stage(64, 128),
        gap=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(128, 2),
    )
)
optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
steps = options.epochs * len(train_loader)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
with tqdm(total=steps, desc="training the CNN", disable=None) as bar:  # shown in a terminal
    for _ in range(options.epochs):
        for images, labels in train_loader:
            turned = torch.rot90(images, int(torch.randint(4, ())), (2, 3))
            loss = nn.functional.cross_entropy(model(turned), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.2f}")
model.eval()

# %%
# HR-CAM
# ------
# HR-CAM adds a linear layer, the *head*, on the averages of several layers' feature maps. The CNN
# stays as it is. One pass over the training images fits the head. The report says how the head was
# chosen, what each layer contributes and how well the head agrees with the CNN. No mask is used.

layers = find_layers(model, test_set[0][0][None])
hrcam = HRCAM(model, layers)
report = hrcam.fit(train_loader)
print(report)

# %%
# Where are the lesions? The cyan outlines are the masks. Only the pictures and the table on this
# page use them.

lesions = [i for i in range(len(test_data)) if test_data.kind(i) != "normative"]
images = test_set.tensors[0][lesions]
masks = torch.stack([test_data.mask(i) for i in lesions])
kinds = [test_data.kind(i) for i in lesions]
shown = slice(0, 6)
figure, _ = comparison_figure(
    images[shown],
    {"HR-CAM": hrcam.attribute(images[shown], target=1)},
    masks=masks[shown],
    captions=kinds[shown],
)

# %%
# The head decides what the map looks like. The paper's own head, trained by Adam without a penalty,
# tells the classes apart as well, but draws another map. (The library warns of it.)

paper = HRCAM(model, layers)
print(paper.fit(train_loader, solver="adam"))

# %%
# The maps, beside CAM's and Grad-CAM's
# -------------------------------------
# Grad-CAM reads the pre-final stage, as in the paper. Every method explains the class "lesion".

methods = {
    "CAM": CAM(model, "stage4", "classifier"),
    "Grad-CAM": LayerGradCam(model, model.stage3),
    "HR-CAM, paper's head": paper,
    "HR-CAM": hrcam,
    "HR-CAM, agreement": functools.partial(hrcam.attribute, fusion="agreement"),
}
maps = compare(methods, images, target=1)


def figures(a: torch.Tensor) -> dict[str, float]:
    row = {"pixel AP": metrics.pixel_average_precision(a, masks).mean()}
    for t in (0.3, 0.5, 0.8):
        row[f"sens {t}"] = metrics.sensitivity(a, masks, t).mean()
        row[f"spec {t}"] = metrics.specificity(a, masks, t).mean()
    return row


table = pd.DataFrame({name: figures(a) for name, a in maps.items()}).T
print(f"mean over {len(lesions)} test images with a lesion, against their masks:")
print(table.round(3).to_string())

# %%
# Look at them
# ------------
# Each row is an image, each column a method. Every map has its own scale.

# sphinx_gallery_thumbnail_number = 2
figure, _ = comparison_figure(
    images[shown],
    {name: a[shown] for name, a in maps.items()},
    masks=masks[shown],
    captions=kinds[shown],
)
if options.out:
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "comparison.png", dpi=150)
    print(f"wrote {options.out / 'comparison.png'}")
