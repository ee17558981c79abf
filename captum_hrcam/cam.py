"""CAM (Zhou et al. 2016): the model's own last linear layer, applied to one layer's maps."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from captum_hrcam.activations import Read, ReshapeTransform
from captum_hrcam.attribution import HeadAttribution
from captum_hrcam.batch import score_rows
from captum_hrcam.head import Head
from captum_hrcam.layers import module_behind, resolve_layers
from captum_hrcam.modes import eval_mode
from captum_hrcam.pooling import gap

POINTWISE = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BFLOAT16 = 2**-8  # the coarsest dtype's relative rounding


class CAM(HeadAttribution):
    r"""
    Class activation maps: the model's own classifier, applied to its last layer's feature maps::

        A^c = up( sum_i W[c, i] f_i )                            (H, W)

    If the classifier takes the averages of these feature maps (global average pooling, nothing in
    between), the map's mean plus the bias is the model's logit, and the map is Grad-CAM's times the
    number of cells. Whether this holds is checked on the first batch, against the output of its
    forward pass. Nothing is fitted; weights are read from the model at each call.

    Source: Zhou et al. 2016, Learning deep features for discriminative localization, CVPR.

    Args:
        model (Callable): the model, or a function around it.
        layer (Module or str): the layer before global average pooling.
        classifier (Module or str): the linear layer (or 1x1 convolution) after it; by default
            the last one in the model, which must have as many outputs as the model.
        reshape_transform (Callable): turns the layer's tensor into (N, C, \*spatial).

    Attributes:
        matches_model (bool or None): whether, on the first batch, the classifier's scores, or
            their softmax, log-softmax or sigmoid, equalled the model's output up to rounding. None
            before that batch, and if the output is not a finite tensor (N, K).

    Raises:
        ValueError: the model has no linear layer, or ``layer`` or ``classifier`` is not in it.
        TypeError: ``classifier`` is not a linear layer.

    Warns:
        UserWarning: on the first batch, if the scores are not the model's output: more than pooling
            lies between layer and classifier, or another layer makes the output.

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
        self._classifier_name, self.classifier = _classifier(model, classifier)
        self._is_named = classifier is not None
        self.matches_model: bool | None = None
        self._is_first = True

    def __repr__(self) -> str:
        last, name = self.classifier, self._classifier_name
        k = last.out_features if isinstance(last, nn.Linear) else last.out_channels
        layer = next(iter(self.layers))
        return f"{type(self).__name__}(layer={layer!r}, classifier={name!r}, n_classes={k})"

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
        """Run the model; on the first batch, also compare its output with the scores."""
        if not self._is_first:
            return super()._forward(inputs, args, read)
        averages: list[Tensor] = []

        def read_and_average(name: str, f: Tensor) -> None:
            read(name, f)  # refuses a wrong number of channels
            averages.append(gap(f))

        output = super()._forward(inputs, args, read_and_average)
        self._compare(averages[0], output)
        self._is_first = False
        return output

    def _compare(self, z: Tensor, output: Any) -> None:
        """Refuse a last linear layer that belongs to another head, such as an auxiliary one; warn
        if the scores are not the model's output."""
        head = self.head
        k, is_rows = head.n_outputs, isinstance(output, Tensor) and output.ndim == 2
        if is_rows and output.shape[1] != k and not self._is_named:
            raise ValueError(
                f"classifier: the model's last linear layer has {k} outputs, the model itself "
                f"{output.shape[1]}, so another one makes its scores. Name that one."
            )
        rows = score_rows(output, len(z))
        if rows.shape != (len(z), k) or not rows.isfinite().all():
            return
        (layer, weight), *_ = head.weights.items()
        self.matches_model = _makes(z.cpu().double(), weight, head.bias, rows)
        if not self.matches_model:
            warnings.warn(
                f"CAM: the average of layer {layer!r} through classifier "
                f"{self._classifier_name!r} is not the model's output: more than pooling lies "
                "between them, or another layer makes the output. These maps do not show what the "
                "model decides by. Pass as layer the last one before pooling, and as classifier= "
                "the linear layer after it; where a model has no such pair, use Grad-CAM.",
                stacklevel=8,  # to the caller of attribute
            )


def _makes(z: Tensor, weight: Tensor, bias: Tensor, output: Tensor) -> bool:
    """Whether W z + b, or its softmax, log-softmax or sigmoid, equals the output up to rounding.

    Args:
        z: (N, C), averages.
        weight: (K, C).
        bias: (K,).
        output: (N, K), the model's.
    """
    scores = z @ weight.T + bias
    # With a margin: terms that cancel each other leave their rounding errors.
    rounding = 5 * BFLOAT16 * ((z**2 @ weight.T**2).sqrt() + scores.abs() + bias.abs())
    most = 2 * rounding.amax(1, keepdim=True)  # each value of a softmax depends on the whole row
    expected = [(scores, rounding), (scores.log_softmax(1), most)]
    for p in (scores.softmax(1), scores.sigmoid()):
        expected.append((p, (BFLOAT16 + most) * p + 1e-4))
    return any(bool(((output - s).abs() <= r).all()) for s, r in expected)


def _classifier(model: Callable[..., Any], classifier: nn.Module | str | None) -> tuple[str, Any]:
    """The linear layer after pooling, as (its name, the layer)."""
    owner = module_behind(model)
    if classifier is not None:
        name, found = next(iter(resolve_layers(model, classifier).items()))
        if not _is_linear(found):
            raise TypeError(
                f"classifier: got {type(found).__name__}, expected the model's last linear layer "
                "or 1x1 convolution."
            )
        return type(found).__name__ if owner is None else name, found
    named = [] if owner is None else owner.named_modules()
    linear = [(name, module) for name, module in named if _is_linear(module)]
    if not linear:
        raise ValueError("classifier: the model has no linear layer; name the one after pooling.")
    return linear[-1]


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, POINTWISE):
        return all(k == 1 for k in module.kernel_size) and module.groups == 1
    return isinstance(module, nn.Linear)


@torch.no_grad()
def _weight(classifier: Any) -> Tensor:
    """The weight that the next forward pass multiplies by. It is read in eval mode, as in training
    mode a spectral norm advances its iteration each time its weight is read."""
    with eval_mode(classifier):
        weight: Tensor = classifier.weight
        if not isinstance(weight, nn.Parameter):
            # torch's hooks for pruning and older normalisations recompute it only before each run,
            # so it may be out of date if weights have been loaded since.
            classifier(torch.zeros_like(weight[:1]))  # (1, C), or (1, C, 1, 1) of a convolution
            weight = classifier.weight
    return weight
