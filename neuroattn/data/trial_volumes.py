"""Volumes with one estimate a trial along the fourth axis, read in one pass over the file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.data.volumes import open_volume, reading
from neuroattn.errors import FileError, MismatchError

_BLOCK_BYTES = 32 * 2**20
_PIECE_BYTES = 64 * 2**20


def volume_shape(path: str | Path) -> tuple[int, ...]:
    """Return the length of each axis of a volume, from its header alone.

    Raises
    ------
    FileError
        If the file is missing, damaged, or no volume.
    """
    return tuple(int(length) for length in open_volume(path).shape)


def trial_blocks(path: Path, step: int | None = None) -> Iterator[NDArray[Any]]:
    """Yield the trials of a volume in order, some at a time, a compressed file being read once.

    Parameters
    ----------
    path : Path
        A NIfTI volume (i, j, k, trial), compressed or not.
    step : int, optional
        Trials at a time; left out, as many as 32 MiB hold in double precision.

    Yields
    ------
    ndarray
        (voxel, trials), voxels with i fastest, as stored, the header's own scaling applied.

    Raises
    ------
    FileError
        If the file is missing, truncated, damaged, or has no axis of trials.
    """
    from nibabel.arrayproxy import ArrayProxy
    from nibabel.openers import ImageOpener

    stored = open_volume(path).dataobj
    if len(stored.shape) != 4:
        raise FileError(
            f"volume {path} has shape {tuple(stored.shape)}; needed are four axes, (i, j, k, trial)"
            ": one estimate a trial."
        )
    voxels = int(np.prod(stored.shape[:3]))
    step = step or max(1, _BLOCK_BYTES // max(1, voxels * 8))
    # One open stream: a proxy of its own would unpack the file from its start for each block.
    with reading(path), ImageOpener(str(path), "rb") as stream:
        layout = (stored.shape, stored.dtype, stored.offset, stored.slope, stored.inter)
        proxy = ArrayProxy(stream, layout, mmap=False)
        for start in range(0, stored.shape[3], step):
            block = np.asanyarray(proxy[..., start : start + step])
            yield block.reshape(voxels, -1, order="F")


def first_trial(path: Path) -> NDArray[Any]:
    """Return the first trial of a volume as (voxel,), i fastest.

    Raises
    ------
    FileError
        As :func:`trial_blocks`, or if it has no trial.
    """
    with closing(trial_blocks(path, 1)) as blocks:  # type: ignore[type-var]
        for block in blocks:
            trial: NDArray[Any] = block[:, 0]
            return trial
    raise FileError(f"volume {path} has no trial: its fourth axis has length 0.")


def read_trials(path: Path, voxels: NDArray[np.intp]) -> NDArray[np.float32]:
    """Read some voxels of all trials.

    Parameters
    ----------
    path : Path
        A NIfTI volume (i, j, k, trial).
    voxels : ndarray
        Their places in ``volume.ravel(order="F")``.

    Returns
    -------
    ndarray
        float32 (trial, voxel).

    Raises
    ------
    FileError
        If the file is missing, truncated, damaged, or has no axis of trials.
    """
    values = np.empty((volume_shape(path)[-1], len(voxels)), dtype=np.float32)
    start = 0
    for block in trial_blocks(path):
        values[start : start + block.shape[1]] = block[voxels].T
        start += block.shape[1]
    return values


def defined(
    parts: Iterable[NDArray[np.float32]], what: str, path: Path
) -> Iterator[NDArray[np.float32]]:
    """Pass the pieces of a session on, with voxels that are zero in every trial set to NaN.

    Parameters
    ----------
    parts : iterable of ndarray
        float32 (trial, some voxels), changed in place.
    what : str
        Which session, for the message.
    path : Path
        Its file.

    Raises
    ------
    FileError
        At the end, if a trial was NaN in every voxel of every piece.
    """
    filled: NDArray[np.bool_] | None = None
    for part in parts:
        part[:, ~part.any(axis=0)] = np.nan
        here = np.asarray(~np.isnan(part).all(axis=1))
        filled = here if filled is None else np.asarray(filled | here)
        yield part
    empty = np.flatnonzero(~filled) if filled is not None else np.zeros(0)
    if filled is not None and empty.size:
        raise FileError(
            f"{what} ({path}): {empty.size} of {len(filled)} trials have no value in any voxel "
            f"(first: trial {empty[0]}, counted from 0). The file is damaged or of a failed "
            "estimate: copy it again, or leave the session out."
        )


def pieces(values: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield (trial, voxel) values as consecutive pieces of at most 64 MiB, all trials each."""
    width = max(1, _PIECE_BYTES // max(1, 4 * len(values)))
    for start in range(0, values.shape[1], width):
        yield values[:, start : start + width]


def check_distinct(paths: Sequence[Path], trials: Sequence[NDArray[Any]]) -> None:
    """See that no two files hold the same first trial: one of them would be a copy.

    Parameters
    ----------
    paths : sequence of Path
        The files.
    trials : sequence of ndarray
        The first trial of each.

    Raises
    ------
    MismatchError
        If two are equal; names both files.
    """
    seen: dict[str, Path] = {}
    for path, trial in zip(paths, trials, strict=True):
        digest = hashlib.sha256(np.ascontiguousarray(trial).tobytes()).hexdigest()
        if digest in seen:
            raise MismatchError(
                f"{seen[digest]} and {path} begin with the same trial, to the last digit: one is a "
                "copy of the other under a wrong name. Download both again."
            )
        seen[digest] = path
