"""Response sets on disk: zarr and netCDF, lossless, atomic, opened lazily."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from neuroattn.data.rules import as_text, validate
from neuroattn.data.schema import ResponseSet
from neuroattn.errors import FileError, InputError
from neuroattn.io import atomic_path, existing, write_netcdf

#: What both formats keep as one JSON text: netCDF has no nested lists, dicts or None.
_ATTRS = "neuroattn_attributes"
_CONTENT = "neuroattn_content"
_CHUNK = {"presentation": 512, "voxel": 4096}


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
    plain = _storable(dataset)
    if kind == "zarr":
        with atomic_path(path) as beside:
            _write_zarr(plain, beside)
    else:
        # The checksum turns a flipped bit into an error instead of a number.
        options = {"fletcher32": True, "chunksizes": _chunks(plain)}
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


def _storable(dataset: ResponseSet) -> xr.Dataset:
    """Return the data set with portable text and its attributes in one JSON text."""
    attributes = {
        "dataset": dataset.attrs,
        "variables": {str(name): dict(dataset[name].attrs) for name in dataset.variables},
        "order": [str(name) for name in dataset.data_vars],
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


def _write_zarr(plain: xr.Dataset, path: Path) -> None:
    import zarr

    encoding = {"response": {"chunks": _chunks(plain)}}
    plain.to_zarr(path, zarr_format=3, consolidated=False, encoding=encoding)
    zarr.open_group(path, mode="r+").attrs[_CONTENT] = _content(path)


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
    return xr.open_dataset(path, engine="zarr", chunks=None, consolidated=False)


def _content(path: Path) -> list[int]:
    """Return number and bytes of all files but the group's own metadata."""
    sizes = [
        file.stat().st_size
        for file in path.rglob("*")
        if file.is_file() and file != path / "zarr.json"
    ]
    return [len(sizes), sum(sizes)]


def _chunks(plain: xr.Dataset) -> tuple[int, ...]:
    response = plain["response"]
    return tuple(min(_CHUNK[str(dim)], size) for dim, size in response.sizes.items())
