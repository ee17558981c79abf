"""
Together with Captum
====================

HR-CAM is a Captum attribution, so it works with Captum's other tools: noise tunnels, metrics and
figures.
"""

import functools

import matplotlib.pyplot as plt
import pandas as pd
import torch
from captum.attr import LayerGradCam, NoiseTunnel, visualization
from captum.metrics import infidelity, sensitivity_max
from small_cnn import lesions, small_cnn, train

from captum_hrcam import HRCAM, compare, find_layers
from captum_hrcam.visualize import comparison_figure

torch.manual_seed(0)
images, labels, _ = lesions(1000, seed=0)
model = train(small_cnn(2), images, labels)
hrcam = HRCAM(model, find_layers(model, images[:1]))
hrcam.fit([(images, labels)])

x, y, masks = lesions(40, seed=1)
x, masks = x[y == 1], masks[y == 1]

# %%
# A noise tunnel
# --------------
# ``NoiseTunnel`` averages the maps of noisy copies of an image. ``compare`` runs several methods on
# the same images and brings all maps, also Grad-CAM's, to the input's size.

smooth = NoiseTunnel(hrcam)
options = {"nt_type": "smoothgrad", "nt_samples": 10, "stdevs": 0.05}
methods = {
    "Grad-CAM": LayerGradCam(model, model.stage3),
    "HR-CAM": hrcam,
    "HR-CAM, noise tunnel": functools.partial(smooth.attribute, **options),
}
maps = compare(methods, x, target=1)
comparison_figure(x[:4], {k: a[:4] for k, a in maps.items()}, masks=masks[:4])[0]

# %%
# HR-CAM's map is nearly the same with and without the tunnel. Its weights are the same for all
# images, and noise does not change them.
#
# Captum's metrics
# ----------------
# ``infidelity`` measures how far a map is from predicting what noise on the image does to the
# model's score. Class maps have their own scale, so ``normalize`` gives each map the scale that
# suits it best. ``sensitivity_max`` measures how much a map changes when the image changes
# slightly. For both, lower is better.


def noise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What is taken from each image, and what is left."""
    taken = 0.1 * torch.randn_like(x)
    return taken, x - taken


def explain(method, x, target: int) -> tuple[torch.Tensor, ...]:
    """One map of each image; a tuple, as Captum expects where it hands over a tuple."""
    return tuple(compare(method, x, target).values())


def told(a: torch.Tensor) -> float:
    options = {"target": 1, "n_perturb_samples": 20, "normalize": True}
    return infidelity(model, noise, x, a, **options).mean().item()


table = pd.DataFrame(index=list(methods), columns=["infidelity", "sensitivity"], dtype=float)
for name, method in methods.items():
    change = sensitivity_max(functools.partial(explain, method), x, target=1, n_perturb_samples=5)
    table.loc[name] = told(maps[name]), change.mean().item()
print(table.round(3))
print(f"infidelity of a map of zeros: {told(torch.zeros_like(x)):.3f}")

# %%
# A map of zeros predicts nothing, and every map is little better than that: noise on single
# pixels has little effect that a map of regions could predict. HR-CAM's maps change least with the
# image. The tunnel draws new noise each time, which is itself a change.
#
# Captum's figures
# ----------------
# ``visualize_image_attr`` takes channels last. Here it draws the agreement map, which marks what
# all layers agree on.

a = hrcam.attribute(x[1:2], target=1, fusion="agreement")[0]
picture = x[1].expand(3, 64, 64).clamp(0, 1)
figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.7), layout="constrained")
for ax, method in zip(axes, ("original_image", "blended_heat_map", "masked_image"), strict=True):
    visualization.visualize_image_attr(
        a.permute(1, 2, 0).numpy(),
        picture.permute(1, 2, 0).numpy(),
        method=method,
        sign="positive",
        plt_fig_axis=(figure, ax),
        title=method,
        use_pyplot=False,
    )
