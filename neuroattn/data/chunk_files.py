"""Lazy reading of a zarr array of responses: pieces of uncompressed chunks, not whole chunks.

The zarr library reads and copies every chunk that a selection touches, whole: a batch of random
presentations touches all of them. The values of an uncompressed chunk lie at known places of its
file, so rows and columns are copied from there, through a memory map; the system is told before
which pieces will be needed, so that a disk has many requests at once.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from neuroattn.errors import FileError
from neuroattn.io import atomic_path, existing

if TYPE_CHECKING:
    import zarr

Index: TypeAlias = int | slice | NDArray[np.intp]

#: Columns that lie closer than this (bytes) are fetched with what is between them.
GAP = 2**14
#: Bytes copied at a time, and how many such jobs are asked for ahead of the one that is copied.
JOB = 2**22
AHEAD = 8
#: Bytes of one request: systems cut longer ones short.
REQUEST = 2**17
#: Bytes of the checksum after the values of a chunk.
CHECKSUM = 4


def lazy_response(path: str | Path) -> xr.Variable:
    """Open a two-dimensional zarr array whose values stay in its files until they are used.

    Parameters
    ----------
    path : str or Path
        The folder of a zarr 3 array with named dimensions.

    Returns
    -------
    xarray.Variable
        Lazily indexed; it can be pickled, and be read by several threads and after a fork, as it
        holds no open file. Of an uncompressed array (codecs ``bytes``, or ``bytes`` and
        ``crc32c``) only the wanted rows and columns are read, and checksums are not looked at;
        any other array is read by the zarr library.

    Raises
    ------
    FileError
        If there is no such array. When values are used: if a chunk's file is missing, cannot be
        read or has another size than the array says.
    """
    import zarr

    place = existing(path, "zarr array")
    try:
        array: Any = zarr.open_array(place, mode="r", zarr_format=3)
        dims = array.metadata.dimension_names
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"{place} is no zarr 3 array: {error}. Copy it again.") from error
    if array.ndim != 2 or dims is None:
        raise FileError(
            f"zarr array {place} has shape {array.shape} and dimension names {dims}; expected are "
            "two named dimensions, as neuroattn writes them."
        )
    chunks = array.shards or array.chunks
    files = ChunkFiles(place, array.shape, chunks, array.dtype, _tail(array))
    encoding = {
        "chunks": array.chunks,
        "preferred_chunks": dict(zip(dims, chunks, strict=True)),
        "dtype": array.dtype,
    }
    return xr.Variable(dims, indexing.LazilyIndexedArray(files), dict(array.attrs), encoding)


def _tail(array: zarr.Array[Any]) -> int | None:
    """Return how many bytes follow a chunk's values, or None if it is not plain values."""
    from zarr.codecs import BytesCodec, Crc32cCodec

    metadata: Any = array.metadata
    codecs = metadata.codecs
    plain = (
        isinstance(codecs[0], BytesCodec)
        and codecs[0].to_dict().get("configuration") in (None, {"endian": "little"})
        and array.dtype.kind in "biuf"
        and metadata.chunk_key_encoding.to_dict()
        == {"name": "default", "configuration": {"separator": "/"}}
    )
    if not plain:
        return None
    if len(codecs) == 1:
        return 0
    return CHECKSUM if len(codecs) == 2 and isinstance(codecs[1], Crc32cCodec) else None


@dataclass(frozen=True)
class _Part:
    """What a selection wants of one block of an axis: places within the block and the result."""

    block: int
    inside: NDArray[np.intp]
    target: NDArray[np.intp]


@dataclass(frozen=True)
class _Job:
    """Some rows and columns of one mapped chunk."""

    area: mmap.mmap
    block: NDArray[Any]
    rows: _Part
    columns: _Part


class ChunkFiles(BackendArray):
    """The chunks of a two-dimensional zarr array as xarray reads them.

    Parameters
    ----------
    path : Path
        The array's folder.
    shape : tuple of int
        Rows and columns.
    chunks : tuple of int
        Rows and columns of the part of the array that one file holds.
    dtype : numpy.dtype
        Of the values.
    tail : int, optional
        Bytes after a file's values; None if only the zarr library can decode it.
    """

    def __init__(
        self,
        path: Path,
        shape: Sequence[int],
        chunks: Sequence[int],
        dtype: np.dtype[Any],
        tail: int | None,
    ) -> None:
        self.path = path
        self.shape = tuple(shape)
        self.chunks = tuple(chunks)
        self.dtype = np.dtype(dtype)
        self.tail = tail

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Return the values of an xarray indexer."""
        if not isinstance(key, indexing.VectorizedIndexer):
            return self._select(key.tuple)
        outer = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, outer, self._select)

    def _select(self, key: tuple[Index, ...]) -> NDArray[Any]:
        places = [_places(index, size) for index, size in zip(key, self.shape, strict=True)]
        parts = [_parts(p, size) for p, size in zip(places, self.chunks, strict=True)]
        if self.tail is None:
            values = self._decoded(places, parts)
        else:
            values = np.empty([len(p) for p in places], self.dtype)
            self._fill(values, parts)
        dropped = tuple(
            axis for axis, index in enumerate(key) if isinstance(index, int | np.integer)
        )
        return values.squeeze(dropped)

    def _decoded(self, places: list[NDArray[np.intp]], parts: list[list[_Part]]) -> NDArray[Any]:
        import zarr

        array: Any = zarr.open_array(self.path, mode="r", zarr_format=3)
        for rows in parts[0]:
            for columns in parts[1]:
                key = array.metadata.encode_chunk_key((rows.block, columns.block))
                # zarr answers for a file that is gone with zeros.
                existing(self.path / key, "chunk")
        try:
            return np.asarray(array.oindex[tuple(places)])
        except (OSError, ValueError, RuntimeError) as error:
            raise FileError(
                f"a chunk of {self.path} is damaged: {error}. Copy it again."
            ) from error

    def _fill(self, values: NDArray[Any], parts: list[list[_Part]]) -> None:
        # What was asked for first is copied while the disk fetches the rest.
        under_way: deque[_Job] = deque()
        for job in self._jobs(*parts):
            _ask_for(job)
            under_way.append(job)
            if len(under_way) > AHEAD:
                _finish(values, under_way.popleft())
        for job in under_way:
            _finish(values, job)

    def _jobs(self, rows: list[_Part], columns: list[_Part]) -> Iterator[_Job]:
        for down in rows:
            for across in columns:
                block = self._mapped(down.block, across.block)
                for span in _spans(across, GAP // self.dtype.itemsize):
                    width = int(span.inside[-1] - span.inside[0]) + 1
                    step = max(1, JOB // (width * self.dtype.itemsize))
                    for first in range(0, len(down.inside), step):
                        cut = slice(first, first + step)
                        some = _Part(down.block, down.inside[cut], down.target[cut])
                        yield _Job(*block, some, span)

    def _mapped(self, row: int, column: int) -> tuple[mmap.mmap, NDArray[Any]]:
        path = self.path / "c" / str(row) / str(column)
        count = self.chunks[0] * self.chunks[1]
        expected = count * self.dtype.itemsize + (self.tail or 0)
        try:
            with path.open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                if size != expected:
                    raise FileError(
                        f"chunk {path} has {size} bytes, expected are {expected}: it is truncated "
                        "or foreign. Copy the response set again."
                    )
                area = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise FileError(f"chunk {path} is missing. Copy the response set again.") from error
        except OSError as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"chunk {path} cannot be read: {error.strerror or error}.") from error
        return area, np.frombuffer(area, self.dtype, count).reshape(self.chunks)


def _ask_for(job: _Job) -> None:
    """Let the system fetch a job's pieces, all at once, without waiting for them."""
    if not hasattr(mmap, "MADV_WILLNEED"):
        return
    # Reading ahead would fetch what lies between the pieces.
    job.area.madvise(mmap.MADV_RANDOM)
    size = job.block.itemsize
    first, last = int(job.columns.inside[0]), int(job.columns.inside[-1]) + 1
    row = job.block.shape[1]
    for start in ((job.rows.inside * row + first) * size).tolist():
        stop = start + (last - first) * size
        for begin in range(start - start % mmap.PAGESIZE, stop, REQUEST):
            job.area.madvise(mmap.MADV_WILLNEED, begin, min(REQUEST, stop - begin))


def _finish(values: NDArray[Any], job: _Job) -> None:
    _copy(values, job)
    if hasattr(mmap, "MADV_DONTNEED"):
        # Mapped pages count as this process's memory: several chunks' worth of them otherwise.
        job.area.madvise(mmap.MADV_DONTNEED)


def _copy(values: NDArray[Any], job: _Job) -> None:
    inside, target = _slice(job.rows.inside), _slice(job.rows.target)
    source, place = _slice(job.columns.inside), _slice(job.columns.target)
    if isinstance(inside, slice) and isinstance(target, slice):
        values[target, place] = job.block[inside, source]
        return
    for row, position in zip(job.rows.target.tolist(), job.rows.inside.tolist(), strict=True):
        values[row, place] = job.block[position, source]


def _slice(places: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """Return consecutive places as a slice, which is copied many times faster."""
    first = int(places[0])
    if np.array_equal(places, np.arange(first, first + len(places))):
        return slice(first, first + len(places))
    return places


def _places(index: Index, size: int) -> NDArray[np.intp]:
    if isinstance(index, slice):
        return np.arange(*index.indices(size))
    # xarray has turned masks and numbers below zero into places.
    return np.atleast_1d(np.asarray(index, dtype=np.intp))


def _parts(places: NDArray[np.intp], block: int) -> list[_Part]:
    """Return what is wanted of each block of an axis, ascending within the block."""
    order = np.argsort(places, kind="stable")
    ascending = places[order]
    blocks = ascending // block
    cuts = np.flatnonzero(np.diff(blocks)) + 1
    return [
        _Part(int(ascending[cut[0]] // block), ascending[cut] % block, order[cut])
        for cut in np.split(np.arange(len(places)), cuts)
        if len(cut)
    ]


def _spans(part: _Part, gap: int) -> Iterator[_Part]:
    """Cut a part where more than ``gap`` places lie between two that are wanted."""
    cuts = np.flatnonzero(np.diff(part.inside) > gap + 1) + 1
    both = (np.split(part.inside, cuts), np.split(part.target, cuts))
    for inside, target in zip(*both, strict=True):
        yield _Part(part.block, inside, target)


def write_chunk(path: Path, place: tuple[int, int], values: NDArray[np.float32]) -> None:
    """Write one uncompressed chunk with its checksum, as the zarr library would.

    Parameters
    ----------
    path : Path
        The folder of an array of codecs ``bytes`` (little-endian) and ``crc32c``.
    place : tuple of int
        Row and column of the chunk among the chunks.
    values : ndarray
        (rows, columns) float32; a chunk at the right edge may come without its padding.

    Raises
    ------
    FileError
        If the array is of another kind, or ``values`` has not the rows of a chunk.
    """
    import google_crc32c
    import zarr

    array = zarr.open_array(path, mode="r", zarr_format=3)
    rows, columns = array.chunks
    fits = len(values) == rows and values.shape[1] <= columns and values.dtype == array.dtype
    if not fits or _tail(array) != CHECKSUM:
        raise FileError(
            f"{path} has chunks of {array.dtype} {array.chunks}; {values.dtype} {values.shape} "
            "cannot be written as one of them."
        )
    if values.shape[1] < columns:
        whole = np.full((rows, columns), array.fill_value, dtype=values.dtype)
        whole[:, : values.shape[1]] = values
        values = whole
    content = np.ascontiguousarray(values, dtype="<f4").reshape(-1).view(np.uint8)
    target = path / "c" / str(place[0]) / str(place[1])
    with atomic_path(target, sync=False) as beside, beside.open("wb") as stream:
        stream.write(content.data)
        stream.write(google_crc32c.value(content).to_bytes(CHECKSUM, "little"))
