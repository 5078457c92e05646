"""Where the feature tables of episodes are (a folder, or one HDF5 file), and how they are read."""

from __future__ import annotations

import csv
import hashlib
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import FileError, MismatchError
from neuroattn.io import check_own_values, existing, open_hdf5
from neuroattn.names import did_you_mean

_HDF5 = (".h5", ".hdf5")
_TEXT = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".npy", *_TEXT, *_HDF5)


class EpisodeTables:
    """The feature tables of one folder, or of one HDF5 file, by episode.

    Parameters
    ----------
    path : Path
        A folder with one file an episode, or an HDF5 file with one dataset an episode.

    Attributes
    ----------
    channels : int
        Of every table.

    Raises
    ------
    FileError
        If it is missing, damaged, holds no table, or two of one episode.
    MismatchError
        If tables differ in their number of channels.
    """

    def __init__(self, path: Path) -> None:
        self._path = existing(path, "stimulus table")
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.name[0] != ".")
            named = [(file.stem, file, "") for file in files]
        elif path.suffix in _HDF5:
            with open_hdf5(path, "stimulus table") as file:
                named = [(key.split("/")[0], path, key) for key in _datasets(file)]
        else:
            raise FileError(
                f"stimulus table {path} is neither a folder nor an HDF5 file ({', '.join(_HDF5)})."
            )
        self._places: dict[str, tuple[Path, str]] = {}
        for stem, file, key in named:
            episode = stem.replace("_", "-")
            if episode in self._places:
                raise FileError(f"{path} has two tables of the episode {episode!r}; keep one.")
            self._places[episode] = (file, key)
        if not self._places:
            raise FileError(
                f"stimulus table {path} holds no table; needed is a file an episode, ending in "
                f"one of {', '.join(SUFFIXES)}."
            )
        self._shapes = {name: _shape(*place) for name, place in self._places.items()}
        first, (_, self.channels) = next(iter(self._shapes.items()))
        for name, (_, channels) in self._shapes.items():
            if channels != self.channels:
                raise MismatchError(
                    f"{self._places[name][0]} has {channels} channels for {name!r}, the table of "
                    f"{first!r} has {self.channels}; all tables of {path} need the same."
                )

    def shape(self, episode: str) -> tuple[int, int]:
        """Return (samples, channels) of an episode.

        Raises
        ------
        MismatchError
            If there is no table for it.
        """
        return self._shapes[self._name(episode)]

    def place(self, episode: str) -> Path:
        """Return the file that holds an episode."""
        return self._places[self._name(episode)][0]

    def read(self, episode: str) -> NDArray[np.float32]:
        """Read the table (sample, channel) of an episode."""
        return _read(*self._places[self._name(episode)])

    def _name(self, episode: str) -> str:
        # Published features are often called by the episode alone, without the series.
        for name in (episode, episode.partition("-")[2]):
            if name in self._places:
                return name
        raise MismatchError(
            f"{self._path} has no table of the episode {episode!r} among its {len(self._places)}"
            f"{did_you_mean(episode, self._places)}. Add one, or leave its responses out."
        )

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the names and bytes of all files."""
        content = hashlib.sha256()
        for file in sorted({file for file, _ in self._places.values()}):
            with file.open("rb") as stream:
                own = hashlib.file_digest(stream, "sha256").hexdigest()
            content.update(f"{file.name}\n{own}\n".encode())
        return content.hexdigest()


def _shape(path: Path, key: str) -> tuple[int, int]:
    if path.suffix not in _HDF5:
        return _checked_shape(_plain(path), path)
    with open_hdf5(path, "stimulus table") as file:
        data = file[_only(path, key, file)]
        check_own_values(data, path)
        return _checked_shape(data, path)


def _read(path: Path, key: str) -> NDArray[np.float32]:
    if path.suffix not in _HDF5:
        return np.asarray(_plain(path), dtype=np.float32)
    with open_hdf5(path, "stimulus table") as file:
        return np.asarray(file[_only(path, key, file)][()], dtype=np.float32)


def _only(path: Path, key: str, file: Any) -> str:
    keys = [key] if key else _datasets(file)
    if len(keys) != 1:
        raise FileError(
            f"stimulus table {path} holds {len(keys)} datasets ({', '.join(keys[:5])}); needed is "
            "one in each file of a folder."
        )
    return keys[0]


def _datasets(file: Any) -> list[str]:
    import h5py

    found: list[str] = []

    def note(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found.append(name)

    file.visititems(note)
    return found


def _plain(path: Path) -> NDArray[Any]:
    if path.suffix in _TEXT:
        return _read_text(path)
    existing(path, "stimulus table")
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, TokenError) as error:
        raise FileError(
            f"stimulus table {path} ({path.stat().st_size} bytes) is truncated or no plain .npy: "
            f"{error}. Copy it again; an array in a pickle has to be saved as an array."
        ) from error
    return array


def _read_text(path: Path) -> NDArray[np.float32]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream, delimiter=_TEXT[path.suffix]) if row]
    except (ValueError, csv.Error) as error:
        raise FileError(f"stimulus table {path} is no text table: {error}.") from error
    first = 1 if rows and not _is_number(rows[0][0]) else 0
    try:
        return np.array(rows[first:], dtype=np.float32)
    except ValueError as error:
        raise FileError(
            f"stimulus table {path} has a cell that is no number, or lines of different length: "
            f"{error}."
        ) from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _checked_shape(data: Any, path: Path) -> tuple[int, int]:
    if data.ndim != 2 or 0 in data.shape or data.dtype.kind not in "biuf":
        raise FileError(
            f"stimulus table {path} holds {data.dtype} of shape {data.shape}; needed are real "
            "numbers (sample, channel), not empty."
        )
    return int(data.shape[0]), int(data.shape[1])
