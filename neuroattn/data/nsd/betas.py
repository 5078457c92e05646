"""The betas of one session, read as pieces: volumes and surfaces, HDF5, NIfTI and MGH."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.data.volumes import open_volume, reading
from neuroattn.errors import FileError
from neuroattn.io import check_own_values, existing, open_hdf5

#: NSD stores percent signal change times this as int16; no header says so.
STORED_PER_PERCENT = 300
_PIECE_BYTES = 16 * 2**20
# So few voxels may all be 0 in a trial by chance: |percent| < 1/600 rounds to 0.
_FEW_VOXELS = 10


class Betas(ABC):
    """The betas of a session in one file.

    Parameters
    ----------
    path : Path
        The file; only what describes it is read.

    Attributes
    ----------
    trials : int
        Presentations.
    size : tuple of int
        (x, y, z) of a volume, (vertices,) of a surface.
    scaled : bool
        Whether values are int16, 300 to a percent.

    Raises
    ------
    FileError
        If the file is missing, damaged, or not what NSD publishes.
    """

    trials: int
    size: tuple[int, ...]
    scaled = True

    def __init__(self, path: Path) -> None:
        self.path = existing(path, "betas")

    @abstractmethod
    def raw(self, keep: NDArray[np.intp]) -> Iterator[NDArray[Any]]:
        """Yield (trial, some of ``keep``) as stored, in order."""

    @abstractmethod
    def sample(self, keep: NDArray[np.intp]) -> NDArray[Any]:
        """Return a few of the values of ``keep``, as cheaply as the file allows."""

    def read(self, keep: NDArray[np.intp]) -> Iterator[NDArray[np.float32]]:
        """Yield (trial, some of ``keep``) in percent signal change.

        Parameters
        ----------
        keep : ndarray
            Sorted flat indices of the voxels (first axis fastest) or vertices wanted.

        Yields
        ------
        ndarray
            A voxel that is 0 in all trials, NSD's mark of an invalid one, is NaN.

        Raises
        ------
        FileError
            If no voxel has values, or all have none in some trial; or the file is truncated.
        """
        heard = np.zeros(self.trials, dtype=bool)
        valid = 0
        for raw in self.raw(keep):
            values = raw.astype(np.float32)
            if self.scaled:
                values /= np.float32(STORED_PER_PERCENT)
            silent = _silent(raw)
            values[:, silent] = np.nan
            valid += int(np.count_nonzero(~silent))
            if not heard.all():
                heard[~heard] = _present(raw[~heard]).any(axis=1)
            yield values
        if len(keep) and not valid:
            raise FileError(
                f"betas {self.path} are 0 or NaN in all trials of all {len(keep)} voxels that are "
                "wanted. The file is damaged, or the voxels lie outside the brain."
            )
        quiet = np.flatnonzero(~heard)
        if len(quiet) and valid >= (_FEW_VOXELS if self.scaled else 1):
            raise FileError(
                f"betas {self.path}: {len(quiet)} of {self.trials} trials are 0 or NaN in all "
                f"{valid} voxels, the first is trial {quiet[0] + 1}. Every published trial has "
                "values: copy the file again and compare sizes."
            )

    def fingerprint(self, keep: NDArray[np.intp]) -> str | None:
        """Return a digest of a sample, None if it holds nothing; two sessions never share one."""
        sample = np.ascontiguousarray(self.sample(keep))
        if not _present(sample).any():
            return None
        head = f"{sample.dtype} {sample.shape}".encode()
        return hashlib.sha256(head + sample.tobytes()).hexdigest()


class HDF5Betas(Betas):
    """``betas`` of an HDF5 file: (trial, z, y, x) of a volume or (trial, vertex), int16."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with self._opened() as data:
            if data.dtype != np.int16 or data.ndim not in (2, 4):
                raise FileError(
                    f"betas {path} are {data.dtype} of shape {data.shape}; needed: int16 "
                    "(trial, z, y, x) or (trial, vertex), percent signal change times 300."
                )
            self.trials = int(data.shape[0])
            self.size = tuple(int(length) for length in reversed(data.shape[1:]))

    def raw(self, keep: NDArray[np.intp]) -> Iterator[NDArray[Any]]:
        """Yield pieces of whole chunks along z (or vertices), each chunk read once."""
        with self._opened() as data:
            layer = math.prod(data.shape[2:])
            depth = data.chunks[1] if data.chunks else 1
            thick = depth * max(1, _PIECE_BYTES // (4 * self.trials * layer * depth))
            for start in range(0, data.shape[1], thick):
                stop = min(start + thick, data.shape[1])
                low, high = np.searchsorted(keep, (start * layer, stop * layer))
                if low < high:
                    yield from _pieces(self._slab(data, start, stop, keep[low:high]))

    def _slab(self, data: Any, start: int, stop: int, keep: NDArray[np.intp]) -> NDArray[Any]:
        """Read the layers from start to stop, of those the rows that hold voxels to keep."""
        places = np.unravel_index(keep, data.shape[1:])
        box = [slice(start, stop)]
        if len(places) > 1:
            box += [slice(int(places[1].min()), int(places[1].max()) + 1), slice(0, None)]
        block = data[(slice(None), *box)]
        inside = [place - side.start for place, side in zip(places, box, strict=True)]
        local = np.ravel_multi_index(inside, block.shape[1:])
        flat = block.reshape(self.trials, -1)
        return flat if len(local) == flat.shape[1] else np.take(flat, local, axis=1)

    def sample(self, keep: NDArray[np.intp]) -> NDArray[Any]:
        """Read a voxel in the middle in all trials, or all of one trial where chunks are so."""
        with self._opened() as data:
            if data.chunks and data.chunks[0] == 1 < self.trials:
                return np.take(data[0].ravel(), keep)
            for part in (2, 3, 5, 7):  # a voxel may be invalid in this session
                middle = np.unravel_index(keep[len(keep) // part], data.shape[1:])
                values = np.asarray(data[(slice(None), *map(int, middle))])
                if _present(values).any():
                    break
            return values

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        import h5py

        with open_hdf5(self.path, "file of betas", "Download it again and compare sizes.") as file:
            data = file.get("betas")
            if not isinstance(data, h5py.Dataset):
                raise FileError(
                    f"betas {self.path} hold {sorted(file)}, no dataset 'betas'; is it another "
                    "file of NSD under this name?"
                )
            check_own_values(data, self.path)
            yield data


class NiftiBetas(Betas):
    """A NIfTI file (x, y, z, trial), int16; unpacked once a session, a trial at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        image = open_volume(path)
        self._kind = np.dtype(image.header.get_data_dtype())
        slope, shift = float(image.dataobj.slope), float(image.dataobj.inter)
        found = (self._kind.kind, self._kind.itemsize, len(image.shape), slope, shift)
        if found != ("i", 2, 4, 1.0, 0.0):
            raise FileError(
                f"betas {path} are {self._kind} of shape {image.shape}, header slope {slope:g} and "
                f"intercept {shift:g}; needed: int16 (x, y, z, trial), slope 1, intercept 0: NSD "
                "publishes percent signal change times 300 that no header rescales."
            )
        self.size = tuple(int(length) for length in image.shape[:3])
        self.trials = int(image.shape[3])
        self._start = int(image.dataobj.offset)

    def raw(self, keep: NDArray[np.intp]) -> Iterator[NDArray[Any]]:
        """Yield pieces of the kept voxels, all of which are held as int16."""
        yield from _pieces(self._trials(keep, self.trials))

    def sample(self, keep: NDArray[np.intp]) -> NDArray[Any]:
        """Read the first trial."""
        return self._trials(keep, 1)

    def _trials(self, keep: NDArray[np.intp], count: int) -> NDArray[Any]:
        import nibabel

        values = np.empty((count, len(keep)), dtype=np.int16)
        length = math.prod(self.size) * self._kind.itemsize
        with reading(self.path), nibabel.openers.ImageOpener(str(self.path), "rb") as stream:
            stream.seek(self._start)
            for trial in range(count):
                content = stream.read(length)
                if len(content) < length:
                    raise FileError(
                        f"betas {self.path} end in trial {trial + 1} of {self.trials}: the file is "
                        "truncated. Download it again and compare sizes."
                    )
                values[trial] = np.frombuffer(content, dtype=self._kind)[keep]
        return values


class MghBetas(Betas):
    """An MGH file (vertex, 1, 1, trial), floating point, in percent; read a trial at a time."""

    scaled = False

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._mapped = map_mgh(path)
        if self._mapped.dtype.kind != "f":
            raise FileError(
                f"betas {path} are {self._mapped.dtype}; needed: floating point, percent signal "
                "change."
            )
        self.trials, *size = self._mapped.shape
        self.size = tuple(size)

    def raw(self, keep: NDArray[np.intp]) -> Iterator[NDArray[Any]]:
        """Yield pieces of the kept vertices."""
        width = _width(self.trials)
        for start in range(0, len(keep), width):
            some = keep[start : start + width]
            values = np.empty((self.trials, len(some)), dtype=self._mapped.dtype)
            # All trials at once would copy every vertex between the first and the last.
            for trial, stored in enumerate(self._mapped):
                values[trial] = stored[some]
            yield values

    def sample(self, keep: NDArray[np.intp]) -> NDArray[Any]:
        """Read the first trial."""
        return np.asarray(self._mapped[0, keep])


def map_mgh(path: Path) -> NDArray[Any]:
    """Map the values of an uncompressed MGH surface file (vertex, 1, 1[, frame]).

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    ndarray
        (frame, vertex), read when it is indexed.

    Raises
    ------
    FileError
        If the file is missing, truncated, no MGH, or a volume.
    """
    from nibabel.freesurfer.mghformat import MGHHeader

    place = existing(path, "MGH file")
    # nibabel would leave the file open.
    try:
        with reading(place), place.open("rb") as stream:
            header = MGHHeader.from_fileobj(stream)
            kind = np.dtype(header.get_data_dtype()).newbyteorder(">")
            vertices, *ones, frames = (*map(int, header.get_data_shape()), 1)[:4]
            start = int(header.get_data_offset())
    except (TypeError, KeyError, ValueError) as error:  # an empty file, an unknown type of values
        raise FileError(
            f"MGH file {path} ({place.stat().st_size} bytes) is truncated or no MGH: {error}. "
            "Download it again and compare sizes."
        ) from error
    needed = start + frames * vertices * kind.itemsize
    if ones != [1, 1] or min(vertices, frames) < 1 or place.stat().st_size < needed:
        raise FileError(
            f"MGH file {path} says {vertices} x {ones} x {frames} values and has "
            f"{place.stat().st_size} bytes; needed: (vertex, 1, 1, trial) in {needed} bytes. If it "
            "is truncated, download it again and compare sizes."
        )
    return np.memmap(place, dtype=kind, mode="r", offset=start, shape=(frames, vertices))


def open_betas(path: Path) -> Betas:
    """Open the betas of a session by the ending of the file, ``.hdf5``, ``.nii.gz`` or ``.mgh``.

    Raises
    ------
    FileError
        If the file is missing, damaged, or not what NSD publishes.
    """
    if path.suffix == ".hdf5":
        return HDF5Betas(path)
    return MghBetas(path) if path.suffix == ".mgh" else NiftiBetas(path)


def _pieces(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    width = _width(len(values))
    for start in range(0, values.shape[1], width):
        yield values[:, start : start + width]


def _width(trials: int) -> int:
    return max(1, _PIECE_BYTES // (4 * trials))


def _present(values: NDArray[Any]) -> NDArray[np.bool_]:
    # NaN is the one number that differs from itself.
    return np.asarray((values != 0) & (values == values))


def _silent(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which columns are 0 or NaN throughout; most are not, as a few rows show."""
    silent: NDArray[np.bool_] = ~np.any(_present(values[:8]), axis=0)
    doubtful = np.flatnonzero(silent)
    silent[doubtful] = ~np.any(_present(values[:, doubtful]), axis=0)
    return silent
