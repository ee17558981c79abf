"""
Heads compared on the same images
=================================

The head is one linear layer on the averages of the feature maps. Different heads read the same
network, yet draw very different maps. The masks, which no head has seen, show which map is right.
"""

import warnings

import pandas as pd
import torch
from small_cnn import lesions, small_cnn, train

from captum_hrcam import CAM, HRCAM, find_layers
from captum_hrcam.metrics import centred_gaussian, pixel_average_precision, pointing_game
from captum_hrcam.visualize import comparison_figure

torch.manual_seed(0)
images, labels, _ = lesions(1000, seed=0)
model = train(small_cnn(2), images, labels)
layers = find_layers(model, images[:1])

x, y, masks = lesions(200, seed=1)
x, masks = x[y == 1], masks[y == 1]

# %%
# Four heads
# ----------
# - "adam" is the paper's head, without a penalty.
# - "ridge" is penalised as much as its accuracy allows.
# - "pattern" takes each channel on its own.
# - In a "cascade" each layer learns from the deeper ones, cell by cell. (A cell is one position of
#   a feature map.)
#
# Accuracy and agreement with the model are computed on images that the fit held out.

hrcams, reports = {}, {}
for solver in ("adam", "ridge", "pattern", "cascade"):
    hrcams[solver] = HRCAM(model, layers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are printed below
        reports[solver] = hrcams[solver].fit([(images, labels)], solver=solver)
    report = reports[solver]
    print(f"{solver}: accuracy {report.head_accuracy:.2f}, as the model {report.agreement:.0%}")
    print(*report.warnings, sep="\n")

# %%
# Accuracy does not tell whether a map is good: the heads nearest to the model get warnings about
# their maps.
#
# The choice without masks
# ------------------------
# The default, "auto", fits the cascade and the pattern. In held-out images it then blurs away what
# the cascade's maps mark most, and what they mark least. The cascade is kept if the first costs the
# model more. Otherwise both heads' maps are compared, by blurring away what they mark and by
# showing that alone, and the pattern is taken if it is clearly better in both.

hrcam = HRCAM(model, layers)
print(hrcam.fit([(images, labels)]).choices[0])

# %%
# Maps against masks
# ------------------
# A fusion is a way to put the layers' maps together. The four heads above use "sum". For the
# default head the table adds "evidence" and "agreement". CAM is the model's own head on its last
# layer. The Gaussian in the middle of the image knows no model: a method that falls below it has
# localised nothing.

maps = {name: head.attribute(x, target=1) for name, head in hrcams.items()}
for fusion in ("evidence", "agreement"):
    maps[f"auto, {fusion}"] = hrcam.attribute(x, target=1, fusion=fusion)
maps["CAM"] = CAM(model, "stage4").attribute(x, target=1)
gaussian = torch.tensor(centred_gaussian((64, 64))).expand(len(x), 64, 64)


def figures(a: torch.Tensor) -> dict[str, float]:
    ap, pointing = pixel_average_precision(a, masks), pointing_game(a, masks)
    return {"pixel AP": ap.mean(), "pointing": pointing.mean()}


table = {name: figures(a) for name, a in (maps | {"centred Gaussian": gaussian}).items()}
print(pd.DataFrame(table).T.round(2).to_string())

# %%
# What the figures mean
# ---------------------
# Adam and ridge put nearly all weight on the last layer and draw CAM's map again. The pattern finds
# the lesions, but lights up other tissue as well. The cascade orders pixels better (see the table),
# but its sum has a baseline level over all tissue. Evidence and agreement take that level away.

shown = slice(0, 5)
comparison_figure(x[shown], {k: a[shown] for k, a in maps.items()}, masks=masks[shown])[0]
