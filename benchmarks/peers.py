"""The rival methods of Captum, grad-cam and torchcam, each as a function that draws maps."""

import functools
from collections.abc import Callable

import pytorch_grad_cam as pgc
import torch
import torchcam.methods
from captum.attr import LayerGradCam
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from captum_hrcam import CAM, compare
from captum_hrcam.evaluation.baselines import gaussian_map

Attribute = Callable[[Tensor, Tensor], Tensor]
SLOW = ("ScoreCAM",)  # run on a subset of images, and does not count for the best peer
FAMILIES = {
    "GradCAM++": pgc.GradCAMPlusPlus,
    "XGradCAM": pgc.XGradCAM,
    "HiResCAM": pgc.HiResCAM,
    "LayerCAM": pgc.LayerCAM,
}


def gaussian(x: Tensor, y: Tensor) -> Tensor:
    """The centred Gaussian, a baseline without a model."""
    return gaussian_map(x)


def peers(model: nn.Module, layers: dict[str, nn.Module]) -> dict[str, Attribute]:
    """All peers, {"method | configuration": f(images, targets) -> (N, 1, H, W)}.

    Args:
        model: the model.
        layers: layer name -> module, shallow to deep.
    """
    modules, names = list(layers.values()), list(layers)
    n = len(modules)
    cam = CAM(model, names[-1])
    found: dict[str, Attribute] = {
        "CAM | last": of_captum(cam),
        "CAM | last, signed": cam.attribute,
    }
    for i, module in enumerate(modules, 1):
        found[f"Grad-CAM, Captum | stage {i}"] = of_captum(LayerGradCam(model, module))
    fused = {f"last {k} fused": modules[-k:] for k in (n, 2)}
    single = {f"stage {i}": [module] for i, module in enumerate(modules, 1)}
    for name, chosen in fused.items():
        found[f"Grad-CAM, grad-cam | {name}"] = functools.partial(
            of_grad_cam, pgc.GradCAM, model, chosen
        )
    for family, method in FAMILIES.items():
        for name, chosen in {**single, **fused}.items():
            found[f"{family} | {name}"] = functools.partial(of_grad_cam, method, model, chosen)
    for name in ("LayerCAM", "GradCAMpp"):
        method = getattr(torchcam.methods, name)
        run = functools.partial(of_torchcam, method, model, names)
        found[f"{name}, torchcam | last {n} fused"] = run
        for k in (n, 3, 2):  # RefineCAM multiplies maps, so a bad fine layer spoils the product
            refine = functools.partial(torchcam.methods.RefineCAM, base_method=method)
            run = functools.partial(of_torchcam, refine, model, names[-k:])
            found[f"RefineCAM, torchcam | {name}, last {k} fused"] = run
    found["FullGrad | all layers"] = functools.partial(of_grad_cam, pgc.FullGrad, model, [])
    found["ScoreCAM | last"] = functools.partial(of_grad_cam, pgc.ScoreCAM, model, modules[-1:])
    return found


def of_captum(method: LayerGradCam | CAM) -> Attribute:
    """Draw the positive part of the method's maps, as Grad-CAM is defined."""
    return lambda x, y: compare({"map": method}, x, y)["map"].relu()


def of_grad_cam(
    method: type,
    model: nn.Module,
    chosen: list,
    x: Tensor,
    y: Tensor,
    reshape: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    with method(model=model, target_layers=chosen, reshape_transform=reshape) as cam:
        targets = [ClassifierOutputTarget(int(c)) for c in y]
        return torch.from_numpy(cam(input_tensor=x.clone(), targets=targets))[:, None]


def of_torchcam(method: type, model: nn.Module, names: list, x: Tensor, y: Tensor) -> Tensor:
    with method(model, names) as cam:
        maps = cam(y.tolist(), model(x.clone().requires_grad_()))
        fused = cam.fuse_cams(maps) if len(maps) > 1 else maps[0]
    return nn.functional.interpolate(fused[:, None], x.shape[2:], mode="bilinear")
