"""NIfTI scans as stacks of axial slices, as they are looked at, and stacks on a scan's grid."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_RAS = np.array([[0, 1], [1, 1], [2, 1]])  # nibabel's orientation of canonical axes
_DAMAGED = (OSError, EOFError, ValueError, zlib.error)


def nibabel() -> Any:
    """The nibabel package, which is in the extra ``mri``."""
    try:
        import nibabel
    except ImportError as error:
        raise ImportError(
            'NIfTI scans are read with nibabel: pip install "captum-hrcam[mri]".'
        ) from error
    return nibabel


def open_scan(path: Path) -> Any:
    """The scan's header and affine as a nibabel image, voxels unread.

    Raises:
        OSError: the file is damaged or truncated.
        ValueError: not one 3D volume, or an affine without three axes.
    """
    nib = nibabel()
    try:
        scan = nib.load(path, mmap=False)
    except (nib.filebasedimages.ImageFileError, *_DAMAGED) as error:
        raise _unreadable(path, error) from error
    if len(scan.shape) < 3 or any(n != 1 for n in scan.shape[3:]):
        raise ValueError(f"{path}: has shape {scan.shape}, expected one 3D volume.")
    if isinstance(scan, nib.Nifti1Pair) and not (
        scan.header["sform_code"] or scan.header["qform_code"]
    ):
        raise ValueError(
            f"{path}: does not say how the head lies (sform_code and qform_code are 0), so left "
            "and right cannot be told. Convert it anew from its source, or set its affine."
        )
    if np.isnan(nib.io_orientation(scan.affine)).any():
        raise ValueError(f"{path}: its affine is singular:\n{scan.affine}")
    return scan


def stack_shape(scan: Any) -> tuple[int, int, int]:
    """(slices, rows, columns) of ``read_slices``."""
    x, y, z = (scan.shape[axis] for axis in _axes(scan))
    return z, y, x


def read_slices(scan: Any, start: int, stop: int) -> Array:
    """
    Axial slices start..stop, counted upwards from the feet: (slices, rows, columns), float32.

    As a radiologist sees them: anterior at the top, the patient's right at the left. The axes are
    the stored ones nearest to right, anterior and superior (as nibabel's ``as_closest_canonical``);
    nothing is interpolated. Only the range is read; in compressed files also what lies before it.
    """
    axis = _axes(scan)[2]
    orientation = nibabel().io_orientation(scan.affine)
    if orientation[axis, 1] < 0:  # stored from the head downwards
        start, stop = scan.shape[axis] - stop, scan.shape[axis] - start
    index: list[Any] = [slice(None)] * 3 + [0] * (len(scan.shape) - 3)
    index[axis] = slice(start, stop)
    try:
        stored = np.asarray(scan.dataobj[tuple(index)], dtype=np.float32)
    except (TypeError, *_DAMAGED) as error:
        raise _unreadable(scan.get_filename(), error) from error
    canonical = nibabel().apply_orientation(stored, orientation)  # x right, y anterior, z up
    return np.asarray(canonical.T[:, ::-1, ::-1])


def from_slices(scan: Any, stack: Array) -> Any:
    """A whole stack (slices, rows, columns) as an image in the scan's own grid, float32."""
    nib = nibabel()
    canonical = stack[:, ::-1, ::-1].T
    stored_axes = nib.orientations.ornt_transform(_RAS, nib.io_orientation(scan.affine))
    stored = nib.apply_orientation(canonical, stored_axes).reshape(scan.shape)
    header = scan.header.copy()
    header.set_data_dtype(np.float32)
    # The scan's display window would hide the map.
    header["cal_min"] = header["cal_max"] = 0
    return type(scan)(stored.astype(np.float32), scan.affine, header)


def _axes(scan: Any) -> list[int]:
    """The stored axes that run nearest to x, y and z."""
    return [int(a) for a in np.argsort(nibabel().io_orientation(scan.affine)[:, 0])]


def _unreadable(path: str | Path, error: Exception) -> OSError:
    return OSError(
        f"{path}: cannot be read as NIfTI ({error}). The file is damaged or truncated; copy or "
        "convert it again."
    )
