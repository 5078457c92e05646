"""The rules of a response set; each broken one is told with its place and the value found."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from neuroattn.errors import InputError

HEMISPHERES = ("left", "right", "both")
SPACES = ("fsaverage", "fsaverage5", "challenge", "MNI", "native", "none")
ZSCORED = ("none", "session")


def validate(dataset: xr.Dataset, values: bool = True) -> xr.Dataset:
    """Return a response set unchanged if it keeps every rule.

    Parameters
    ----------
    dataset : xarray.Dataset
        ``response (presentation, voxel)`` float32; ``roi_mask (roi, voxel)`` bool with the names
        in the index coordinate ``roi``; on ``presentation``: ``image``, ``session``, ``run``,
        ``repetition``; on ``voxel``: ``subject``, ``hemisphere``, and ``vertex`` or ``i, j, k``
        (neither where the space is "none"); optional ``ncsnr`` and ``ceiling`` on ``voxel``.
    values : bool
        Also look for infinity in the responses, which reads them all.

    Raises
    ------
    InputError
        If a rule is broken; the message says which one, where, and by which value.
    """
    _check_arrays(dataset)
    _check_presentations(dataset)
    _check_voxels(dataset)
    _check_attrs(dataset)
    _check_locations(dataset)
    if values:
        _check_finite(dataset)
    return dataset


def as_text(array: ArrayLike) -> NDArray[np.str_]:
    """Return text of any storage type as fixed-width numpy text."""
    # Variable-width numpy text has no direct cast to fixed width.
    return np.asarray(np.asarray(array).astype(object).astype(str))


def _broken(rule: str, where: str, found: object) -> InputError:
    return InputError(f"response set, {where}: {rule}; found {found}.")


def _check_arrays(dataset: xr.Dataset) -> None:
    needed = {"response": ("presentation", "voxel"), "roi_mask": ("roi", "voxel")}
    kinds = {"response": np.dtype(np.float32), "roi_mask": np.dtype(bool)}
    for name, dims in needed.items():
        if name not in dataset.data_vars:
            raise _broken("must be there", f"variable {name}", sorted(map(str, dataset.data_vars)))
        variable = dataset[name]
        if variable.dims != dims:
            raise _broken(f"dimensions are {dims}", f"variable {name}", variable.dims)
        if variable.dtype != kinds[name]:
            raise _broken(f"type is {kinds[name]}", f"variable {name}", variable.dtype)
    for name in ("presentation", "voxel"):
        if dataset.sizes[name] == 0:
            raise _broken("must not be empty", f"dimension {name}", "length 0")
    if "roi" not in dataset.coords:
        raise _broken("must be there", "coordinate roi", sorted(map(str, dataset.coords)))
    names = _text(dataset, "roi", "roi")
    _unique(names, "ROI names occur once", "coordinate roi")
    for name, top in {"ncsnr": np.inf, "ceiling": 1.0}.items():
        if name in dataset:
            _check_range(dataset[name], name, top)


def _check_range(variable: xr.DataArray, name: str, top: float) -> None:
    if variable.dims != ("voxel",) or variable.dtype.kind != "f":
        found = f"{variable.dtype} {variable.dims}"
        raise _broken("is floating point on (voxel,)", f"variable {name}", found)
    numbers = variable.values
    bad = np.flatnonzero((numbers < 0) | (numbers > top))
    if bad.size:
        allowed = "0 to 1, or NaN" if top == 1 else "0 or more, or NaN"
        raise _broken(f"values are {allowed}", f"variable {name}[{bad[0]}]", numbers[bad[0]])


def _check_presentations(dataset: xr.Dataset) -> None:
    image = _text(dataset, "image", "presentation")
    for name in ("session", "run", "repetition"):
        _integers(dataset, name, "presentation", -1)
    repetition = dataset["repetition"].values
    averaged = repetition == -1
    if averaged.any():
        if not averaged.all():
            where = f"coordinate repetition[{int(np.flatnonzero(~averaged)[0])}]"
            found = repetition[~averaged][0]
            raise _broken("-1 (averaged) stands for all presentations or none", where, found)
        _integers(dataset, "repeats", "presentation", 1)
        _unique(image, "an averaged set has one presentation an image", "coordinate image")
        return
    pairs = np.char.add(np.char.add(image, "\n"), repetition.astype(str))
    _, first, count = np.unique(pairs, return_index=True, return_counts=True)
    if (count > 1).any():
        twice = image[first[count > 1][0]], int(repetition[first[count > 1][0]])
        raise _broken("an image has each repetition once", "coordinates image, repetition", twice)


def _check_voxels(dataset: xr.Dataset) -> None:
    _text(dataset, "subject", "voxel")
    hemisphere = _text(dataset, "hemisphere", "voxel")
    wrong = np.flatnonzero(~np.isin(hemisphere, HEMISPHERES))
    if wrong.size:
        where = f"coordinate hemisphere[{wrong[0]}]"
        raise _broken(f"is one of {HEMISPHERES}", where, repr(str(hemisphere[wrong[0]])))
    if "name" in dataset.coords:
        _text(dataset, "name", "voxel")
    for name in ("vertex", "i", "j", "k"):
        if name in dataset.coords:
            _integers(dataset, name, "voxel", 0)


def _check_attrs(dataset: xr.Dataset) -> None:
    attrs = dataset.attrs
    for name, allowed in {"space": SPACES, "zscored": ZSCORED}.items():
        if attrs.get(name) not in allowed:
            raise _broken(f"is one of {allowed}", f"attribute {name}", repr(attrs.get(name)))
    for name in ("units", "source", "licence"):
        if not isinstance(attrs.get(name), str):
            raise _broken("is a string", f"attribute {name}", repr(attrs.get(name)))
    if not isinstance(attrs.get("tr"), float | int) or attrs["tr"] <= 0:
        rule = "is a number of seconds, NaN where unknown"
        raise _broken(rule, "attribute tr", repr(attrs.get("tr")))
    for name, value in attrs.items():
        if not isinstance(name, str) or not _is_plain(value):
            rule = "is plain data (text, numbers, lists, dicts with text keys)"
            raise _broken(rule, f"attribute {name}", f"{type(value).__name__} {value!r}")


def _check_locations(dataset: xr.Dataset) -> None:
    axes = [name for name in ("i", "j", "k") if name in dataset.coords]
    surface = "vertex" in dataset.coords
    if axes and axes != ["i", "j", "k"]:
        raise _broken("i, j and k come together", "coordinates on voxel", axes)
    if not axes and not surface and dataset.attrs["space"] != "none":
        rule = "vertex or i, j, k say where voxels are unless attribute space is 'none'"
        raise _broken(rule, "coordinates on voxel", f"space {dataset.attrs['space']!r}")
    labels = [_text(dataset, name, "voxel") for name in ("subject", "hemisphere")]
    if surface:
        _check_vertices(dataset)
        _check_distinct([*labels, dataset["vertex"].values], "vertex")
    if axes:
        _check_volume(dataset)
        if not surface:
            _check_distinct([labels[0], *(dataset[name].values for name in axes)], "i, j, k")


def _check_vertices(dataset: xr.Dataset) -> None:
    hemisphere, vertex = dataset["hemisphere"].values, dataset["vertex"].values
    for side in ("left", "right"):
        here = np.flatnonzero(hemisphere == side)
        count = dataset.attrs.get(f"vertices_{side}")
        if here.size == 0 and count is None:
            continue
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            rule = "is the number of vertices of the mesh"
            raise _broken(rule, f"attribute vertices_{side}", repr(count))
        beyond = here[vertex[here] >= count]
        if beyond.size:
            where = f"coordinate vertex[{beyond[0]}]"
            raise _broken(f"is below vertices_{side} = {count}", where, vertex[beyond[0]])


def _check_volume(dataset: xr.Dataset) -> None:
    affine, shape = dataset.attrs.get("affine"), dataset.attrs.get("shape")
    numbers = isinstance(affine, list) and all(isinstance(x, float | int) for x in affine)
    if not numbers or len(affine or []) != 16:
        rule = "is a list of 16 numbers, row by row, where voxels have i, j, k"
        raise _broken(rule, "attribute affine", repr(affine))
    whole = isinstance(shape, list) and all(isinstance(n, int) and n > 0 for n in shape)
    if not whole or len(shape or []) != 3:
        rule = "is a list of 3 positive integers where voxels have i, j, k"
        raise _broken(rule, "attribute shape", repr(shape))
    for name, length in zip("ijk", shape or [], strict=True):
        beyond = np.flatnonzero(dataset[name].values >= length)
        if beyond.size:
            where = f"coordinate {name}[{beyond[0]}]"
            raise _broken(f"is below shape {length}", where, dataset[name].values[beyond[0]])


def _check_distinct(columns: list[NDArray[Any]], what: str) -> None:
    codes = np.stack([np.unique(column, return_inverse=True)[1] for column in columns])
    _, first, count = np.unique(codes, axis=1, return_index=True, return_counts=True)
    if (count > 1).any():
        place = first[count > 1].min()
        found = tuple(column[place].item() for column in columns)
        raise _broken("a location occurs once", f"voxel {place} ({what})", f"{found} again")


def _check_finite(dataset: xr.Dataset, block: int = 2048) -> None:
    for start in range(0, dataset.sizes["voxel"], block):
        infinite = np.isinf(dataset["response"].isel(voxel=slice(start, start + block)).values)
        if infinite.any():
            row, column = np.argwhere(infinite)[0]
            found = dataset["response"].values[row, start + column]
            where = f"response[{row}, {start + column}] (image {dataset['image'].values[row]})"
            raise _broken("responses are finite or NaN", where, found)


def _text(dataset: xr.Dataset, name: str, dim: str) -> NDArray[Any]:
    array = _coordinate(dataset, name, dim)
    if array.dtype.kind not in "UT" and not all(type(x) is str for x in array):
        raise _broken("is text", f"coordinate {name}", f"{array.dtype} {array[:1]}")
    array = as_text(array)
    empty = np.flatnonzero(array == "")
    if empty.size:
        raise _broken("no label is empty", f"coordinate {name}[{empty[0]}]", "''")
    return array


def _integers(dataset: xr.Dataset, name: str, dim: str, least: int) -> None:
    array = _coordinate(dataset, name, dim)
    if array.dtype.kind not in "iu":
        raise _broken("is integer", f"coordinate {name}", f"{array.dtype} {array[:1]}")
    low = np.flatnonzero(array < least)
    if low.size:
        raise _broken(f"is {least} or more", f"coordinate {name}[{low[0]}]", array[low[0]])


def _coordinate(dataset: xr.Dataset, name: str, dim: str) -> NDArray[Any]:
    if name not in dataset.coords or dataset[name].dims != (dim,):
        found = dataset[name].dims if name in dataset else sorted(map(str, dataset.coords))
        raise _broken(f"must be there on ({dim},)", f"coordinate {name}", found)
    return np.asarray(dataset[name].values)


def _unique(labels: NDArray[Any], rule: str, where: str) -> None:
    names, count = np.unique(labels, return_counts=True)
    if (count > 1).any():
        raise _broken(rule, where, f"{str(names[count > 1][0])!r} {count[count > 1][0]} times")


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    return value is None or type(value) in (str, int, float, bool)
