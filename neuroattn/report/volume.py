"""One value a voxel on the grid that the voxels come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray


def has_volume(voxels: xr.Dataset) -> bool:
    """Say whether voxels have i, j, k on a known grid."""
    return all(axis in voxels.coords for axis in "ijk") and {"affine", "shape"} <= set(voxels.attrs)


def volume(values: NDArray[np.floating[Any]], voxels: xr.Dataset) -> NDArray[np.float32]:
    """Return the values (voxel,) of one subject on its grid ``shape``, NaN where there is none."""
    shape = tuple(int(length) for length in voxels.attrs["shape"])
    ijk = tuple(voxels[axis].to_numpy() for axis in "ijk")
    place = np.ravel_multi_index(ijk, shape)
    known = np.isfinite(values)
    size = int(np.prod(shape))
    count = np.bincount(place[known], minlength=size)
    total = np.bincount(place[known], weights=values[known], minlength=size)
    filled = np.full(size, np.nan, dtype=np.float32)
    np.divide(total, count, out=filled, where=count > 0, casting="same_kind")
    return filled.reshape(shape)


def affine(voxels: xr.Dataset) -> NDArray[np.float64]:
    """Return the stored affine (4, 4), indices to millimetres."""
    return np.asarray(voxels.attrs["affine"], dtype=np.float64).reshape(4, 4)


def nifti_image(data: NDArray[np.floating[Any]], voxels: xr.Dataset) -> Any:
    """Return a ``nibabel.Nifti1Image`` of data on the grid of the voxels, for drawing."""
    import nibabel

    # The library has types for some of its calls only.
    kit: Any = nibabel
    return kit.Nifti1Image(data, affine(voxels))
