"""One value a voxel, back in files that every brain viewer opens: NIfTI volumes, GIFTI surfaces."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from neuroattn.data import to_fsaverage
from neuroattn.errors import InputError, MismatchError
from neuroattn.io import atomic_path

_SIDES = {"left": ("L", "CortexLeft"), "right": ("R", "CortexRight")}
_LONGEST = 80
# NIfTI codes: 4 says MNI coordinates, 1 the scanner's own.
_FORM = {"MNI": 4, "native": 1}


def why_no_maps(voxels: xr.Dataset) -> str:
    """Say why maps cannot be written, or return "" if they can.

    Parameters
    ----------
    voxels : xarray.Dataset
        A response set, or ``voxels_`` of an encoder.
    """
    if _has_volume(voxels) or "vertex" in voxels.coords:
        return ""
    space = voxels.attrs.get("space", "none")
    return (
        f"the voxels (space {space!r}) have neither vertex nor i, j, k with an affine and a shape, "
        "so nobody can say where they are"
    )


def write_maps(
    values: Mapping[str, ArrayLike | xr.DataArray], voxels: xr.Dataset, directory: str | Path
) -> list[Path]:
    """Write maps of the brain: NIfTI for voxels with i, j, k, GIFTI for those with a vertex.

    Parameters
    ----------
    values : mapping of str to array_like or DataArray
        Name of the map to one value a voxel, (voxel,).
    voxels : xarray.Dataset
        A response set, or ``voxels_`` of an encoder: coordinates ``subject``, ``hemisphere``,
        ``i``, ``j``, ``k`` and/or ``vertex``; attributes ``affine`` and ``shape``, or
        ``vertices_left`` and ``vertices_right``.
    directory : str or Path
        Made if it is not there. Existing maps of the same names are replaced, each atomically.

    Returns
    -------
    list of Path
        ``<subject>_<map>.nii.gz`` (the stored affine and shape) and
        ``<subject>_<map>_hemi-L.func.gii``, ``..._hemi-R.func.gii`` (the whole mesh), float32,
        NaN where there is no voxel. Characters other than letters, digits, ``.``, ``_`` and ``-``
        become ``-`` in file names. The same values give the same bytes. Voxels of a subject that
        share i, j, k (a surface sampled from a volume) are averaged.

    Raises
    ------
    InputError
        If voxels have no location, a map is not of numbers, or two maps would have one name.
    MismatchError
        If a map has another number of voxels.
    """
    reason = why_no_maps(voxels)
    if reason:
        raise InputError(f"maps cannot be written: {reason}.")
    numbers = {str(name): _checked(str(name), value, voxels) for name, value in values.items()}
    subjects = list(dict.fromkeys(voxels["subject"].to_numpy().astype(str).tolist()))
    stems = _stems([(subject, name) for subject in subjects for name in numbers])
    folder, written = Path(directory), []
    for subject in subjects:
        here = np.flatnonzero(voxels["subject"].to_numpy().astype(str) == subject)
        own = voxels.isel(voxel=here)
        for name, value in numbers.items():
            files = _files(value[here], own, name)
            for ending, content in files.items():
                path = folder / f"{stems[subject, name]}{ending}"
                with atomic_path(path) as beside:
                    beside.write_bytes(content)
                written.append(path)
    return written


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
    """Return a ``nibabel.Nifti1Image`` of data on the grid of the voxels."""
    import nibabel

    # The library has types for some of its calls only.
    kit: Any = nibabel
    return kit.Nifti1Image(data, affine(voxels))


def _has_volume(voxels: xr.Dataset) -> bool:
    return all(axis in voxels.coords for axis in "ijk") and {"affine", "shape"} <= set(voxels.attrs)


def _checked(
    name: str, value: ArrayLike | xr.DataArray, voxels: xr.Dataset
) -> NDArray[np.floating[Any]]:
    array = np.asarray(value)
    if array.shape != (voxels.sizes["voxel"],):
        raise MismatchError(
            f"map {name!r} has shape {array.shape}; needed is one value for each of the "
            f"{voxels.sizes['voxel']} voxels."
        )
    if array.dtype.kind not in "fiub":
        raise InputError(f"map {name!r} is {array.dtype}; a map holds numbers.")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _stems(pairs: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
    stems: dict[tuple[str, str], str] = {}
    taken: dict[str, tuple[str, str]] = {}
    for pair in pairs:
        stem = "_".join(_safe(part) for part in pair)
        # Some file systems do not tell capitals from small letters.
        other = taken.setdefault(stem.casefold(), pair)
        if other != pair:
            raise InputError(
                f"maps {other} and {pair} (subject, map) would both be written to {stem!r}; "
                "rename one of them."
            )
        stems[pair] = stem
    return stems


def _safe(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:_LONGEST]
    return plain or "unnamed"


def _files(values: NDArray[np.floating[Any]], voxels: xr.Dataset, name: str) -> dict[str, bytes]:
    files = {}
    if _has_volume(voxels):
        files[".nii.gz"] = _nifti(values, voxels, name)
    if "vertex" in voxels.coords:
        for side, (letter, _) in _SIDES.items():
            if (voxels["hemisphere"].to_numpy() == side).any():
                files[f"_hemi-{letter}.func.gii"] = _gifti(values, voxels, side, name)
    return files


def _nifti(values: NDArray[np.floating[Any]], voxels: xr.Dataset, name: str) -> bytes:
    image = nifti_image(volume(values, voxels), voxels)
    code = _FORM.get(voxels.attrs.get("space", ""), 2)
    image.set_sform(affine(voxels), code=code)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"neuroattn {name}".encode("ascii", "replace")[:79]
    # The time stamp of the archive would make equal maps differ.
    return gzip.compress(image.to_bytes(), mtime=0)


def _gifti(values: NDArray[np.floating[Any]], voxels: xr.Dataset, side: str, name: str) -> bytes:
    from nibabel.gifti import gifti

    kit: Any = gifti
    mesh = to_fsaverage(values, voxels, side).astype(np.float32)
    column = kit.GiftiDataArray(
        mesh, intent="NIFTI_INTENT_NONE", meta=kit.GiftiMetaData({"Name": name})
    )
    whole = kit.GiftiMetaData({"AnatomicalStructurePrimary": _SIDES[side][1]})
    return bytes(kit.GiftiImage(darrays=[column], meta=whole).to_bytes())
