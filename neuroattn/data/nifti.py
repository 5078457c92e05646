"""Response sets and maps back in NIfTI files, with the affine and the header of their source."""

from __future__ import annotations

import base64
import binascii
import gzip
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.data.schema import ResponseSet
from neuroattn.errors import InputError
from neuroattn.io import atomic_path

# NIfTI codes: 4 says MNI coordinates, 1 the scanner's own, 2 aligned to something.
_FORM = {"MNI": 4, "native": 1}
_LONGEST_AXIS = {348: 32767, 540: 2**63 - 1}
_BLOCK_BYTES = 64 * 2**20


def nifti_header(voxels: xr.Dataset) -> Any:
    """Return a NIfTI header for float32 values on the grid of the voxels.

    Parameters
    ----------
    voxels : xarray.Dataset
        With the attributes ``affine`` and ``shape``; with ``header`` (base64 text of a NIfTI
        header) it is that one: qform and sform with their codes, voxel sizes, repetition time,
        units and intent stay as they are, to the bit; data type, scaling and the length of the
        axes become those of the data. Without one it is NIfTI-1, in mm, with the affine as sform
        and qform.

    Returns
    -------
    nibabel.Nifti1Header or nibabel.Nifti2Header
        Of three axes.

    Raises
    ------
    InputError
        If the attribute ``header`` is no NIfTI header, or of another grid than ``affine`` and
        ``shape``.
    """
    import nibabel

    kit: Any = nibabel
    affine = np.asarray(voxels.attrs["affine"], dtype=np.float64).reshape(4, 4)
    shape = tuple(int(length) for length in voxels.attrs["shape"])
    text = voxels.attrs.get("header", "")
    if text:
        header, found = _restored(str(text))
        own = header.get_data_shape()[:3]
        if own != shape or not np.allclose(found, affine, rtol=0, atol=1e-4):
            raise InputError(
                f"attribute header is of a grid of {own} with the affine "
                f"{found.round(4).tolist()}; affine and shape say {shape}, "
                f"{affine.round(4).tolist()}. Remove attrs['header'] if the grid was changed."
            )
    else:
        header = kit.Nifti1Header()
        header.set_data_shape(shape)
        header.set_qform(affine, code="unknown")
        header.set_sform(affine, code=_FORM.get(voxels.attrs.get("space", ""), 2))
        header.set_xyzt_units("mm")
    _set_shape(header, shape)
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1, 0)
    header["magic"] = header.single_magic
    header["vox_offset"] = header.single_vox_offset
    return header


def nifti_bytes(volume: NDArray[np.floating[Any]], voxels: xr.Dataset, description: str) -> bytes:
    """Return one volume as the bytes of a ``.nii`` file, float32.

    Parameters
    ----------
    volume : ndarray
        (i, j, k)
    voxels : xarray.Dataset
        As for :func:`nifti_header`.
    description : str
        Text for the header, of which 79 characters fit. What the header said of the values of
        its source (range of display, intent) is cleared.
    """
    header = nifti_header(voxels)
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("none")
    header["descrip"] = description.encode("ascii", "replace")[:79]
    stream = io.BytesIO()
    header.write_to(stream)
    stream.write(_ordered(volume, header))
    return stream.getvalue()


def write_responses_nifti(
    dataset: ResponseSet, path: str | Path, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write responses as a 4-D NIfTI image, one volume a presentation.

    A response set that was read from a NIfTI image becomes that image again: the same affine, the
    same numbers at the voxels that were kept, to the bit of float32, and NaN at all others. Its
    header is the source's (attribute ``header``): qform, sform, their codes, voxel sizes,
    repetition time, units and intent. What changes is the data type (float32), the scaling (1)
    and the number of volumes; header extensions are not kept. A few volumes are in memory at a
    time.

    Parameters
    ----------
    dataset : xarray.Dataset
        A response set of one subject with ``i``, ``j``, ``k`` and the attributes ``affine`` and
        ``shape``.
    path : str or Path
        Ends in ``.nii`` or ``.nii.gz``. What is there is replaced.
    progress : callable, optional
        Called with (volumes written, all volumes).

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If the ending is another one, the voxels have no grid, are of several subjects or share a
        place, or there are more presentations than the format counts (32,767 in NIfTI-1).
    FileError
        If it cannot be written; an older file stays.

    Examples
    --------
    ``write_responses_nifti(open_responses("run/predictions.zarr"), "predictions.nii.gz")``
    """
    place = Path(path)
    if not place.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"path={str(path)!r} must end in .nii or .nii.gz.")
    flat = _places(dataset)
    header = nifti_header(dataset)
    shape, count = header.get_data_shape(), dataset.sizes["presentation"]
    if count > _LONGEST_AXIS[header.sizeof_hdr]:
        raise InputError(
            f"{count} presentations do not fit: NIfTI-1 counts to 32767. Write some of them: "
            "dataset.isel(presentation=slice(0, 32767))."
        )
    _set_shape(header, (*shape, count))
    size = int(np.prod(shape))
    rows = max(1, _BLOCK_BYTES // (4 * size))
    with atomic_path(place) as beside, _stream(beside, place.suffix == ".gz") as stream:
        header.write_to(stream)
        for start in range(0, count, rows):
            block = dataset["response"].isel(presentation=slice(start, start + rows)).values
            volumes = np.full((len(block), size), np.nan, dtype=np.float32)
            volumes[:, flat] = block
            stream.write(volumes.astype(header.get_data_dtype(), copy=False).tobytes())
            if progress is not None:
                progress(start + len(block), count)
    return place


def _restored(text: str) -> tuple[Any, NDArray[np.float64]]:
    """Return the header as it is in the file, and the affine that nibabel reads from it."""
    import nibabel

    kit: Any = nibabel
    try:
        content = base64.b64decode(text, validate=True)
        kinds = {348: kit.Nifti1Header, 540: kit.Nifti2Header}
        kind = kinds[len(content)]
        # The checks of a reading mend, and so change, what the source says.
        return kind(content, check=False), kind(content).get_best_affine()
    except (binascii.Error, KeyError, ValueError, nibabel.spatialimages.HeaderDataError) as error:
        raise InputError(
            f"attribute header ({len(text)} characters) is no base64 text of a NIfTI header of "
            f"348 or 540 bytes: {error}. Remove attrs['header'], or read the data again."
        ) from error


def _set_shape(header: Any, shape: tuple[int, ...]) -> None:
    """Change the lengths of the axes; nibabel alone would forget the repetition time."""
    sizes = header["pixdim"].copy()
    header.set_data_shape(shape)
    header["pixdim"] = sizes


def _places(dataset: ResponseSet) -> NDArray[np.intp]:
    """Return the index of each voxel, i fastest."""
    known = {"affine", "shape"} <= set(dataset.attrs)
    if not known or any(axis not in dataset.coords for axis in "ijk"):
        raise InputError(
            f"the voxels (space {dataset.attrs.get('space', 'none')!r}) have no i, j, k with an "
            "affine and a shape; a volume cannot be written of them."
        )
    subjects = np.unique(dataset["subject"].values.astype(str)).tolist()
    if len(subjects) > 1:
        raise InputError(
            f"the voxels are of {len(subjects)} subjects ({', '.join(subjects[:5])}); write one "
            "at a time: dataset.isel(voxel=dataset['subject'].values == NAME)."
        )
    shape = tuple(dataset.attrs["shape"])
    flat = np.ravel_multi_index(tuple(dataset[axis].values for axis in "ijk"), shape, order="F")
    if len(np.unique(flat)) < len(flat):
        raise InputError(
            f"{len(flat)} voxels are at {len(np.unique(flat))} places of the grid (a surface "
            "sampled from a volume?); one value a place can be written."
        )
    return flat


def _ordered(volume: NDArray[np.floating[Any]], header: Any) -> bytes:
    return np.asarray(volume).astype(header.get_data_dtype(), copy=False).tobytes(order="F")


@contextmanager
def _stream(path: Path, packed: bool) -> Iterator[IO[bytes]]:
    with path.open("wb") as file:
        if not packed:
            yield file
            return
        # Neither name nor time stamp: equal responses are equal bytes.
        options: Any = {"mtime": 0, "compresslevel": 1, "filename": "", "mode": "wb"}
        with gzip.GzipFile(fileobj=file, **options) as inner:
            # The class is a stream of bytes in all but its type.
            yield cast("IO[bytes]", inner)
