"""Values of voxels back on the mesh that they come from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuroattn.data.schema import ResponseSet
from neuroattn.errors import InputError, MismatchError
from neuroattn.names import check_name


def to_fsaverage(
    values: ArrayLike, dataset: ResponseSet, hemisphere: str
) -> NDArray[np.floating[Any]]:
    """Put one value a voxel back on the whole mesh of a hemisphere.

    Parameters
    ----------
    values : array_like
        (..., voxel): one value for each voxel of ``dataset``, both hemispheres included.
    dataset : xarray.Dataset
        A response set of one subject with the coordinate ``vertex``.
    hemisphere : {"left", "right"}
        The hemisphere wanted.

    Returns
    -------
    ndarray
        (..., vertex) with NaN at vertices that have no voxel.

    Raises
    ------
    MismatchError
        If ``values`` has another number of voxels than ``dataset``.
    InputError
        If ``dataset`` has no vertices of this hemisphere, or several subjects.
    """
    check_name("hemisphere", hemisphere, ("left", "right"))
    numbers = np.asarray(values)
    numbers = numbers.astype(np.result_type(numbers, np.float32), copy=False)
    voxels = dataset.sizes["voxel"]
    if numbers.ndim == 0 or numbers.shape[-1] != voxels:
        raise MismatchError(f"values has shape {numbers.shape}; the dataset has {voxels} voxels.")
    subjects = np.unique(dataset["subject"].values).tolist()
    count = dataset.attrs.get(f"vertices_{hemisphere}")
    if "vertex" not in dataset.coords or count is None or len(subjects) > 1:
        raise InputError(
            f"dataset has the coordinates {sorted(map(str, dataset.coords))}, subjects {subjects} "
            f"and vertices_{hemisphere}={count}; needed: vertices of one subject on this side."
        )
    here = np.flatnonzero(dataset["hemisphere"].values == hemisphere)
    mesh = np.full((*numbers.shape[:-1], count), np.nan, dtype=numbers.dtype)
    mesh[..., dataset["vertex"].values[here]] = numbers[..., here]
    return mesh
