"""
Letters on the film: where HR-CAM is no better
==============================================

Radiographs carry letters, "L" or "R". In the paper's MURA experiment (Shinde et al. 2021, Fig. 6)
the early layers saw little else, so HR-CAM was no better than CAM there. Two experiments on
simulated slices show what letters do to a map, and what the layers' shares of the score say about
it:

* *Random letters*: every image has a letter, whatever its class, as in the paper.
* *Telling letters*: in nine images of ten the letter is "L" on lesions and "R" on the rest. The
  network then reads the letter, and no true map can show it looking elsewhere.
"""

import functools

import torch
from captum.attr import LayerGradCam
from small_cnn import lesions as slices
from small_cnn import small_cnn, train
from torch import Tensor

from captum_hrcam import CAM, HRCAM, compare, find_layers
from captum_hrcam.metrics import energy_pointing
from captum_hrcam.visualize import comparison_figure

SCALE = 2
LETTERS = {
    "L": ["10000", "10000", "10000", "10000", "10000", "10000", "11111"],
    "R": ["11110", "10001", "10001", "11110", "10100", "10010", "10001"],
}
torch.manual_seed(0)

# %%
# Images with letters
# -------------------
# The letter stands in one of the four corners. It is bright, like a lead marker.


def letter(name: str) -> Tensor:
    """(14, 10) of 0 and 1."""
    rows = torch.tensor([[float(c) for c in row] for row in LETTERS[name]])
    return rows.repeat_interleave(SCALE, 0).repeat_interleave(SCALE, 1)


def draw(n: int, seed: int, telling: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, labels, masks of lesions and of letters; ``telling``: how often a letter is right."""
    images, labels, masks = slices(n, seed)
    generator = torch.Generator().manual_seed(seed)
    right = torch.rand(n, generator=generator) < telling
    corners = torch.randint(4, (n,), generator=generator)
    marks = torch.zeros(n, 64, 64, dtype=torch.bool)
    for i in range(n):
        glyph = letter("L" if bool(labels[i]) == bool(right[i]) else "R") > 0
        h, w = glyph.shape
        top = 2 if corners[i] < 2 else 62 - h
        left = 2 if corners[i] % 2 == 0 else 62 - w
        marks[i, top : top + h, left : left + w] = glyph
    images[:, 0][marks] = 1.2
    return images, labels, masks, marks


# %%
# The same network, twice
# -----------------------


def explain(telling: float) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Lesioned test images, their maps, and the lesions' outlines."""
    images, labels, _, _ = draw(1600, seed=0, telling=telling)
    model = train(small_cnn(2, (16, 32, 64, 96)), images, labels, epochs=8)
    layers = find_layers(model, images[:1])
    hrcam = HRCAM(model, layers)
    report = hrcam.fit([(images, labels)])
    print(report)
    x, y, lesions, marks = draw(400, seed=1, telling=telling)
    with torch.no_grad():
        right = (model(x).argmax(1) == y).float().mean()
        swapped = draw(400, seed=1, telling=1 - telling)[0]
        fooled = (model(swapped).argmax(1) == y).float().mean()
    print(f"test accuracy {right:.2f}; with each letter exchanged for the other {fooled:.2f}")
    methods = {
        "CAM": CAM(model, layers[-1]),
        "Grad-CAM": LayerGradCam(model, model.get_submodule(layers[-2])),
        "HR-CAM": hrcam,
    }
    methods["HR-CAM, agreement"] = functools.partial(hrcam.attribute, fusion="agreement")
    x, lesions, marks = x[1::2], lesions[1::2], marks[1::2]
    maps = compare(methods, x, target=1)
    for name, a in maps.items():
        on_lesion, on_letter = energy_pointing(a, lesions).mean(), energy_pointing(a, marks).mean()
        print(f"{name}: {on_lesion:.0%} of the map on lesions, {on_letter:.0%} on letters")
    return x[:4], {name: a[:4] for name, a in maps.items()}, lesions[:4]


# %%
# Random letters
# --------------
# The letter says nothing about the class, and exchanging it does not change the accuracy. The
# lesions (outlined) are found, but the letter shines faintly in the fine layers. Where the lesion
# is all but invisible, as in the first row, the letter is the brightest thing on the maps of HR-CAM
# and Grad-CAM. The report's shares say how much of the score comes from each resolution.

x, maps, outlines = explain(telling=0.5)
comparison_figure(x, maps, masks=outlines)[0]

# %%
# Telling letters
# ---------------
# Exchanging the letters now reverses most decisions, and the maps show why. CAM and Grad-CAM light
# up a corner of the film; HR-CAM draws the letter itself as well as the lesion. No map of this
# network shows lesions alone, and none should: a true map shows what the network uses.

x, maps, outlines = explain(telling=0.9)
comparison_figure(x, maps, masks=outlines)[0]
