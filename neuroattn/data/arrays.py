"""Numeric arrays of users' files (npy, npz, HDF5, MATLAB 7.3) with their axes named."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import FileError, InputError
from neuroattn.io import existing
from neuroattn.names import did_you_mean

_ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError)
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".mat")


def read_array(
    path: str | Path, dataset: str | None, axes: str, order: Sequence[str]
) -> NDArray[np.generic]:
    """Read a numeric array and bring its axes into an order.

    Parameters
    ----------
    path : str or Path
        ``.npy`` (memory-mapped), ``.npz``, or HDF5 (``.h5``, ``.hdf5``, ``.hdf``, ``.mat`` of
        MATLAB 7.3).
    dataset : str or None
        Name of the array in a ``.npz`` or HDF5 file; may be None where there is only one.
    axes : str
        Name of each axis as numpy or h5py shows it, such as ``"image voxel ."``; ``.`` is an
        axis of length 1 to drop. MATLAB files come with their axes reversed.
    order : sequence of str
        Names of the axes to return, all of which ``axes`` must name.

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
    elif place.suffix in HDF5_SUFFIXES:
        array = _read_hdf5(place, dataset)
    else:
        allowed = ", ".join((".npy", ".npz", *HDF5_SUFFIXES))
        raise InputError(f"path={str(place)!r} ends in {place.suffix!r}; allowed: {allowed}.")
    where = f"{place}:{dataset}" if dataset else str(place)
    if array.dtype.kind not in "biuf":
        raise InputError(f"array {where} is {array.dtype}; needed are real numbers.")
    return _arranged(array, axes, order, where)


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
    except (ValueError, EOFError, OSError) as error:
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


def _read_hdf5(place: Path, dataset: str | None) -> NDArray[np.generic]:
    import h5py

    try:
        with h5py.File(place, "r") as file:
            found: list[str] = []

            def note(name: str, item: object) -> None:
                # MATLAB keeps the cells of its cell arrays under #refs#: nobody asks for those.
                if isinstance(item, h5py.Dataset) and not name.startswith("#refs#"):
                    found.append(name)

            file.visititems(note)
            name = _chosen(dataset.strip("/") if dataset else dataset, found, place)
            array: NDArray[np.generic] = np.asarray(file[name][()])
    except FileError:
        raise
    except OSError as error:
        raise FileError(
            f"array file {place} ({place.stat().st_size} bytes) is truncated or no HDF5 "
            f"(MATLAB files need version 7.3): {error}. Copy it again, or save it with -v7.3."
        ) from error
    return array


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
