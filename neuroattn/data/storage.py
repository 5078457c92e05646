"""Response sets on disk: zarr and netCDF, lossless, atomic, opened lazily."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from neuroattn.data.chunk_files import lazy_response
from neuroattn.data.rules import as_text, validate
from neuroattn.data.schema import ResponseSet
from neuroattn.errors import FileError, InputError
from neuroattn.io import atomic_path, existing, write_netcdf

#: What both formats keep as one JSON text: netCDF has no nested lists, dicts or None.
_ATTRS = "neuroattn_attributes"
_CONTENT = "neuroattn_content"
#: Chunks are few and large: :mod:`neuroattn.data.chunk_files` reads parts of them, see
#: docs/chunking.md for the measurements.
_CHUNK_VOXELS = 16384
_CHUNK_ROWS = 512
_MOST_ROWS = 1024
_RESPONSE = "response"


def save(dataset: ResponseSet, path: str | Path) -> None:
    """Write a response set; the reading gives the same labels, numbers (to the bit) and attributes.

    Parameters
    ----------
    dataset : xarray.Dataset
        A valid response set.
    path : str or Path
        Ends in ``.zarr`` (a directory) or ``.nc`` (netCDF 4). What is there is replaced, whole.

    Raises
    ------
    InputError
        If the ending is another one, or the response set breaks a rule.
    FileError
        If it cannot be written; nothing is changed then.
    """
    kind = _kind(path)
    validate(dataset)
    if kind == "zarr":
        with atomic_path(path) as beside:
            _write_zarr(dataset, beside)
    else:
        plain = _storable(dataset)
        # The checksum turns a flipped bit into an error instead of a number.
        options = {"fletcher32": True, "chunksizes": chunk_shape(plain["response"].shape)}
        write_netcdf(path, plain, encoding={"response": options})


def open_responses(path: str | Path) -> ResponseSet:
    """Open a response set that :func:`save` wrote; ``response`` stays on disk until it is used.

    Raises
    ------
    FileError
        If the file is missing, truncated, foreign, or breaks a rule; the message names it.
    InputError
        If the ending is unknown.
    """
    kind = _kind(path)
    place = existing(path, "response set")
    try:
        dataset = _open_zarr(place) if kind == "zarr" else _open_netcdf(place)
        restored = _restored(dataset)
    except FileError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        size = f"{place.stat().st_size} bytes" if place.is_file() else "directory"
        raise FileError(
            f"response set {place} ({size}) is truncated, damaged or no {kind} written by "
            f"neuroattn: {error}. Copy it again, or make it again from its source."
        ) from error
    try:
        return validate(restored, values=False)
    except InputError as error:
        raise FileError(f"{place} holds no valid response set: {error}") from error


def _kind(path: str | Path) -> str:
    kinds = {".zarr": "zarr", ".nc": "netCDF"}
    suffix = Path(path).suffix
    if suffix not in kinds:
        raise InputError(f"path={str(path)!r} ends in {suffix!r}; allowed: '.zarr', '.nc'.")
    return kinds[suffix]


def _storable(dataset: xr.Dataset, order: Sequence[str] | None = None) -> xr.Dataset:
    """Return the data set with portable text and its attributes in one JSON text."""
    attributes = {
        "dataset": dataset.attrs,
        "variables": {str(name): dict(dataset[name].attrs) for name in dataset.variables},
        "order": [str(name) for name in dataset.data_vars] if order is None else list(order),
    }
    plain = dataset.drop_encoding().drop_attrs()
    # Fixed-width text has no specification in zarr 3; variable-length text does.
    text = {
        name: (plain[name].dims, np.asarray(plain[name].values).astype(object))
        for name in plain.coords
        if plain[name].dtype.kind in "UTO"
    }
    try:
        note = json.dumps(attributes)
    except TypeError as error:
        raise InputError(f"an attribute of a variable is not plain data: {error}.") from error
    return plain.assign_coords(text).assign_attrs({_ATTRS: note})


def _restored(dataset: xr.Dataset) -> xr.Dataset:
    if _ATTRS not in dataset.attrs:
        raise ValueError(f"the attribute {_ATTRS} is missing")
    attributes: Mapping[str, Any] = json.loads(dataset.attrs[_ATTRS])
    text = {
        name: (dataset[name].dims, as_text(dataset[name].values))
        for name in dataset.coords
        if dataset[name].dtype.kind in "OT"
    }
    restored = dataset.assign_coords(text)
    if restored.sizes.get("roi") == 0:
        # Text without a single value comes back as floating point.
        restored = restored.assign_coords(roi=np.array([], dtype="<U1"))
    small = [name for name in restored.variables if name != "response"]
    restored = restored.assign({name: restored[name].load() for name in small})
    for name, attrs in attributes["variables"].items():
        restored[name].attrs = dict(attrs)
    restored.attrs = dict(attributes["dataset"])
    # The lazy response keeps its encoding (chunks); it is dropped again when it is saved.
    names: list[str] = attributes["order"]
    return restored[names]


def chunk_shape(shape: tuple[int, ...], lengths: Sequence[int] = ()) -> tuple[int, int]:
    """Return the chunks of an array (presentation, voxel).

    Parameters
    ----------
    shape : tuple of int
        Presentations and voxels.
    lengths : sequence of int
        Presentations of each session, if they are written one by one: a chunk then holds one
        session where all are equally long, so that two sessions never share a chunk.

    Returns
    -------
    tuple of int
        Rows and columns; columns are divided evenly, so that the last chunk is hardly padded.
    """
    rows, voxels = shape
    columns = -(-voxels // -(-voxels // _CHUNK_VOXELS))
    if len(set(lengths)) == 1 and lengths[0] <= _MOST_ROWS:
        return lengths[0], columns
    return -(-rows // -(-rows // _CHUNK_ROWS)), columns


def create_response(path: Path, shape: tuple[int, int], chunks: tuple[int, int]) -> None:
    """Make a zarr group with an array ``response`` (presentation, voxel) that is yet unwritten.

    Parameters
    ----------
    path : Path
        A directory that is not there yet.
    shape, chunks : tuple of int
        Of the array.
    """
    import zarr
    from zarr.codecs import Crc32cCodec

    group = zarr.open_group(path, mode="w-", zarr_format=3)
    group.create_array(
        _RESPONSE,
        shape=shape,
        chunks=chunks,
        dtype="float32",
        # Numbers of a brain hardly shrink; uncompressed, parts of a chunk can be read. The
        # checksum turns a flipped bit into an error instead of a number.
        compressors=[Crc32cCodec()],
        fill_value=float("nan"),
        dimension_names=("presentation", "voxel"),
    )


def open_response(path: Path) -> Any:
    """Open the array ``response`` of a group for writing."""
    import zarr

    array: Any = zarr.open_group(path, mode="r+")[_RESPONSE]
    # An empty chunk is written like any other, so that a missing file is always a loss.
    return array.with_config({"write_empty_chunks": True})


def finish_zarr(path: Path, labels: xr.Dataset, order: Sequence[str] | None = None) -> None:
    """Write all but the responses into a group whose responses are written, and seal it.

    Parameters
    ----------
    path : Path
        Made by :func:`create_response`.
    labels : xarray.Dataset
        A response set without ``response``.
    order : sequence of str, optional
        Of the variables when it is opened; by default ``response`` comes first.
    """
    import zarr

    plain = _storable(labels, order or ["response", *map(str, labels.data_vars)])
    plain.to_zarr(path, mode="a", zarr_format=3, consolidated=False)
    zarr.open_group(path, mode="r+").attrs[_CONTENT] = _content(path)


def check_zarr(path: Path, labels: xr.Dataset) -> Iterator[int]:
    """Read every number of a saved response set, yielding how many were read.

    Parameters
    ----------
    path : Path
        Written by :func:`save` or a conversion.
    labels : xarray.Dataset
        What its labels should be.

    Raises
    ------
    FileError
        If a file is missing, a checksum is wrong or labels differ.
    """
    import zarr

    found = open_responses(path).drop_vars("response")
    # A ceiling that was estimated from the responses is no label of the source.
    estimated = [name for name in ("ncsnr",) if name not in labels]
    if not found.drop_vars(estimated, errors="ignore").identical(labels):
        raise FileError(f"response set {path} has other labels than its source. Convert again.")
    array: Any = zarr.open_group(path, mode="r")[_RESPONSE]
    rows, columns = array.chunks
    for top in range(0, array.shape[0], rows):
        for left in range(0, array.shape[1], columns):
            try:
                read = array[top : top + rows, left : left + columns]
            except (OSError, ValueError) as error:
                raise FileError(
                    f"response set {path} is damaged at presentation {top}, voxel {left}: "
                    f"{error}. Remove it and convert again."
                ) from error
            yield read.size


def _write_zarr(dataset: ResponseSet, path: Path) -> None:
    shape = dataset.sizes["presentation"], dataset.sizes["voxel"]
    chunks = chunk_shape(shape)
    create_response(path, shape, chunks)
    array, response = open_response(path), dataset["response"]
    # In whole rows of chunks: a lazily opened set is never held whole.
    for top in range(0, shape[0], chunks[0]):
        for left in range(0, shape[1], chunks[1]):
            here = slice(top, top + chunks[0]), slice(left, left + chunks[1])
            array[here] = response[here].values
    finish_zarr(path, dataset.drop_vars("response"), list(map(str, dataset.data_vars)))


def _open_netcdf(path: Path) -> xr.Dataset:
    return xr.open_dataset(path, engine="h5netcdf", chunks=None)


def _open_zarr(path: Path) -> xr.Dataset:
    import zarr

    # Before the arrays: zarr answers for a chunk that is gone with zeros.
    written = zarr.open_group(path, mode="r").attrs[_CONTENT]
    files, total = _content(path)
    if written != [files, total]:
        raise FileError(
            f"response set {path} is not whole: it holds {files} files of {total} bytes beside "
            f"zarr.json, written were {written}. Copy it again."
        )
    labels = xr.open_dataset(
        path, engine="zarr", chunks=None, consolidated=False, drop_variables=[_RESPONSE]
    )
    return labels.assign({_RESPONSE: lazy_response(path / _RESPONSE)})


def _content(path: Path) -> list[int]:
    """Return number and bytes of all files but the group's own metadata."""
    sizes = [
        file.stat().st_size
        for file in path.rglob("*")
        if file.is_file() and file != path / "zarr.json"
    ]
    return [len(sizes), sum(sizes)]
