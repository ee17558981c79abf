"""CAM (Zhou et al. 2016): the model's own last linear layer, applied to one layer's maps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from captum_hrcam.activations import Read, ReshapeTransform
from captum_hrcam.attribution import HeadAttribution
from captum_hrcam.head import Head
from captum_hrcam.layers import module_behind, resolve_layers
from captum_hrcam.modes import eval_mode

POINTWISE = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class CAM(HeadAttribution):
    r"""
    Class activation maps: the model's own classifier on the feature maps of its last layer::

        A^c = up( sum_i W[c, i] f_i )                            (H, W)

    Where the classifier takes the averages of these feature maps (global average pooling, nothing
    in between), the map's mean plus the bias is the model's logit, and the map is Grad-CAM's times
    the number of cells. Nothing is fitted; weights are read from the model at each call.

    Source: Zhou et al. 2016, Learning deep features for discriminative localization, CVPR.

    Args:
        model (Callable): the model, or a function around it.
        layer (Module or str): the layer before global average pooling.
        classifier (Module or str): the linear layer (or 1x1 convolution) after it; by default
            the last one in the model, which is to have as many outputs as the model.
        reshape_transform (Callable): turns the layer's tensor into (N, C, \*spatial).

    Raises:
        ValueError: the model has no linear layer, or ``layer`` or ``classifier`` is not in it.
        TypeError: ``classifier`` is no linear layer.

    Examples::

        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> images = torch.randn(4, 1, 16, 16)
        >>> cam = CAM(model, "1", "4")
        >>> maps = cam.attribute(images, target=1)
        >>> logits = maps.mean((1, 2, 3)) + cam.bias[1].float()
        >>> torch.allclose(logits, model(images)[:, 1], atol=1e-5)
        True
    """

    _remedy = (
        "There is more than pooling between this layer and the classifier, so it has no CAM. Name "
        "the layer and the classifier on both sides of the pooling, or use Grad-CAM."
    )

    def __init__(
        self,
        model: Callable[..., Any],
        layer: nn.Module | str,
        classifier: nn.Module | str | None = None,
        *,
        reshape_transform: ReshapeTransform | None = None,
    ) -> None:
        super().__init__(model, layer, reshape_transform=reshape_transform)
        if len(self.layers) != 1:
            raise ValueError(f"layer: got {len(self.layers)} layers, CAM takes one.")
        self.classifier: Any = _classifier(model, classifier)
        self._is_named = classifier is not None

    @classmethod
    def get_name(cls) -> str:
        """The method's name in tables and figures."""
        return "CAM"

    @property
    def head(self) -> Head:
        """The classifier's weights and bias, as they are now."""
        weight = _weight(self.classifier).detach().cpu().double().flatten(1)  # (K, C)
        bias = self.classifier.bias
        bias = weight.new_zeros(len(weight)) if bias is None else bias.detach().cpu().double()
        return Head(dict.fromkeys(self.layers, weight), bias)

    def _forward(self, inputs: tuple[Tensor, ...], args: tuple[Any, ...], read: Read) -> Any:
        """As without, and refuses a last linear layer that is another head, as an auxiliary one."""
        output = super()._forward(inputs, args, read)
        last = self.classifier
        k = last.out_features if isinstance(last, nn.Linear) else last.out_channels
        scores = isinstance(output, Tensor) and output.ndim == 2
        if scores and output.shape[1] != k and not self._is_named:
            raise ValueError(
                f"classifier: the model's last linear layer has {k} outputs, the model itself "
                f"{output.shape[1]}, so another one makes its scores. Name that one."
            )
        return output


def _classifier(model: Callable[..., Any], classifier: nn.Module | str | None) -> nn.Module:
    if classifier is not None:
        found = next(iter(resolve_layers(model, classifier).values()))
        if not _is_linear(found):
            raise TypeError(
                f"classifier: got {type(found).__name__}, expected the model's last linear layer "
                "or 1x1 convolution."
            )
        return found
    owner = module_behind(model)
    linear = [] if owner is None else [m for m in owner.modules() if _is_linear(m)]
    if not linear:
        raise ValueError("classifier: the model has no linear layer; name the one after pooling.")
    return linear[-1]


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, POINTWISE):
        return all(k == 1 for k in module.kernel_size) and module.groups == 1
    return isinstance(module, nn.Linear)


@torch.no_grad()
def _weight(classifier: Any) -> Tensor:
    """What the next forward pass multiplies by. In eval mode: in training a spectral norm goes on
    with its iteration each time that its weight is read."""
    with eval_mode(classifier):
        weight: Tensor = classifier.weight
        if not isinstance(weight, nn.Parameter):
            # torch's hooks of pruning and older normalisations make it anew before each run only,
            # so that it may be that of weights which were loaded over since.
            classifier(torch.zeros_like(weight[:1]))  # (1, C), or (1, C, 1, 1) of a convolution
            weight = classifier.weight
    return weight
