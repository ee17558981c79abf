"""The rows that every table carries: a Gaussian that sees nothing, and the last layer's CAM."""

import warnings
from typing import Any

import torch
from torch import Tensor

from captum_hrcam._captum import TensorOrTuple, as_tuples
from captum_hrcam.activations import read_feature_maps
from captum_hrcam.batch import copied
from captum_hrcam.cam import CAM
from captum_hrcam.compare import Method, module_of, owner
from captum_hrcam.metrics import centred_gaussian
from captum_hrcam.modes import eval_mode

GAUSSIAN = "centred Gaussian"


def with_baselines(
    methods: dict[str, Method],
    inputs: TensorOrTuple,
    targets: Tensor,
    args: tuple[Tensor, ...] = (),
) -> dict[str, Method]:
    """The methods, then CAM where none of them is one, then the centred Gaussian.

    Args:
        methods: {name: method}.
        inputs: (N, C, \\*spatial); the first image is used to try whether the model's classifier
            takes the channels of a layer that a method names.
        targets: (N,).
        args: what the model takes after the inputs, one row for each image.

    Warns:
        UserWarning: no CAM can be made, and why; or its layer is not the one before pooling.
    """
    rows = dict(methods)
    if not any(isinstance(owner(method), CAM) for method in methods.values()):
        cam = _last_layer_cam(methods, inputs, targets, args)
        if isinstance(cam, CAM):
            rows[_free("CAM", rows)] = cam
        else:
            warnings.warn(
                f"evaluate: the row of the baseline CAM is missing: {cam}. Add "
                "CAM(model, last_layer, classifier) to methods where the model has one, or pass "
                "baselines=False.",
                stacklevel=3,
            )
    rows[_free(GAUSSIAN, rows)] = gaussian_map
    return rows


def gaussian_map(inputs: TensorOrTuple, **_: Any) -> Tensor:
    r"""The centred Gaussian at the size of the first input, (N, 1, \*spatial), as a method."""
    image = as_tuples(inputs, None)[1][0]
    gaussian = torch.from_numpy(centred_gaussian(image.shape[2:]))
    return gaussian.expand(len(image), 1, *gaussian.shape)


def _last_layer_cam(
    methods: dict[str, Method],
    inputs: TensorOrTuple,
    targets: Tensor,
    args: tuple[Tensor, ...],
) -> CAM | str:
    """CAM on the deepest layer that a method names and the classifier takes, or why there is none.

    "Deepest" means running last, as two stages of a VGG have the same number of channels.
    """
    named = [owner(m) for m in methods.values() if module_of(m) is not None]
    named = [method for method in named if getattr(method, "layer", None)]
    if not named:
        return "no method tells both its model (forward_func) and a layer"
    first = tuple(x[:1] for x in as_tuples(inputs, None)[1])
    first_args = tuple(x[:1] for x in args)
    cams: dict[str, CAM] = {}
    reason = ""
    for method in named:
        if module_of(method) is not module_of(named[0]):
            continue
        reshape = getattr(method, "reshape_transform", None)
        for layer in method.layer if isinstance(method.layer, (list, tuple)) else [method.layer]:
            try:
                cam = CAM(method.forward_func, layer, reshape_transform=reshape)
                with warnings.catch_warnings():  # about layers that may not be chosen
                    warnings.simplefilter("ignore", UserWarning)
                    cam.attribute(first, targets[:1], first_args)
            except (AssertionError, RuntimeError, TypeError, ValueError) as error:
                reason = str(error).split(". ")[0].rstrip(".")
            else:
                cams.setdefault(next(iter(cam.layers)), cam)
    return _last_to_run(cams, first, first_args) if cams else reason


@torch.no_grad()
def _last_to_run(cams: dict[str, CAM], inputs: tuple[Tensor, ...], args: tuple[Tensor, ...]) -> CAM:
    """The CAM whose layer runs last; warns where it is not the one that the classifier reads."""
    ran: list[str] = []
    any_cam = next(iter(cams.values()))
    layers = {name: cam.layers[name] for name, cam in cams.items()}
    with (
        eval_mode(module_of(any_cam)),  # type: ignore[arg-type]
        read_feature_maps(layers, lambda name, f: ran.append(name)),
    ):
        any_cam.forward_func(*copied(inputs), *copied(args))
    cam = cams[ran[-1]]
    if cam.matches_model is False:
        warnings.warn(
            f"evaluate: the row of the baseline CAM is of layer {ran[-1]!r}, the deepest that a "
            "method names, but its average through the classifier is not the model's output. If "
            "another layer is the last before pooling, add CAM(model, that_layer) to methods.",
            stacklevel=6,  # past the decorator, to the caller of evaluate
        )
    return cam


def _free(name: str, rows: dict[str, Method]) -> str:
    return f"{name} (baseline)" if name in rows else name
