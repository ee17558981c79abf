"""Deletion and insertion: how fast the model changes its mind as a map's pixels go or come."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from captum_hrcam._captum import TargetType
from captum_hrcam.faithfulness.scores import (
    Forward,
    checked,
    modules_of,
    outputs_of,
    probability,
    warn_of_probabilities,
)
from captum_hrcam.metrics.pairs import Array
from captum_hrcam.modes import eval_mode
from captum_hrcam.perturbation import deletion_curve, insertion_curve

FRACTIONS = tuple(i / 20 for i in range(21))

Curve = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor, Sequence[float]], Tensor]


def deletion(
    forward_func: Forward,
    inputs: Tensor,
    maps: Tensor,
    target: TargetType = None,
    fractions: Sequence[float] = FRACTIONS,
    *,
    additional_forward_args: object = None,
) -> Array:
    r"""Area under the target's probability as the map's pixels are blurred away; lower is better.

    Pixels are removed in order of falling map value, among equal values the first. They are
    replaced by the image blurred with a standard deviation of a tenth of each side. The area is the
    trapezoids' sum over the fractions, divided by the fractions' range: the curve's mean height.

    Source: Petsiuk et al. 2018 (RISE), https://arxiv.org/abs/1806.07421.

    Args:
        forward_func (Callable): the model, or any function around it that gives logits (N, K) or
            (N,). For K > 1 the softmax is taken; if an image has several labels, pass a function
            that gives the one logit. A model runs in eval mode; modules that a function runs inside
            are left as they are.
        inputs (Tensor): (N, C, \*spatial), one to three spatial dimensions.
        maps (Tensor): (N, 1, \*spatial), as :func:`~captum_hrcam.compare` gives them.
        target (int, tuple, Tensor, or list): as for Captum's ``attribute``.
        fractions (Sequence[float]): shares of the pixels, rising, in 0..1, at which the curve is
            read. Each costs one forward pass of all images.
        additional_forward_args (Any): passed to ``forward_func`` after the inputs, as in Captum,
            and never changed.

    Returns:
        *ndarray*: (N,) float64, in 0..1.

    Raises:
        AssertionError: Captum's, for a target out of range or missing.
        TypeError: ``forward_func`` is not callable; ``inputs`` is not a tensor.
        ValueError: maps or inputs of another shape, NaN in a map, fractions that do not rise.

    Warns:
        UserWarning: the outputs are probabilities, of which a softmax or sigmoid is taken again.

    Examples::

        >>> import torch
        >>> def brightness(x):  # of the left half alone
        ...     return 9 * x[..., :4].mean((1, 2, 3))
        >>> image = torch.zeros(1, 1, 8, 8)
        >>> image[..., :4] = 1
        >>> maps = image.clone()
        >>> bool(deletion(brightness, image, maps) < deletion(brightness, image, -maps))
        True
    """
    return _area(
        deletion_curve, forward_func, inputs, maps, target, fractions, additional_forward_args
    )


def insertion(
    forward_func: Forward,
    inputs: Tensor,
    maps: Tensor,
    target: TargetType = None,
    fractions: Sequence[float] = FRACTIONS,
    *,
    additional_forward_args: object = None,
) -> Array:
    r"""Area under the target's probability as the map's pixels appear; higher is better.

    They appear on the blurred image, in order of falling map value.

    Args:
        forward_func, inputs, maps, target, fractions, additional_forward_args: as
            :func:`deletion`.

    Returns:
        *ndarray*: (N,) float64, in 0..1.

    Raises:
        AssertionError, TypeError, ValueError: as :func:`deletion`.

    Warns:
        UserWarning: as :func:`deletion`.

    Examples::

        >>> import torch
        >>> image = torch.zeros(1, 1, 8, 8)
        >>> insertion(lambda x: x.mean((1, 2, 3)), image, image, fractions=(0, 0.1, 1)).tolist()
        [0.5]
    """
    return _area(
        insertion_curve, forward_func, inputs, maps, target, fractions, additional_forward_args
    )


@torch.no_grad()
def _area(
    curve: Curve,
    forward_func: Forward,
    inputs: Tensor,
    maps: Tensor,
    target: TargetType,
    fractions: Sequence[float],
    additional_forward_args: object,
) -> Array:
    inputs, maps = checked(forward_func, inputs, maps)
    steps = [float(fraction) for fraction in fractions]
    rising = all(a < b for a, b in pairwise(steps))
    if len(steps) < 2 or not rising or not (steps[0] >= 0 and steps[-1] <= 1):
        raise ValueError(
            f"fractions: got {list(fractions)!r:.80}, expected at least two, rising, in 0..1, as "
            "(0, 0.1, 0.5, 1)."
        )

    given: list[Tensor] = []

    def score(images: Tensor) -> Tensor:
        given.append(outputs_of(forward_func, images, additional_forward_args))
        return probability(given[-1], target)

    with eval_mode(*modules_of(forward_func)):
        heights = curve(score, inputs, maps, steps).cpu()
    warn_of_probabilities(given, stacklevel=4)  # past the decorator, to the caller
    area = torch.trapezoid(heights, torch.tensor(steps, dtype=torch.float64), dim=1)
    return (area / (steps[-1] - steps[0])).numpy()
