"""Captum's infidelity and sensitivity, one figure per image, for maps at the input's size.

Source: Yeh et al. 2019, On the (In)fidelity and Sensitivity of Explanations,
https://arxiv.org/abs/1901.09392.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import captum.metrics
import torch
from torch import Tensor

from captum_hrcam._captum import TargetType, TensorOrTuple, target_classes
from captum_hrcam.checks import positive, whole
from captum_hrcam.compare import Method, compare, named_methods
from captum_hrcam.faithfulness.scores import (
    Forward,
    checked,
    checked_images,
    modules_of,
    outputs_of,
)
from captum_hrcam.metrics.pairs import Array
from captum_hrcam.modes import eval_mode

Perturb = Callable[[Tensor], tuple[Tensor, Tensor]]


def infidelity(
    forward_func: Forward,
    inputs: Tensor,
    maps: Tensor,
    target: TargetType = None,
    *,
    noise: float = 0.1,
    perturb_func: Perturb | None = None,
    samples: int = 10,
    normalize: bool = True,
    seed: int = 0,
    additional_forward_args: object = None,
) -> Array:
    r"""E_I (sum_p I_p A_p - (f(x) - f(x - I)))^2 by ``captum.metrics.infidelity``; lower is better.

    f is the target's logit. A map has one value per pixel, so the default perturbation I is one
    Gaussian number per pixel, the same in all C channels. Captum also sums the product over
    channels, so it is given A / C in each: its sum is then sum_p I_p A_p exactly, and a gradient
    summed over channels has zero infidelity on a linear model.

    Args:
        forward_func, inputs, maps, target: as :func:`~captum_hrcam.faithfulness.deletion`.
        noise (float): the Gaussian's standard deviation, in the inputs' units.
        perturb_func (Callable): another perturbation, as Captum takes it: images (M, C, \*spatial)
            -> (I, images - I). If its channels differ, the map is compared with their mean.
        samples (int): perturbations per image; each costs two forward passes. With ``normalize``
            at least two are needed, because a factor makes any map right about a single one.
        normalize (bool): scale each map by the factor that suits it best before comparing, so
            that methods of different scales can be compared. Class maps are not gradients: without
            this, their scale alone decides. The factor may be negative, as in Captum, so a map and
            its opposite have the same figure; deletion and insertion tell them apart.
        seed (int): the seed of the noise, which is the same for all images.
        additional_forward_args (Any): as :func:`~captum_hrcam.faithfulness.deletion`.

    Returns:
        *ndarray*: (N,) float64, in squared logits.

    Raises:
        AssertionError, TypeError, ValueError: as :func:`~captum_hrcam.faithfulness.deletion`.

    Examples::

        >>> import torch
        >>> weight = torch.randn(1, 3, 8, 8)
        >>> def linear(x):
        ...     return (weight * x).sum((1, 2, 3))
        >>> x = torch.randn(4, 3, 8, 8)
        >>> gradient = weight.sum(1, keepdim=True).expand(4, 1, 8, 8)
        >>> bool((infidelity(linear, x, gradient, normalize=False) < 1e-6).all())
        True
    """
    inputs, maps = checked(forward_func, inputs, maps)
    positive("noise", noise)
    whole("samples", samples, 2 if normalize else 1)
    generator = torch.Generator().manual_seed(seed)

    def gaussian(images: Tensor) -> tuple[Tensor, Tensor]:
        # The same for all images, so that an image's figure does not depend on its batch.
        drawn = torch.randn((1, 1, *images.shape[2:]), generator=generator)
        shift = (noise * drawn).to(images).expand_as(images)
        return shift, images - shift

    with eval_mode(*modules_of(forward_func)), _fork(inputs):
        with torch.no_grad():
            k = outputs_of(forward_func, inputs, additional_forward_args).shape[1]
        classes = target_classes(target, len(inputs), k).expand(len(inputs))
        figures = captum.metrics.infidelity(
            lambda images, *args: outputs_of(forward_func, images, args),
            perturb_func or gaussian,
            inputs.detach(),
            (maps / inputs.shape[1]).expand_as(inputs),
            additional_forward_args=additional_forward_args,
            target=classes.to(inputs.device),
            n_perturb_samples=samples,
            max_examples_per_batch=len(inputs),
            normalize=normalize,
        )
    return figures.double().cpu().numpy()


def sensitivity_max(
    method: Method,
    inputs: Tensor,
    target: TargetType = None,
    *,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
    additional_forward_args: object = None,
) -> Array:
    r"""max over x' of ||A(x') - A(x)|| / ||A(x)|| by Captum's ``sensitivity_max``; lower is better.

    x' is drawn uniformly, each value within ``radius`` of the image's.

    Args:
        method (Attribution or Callable): whatever :func:`~captum_hrcam.compare` takes. It is the
            method and not its maps, as these are made anew for each x'. An attribution's model
            runs in eval mode.
        inputs (Tensor): (N, C, \*spatial).
        target (int, tuple, Tensor, or list): as for Captum's ``attribute``.
        radius (float): the largest change of a value, in the inputs' units.
        samples (int): x' per image; each costs one run of the method.
        seed (int): the seed of the draws, which are the same for all images.
        additional_forward_args (Any): passed to the method, never changed.

    Returns:
        *ndarray*: (N,) float64; where A(x) is 0, there is no division by its norm.

    Raises:
        TypeError, ValueError: as :func:`~captum_hrcam.compare`.

    Examples::

        >>> import torch
        >>> def scaled(inputs, target=None, additional_forward_args=None):
        ...     return 3 * inputs
        >>> x = torch.full((2, 1, 8, 8), 1.0)
        >>> change = sensitivity_max(scaled, x, radius=0.1)
        >>> bool((change > 0.04).all() and (change < 0.1).all())
        True
    """
    named = named_methods({"method": method})
    inputs = checked_images(inputs)
    positive("radius", radius)
    whole("samples", samples, 1)
    generator = torch.Generator().manual_seed(seed)

    def nearby(images: Tensor) -> Tensor:
        # The same for all images, as in ``infidelity``.
        drawn = 2 * torch.rand(images[:1].shape, generator=generator) - 1
        return images + (radius * drawn).to(images)

    def explain(
        images: TensorOrTuple, target: TargetType = None, additional_forward_args: object = None
    ) -> tuple[Tensor, ...]:
        # Captum wraps the images in a tuple, but not their perturbations. It would take the batch
        # of a bare tensor for a tuple of maps.
        images = images[0] if isinstance(images, tuple) else images
        return (compare(named, images, target, additional_forward_args)["method"],)

    with _fork(inputs):
        figures = captum.metrics.sensitivity_max(
            explain,
            inputs.detach(),
            nearby,
            n_perturb_samples=samples,
            max_examples_per_batch=len(inputs),
            target=target,
            additional_forward_args=additional_forward_args,
        )
    return figures.double().cpu().numpy()


def _fork(inputs: Tensor) -> AbstractContextManager[None]:
    """Restore the global random state afterwards, for a model or method that draws from it."""
    return torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else [])
