"""Volumes of the brain (NIfTI, MGH): their grid, their values as stored, their voxels in order."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import FileError, InputError, MismatchError, NeuroattnError
from neuroattn.io import existing

#: File endings that :func:`open_volume` reads.
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".img.gz", ".mgh", ".mgz")
# Bytes of a NIfTI header by the number it starts with, its own length.
_HEADER_BYTES = {348: "NIfTI-1", 540: "NIfTI-2"}
_MGH_HEADER_BYTES = 284
_NEAR = 1e-4


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume are.

    Parameters
    ----------
    shape : tuple of int
        Voxels along i, j, k.
    affine : ndarray
        (4, 4), indices to millimetres.
    header : str
        base64 text of the header bytes of the file (348 of NIfTI-1, 540 of NIfTI-2, in the file's
        own byte order); "" for MGH.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    header: str = ""

    def attrs(self) -> dict[str, Any]:
        """Return the attributes of a response set on this grid: affine, shape and header."""
        place = {
            "affine": [float(number) for number in self.affine.ravel()],
            "shape": [int(length) for length in self.shape],
        }
        return {**place, "header": self.header} if self.header else place


def is_volume(path: str | Path) -> bool:
    """Say whether the name of a file ends as a volume's does."""
    return str(path).lower().endswith(VOLUME_SUFFIXES)


def open_volume(path: str | Path) -> Any:
    """Open a volume; its values stay on disk until ``dataobj`` is sliced.

    Parameters
    ----------
    path : str or Path
        NIfTI-1 or NIfTI-2 (one file or a pair, compressed or not), MGH or MGZ.

    Returns
    -------
    nibabel.spatialimages.SpatialImage
        With ``shape`` (three axes at least), ``affine``, ``header``, ``dataobj``.

    Raises
    ------
    FileError
        If the file is missing, damaged, or no volume.
    """
    import nibabel
    from nibabel.spatialimages import SpatialImage

    kit: Any = nibabel
    place = existing(path, "volume")
    with reading(place):
        if place.name.lower().endswith(".mgh"):
            # The library leaves such a file open until it is collected as garbage.
            content = place.read_bytes()
            if len(content) < _MGH_HEADER_BYTES:
                raise EOFError(f"its header has {_MGH_HEADER_BYTES} bytes")
            image = kit.MGHImage.from_bytes(content)
        else:
            image = kit.load(place)
    if not isinstance(image, SpatialImage):
        raise FileError(
            f"volume {place} is {type(image).__name__}: it has no grid of voxels. Give a NIfTI "
            "or MGH volume."
        )
    if len(image.shape) < 3:
        raise FileError(f"volume {place} has shape {image.shape}; needed are three axes or more.")
    return image


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while nibabel reads a file into an error that names the file.

    Raises
    ------
    FileError
        If the file is truncated, damaged or of another format.
    """
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    wrong = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error)
    try:
        yield
    except NeuroattnError:
        raise
    except wrong as error:
        raise FileError(
            f"volume {path} ({path.stat().st_size} bytes) is truncated, damaged or no volume: "
            f"{error}. Copy it again and compare sizes."
        ) from error


def check_own_values(path: Path, image: Any) -> None:
    """Check that a GIFTI file takes its values from itself, or from a file beside it.

    Parameters
    ----------
    path : Path
        The file.
    image : nibabel.GiftiImage
        What was read from it.

    Raises
    ------
    FileError
        If an array stands in a file of another folder.
    """
    for name in (str(array.ext_fname) for array in image.darrays if array.ext_fname):
        if Path(name).name != name:
            raise FileError(
                f"surface file {path} takes values from {name!r}, which is not beside it; files "
                "of other folders are not read. Save it with its values inside."
            )


def grid_of(path: str | Path) -> Grid:
    """Read where the voxels of a volume are, and the header that says so.

    Parameters
    ----------
    path : str or Path
        As for :func:`open_volume`; axes after the third are ignored.

    Raises
    ------
    FileError
        If the file is missing, damaged, or no volume.
    """
    image = open_volume(path)
    first, second, third = (int(length) for length in image.shape[:3])
    affine = np.array(image.affine, dtype=np.float64)
    return Grid((first, second, third), affine, _header(image))


def check_same_grid(path: str | Path, grid: Grid, other_name: str | Path) -> None:
    """Check that a volume is on the grid of another.

    Parameters
    ----------
    path : str or Path
        The volume to check.
    grid : Grid
        Of the other one.
    other_name : str or Path
        Its file, named in messages.

    Raises
    ------
    MismatchError
        If the shape or the affine (by more than 1e-4) differ.
    FileError
        If the file is missing, damaged, or no volume.
    """
    own = grid_of(path)
    if own.shape != grid.shape:
        raise MismatchError(
            f"volume {path} has {_times(own.shape)} voxels ({_sizes(own)}), {other_name} has "
            f"{_times(grid.shape)} ({_sizes(grid)}): they are in different spaces or of different "
            "subjects. Give files of one subject and one space; nothing is resampled."
        )
    if not np.allclose(own.affine, grid.affine, rtol=0, atol=_NEAR):
        raise MismatchError(
            f"volume {path} has the affine {_rows(own)}, {other_name} has {_rows(grid)}: the same "
            "indices are other places in the head. Give files of one space; nothing is resampled."
        )


def read_volume(path: str | Path) -> NDArray[Any]:
    """Read the values of a volume as they are stored, all axes.

    Parameters
    ----------
    path : str or Path
        As for :func:`open_volume`.

    Returns
    -------
    ndarray
        Of the file's own type; float64 where its header has a slope and an intercept, which are
        applied.

    Raises
    ------
    FileError
        If the file is missing, truncated, damaged, or no volume.
    """
    place = Path(path)
    image = open_volume(place)
    with reading(place):
        return np.asanyarray(image.dataobj)


def mask_voxels(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], dict[str, NDArray[np.intp]]]:
    """Return the voxels of a mask in the order of all readers: i runs fastest, k slowest.

    Parameters
    ----------
    mask : ndarray
        bool (i, j, k).

    Returns
    -------
    flat : ndarray
        Indices into ``volume.ravel(order="F")``.
    coordinates : dict of str to ndarray
        ``i``, ``j``, ``k`` of each.

    Raises
    ------
    InputError
        If the mask is not bool with three axes.
    """
    if mask.ndim != 3 or mask.dtype != np.bool_:
        raise InputError(f"mask is {mask.dtype} of shape {mask.shape}; needed: bool (i, j, k).")
    flat = np.flatnonzero(mask.ravel(order="F"))
    places = np.unravel_index(flat, mask.shape, order="F")
    return flat, dict(zip("ijk", places, strict=True))


def _header(image: Any) -> str:
    """Return the header as it is in the file; nibabel's own copy forgets the scaling."""
    import nibabel

    if not isinstance(image, nibabel.nifti1.Nifti1Pair):
        return ""
    files = image.file_map
    name = str(files["header" if "header" in files else "image"].filename)
    length = int(image.header.sizeof_hdr)
    with reading(Path(name)), nibabel.openers.ImageOpener(name, "rb") as stream:
        content = stream.read(length)
    if length not in _HEADER_BYTES or len(content) != length:
        raise FileError(f"volume {name} has a header of {len(content)} bytes; needed: {length}.")
    return base64.b64encode(content).decode("ascii")


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _sizes(grid: Grid) -> str:
    lengths = np.linalg.norm(grid.affine[:3, :3], axis=0)
    return " x ".join(f"{length:.4g}" for length in lengths) + " mm"


def _rows(grid: Grid) -> str:
    return str(np.round(grid.affine[:3], 4).tolist())
