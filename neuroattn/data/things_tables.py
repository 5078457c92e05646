"""The table layout of THINGS-fMRI: responses by voxel, and what is known of trials and voxels."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroattn.data.pandas_hdf import Block, open_frame
from neuroattn.data.tables import read_table
from neuroattn.errors import FileError, MismatchError
from neuroattn.io import existing

_NO_ROI = re.compile(r"voxel_id|subject_id|voxel_[xyz]|nc_.*|splithalf_.*|prf-.*|Unnamed.*|")
_NEEDED = ("voxel_id", "voxel_x", "voxel_y", "voxel_z", "nc_singletrial", "nc_testset")
_PIECE_BYTES = 32 * 2**20
_LINES = 20_000


@dataclass(frozen=True)
class Trials:
    """The trials of a subject in the order of the rows, one entry a trial.

    Parameters
    ----------
    image : list of str
        Name of the image file without its ending: "dog_12s".
    session, run : ndarray
        From 1.
    test : ndarray
        bool, whether the image is one of the repeated ones.
    """

    image: list[str]
    session: NDArray[np.int64]
    run: NDArray[np.int64]
    test: NDArray[np.bool_]


@dataclass(frozen=True)
class Voxels:
    """The voxels of a subject in the order of the table, one entry a voxel.

    Parameters
    ----------
    number : ndarray
        ``voxel_id``.
    places : ndarray
        (voxel, 3) i, j, k, from 0.
    ceiling : dict of str to ndarray
        ``nc_singletrial`` and ``nc_testset``, percent of variance.
    rois : dict of str to ndarray
        ROI to bool.
    """

    number: NDArray[np.int64]
    places: NDArray[np.int64]
    ceiling: dict[str, NDArray[np.float64]]
    rois: dict[str, NDArray[np.bool_]]


def image_id(name: str) -> str:
    """Return the id of an image from its file: "dog_12s" of "images/dog/dog_12s.jpg"."""
    return re.sub(r"\.(jpe?g|png)$", "", re.split(r"[/\\]", name.strip())[-1], flags=re.IGNORECASE)


def read_trials_table(path: Path, subject: str) -> Trials:
    """Read ``sub-01_StimulusMetadata.csv``.

    Raises
    ------
    FileError
        If it is missing, lacks a column, or holds a trial that is neither train nor test.
    MismatchError
        If it is of another subject.
    """
    table = read_table(path)
    needed = ("trial_type", "session", "run", "subject_id", "trial_id", "stimulus")
    lacking = [name for name in needed if name not in table]
    if lacking:
        raise FileError(f"{path} has no column {lacking[0]!r}; it has {sorted(table)}.")
    kinds = np.array(table["trial_type"])
    other = np.flatnonzero(~np.isin(kinds, ("train", "test")))
    if other.size:
        raise FileError(
            f"{path}, data row {other[0] + 1}: trial_type is {str(kinds[other[0]])!r}; the table "
            "of responses has trials of type 'train' and 'test' only (no catch trials)."
        )
    owners = set(whole(table["subject_id"], "subject_id", path).tolist())
    if owners != {int(subject)}:
        raise MismatchError(f"{path} is of subject {sorted(owners)}, asked for was {subject}.")
    order = whole(table["trial_id"], "trial_id", path)
    session, run = (whole(table[name], name, path) for name in ("session", "run"))
    if len(np.unique(session)) != 1 + np.count_nonzero(np.diff(session)):
        raise FileError(f"{path}: the trials of a session do not stand together; get it again.")
    if len(set(order.tolist())) == len(order) and (np.diff(order) < 0).any():
        raise FileError(
            f"{path}: trial_id does not rise from row to row, so that rows and columns of the "
            "responses no longer fit (was the table sorted?). Get the file again."
        )
    return Trials([image_id(name) for name in table["stimulus"]], session, run, kinds == "test")


def whole(cells: list[str], column: str, path: Path) -> NDArray[np.int64]:
    """Return the whole number that each cell ends in: 1 of "1", "01", "ses-things01" or "1.0".

    Raises
    ------
    FileError
        If a cell ends in none.
    """
    found = [re.search(r"(\d+)(\.0)?$", cell.strip()) for cell in cells]
    for row, match in enumerate(found, start=1):
        if match is None:
            raise FileError(f"{path}, data row {row}: {column} {cells[row - 1]!r} has no number.")
    return np.array([int(match[1]) for match in found if match], dtype=np.int64)


def roi_names(path: Path) -> list[str]:
    """Return the ROI columns of ``sub-01_VoxelMetadata.csv``: those that say nothing else.

    Raises
    ------
    FileError
        If the file is missing or lacks a column that every voxel needs.
    """
    try:
        with existing(path, "voxel metadata").open(encoding="utf-8-sig", newline="") as stream:
            header = next(csv.reader(stream), [])
    except (UnicodeDecodeError, IsADirectoryError, csv.Error) as error:
        raise FileError(f"voxel metadata {path} is no text table: {error}.") from error
    lacking = [name for name in _NEEDED if name not in header]
    if lacking:
        raise FileError(f"{path} has no column {lacking[0]!r}; it begins {header[:12]}.")
    return [name for name in header if not _NO_ROI.fullmatch(name)]


def read_voxels(path: Path, subject: str) -> Voxels:
    """Read ``sub-01_VoxelMetadata.csv``, some lines at a time.

    Raises
    ------
    FileError
        If the file is missing, truncated or lacks a column, a cell is no number, a ROI column is
        not of 0 and 1, or noise ceilings are no percentages.
    MismatchError
        If it is of another subject.
    """
    import pandas as pd

    rois = roi_names(path)
    plain: list[NDArray[np.float64]] = []
    masks: list[NDArray[np.bool_]] = []
    # Blocks of lines: the file has 200,000 lines of 222 cells.
    columns = [*_NEEDED, "subject_id"]
    try:
        with pd.read_csv(path, usecols=[*columns, *rois], chunksize=_LINES) as reader:
            for part in reader:
                plain.append(part[columns].to_numpy(dtype=np.float64))
                dummies = part[rois].to_numpy(dtype=np.float64)
                wrong = np.argwhere(~np.isin(dummies, (0, 1)))
                if wrong.size:
                    raise FileError(
                        f"{path}: column {rois[wrong[0][1]]!r} holds {dummies[tuple(wrong[0])]}; "
                        "needed is 0 or 1, whether the voxel is in the ROI."
                    )
                masks.append(dummies == 1)
    except (ValueError, UnicodeDecodeError) as error:
        raise FileError(f"{path} is truncated or no table of numbers: {error}.") from error
    values = np.concatenate(plain) if plain else np.zeros((0, len(columns)))
    if not len(values) or not np.isfinite(values[:, [0, 1, 2, 3, 6]]).all():
        raise FileError(f"{path} is truncated: {len(values)} voxels, some without id or place.")
    if set(values[:, 6].tolist()) != {float(subject)}:
        owners = sorted(set(values[:, 6].tolist()))
        raise MismatchError(f"{path} is of subject {owners}, asked for was {subject}.")
    ceiling = dict(zip(("nc_singletrial", "nc_testset"), values[:, 4:6].T, strict=True))
    _check_percent(ceiling, path)
    table = np.concatenate(masks)
    return Voxels(
        values[:, 0].astype(np.int64),
        values[:, 1:4].astype(np.int64),
        ceiling,
        {name: table[:, place] for place, name in enumerate(rois)},
    )


def _check_percent(ceiling: dict[str, NDArray[np.float64]], path: Path) -> None:
    for name, values in ceiling.items():
        known = values[np.isfinite(values)]
        if known.size and (known.min() < 0 or known.max() > 100 or 0 < known.max() <= 1):
            raise FileError(
                f"{path}: {name} goes from {known.min():g} to {known.max():g}; needed are percent "
                "of variance, 0 to 100, as published."
            )


def check_responses(path: Path, trials: int, numbers: NDArray[np.int64]) -> None:
    """See that the table of responses fits the metadata of trials and voxels.

    Raises
    ------
    FileError
        If the file is missing, damaged, or another table.
    MismatchError
        If voxels or trials are others, or the table is transposed.
    """
    with open_frame(path) as blocks:
        data, order = _responses(blocks, trials, len(numbers), path)
        if data.values.shape[0] != len(numbers):
            raise MismatchError(
                f"{path} has {data.values.shape[0]} voxels, the voxel metadata {len(numbers)}; "
                "take the files of one subject."
            )
        if sorted(order) != list(range(trials)):
            raise MismatchError(
                f"the trials of {path} are labelled {order[:3]} to {order[-3:]}; needed are 0 to "
                f"{trials - 1}, each once, as the stimulus metadata counts them."
            )
        known = [block for block in blocks if "voxel_id" in block.columns]
        if known:
            own = known[0].values[:, known[0].columns.index("voxel_id")]
            wrong = np.flatnonzero(own != numbers)
            if wrong.size:
                raise MismatchError(
                    f"{path}, row {wrong[0]}: voxel_id {own[wrong[0]]}, in the voxel metadata "
                    f"{numbers[wrong[0]]}; take the files of one subject, unsorted."
                )


def read_responses(
    path: Path, rows: slice, trials: int, keep: NDArray[np.intp]
) -> Iterator[NDArray[np.float32]]:
    """Yield (trial, voxel) values of some consecutive trials, 32 MiB of the file at a time.

    Parameters
    ----------
    path : Path
        ``sub-01_ResponseData.h5``.
    rows : slice
        The trials.
    trials : int
        How many trials the table has.
    keep : ndarray
        The voxels, rising places in the table.
    """
    with open_frame(path) as blocks:
        data, order = _responses(blocks, trials, -1, path)
        columns = np.argsort(order)[rows]
        first = int(columns.min())
        stretch = slice(first, int(columns.max()) + 1)
        step = max(1, _PIECE_BYTES // (8 * (stretch.stop - first)))
        for start in range(0, int(data.values.shape[0]), step):
            wanted = keep[(keep >= start) & (keep < start + step)]
            if wanted.size:
                part = data.values[start : start + step, stretch]
                yield np.ascontiguousarray(part[wanted - start][:, columns - first].T, np.float32)


def _responses(
    blocks: list[Block], trials: int, voxels: int, path: Path
) -> tuple[Block, list[int]]:
    """Return the block of the responses and the trial of each of its columns."""
    data = max(blocks, key=lambda block: len(block.columns))
    labels = [label for label in data.columns if label != "voxel_id"]
    shape = tuple(data.values.shape)
    if len(labels) != trials or data.values.dtype.kind != "f":
        turned = ": it is transposed" if shape[0] == trials and shape[1] == voxels else ""
        raise MismatchError(
            f"{path} has {len(labels)} columns of {data.values.dtype} by {shape[0]} rows, the "
            f"stimulus metadata lists {trials} trials{turned}; needed are voxels as rows, one "
            "column a trial."
        )
    if len(labels) != len(data.columns):
        raise FileError(f"{path}: voxel_id is a float among the responses; write it as integer.")
    try:
        return data, [int(label) for label in labels]
    except ValueError as error:
        raise FileError(
            f"{path}: a column of responses is labelled {error.args[0].split(':')[-1].strip()}; "
            "needed are the numbers of the trials."
        ) from error
