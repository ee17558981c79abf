"""Maps and masks as users hold them, checked and brought to one shape.

**The shape rule.** The first axis is the batch, as everywhere in PyTorch, except that an array of
two axes is one image:

    (H, W)                      one image
    (N, H, W), (N, 1, H, W)     N images
    (N, D, H, W), (N, 1, D, H, W)   N volumes

Three axes are always a batch of images: one volume is passed as ``volume[None]``. An axis 1 of
length one is a channel axis (as ``attribute`` returns it) and is dropped, so a map (N, 1, H, W)
goes with a mask (N, H, W). Nothing is broadcast: one mask for many maps is refused.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

ArrayOrTensor: TypeAlias = npt.NDArray[Any] | torch.Tensor
Array: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Figures: TypeAlias = float | Array  # one image (H, W): a float; a batch: (N,)


@dataclass(frozen=True)
class Pairs:
    r"""Maps and masks of one shape (N, \*spatial), and how to give figures back."""

    maps: Array
    masks: Mask
    single: bool  # the maps came as (H, W): figures go back as a float

    @classmethod
    def of(
        cls, maps: ArrayOrTensor, masks: ArrayOrTensor, spatial_dims: int | None = None
    ) -> "Pairs":
        """Check and align.

        Args:
            maps: any shape of the rule above; floats, integers or booleans.
            masks: the same images' masks, 0 and 1.
            spatial_dims: 2 or 3 where the caller knows; with 3, three axes are one volume.

        Raises:
            ValueError: another shape, sizes that differ, NaN or infinity, a mask not of 0 and 1.
        """
        values, single = as_maps(maps, spatial_dims)
        inside = _as_masks(masks, spatial_dims)
        if values.shape != inside.shape:
            raise ValueError(
                f"maps of shape {tuple(np.shape(maps))} do not go with masks of shape "
                f"{tuple(np.shape(masks))}: expected one mask per map, of the map's size. "
                "Resize the maps or masks; sum an attribution over its channels, "
                "maps.sum(1, keepdims=True); repeat a mask that serves several maps."
            )
        return cls(values, inside, single)

    def figures(self, values: Array) -> Figures:
        """(N,) as it is, or a float where one image (H, W) came."""
        return float(values[0]) if self.single else values

    def each(self, score: Callable[[Array, Mask], float]) -> Figures:
        """score(A, M) of every image: (N,), or a float for one image."""
        scores = [score(a, m) for a, m in zip(self.maps, self.masks, strict=True)]
        return self.figures(np.array(scores, dtype=np.float64))


def as_maps(maps: ArrayOrTensor, spatial_dims: int | None = None) -> tuple[Array, bool]:
    r"""Maps (N, \*spatial) in float64, and whether they came as one image.

    Raises:
        ValueError: a shape outside the rule; NaN or infinity.
    """
    array = _as_numpy(maps, "maps")
    values = _as_batch(array, "maps", spatial_dims).astype(np.float64, copy=False)
    bad = ~np.isfinite(values)
    if bad.any():
        images = np.flatnonzero(bad.reshape(len(bad), -1).any(1))
        raise ValueError(
            f"maps hold NaN or infinity at {bad.sum()} of {bad.size} places (images "
            f"{images[:5].tolist()}{'...' if len(images) > 5 else ''}): expected finite numbers. "
            "Leave these images out or repair what made them."
        )
    return values, array.ndim == (spatial_dims or 2)


def _as_masks(masks: ArrayOrTensor, spatial_dims: int | None) -> Mask:
    values = _as_batch(_as_numpy(masks, "masks"), "masks", spatial_dims)
    inside = values == 1
    if not (inside | (values == 0)).all():
        other = values[~inside & (values != 0)].flat[0]
        raise ValueError(
            f"masks hold the value {other}: expected only 0 and 1 (or booleans). "
            "Threshold them first, for instance masks > 0."
        )
    return inside


def _as_numpy(array: ArrayOrTensor, name: str) -> npt.NDArray[Any]:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        # numpy has no bfloat16; every float goes to float64 anyhow.
        array = (array.double() if array.is_floating_point() else array).numpy()
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} are of dtype {array.dtype}: expected real numbers or booleans.")
    return array


def _as_batch(array: npt.NDArray[Any], name: str, spatial_dims: int | None) -> npt.NDArray[Any]:
    r"""(N, \*spatial), 2D or 3D, by the module's shape rule."""
    shape = array.shape
    if array.ndim == (spatial_dims or 2):
        array = array[None]
    while array.ndim > 3 and array.shape[1] == 1:
        array = array[:, 0]
    too_many = array.ndim > 1 + (spatial_dims or 3)
    too_few = len(shape) < (spatial_dims or 2)
    if too_many or too_few or array.size == 0:
        expected = {
            2: "(H, W), (N, H, W) or (N, 1, H, W); volumes go to vxap",
            3: "(D, H, W), (N, D, H, W) or (N, 1, D, H, W); images go to pxap",
            None: "(H, W), (N, H, W), (N, 1, H, W), (N, D, H, W) or (N, 1, D, H, W)",
        }[spatial_dims]
        raise ValueError(
            f"{name} of shape {shape}: expected {expected}, not empty. "
            "Sum an attribution over its channels; give one volume a leading axis, volume[None]."
        )
    return array


def defined(values: Array, what: str, stacklevel: int = 3) -> Array:
    """The rows of ``values`` (N, ...) without NaN; a warning says how many rows are left out."""
    undefined = np.isnan(values.reshape(len(values), -1)).any(1)
    if undefined.any():
        warnings.warn(
            f"{what} is undefined for {undefined.sum()} of {len(values)} images (an empty "
            "mask?): the figure is over the others.",
            stacklevel=stacklevel,
        )
    return values[~undefined]
