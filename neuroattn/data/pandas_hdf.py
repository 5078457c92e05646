"""Data frames that pandas wrote to HDF5 in its fixed format, read without pytables or pickles."""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neuroattn.errors import FileError
from neuroattn.io import check_own_values, open_hdf5

_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1")
_LABELS = (*_NUMBERS, "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_STRUCTURE = ("MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "FRAME", "APPEND", "APPENDS")
_END = ("TUPLE", "BUILD", "STOP")


@dataclass(frozen=True)
class Block:
    """Columns of a data frame that are of one type.

    Parameters
    ----------
    columns : list
        Their labels, int or str, in order.
    values : h5py.Dataset
        (row, column), on disk.
    """

    columns: list[int | str]
    values: Any


@contextmanager
def open_frame(path: str | Path) -> Iterator[list[Block]]:
    """Open the data frame of an HDF5 file and yield its blocks; values stay on disk.

    Labels that pytables stored as a pickle are taken from its bytes one by one: nothing in the
    file is imported, called or unpickled.

    Parameters
    ----------
    path : str or Path
        Written by ``DataFrame.to_hdf`` in the fixed format, the only one that holds thousands
        of columns.

    Yields
    ------
    list of Block
        In the order of the file; all with the same rows.

    Raises
    ------
    FileError
        If the file is missing, truncated, holds no or several data frames, one in another
        format, or labels that are neither numbers nor text.
    """
    with open_hdf5(path, "data frame") as file:
        yield _blocks(file, Path(path))


def _blocks(file: Any, place: Path) -> list[Block]:
    kinds = {name: _text(item.attrs.get("pandas_type")) for name, item in file.items()}
    frames = [name for name, kind in kinds.items() if kind]
    if len(frames) != 1 or kinds[frames[0]] != "frame":
        found = ", ".join(f"{name} ({kind or 'of no pandas type'})" for name, kind in kinds.items())
        raise FileError(
            f"{place} holds {found or 'nothing'}; needed is one data frame in the fixed format of "
            "pandas. Write it again: frame.to_hdf(path, key='ResponseData', format='fixed')."
        )
    group = file[frames[0]]
    blocks = []
    for number in range(int(group.attrs["nblocks"])):
        values, items = (group[f"block{number}_{name}"] for name in ("values", "items"))
        for each in (values, items):
            if not hasattr(each, "dtype"):
                raise KeyError(f"{each.name} is no array")
            check_own_values(each, place)
        columns = _labels(items, place)
        if values.ndim != 2 or values.shape[1] != len(columns):
            raise FileError(
                f"{place}: block {number} has shape {values.shape} for {len(columns)} columns; "
                "the file is not as pandas writes it. Copy it again."
            )
        blocks.append(Block(columns, values))
    return blocks


def _labels(item: Any, place: Path) -> list[int | str]:
    stored = item[()]
    if stored.dtype.kind == "S":
        return [label.decode("utf-8") for label in stored.tolist()]
    if stored.dtype.kind in "iu":
        return [int(label) for label in stored.tolist()]
    if _text(item.attrs.get("kind")) == "object" and len(stored) == 1:
        found = pickled_labels(bytes(np.asarray(stored[0], dtype=np.uint8)))
        if found is not None:
            return found
    raise FileError(
        f"{place}: the labels {item.name} are {stored.dtype}, and not plain numbers and text. "
        "Write the data frame again with columns that are text: "
        "frame.columns = frame.columns.astype(str)."
    )


def pickled_labels(content: bytes) -> list[int | str] | None:
    """Return the numbers and texts of a pickled array of labels, without unpickling it.

    Parameters
    ----------
    content : bytes
        A pickle of a one-dimensional numpy array of objects.

    Returns
    -------
    list of int or str, or None
        None where the list in it holds anything else.
    """
    try:
        steps = [(code.name, value) for code, value, _ in pickletools.genops(content)]
    except ValueError:
        return None
    names = [name for name, _ in steps]
    starts = [place for place, name in enumerate(names) if name in ("EMPTY_LIST", "LIST")]
    ends = [place for place, name in enumerate(names) if name in ("APPEND", "APPENDS")]
    if len(starts) != 1 or not ends:
        return None
    inside, after = steps[starts[0] + 1 : ends[-1] + 1], names[ends[-1] + 1 :]
    plain = all(name in (*_LABELS, *_STRUCTURE) for name, _ in inside)
    if not plain or not set(after) <= {*_END, "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"}:
        return None
    return [value for name, value in inside if name in _LABELS and value is not None]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
