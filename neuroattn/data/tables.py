"""Tables of users' files (CSV, TSV): presentations, voxels and ROIs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import FileError, MismatchError
from neuroattn.io import existing
from neuroattn.names import did_you_mean

_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "")


def read_table(path: str | Path) -> dict[str, list[str]]:
    """Read a CSV (or, by its ending, TSV) file with a header line as text.

    Returns
    -------
    dict of str to list of str
        Column name to its cells, in the order of the file.

    Raises
    ------
    FileError
        If the file is missing, empty, not UTF-8, has a column name twice, or a line with another
        number of cells than the header (such as a truncated one); the message names the line.
    """
    place = existing(path, "table")
    delimiter = "\t" if place.suffix == ".tsv" else ","
    try:
        with place.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            header = next(reader, [])
            rows = []
            for row in reader:
                if row and len(row) != len(header):
                    raise FileError(
                        f"table {place}, line {reader.line_num}: {len(row)} cells, the header has "
                        f"{len(header)}. The file is truncated or a cell holds a bare delimiter."
                    )
                if row:
                    rows.append(row)
    except (csv.Error, UnicodeDecodeError, IsADirectoryError) as error:
        raise FileError(f"table {place} is no UTF-8 CSV file: {error}.") from error
    twice = sorted({name for name in header if header.count(name) > 1})
    if not header or not rows or twice:
        found = f"column {twice[0]!r} twice" if twice else f"{len(rows)} rows under {header[:5]}"
        raise FileError(f"table {place}: {found}; needed: unique column names and data lines.")
    return {name: list(cells) for name, cells in zip(header, zip(*rows, strict=True), strict=True)}


def numbers(cells: Sequence[str], column: str, path: str | Path, kind: type = float) -> Any:
    """Return the cells of a column as numbers; an empty cell is NaN where ``kind`` is float.

    Raises
    ------
    FileError
        If a cell is no number; the message names file, column, line and cell.
    """
    values = []
    for line, cell in enumerate(cells, start=2):
        text = cell.strip()
        try:
            values.append(kind(text if text or kind is not float else "nan"))
        except ValueError as error:
            raise FileError(
                f"table {path}, data row {line - 1}, column {column!r}: {cell!r} is no "
                f"{'number' if kind is float else 'integer'}."
            ) from error
    return np.array(values, dtype=np.float64 if kind is float else np.int64)


def read_rois(
    path: str | Path, names: Sequence[str] | None, voxels: int
) -> dict[str, NDArray[np.bool_]]:
    """Read which voxel belongs to which ROI.

    Parameters
    ----------
    path : str or Path
        A table, long: columns ``voxel`` and ``roi``, one line a membership; or wide: one line a
        voxel, one column of 0/1 (or true/false) a ROI, and, unless the lines are in the order
        of the voxels, a column ``voxel``. A voxel is called by its name if voxels have names,
        else by its number from 0.
    names : sequence of str or None
        Names of the voxels.
    voxels : int
        Number of voxels.

    Raises
    ------
    FileError
        If a cell cannot be read.
    MismatchError
        If a voxel is unknown, or a wide table without ``voxel`` has another number of lines.
    """
    table = read_table(path)
    if set(table) == {"voxel", "roi"}:
        masks = {roi: np.zeros(voxels, dtype=bool) for roi in dict.fromkeys(table["roi"])}
        places = _places(table["voxel"], names, voxels, path)
        for roi, place in zip(table["roi"], places, strict=True):
            masks[roi][place] = True
        return masks
    lines = len(next(iter(table.values())))
    if "voxel" in table:
        places = _places(table.pop("voxel"), names, voxels, path)
    elif lines == voxels:
        places = [[voxel] for voxel in range(voxels)]
    else:
        raise MismatchError(
            f"table {path} has {lines} lines for {voxels} voxels; "
            "give one line a voxel, or a column 'voxel'."
        )
    masks = {}
    for roi, cells in table.items():
        masks[roi] = np.zeros(voxels, dtype=bool)
        for row, (place, cell) in enumerate(zip(places, cells, strict=True), start=1):
            masks[roi][place] |= _truth(cell, roi, row, path)
    return masks


def _places(
    cells: Sequence[str], names: Sequence[str] | None, voxels: int, path: str | Path
) -> list[list[int]]:
    known: dict[str, list[int]] = {}
    for place, name in enumerate(names if names is not None else map(str, range(voxels))):
        known.setdefault(name, []).append(place)
    for row, cell in enumerate(cells, start=1):
        if cell not in known:
            kind = "names" if names is not None else f"numbers, 0 to {voxels - 1}"
            raise MismatchError(
                f"table {path}, data row {row}: voxel {cell!r} is not among the {voxels} voxels "
                f"of the responses (called by {kind}){did_you_mean(cell, known)}."
            )
    return [known[cell] for cell in cells]


def _truth(cell: str, roi: str, row: int, path: str | Path) -> bool:
    text = cell.strip().lower()
    if text not in (*_YES, *_NO):
        raise FileError(
            f"table {path}, data row {row}, column {roi!r}: {cell!r} is not 0 or 1 (true or false)."
        )
    return text in _YES
