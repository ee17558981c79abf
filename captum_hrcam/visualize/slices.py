"""One volume's maps on three slices, as radiologists look at them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from captum_hrcam.checks import one_of
from captum_hrcam.visualize.comparison import SIGNS, comparison_figure, part_of
from captum_hrcam.visualize.panels import Array, ImageLike, array, by_name, in_unit_range, is_array

ONE = "Pass one volume and its maps, images[i] and maps[i]."


@dataclass(frozen=True)
class Plane:
    """A slice across ``axis`` of an array, and which axes its drawn rows and columns follow."""

    name: str
    axis: int
    down: int  # the axis that runs down the picture
    across: int
    reversed: tuple[bool, bool] = (False, False)

    def of(self, volume: Array, at: Sequence[int]) -> Array:
        """The slice through a voxel."""
        a = volume.take(at[self.axis], self.axis)
        rows, columns = (slice(None, None, -1 if back else 1) for back in self.reversed)
        return (a.T if self.down > self.across else a)[rows, columns]


AS_STORED = [Plane("axis 0", 0, 1, 2), Plane("axis 1", 1, 0, 2), Plane("axis 2", 2, 0, 1)]


def slices_figure(
    volume: ImageLike,
    maps: Mapping[str, ImageLike] | ImageLike,
    *,
    affine: ImageLike | None = None,
    at: Sequence[int] | None = None,
    mask: ImageLike | None = None,
    sign: str = "positive",
    limit: float | str | None = "method",
    **options: Any,
) -> tuple[Figure, Array]:
    r"""
    One volume's maps on three slices, one across each axis, through the voxel where the first map
    is highest.

    With an affine, slices are drawn as radiologists look at them: axial, coronal and sagittal, the
    patient's right at the left, the front at the top or the left, voxels with their true sides.
    Axes are taken for the nearest of right, front and up; oblique scans are not turned upright.
    Without an affine the array is drawn as it lies, rows and columns in its order, voxels as cubes.

    Args:
        volume (Tensor or ndarray): (C, X, Y, Z), (X, Y, Z) or a batch of one, one or three
            channels, any scale.
        maps (dict): {name: (1, X, Y, Z), (X, Y, Z) or a batch of one}, as ``attribute`` or
            :func:`~captum_hrcam.compare` gives them; or one such Tensor or ndarray.
        affine (Tensor or ndarray): (4, 4), from voxels to millimetres to the right, to the front
            and up, as NIfTI files hold it.
        at (sequence of int): the voxel that all slices go through, in the array's own axes.
            By default where the part of the first map that ``sign`` asks for is largest.
        mask (Tensor or ndarray): shaped as a map, outlined in every panel.
        sign, limit, options: as for :func:`~captum_hrcam.visualize.comparison_figure`, which also
            takes ``titles`` and ``colorbar``; by default a map has one scale for its slices.

    Returns:
        *Figure* and an array of *Axes*, (3, 1 + number of maps). No pyplot state is used.

    Raises:
        TypeError: maps that are neither a mapping nor an array.
        ValueError: shapes that do not fit, several volumes, no map, a voxel outside the volume, an
            affine without a step along each axis, NaN.

    Examples::

        >>> import torch
        >>> volume, lesion = torch.rand(1, 16, 24, 20), torch.zeros(1, 16, 24, 20)
        >>> lesion[0, 3:6, 10:14, 7] = 1
        >>> affine = torch.diag(torch.tensor([1.0, 1.0, 3.0, 1.0]))
        >>> figure, axes = slices_figure(volume, {"HR-CAM": lesion}, affine=affine)
        >>> [ax.get_ylabel() for ax in axes[:, 0]]
        ['axial, R | L\nslice 7', 'coronal, R | L\nslice 10', 'sagittal, A | P\nslice 3']
    """
    one_of("sign", sign, SIGNS)
    image = _volume("volume", volume, (1, 3))
    size = image.shape[1:]
    named = by_name("maps", {"map": maps} if is_array(maps) else maps, "{name: (X, Y, Z)}")
    columns = {name: _of_size(f"maps[{name!r}]", a, size) for name, a in named.items()}
    if not columns:
        raise ValueError("maps: got none, expected one or more.")
    edges = np.zeros(size) if mask is None else _of_size("mask", mask, size)
    place = _highest(next(iter(columns.values())), sign) if at is None else _inside(at, size)
    planes, sides = (AS_STORED, np.ones(3)) if affine is None else _oriented(affine)

    def cut(volume: Array, mode: str = "bilinear") -> Array:
        drawn = [
            _with_sides(p.of(volume, place), sides[[p.down, p.across]], sides.min(), mode)
            for p in planes
        ]
        return _padded(drawn)

    (image,) = in_unit_range([image])  # before it is cut: one scale for all slices
    return comparison_figure(
        np.stack([cut(channel) for channel in image], 1),
        {name: cut(a) for name, a in columns.items()},
        masks=cut(edges, "nearest"),
        captions=[f"{p.name}\nslice {place[p.axis]}" for p in planes],
        sign=sign,
        limit=limit,
        **options,
    )


def _volume(argument: str, values: ImageLike, channels: Sequence[int]) -> Array:
    """(C, X, Y, Z), also from (X, Y, Z) or a batch of one."""
    given = array(argument, values, 3, 4, 5, remedy=ONE)
    a = given[0] if given.ndim == 5 and len(given) == 1 else given
    a = a[None] if a.ndim == 3 else a
    if a.ndim != 4 or len(a) not in channels:
        raise ValueError(
            f"{argument}: got shape {given.shape}, expected (X, Y, Z), or before it "
            f"{' or '.join(map(str, channels))} channels. {ONE}"
        )
    return a


def _of_size(argument: str, values: ImageLike, size: tuple[int, ...]) -> Array:
    """A map or mask as (X, Y, Z), refused if it is not of the volume's size."""
    a = _volume(argument, values, (1,))[0]
    if a.shape != size:
        raise ValueError(
            f"{argument}: got size {a.shape}, expected {size} as the volume. Bring it to its size."
        )
    return a


def _highest(a: Array, sign: str) -> tuple[int, ...]:
    place = np.unravel_index(np.abs(part_of(sign, a)).argmax(), a.shape)
    return tuple(int(i) for i in place)


def _inside(at: Sequence[int], size: tuple[int, ...]) -> tuple[int, ...]:
    if len(at) != 3 or not all(i in range(n) for i, n in zip(at, size, strict=True)):
        raise ValueError(f"at: got {at}, expected a voxel inside {size}, counted from 0.")
    return tuple(int(i) for i in at)


def _oriented(affine: ImageLike) -> tuple[list[Plane], Array]:
    """Axial, coronal and sagittal planes of an array, and its voxels' sides in millimetres."""
    steps = array("affine", affine, 2, remedy="Take the scan's.")[:3, :3]
    sides = np.linalg.norm(steps, axis=0)
    if steps.shape != (3, 3) or not np.linalg.matrix_rank(steps) == 3:
        raise ValueError(
            f"affine: got {np.asarray(affine).tolist()}, expected (4, 4) with a step along each "
            "axis. Take the scan's, as nibabel.load(path).affine."
        )
    along = steps / sides
    orders = itertools.permutations(range(3))  # the axes nearest to right, front and up
    order = max(orders, key=lambda axes: np.abs(along[range(3), axes]).sum())
    # Pictures run to the patient's left, to the back and down.
    back = [bool(along[i, axis] > 0) for i, axis in enumerate(order)]
    drawn = {"axial, R | L": (2, 1, 0), "coronal, R | L": (1, 2, 0), "sagittal, A | P": (0, 2, 1)}
    return [
        Plane(name, order[n], order[down], order[across], (back[down], back[across]))
        for name, (n, down, across) in drawn.items()
    ], sides


def _with_sides(a: Array, sides: Array, smallest: float, mode: str) -> Array:
    """Resample a slice of oblong pixels to square ones of the smallest side."""
    size = [max(1, round(n * side / smallest)) for n, side in zip(a.shape, sides, strict=True)]
    values = torch.from_numpy(a.copy())[None, None]
    return F.interpolate(values, size, mode=mode)[0, 0].numpy()


def _padded(slices: Sequence[Array]) -> Array:
    """Centre slices in equal frames, (3, H, W), so that all are drawn at one scale of length."""
    frame = np.max([a.shape for a in slices], axis=0)
    margins = [(frame - a.shape) // 2 for a in slices]
    return np.stack(
        [
            np.pad(a, [(m, f - n - m) for m, f, n in zip(margin, frame, a.shape, strict=True)])
            for a, margin in zip(slices, margins, strict=True)
        ]
    )
