"""Episodes of CNeuroMod: one dataset of an HDF5 file each, and what its key says."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.features.stimulus_table import StimulusTable
from neuroattn.io import check_own_values, open_hdf5

_KEYS = {
    "friends": re.compile(r"ses-(\d+)_task-(s\d+e\d+[a-z])(?:_run-\d+)?"),
    "movie10": re.compile(r"ses-(\d+)_task-([a-z]+\d+)(?:_run-\d+)?"),
}
_SECOND_TASK = 1000


@dataclass(frozen=True)
class Episode:
    """One recording: a run of the scanner while one part of a film was shown.

    Parameters
    ----------
    path : Path
        The HDF5 file.
    key : str
        The dataset in it.
    name : str
        What was shown: "friends-s01e02a", "movie10-figures01".
    session : int
        The number in the key; 1000 more for movie10, whose sessions are counted anew.
    samples, parcels : int
        Recorded ones.
    start, stop : int
        Samples that are kept, ``stop`` excluded.
    """

    path: Path
    key: str
    name: str
    session: int
    samples: int
    parcels: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Number of samples that are kept."""
        return self.stop - self.start

    @property
    def images(self) -> list[str]:
        """Image ids of the samples that are kept, "friends-s01e02a-00123"."""
        return [f"{self.name}-{sample:05d}" for sample in range(self.start, self.stop)]

    @property
    def movie(self) -> str:
        """Path of the film below the root of the data set."""
        task, _, part = self.name.partition("-")
        if task == "friends":
            return f"stimuli/movies/friends/s{int(part[1:].split('e')[0])}/friends_{part}.mkv"
        return f"stimuli/movies/movie10/{part.rstrip('0123456789')}/{part}.mkv"


def read_key(task: str, key: str) -> tuple[int, str] | None:
    """Return session and name of what a key stands for, or None if it is of another form."""
    found = _KEYS[task].fullmatch(key)
    if found is None:
        return None
    return int(found[1]) + (_SECOND_TASK if task == "movie10" else 0), f"{task}-{found[2]}"


def read_episodes(
    path: Path, task: str, drop: int, table: StimulusTable | None = None
) -> list[Episode]:
    """Return the recordings of a file, by session and key.

    Parameters
    ----------
    path : Path
        The HDF5 file of a subject and a task.
    task : {"friends", "movie10"}
        Which keys to expect.
    drop : int
        Samples that are not kept at both ends.
    table : StimulusTable, optional
        Samples after the end of the film are not kept either.

    Raises
    ------
    FileError
        If the file is missing, not fetched, damaged, empty, or has keys or arrays of another form.
    MismatchError
        If two keys hold the same recording, or the table lacks an episode.
    InputError
        If nothing of a recording is kept.
    """
    found: list[Episode] = []
    seen: dict[str, str] = {}
    with open_hdf5(path, "file of responses") as file:
        for key in file:
            episode = _episode(path, task, key, file[key], drop, table)
            # The same recording under two keys would be doubled or wrongly named data.
            begin = np.asarray(file[key][: episode.start + 4])
            twin = seen.setdefault(hashlib.sha256(begin.tobytes()).hexdigest(), key)
            if twin != key:
                raise MismatchError(
                    f"{path}: {key} begins with the same values as {twin}: one recording stands "
                    "under two names. Fetch the file again."
                )
            found.append(episode)
    if not found:
        raise FileError(f"{path} holds no recording of {task}. Fetch it again.")
    return sorted(found, key=lambda episode: (episode.session, episode.key))


def _episode(
    path: Path, task: str, key: str, data: Any, drop: int, table: StimulusTable | None
) -> Episode:
    place = read_key(task, key)
    if place is None:
        form = "ses-001_task-s01e02a" if task == "friends" else "ses-001_task-figures01_run-1"
        raise FileError(f"{path} has the key {key!r}; needed for {task} are keys like {form!r}.")
    shape: tuple[int, ...] = getattr(data, "shape", ())
    if len(shape) != 2 or 0 in shape or data.dtype.kind != "f":
        raise FileError(f"{path}:{key} has shape {shape}; needed are floats (sample, parcel).")
    check_own_values(data, path)
    session, name = place
    stop = shape[0] - drop if table is None else min(shape[0] - drop, table.length(name))
    if stop <= drop:
        raise InputError(
            f"drop={drop} leaves nothing of {path}:{key}: {shape[0]} samples were recorded"
            + ("." if table is None else f", the film has {table.length(name)}.")
        )
    return Episode(path, key, name, session, shape[0], shape[1], drop, stop)
