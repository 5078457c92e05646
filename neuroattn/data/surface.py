"""Values of voxels back on the mesh that they come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuroattn.data.schema import ResponseSet
from neuroattn.errors import InputError, MismatchError
from neuroattn.names import check_name

if TYPE_CHECKING:
    from nilearn.surface import SurfaceImage

_SIDES = ("left", "right")
_FSAVERAGE5 = 10242


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


def surface_image(
    values: ArrayLike, dataset: ResponseSet, mesh: Mapping[str, str | Path] | None = None
) -> SurfaceImage:
    """Return values of voxels as nilearn's ``SurfaceImage``, for its plots, maskers and models.

    Parameters
    ----------
    values : array_like
        (voxel,) or (sample, voxel): a map, or a series of maps.
    dataset : xarray.Dataset
        A response set of one subject with the coordinate ``vertex``.
    mesh : mapping of str to path, optional
        "left" and "right" to files of the meshes (GIFTI, FreeSurfer); by default the inflated
        fsaverage5 that nilearn ships.

    Returns
    -------
    nilearn.surface.SurfaceImage
        Whole meshes of the hemispheres that the dataset knows, NaN where there is no voxel.

    Raises
    ------
    MismatchError
        If the number of vertices of a mesh is not that of the dataset, or ``values`` do not fit.
    InputError
        If the dataset has no vertices, or several subjects.
    """
    from nilearn.datasets import load_fsaverage
    from nilearn.surface import PolyMesh, SurfaceImage, load_surf_mesh

    sides = [side for side in _SIDES if dataset.attrs.get(f"vertices_{side}") is not None]
    columns = {side: to_fsaverage(values, dataset, side).T for side in sides or _SIDES}
    if mesh is None:
        parts = load_fsaverage("fsaverage5")["inflated"].parts
    else:
        parts = {side: load_surf_mesh(str(mesh[side])) for side in columns}
    for side, column in columns.items():
        if parts[side].n_vertices != len(column):
            raise MismatchError(
                f"the mesh of the {side} hemisphere has {parts[side].n_vertices} vertices, the "
                f"dataset {len(column)}; give the files of its own mesh "
                f"(without any it is fsaverage5, of {_FSAVERAGE5})."
            )
    return SurfaceImage(PolyMesh(**{side: parts[side] for side in columns}), columns)
