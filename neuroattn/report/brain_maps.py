"""One value a voxel, back in files that every brain viewer opens: volumes, surfaces, pictures."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from neuroattn.data import to_fsaverage
from neuroattn.data.nifti import nifti_bytes
from neuroattn.errors import InputError, MismatchError
from neuroattn.io import atomic_path
from neuroattn.names import check_name
from neuroattn.report.map_pictures import map_pages, map_pictures
from neuroattn.report.surface import why_no_surface
from neuroattn.report.volume import has_volume, volume

#: What write_maps writes, data first.
DATA_FORMATS = ("nifti", "gifti", "mgh")
FORMATS = (*DATA_FORMATS, "png", "html")
# How GIFTI files and FreeSurfer name the sides.
_SIDES = {"left": ("L", "lh", "CortexLeft"), "right": ("R", "rh", "CortexRight")}
_LONGEST = 80


def why_no_maps(voxels: xr.Dataset) -> str:
    """Say why maps cannot be written, or return "" if they can.

    Parameters
    ----------
    voxels : xarray.Dataset
        A response set, or ``voxels_`` of an encoder.
    """
    if has_volume(voxels) or "vertex" in voxels.coords:
        return ""
    space = voxels.attrs.get("space", "none")
    return (
        f"the voxels (space {space!r}) have neither vertex nor i, j, k with an affine and a shape, "
        "so nobody can say where they are (parcels of an atlas: see neuroattn.data.parcels)"
    )


def why_no_format(voxels: xr.Dataset) -> dict[str, str]:
    """Say of each format of :func:`write_maps` why it cannot be written, "" if it can.

    Parameters
    ----------
    voxels : xarray.Dataset
        A response set, or ``voxels_`` of an encoder.

    Returns
    -------
    dict of str to str
        Of "nifti", "gifti", "mgh", "png", "html".
    """
    space = voxels.attrs.get("space", "none")
    volume_reason = surface_reason = picture_reason = ""
    if not has_volume(voxels):
        volume_reason = (
            f"the voxels (space {space!r}) have no i, j, k with an affine and a shape: they are "
            "in no volume"
        )
        picture_reason = why_no_surface(voxels)
    if "vertex" not in voxels.coords:
        surface_reason = f"the voxels (space {space!r}) have no vertex: they are on no surface"
    return {
        "nifti": volume_reason,
        "gifti": surface_reason,
        "mgh": surface_reason,
        "png": picture_reason,
        "html": picture_reason,
    }


def write_maps(
    values: Mapping[str, ArrayLike | xr.DataArray],
    voxels: xr.Dataset,
    directory: str | Path,
    formats: Sequence[str] | None = ("nifti", "gifti", "mgh"),
) -> list[Path]:
    """Write maps of the brain: data files for other programs, pictures, interactive pages.

    Parameters
    ----------
    values : mapping of str to array_like or DataArray
        Name of the map to one value a voxel, (voxel,).
    voxels : xarray.Dataset
        A response set, or ``voxels_`` of an encoder: coordinates ``subject``, ``hemisphere``,
        ``i``, ``j``, ``k`` and/or ``vertex``; attributes ``affine`` and ``shape`` (and ``header``,
        see :func:`neuroattn.data.nifti.nifti_header`), or ``vertices_left`` and
        ``vertices_right``.
    directory : str or Path
        Made if it is not there. Existing maps of the same names are replaced, each atomically.
    formats : sequence of str, optional
        Of "nifti", "gifti", "mgh", "png", "html"; the default writes those data files that the
        voxels allow, None everything that they allow. A single one that they do not allow is an
        error, unless it is among the default.

    Returns
    -------
    list of Path
        The files, float32, NaN where there is no voxel:

        - nifti: ``<subject>_<map>.nii.gz``, on the grid of the source, with its header;
        - gifti: ``<subject>_<map>_hemi-L.func.gii``, ``..._hemi-R.func.gii``, the whole mesh;
        - mgh: ``lh.<subject>_<map>.mgh``, ``rh.<subject>_<map>.mgh``, (vertices, 1, 1);
        - png: ``<subject>_<map>_slices.png`` and/or ``..._surface.png``;
        - html: ``<subject>_<map>_slices.html`` or ``..._surface.html``, self-contained.

        Characters other than letters, digits, ``.``, ``_`` and ``-`` become ``-`` in file names.
        The same values give the same bytes. Voxels of a subject that share i, j, k (a surface
        sampled from a volume) are averaged.

    Raises
    ------
    InputError
        If voxels have no location or not the one that a format needs, a format is unknown, a map
        is not of numbers, or two maps would have one name.
    MismatchError
        If a map has another number of voxels.
    """
    reason = why_no_maps(voxels)
    if reason:
        raise InputError(f"maps cannot be written: {reason}.")
    chosen = _chosen(formats, voxels)
    numbers = {str(name): _checked(str(name), value, voxels) for name, value in values.items()}
    subjects = list(dict.fromkeys(voxels["subject"].to_numpy().astype(str).tolist()))
    stems = _stems([(subject, name) for subject in subjects for name in numbers])
    folder, written = Path(directory), []
    for subject in subjects:
        here = np.flatnonzero(voxels["subject"].to_numpy().astype(str) == subject)
        own = voxels.isel(voxel=here)
        for name, value in numbers.items():
            title = name if len(subjects) == 1 else f"{subject}: {name}"
            files = _files(value[here], own, title, stems[subject, name], chosen)
            for file, content in files.items():
                with atomic_path(folder / file) as beside:
                    beside.write_bytes(content)
                written.append(folder / file)
    return written


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


def _chosen(formats: Sequence[str] | None, voxels: xr.Dataset) -> list[str]:
    reasons = why_no_format(voxels)
    possible = [name for name, reason in reasons.items() if not reason]
    if formats is None:
        return possible
    for name in formats:
        check_name("format", name, FORMATS)
    if tuple(formats) == DATA_FORMATS:
        return [name for name in possible if name in DATA_FORMATS]
    for name in formats:
        if reasons[name]:
            raise InputError(
                f"format {name!r} cannot be written: {reasons[name]}. "
                f"Possible here: {', '.join(possible)}."
            )
    return list(dict.fromkeys(formats))


def _files(
    values: NDArray[np.floating[Any]],
    voxels: xr.Dataset,
    name: str,
    stem: str,
    formats: Sequence[str],
) -> dict[str, bytes]:
    files = {}
    if "nifti" in formats:
        content = nifti_bytes(volume(values, voxels), voxels, f"neuroattn {name}")
        # The time stamp of the archive would make equal maps differ.
        files[f"{stem}.nii.gz"] = gzip.compress(content, mtime=0)
    sides = [side for side in _SIDES if (voxels["hemisphere"].to_numpy() == side).any()]
    for side in sides:
        letter, short, _ = _SIDES[side]
        if "gifti" in formats:
            files[f"{stem}_hemi-{letter}.func.gii"] = _gifti(values, voxels, side, name)
        if "mgh" in formats:
            files[f"{short}.{stem}.mgh"] = _mgh(values, voxels, side)
    if "png" in formats:
        files |= {f"{stem}_{kind}": png for kind, png in map_pictures(values, voxels, name).items()}
    if "html" in formats:
        files |= {f"{stem}_{kind}": page for kind, page in map_pages(values, voxels, name).items()}
    return files


def _mgh(values: NDArray[np.floating[Any]], voxels: xr.Dataset, side: str) -> bytes:
    import nibabel

    kit: Any = nibabel
    mesh = to_fsaverage(values, voxels, side).astype(np.float32)
    # FreeSurfer's overlays are volumes of (vertices, 1, 1) whose affine says nothing.
    return bytes(kit.MGHImage(mesh[:, None, None], np.eye(4)).to_bytes())


def _gifti(values: NDArray[np.floating[Any]], voxels: xr.Dataset, side: str, name: str) -> bytes:
    from nibabel.gifti import gifti

    kit: Any = gifti
    mesh = to_fsaverage(values, voxels, side).astype(np.float32)
    column = kit.GiftiDataArray(
        mesh, intent="NIFTI_INTENT_NONE", meta=kit.GiftiMetaData({"Name": name})
    )
    whole = kit.GiftiMetaData({"AnatomicalStructurePrimary": _SIDES[side][2]})
    return bytes(kit.GiftiImage(darrays=[column], meta=whole).to_bytes())
