"""The paper's two base networks, both with global average pooling before the classifier."""

from dataclasses import dataclass

from torch import nn
from torchvision.models import resnet50, vgg19


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


def build(arch: str, n_classes: int, weights: str = "none") -> Network:
    """ResNet-50, or VGG-19 with its dense layers replaced by pooling and one linear layer.

    Args:
        arch: "resnet50" or "vgg19".
        n_classes: outputs.
        weights: "imagenet" or "none".
    """
    model, initialised = _initialise({"resnet50": resnet50, "vgg19": vgg19}[arch], weights)
    if arch == "resnet50":
        model.fc = nn.Linear(model.fc.in_features, n_classes)
        return Network(model, "fc", initialised)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Linear(512, n_classes)
    return Network(model, "classifier", initialised)


def _initialise(make, weights: str) -> tuple[nn.Module, str]:
    """The network, and what it starts from; a word where ImageNet's weights cannot be had."""
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
