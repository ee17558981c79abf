"""The paper's two base networks, both with global average pooling before the classifier."""

import functools
from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.models import resnet50, vgg19

# Mean and deviation of each channel: ImageNet's for its weights; otherwise to get -1..1.
STANDARD = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@dataclass
class Network:
    """A model whose head is global average pooling and one linear layer.

    Args:
        model: gives scores (N, K).
        classifier: the name of the linear layer.
        initialised: "imagenet" or "random".
    """

    model: nn.Module
    classifier: str
    initialised: str


def build(
    arch: str, n_classes: int, weights: str = "none", *, standardize: bool = False
) -> Network:
    """ResNet-50, or VGG-19 with its last max-pool and dense layers replaced by GAP and one linear.

    Args:
        arch: "resnet50" or "vgg19".
        n_classes: outputs.
        weights: "imagenet" or "none".
        standardize: whether the network takes images in 0..1, and scales them itself.
    """
    model, initialised = _initialise({"resnet50": resnet50, "vgg19": vgg19}[arch], weights)
    classifier = "fc" if arch == "resnet50" else "classifier"
    if arch == "vgg19":
        # GAP follows the last convolution, as the paper has it: CAM then is the model's own score.
        model.features = model.features[:-1]
        model.avgpool = nn.AdaptiveAvgPool2d(1)
    features = 2048 if arch == "resnet50" else 512
    setattr(model, classifier, nn.Linear(features, n_classes))
    if standardize:  # by ``weights``: a resumed run must not depend on whether they loaded
        _standardize(model, *STANDARD[weights])
    return Network(model, classifier, initialised)


def _initialise(make, weights: str) -> tuple[nn.Module, str]:
    """The network, and what it starts from; says so if ImageNet's weights cannot be had."""
    if weights == "imagenet":
        try:
            return make(weights="DEFAULT"), "imagenet"
        except OSError as error:  # no network, and not in torch's cache
            print(
                f"--weights imagenet: torchvision's weights cannot be loaded ({error}). Training "
                "starts from random weights; put the file into torch.hub's checkpoints folder, or "
                "say --weights none."
            )
    return make(), "random"


def _standardize(model: nn.Module, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
    """Let the model take images in 0..1, so that what is drawn keeps its colours.

    This is done in a hook, since a module of its own would be one more layer to find.
    """
    model.register_forward_pre_hook(functools.partial(_scale, mean=mean, deviation=deviation))


def _scale(
    module: nn.Module, inputs: tuple, mean: tuple[float, ...], deviation: tuple[float, ...]
) -> tuple[Tensor]:
    (x,) = inputs
    mean, deviation = (x.new_tensor(v)[:, None, None] for v in (mean, deviation))
    return ((x - mean) / deviation,)
