"""Numeric arrays of MATLAB files, of version 5 and 7.3."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import FileError
from neuroattn.io import check_own_values, existing, open_hdf5


def read_matlab(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """Read numeric arrays by name, with their axes as MATLAB shows them.

    Parameters
    ----------
    path : Path
        A ``.mat`` file. Of version 7.3 (HDF5) only numbers are read, no reference is followed.
    needed : sequence of str
        Arrays that must be there.
    optional : sequence of str
        Arrays that are read where they are there.

    Returns
    -------
    dict of str to ndarray
        The arrays found.

    Raises
    ------
    FileError
        If the file is missing, damaged, or lacks one that is needed, or one is not numeric.
    """
    import h5py

    place = existing(path, "MATLAB file")
    names = [*needed, *optional]
    found = _read_73(place, names) if h5py.is_hdf5(place) else _read_5(place, names)
    for name in needed:
        if name not in found:
            raise FileError(f"MATLAB file {place} has no array {name!r}; is it another file?")
    for name, array in found.items():
        if array.dtype.kind not in "biuf":
            raise FileError(f"MATLAB file {place}: {name!r} is {array.dtype}; needed: numbers.")
    return found


def whole_numbers(
    path: Path, name: str, array: NDArray[Any], low: int, high: int
) -> NDArray[np.int64]:
    """Return an array as integers if all are whole and from ``low`` to ``high``.

    Raises
    ------
    FileError
        If one is not; names it.
    """
    wrong = array[(array != np.round(array)) | (array < low) | (array > high)]
    if not array.size or wrong.size:
        value = f"the value {wrong.flat[0]:g}" if wrong.size else "no value"
        hint = " (0 where it counts from 1?)" if low == 1 and 0 in wrong else ""
        raise FileError(
            f"{path}: {name!r} holds {value}{hint}; allowed are whole numbers from "
            f"{low} to {high}. Download it again, and change nothing in it."
        )
    return array.astype(np.int64)


def _read_5(place: Path, names: list[str]) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    wrong = (MatReadError, ValueError, TypeError, KeyError, OSError, EOFError, zlib.error)
    try:
        content = loadmat(place, variable_names=names)
    except (*wrong, NotImplementedError) as error:
        raise FileError(
            f"MATLAB file {place} ({place.stat().st_size} bytes) is truncated or no MATLAB file: "
            f"{error}. Download it again and compare sizes."
        ) from error
    return {name: np.asarray(content[name]) for name in names if name in content}


def _read_73(place: Path, names: list[str]) -> dict[str, Any]:
    import h5py

    with open_hdf5(place, "MATLAB file", "Download it again and compare sizes.") as file:
        items = {name: file.get(name) for name in names}
        found = {n: item for n, item in items.items() if isinstance(item, h5py.Dataset)}
        for item in found.values():
            check_own_values(item, place)
        # MATLAB's axes come reversed.
        return {name: np.asarray(item[()]).T for name, item in found.items()}
