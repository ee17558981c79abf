"""ROAD: remove and debias. Removed pixels are filled in from their neighbours, not by a colour."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_hrcam._captum import TargetType
from captum_hrcam.checks import not_negative, one_of
from captum_hrcam.faithfulness.scores import (
    Forward,
    checked,
    modules_of,
    outputs_of,
    probability,
    warn_of_probabilities,
)
from captum_hrcam.metrics.extras import require
from captum_hrcam.metrics.pairs import Array, Mask
from captum_hrcam.modes import eval_mode
from captum_hrcam.perturbation import marked

ORDERS = ("combined", "MoRF", "LeRF")
# {spatial dimensions: {how many coordinates differ by one: weight}}; 2D is the paper's.
WEIGHTS = {1: {1: 1 / 2}, 2: {1: 1 / 6, 2: 1 / 12}, 3: {1: 1 / 6}}


def road(
    forward_func: Forward,
    inputs: Tensor,
    maps: Tensor,
    target: TargetType = None,
    percentiles: Sequence[float] = (20, 40, 60, 80),
    *,
    order: str = "combined",
    noise: float = 0.01,
    seed: int = 0,
    additional_forward_args: object = None,
) -> Array:
    r"""The target's probability once the map's pixels are imputed from the others.

    Each removed pixel becomes the weighted mean of its neighbours, removed or not, plus Gaussian
    noise: one sparse linear system per image and percentile. So the shape of the hole tells the
    model little. Weights in 2D are the paper's, 1/6 for the four direct and 1/12 for the four
    diagonal neighbours; in 3D 1/6 for the six direct ones and in 1D 1/2 for both (ours). At the
    border, the neighbours that exist count, with the same weights.

    Source: Rong et al. 2022, ICML, https://arxiv.org/abs/2202.00449; the difference of both
    orders as in https://github.com/jacobgil/pytorch-grad-cam.

    Args:
        forward_func, inputs, maps, target: as :func:`~captum_hrcam.faithfulness.deletion`.
        percentiles (Sequence[float]): how many per cent of the pixels are removed, each above 0
            and below 100; the figure is the mean over them.
        order (str): "MoRF", the map's highest values are removed: lower is better. "LeRF", its
            lowest: higher is better. "combined", (LeRF - MoRF) / 2: higher is better, 0 for a map
            that knows nothing.
        noise (float): the noise's standard deviation, in the inputs' units; 0.01, the paper's, is
            meant for images normalised to a deviation of about 1. The same noise serves all images,
            percentiles and both orders.
        seed (int): the seed of the noise; the global random state is not touched.
        additional_forward_args (Any): as :func:`~captum_hrcam.faithfulness.deletion`.

    Returns:
        *ndarray*: (N,) float64, a probability for one order, in -0.5..0.5 for "combined".

    Raises:
        AssertionError, TypeError: as :func:`~captum_hrcam.faithfulness.deletion`.
        ValueError: likewise; a percentile that removes all pixels; an unknown order.
        ImportError: scipy, of the extra ``eval``, is not installed.

    Warns:
        UserWarning: as :func:`~captum_hrcam.faithfulness.deletion`.

    Examples::

        >>> import torch
        >>> image = torch.zeros(1, 1, 8, 8)
        >>> image[..., 2:4, 2:4] = 9
        >>> def brightest(x):
        ...     return x.amax((1, 2, 3)) - 4
        >>> bool(road(brightest, image, image, order="MoRF") < 0.05)
        True
        >>> bool(road(brightest, image, image, order="LeRF") > 0.95)
        True
    """
    inputs, maps = checked(forward_func, inputs, maps)
    one_of("order", order, ORDERS)
    not_negative("noise", noise)
    _check_percentiles(percentiles, maps[0].numel())
    fill = _Imputer(inputs, noise, seed)

    given: list[Tensor] = []

    @torch.no_grad()
    def left(ranking: Tensor) -> Array:
        images = (fill(inputs, marked(ranking, p / 100) > 0) for p in percentiles)
        scores = [outputs_of(forward_func, x, additional_forward_args) for x in images]
        given.extend(scores)
        return torch.stack([probability(s, target) for s in scores]).mean(0).cpu().numpy()

    with eval_mode(*modules_of(forward_func)):
        if order == "combined":
            figures = (left(-maps) - left(maps)) / 2
        else:
            figures = left(maps if order == "MoRF" else -maps)
    warn_of_probabilities(given, stacklevel=2)
    return figures


def _check_percentiles(percentiles: Sequence[float], pixels: int) -> None:
    within = [0 < p < 100 and round(p / 100 * pixels) < pixels for p in percentiles]
    if not within or not all(within):
        raise ValueError(
            f"percentiles: got {list(percentiles)!r:.80}, expected per cents above 0 and below 100 "
            f"that leave at least one of {pixels} pixels, as (20, 40, 60, 80)."
        )


class _Imputer:
    """Noisy linear imputation of images of one size."""

    def __init__(self, inputs: Tensor, noise: float, seed: int) -> None:
        self.laplacian = _laplacian(tuple(inputs.shape[2:]))
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(inputs.shape[1:], generator=generator, dtype=torch.float64)
        self.noise = noise * drawn.flatten(1).numpy()  # (C, P)

    def __call__(self, inputs: Tensor, removed: Tensor) -> Tensor:
        """(N, C, *spatial) with the pixels of ``removed`` (N, 1, *spatial) imputed."""
        images = inputs.detach().cpu().double().flatten(2).numpy()
        masks = removed.cpu().flatten(1).numpy()
        filled = [self._one(*image) for image in zip(images, masks, strict=True)]
        return torch.from_numpy(np.stack(filled)).reshape(inputs.shape).to(inputs)

    def _one(self, image: Array, removed: Mask) -> Array:
        if not removed.any():
            return image
        rows = self.laplacian[removed]
        known = rows[:, ~removed] @ image[:, ~removed].T
        system = rows[:, removed]
        # The system is symmetric, and positive definite as long as one pixel is left. Conjugate
        # gradients need no factors, whose fill-in makes volumes of 48^3 take 60 times longer.
        cg = require("scipy.sparse.linalg").cg
        filled = image.copy()
        for c, right in enumerate(known.T):
            filled[c, removed] = cg(system, -right, rtol=1e-6)[0] + self.noise[c, removed]
        return filled


def _laplacian(shape: tuple[int, ...]) -> Any:
    """Sparse (P, P): each pixel times the sum of its weights, less its weighted neighbours."""
    sparse = require("scipy.sparse")
    weights = WEIGHTS[len(shape)]
    index = np.arange(np.prod(shape)).reshape(shape)
    here, there, values = [], [], []
    for offset in product((-1, 0, 1), repeat=len(shape)):
        weight = weights.get(sum(map(abs, offset)))
        if weight is None:
            continue
        sides = list(zip(offset, shape, strict=True))
        here.append(index[tuple(slice(max(0, -o), n - max(0, o)) for o, n in sides)].ravel())
        there.append(index[tuple(slice(max(0, o), n - max(0, -o)) for o, n in sides)].ravel())
        values.append(np.full(len(here[-1]), weight))
    places = (np.concatenate(here), np.concatenate(there))
    neighbours = sparse.csr_array((np.concatenate(values), places), shape=(index.size,) * 2)
    return (sparse.diags_array(neighbours.sum(1)) - neighbours).tocsr()
