"""Numeric arrays of users' files (npy, npz, HDF5, MATLAB) with their axes named."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import FileError, InputError
from neuroattn.io import check_own_values, existing, open_hdf5
from neuroattn.names import did_you_mean

_ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError)
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".mat")
_MATLAB_NUMBERS = (
    *("double", "single", "logical", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
)


def read_array(
    path: str | Path,
    dataset: str | None,
    axes: str,
    order: Sequence[str],
    shape: Sequence[int] | None = None,
) -> NDArray[np.generic]:
    """Read a numeric array and bring its axes into an order.

    Parameters
    ----------
    path : str or Path
        ``.npy`` (memory-mapped), ``.npz``, HDF5 (``.h5``, ``.hdf5``, ``.hdf``) or MATLAB
        (``.mat``, any version).
    dataset : str or None
        Name of the array in a ``.npz``, HDF5 or MATLAB file; may be None where there is only one.
    axes : str
        Name of each axis as numpy or h5py shows it, such as ``"image voxel ."``; ``.`` is an
        axis of length 1 to drop. MATLAB files of version 7.3 (which are HDF5) come with their
        axes reversed, older ones as MATLAB shows them.
    order : sequence of str
        Names of the axes to return, all of which ``axes`` must name.
    shape : sequence of int, optional
        Lengths of the axes that ``axes`` names, where the file has them flattened into one: the
        last axis runs fastest. (10, 10, 80) with "column row image" is what MATLAB's
        ``reshape(x, 10, 10)`` makes of each of 80 columns of 100 numbers.

    Raises
    ------
    FileError
        If the file is missing, truncated or of another format, or has no such array.
    InputError
        If ``axes`` does not fit the array, or the array is not numeric.
    """
    place = existing(path, "array file")
    if place.suffix == ".npy":
        array = read_npy(place)
    elif place.suffix == ".npz":
        array = _read_npz(place, dataset)
    elif is_old_matlab(place):
        array = _read_matlab(place, dataset)
    elif place.suffix in HDF5_SUFFIXES:
        array = _read_hdf5(place, dataset)
    else:
        allowed = ", ".join((".npy", ".npz", *HDF5_SUFFIXES))
        raise InputError(f"path={str(place)!r} ends in {place.suffix!r}; allowed: {allowed}.")
    where = f"{place}:{dataset}" if dataset else str(place)
    if array.dtype.kind not in "biuf":
        raise InputError(f"array {where} is {array.dtype}; needed are real numbers.")
    if shape is not None:
        if int(np.prod(shape)) != array.size:
            raise InputError(
                f"shape={list(shape)} has {int(np.prod(shape))} numbers, array {where} has shape "
                f"{array.shape}: {array.size} numbers."
            )
        array = array.reshape(tuple(shape))
    return _arranged(array, axes, order, where)


def is_old_matlab(path: str | Path) -> bool:
    """Say whether a file is called ``.mat`` and is none of HDF5: MATLAB before 7.3."""
    import h5py

    place = Path(path)
    return place.suffix == ".mat" and place.is_file() and not h5py.is_hdf5(place)


def read_npy(path: str | Path) -> NDArray[np.generic]:
    """Memory-map a ``.npy`` file; pickled ones are refused.

    Raises
    ------
    FileError
        If the file is missing, truncated, pickled or not npy.
    """
    place = existing(path, "array file")
    try:
        array: NDArray[np.generic] = np.load(place, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, TokenError) as error:
        raise FileError(
            f"array file {place} ({place.stat().st_size} bytes) is truncated or no plain .npy: "
            f"{error}. Copy it again and compare sizes."
        ) from error
    return array


@contextmanager
def open_npz(path: Path) -> Iterator[Mapping[str, NDArray[np.generic]]]:
    """Yield the arrays of a ``.npz`` file by name, read when asked for; pickled ones are refused.

    Raises
    ------
    FileError
        If the file is truncated, damaged or no npz, or asked for a pickled or missing array.
    """
    try:
        # numpy leaves a file open that is no archive: ours is closed.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            yield archive
    except FileError:
        raise
    except (ValueError, EOFError, OSError, KeyError, TypeError, *_ARCHIVE_ERRORS) as error:
        raise FileError(
            f"array file {path} ({path.stat().st_size} bytes) is truncated or no plain .npz: "
            f"{error}. Copy it again and compare sizes."
        ) from error


def _read_npz(place: Path, dataset: str | None) -> NDArray[np.generic]:
    with open_npz(place) as archive:
        return archive[_chosen(dataset, list(archive), place)]


def _read_matlab(place: Path, dataset: str | None) -> NDArray[np.generic]:
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    try:
        # Only arrays of numbers are read: no structs, no cells, no objects.
        found = [name for name, _, kind in whosmat(place) if kind in _MATLAB_NUMBERS]
        name = _chosen(dataset, found, place)
        array: NDArray[np.generic] = np.asarray(loadmat(place, variable_names=[name])[name])
    except FileError:
        raise
    except (MatReadError, ValueError, TypeError, KeyError, OSError, *_ARCHIVE_ERRORS) as error:
        raise FileError(
            f"array file {place} ({place.stat().st_size} bytes) is truncated or no MATLAB file: "
            f"{error}. Copy it again and compare sizes."
        ) from error
    return array


def _read_hdf5(place: Path, dataset: str | None) -> NDArray[np.generic]:
    import h5py

    found: list[str] = []

    def note(name: str, item: object) -> None:
        # MATLAB keeps the cells of its cell arrays under #refs#: nobody asks for those.
        if isinstance(item, h5py.Dataset) and not name.startswith("#refs#"):
            found.append(name)

    with open_hdf5(place, "array file") as file:
        file.visititems(note)
        name = _chosen(dataset.strip("/") if dataset else dataset, found, place)
        check_own_values(file[name], place)
        return np.asarray(file[name][()])


def _chosen(dataset: str | None, found: Sequence[str], place: Path) -> str:
    if dataset is None and len(found) == 1:
        return found[0]
    if dataset is None or dataset not in found:
        asked = "needs the name of a dataset" if dataset is None else f"has no dataset {dataset!r}"
        hint = did_you_mean(dataset, found) if dataset else ""
        listed = ", ".join(sorted(found)[:20]) or "no array"
        raise FileError(f"array file {place} {asked}{hint} It holds: {listed}.")
    return dataset


def _arranged(
    array: NDArray[np.generic], axes: str, order: Sequence[str], where: str
) -> NDArray[np.generic]:
    names = axes.split()
    here = f"axes={axes!r} of {where}, shape {array.shape}"
    if len(names) != array.ndim:
        raise InputError(f"{here}: {len(names)} names for {array.ndim} axes; name each axis.")
    if sorted(name for name in names if name != ".") != sorted(order):
        raise InputError(
            f"{here}: name {', '.join(order)} once each, and '.' for each axis to drop."
        )
    dropped = tuple(place for place, name in enumerate(names) if name == ".")
    for place in dropped:
        if array.shape[place] != 1:
            raise InputError(f"{here}: '.' drops axis {place}, whose length is not 1.")
    left = [name for name in names if name != "."]
    return np.transpose(np.squeeze(array, dropped), [left.index(name) for name in order])
