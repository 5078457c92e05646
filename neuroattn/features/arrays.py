"""Array files that grow row by row and are read by memory map: the ground of the store."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import FileError

SAMPLES = 16


def allocate(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """Make a ``.npy`` file of ``shape`` whose rows are still holes."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)


def write_rows(path: Path, start: int, rows: NDArray[Any]) -> None:
    """Write rows into a file of :func:`allocate` from row ``start`` on; return when on disk.

    Raises
    ------
    FileError
        If the operating system refuses, for example when the disk is full.
    """
    try:
        # Plain writes: on a full disk they say so, where a memory map kills the process.
        offset = np.lib.format.open_memmap(path, mode="r").offset
        with path.open("r+b") as stream:
            stream.seek(offset + start * rows[0].nbytes)
            stream.write(np.ascontiguousarray(rows).data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise FileError(
            f"{path}: rows {start} to {start + len(rows) - 1} could not be written "
            f"({error.strerror or error}). What was counted before stays; free space and run "
            "the same fill again."
        ) from error


def load_array(path: Path, shape: tuple[int, ...], dtype: str, remedy: str) -> NDArray[Any]:
    """Return the file memory-mapped, read-only, if it is whole.

    Raises
    ------
    FileError
        If it is missing, truncated, or of another shape or dtype; ends with ``remedy``.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        size = path.stat().st_size if path.exists() else 0
        raise FileError(
            f"{path} ({size} bytes) is missing or truncated: {error}. {remedy}"
        ) from error
    if array.shape != shape or array.dtype != np.dtype(dtype) or not array.flags.c_contiguous:
        raise FileError(
            f"{path} holds {array.dtype} of shape {array.shape} where the sidecar says {dtype} "
            f"of shape {shape}. {remedy}"
        )
    return array


def sample_hash(array: NDArray[Any]) -> str:
    """Return the SHA-256 of up to sixteen rows, evenly spaced, the first and the last included."""
    picked = np.unique(np.linspace(0, len(array) - 1, SAMPLES).astype(int))
    content = hashlib.sha256()
    for row in picked:
        content.update(np.ascontiguousarray(array[row]).tobytes())
    return content.hexdigest()
