"""The labelled response set: one builder, its counts, and the removal of voxels nobody can fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from neuroattn.data.rules import as_text, validate
from neuroattn.errors import InputError, MismatchError
from neuroattn.names import check_name

__all__ = ["ResponseSet", "describe", "drop_unusable_voxels", "response_set", "validate"]

#: A response set is an ``xarray.Dataset`` that :func:`validate` accepts.
ResponseSet: TypeAlias = xr.Dataset

_ATTRS: dict[str, Any] = {
    "space": "none",
    "tr": float("nan"),
    "units": "",
    "zscored": "none",
    "source": "",
    "licence": "",
}
_PRESENTATION = ("image", "session", "run", "repetition")
_VOXEL = ("subject", "hemisphere", "vertex", "i", "j", "k", "name")
_TEXT = ("image", "subject", "hemisphere", "name")
_BLOCK_BYTES = 64 * 2**20


def response_set(
    response: ArrayLike,
    *,
    presentation: Mapping[str, ArrayLike],
    voxel: Mapping[str, ArrayLike],
    roi: Mapping[str, ArrayLike] | None = None,
    ncsnr: ArrayLike | None = None,
    ceiling: ArrayLike | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> ResponseSet:
    """Build a response set from arrays and check it.

    Parameters
    ----------
    response : array_like
        (presentation, voxel), stored as float32. NaN is allowed, infinity is not.
    presentation : mapping
        ``image`` (str, one a presentation, required); ``session`` and ``run`` (int, default 0);
        ``repetition`` (int, counted from 0 within an image if it is not given). A single value
        stands for all presentations.
    voxel : mapping
        ``subject`` (str) and ``hemisphere`` ("left", "right", "both"), required; ``vertex`` (int)
        and/or ``i``, ``j``, ``k`` (int), required unless ``attrs["space"]`` is "none"; ``name``
        (str, optional). A single value stands for all voxels.
    roi : mapping of str to array_like, optional
        Name to bool (voxel,). ROIs may overlap and may be empty.
    ncsnr : array_like, optional
        (voxel,) noise-ceiling signal-to-noise ratio of one presentation, >= 0 or NaN.
    ceiling : array_like, optional
        (voxel,) fraction 0..1 of the variance of the responses **as given** that is signal.
    attrs : mapping, optional
        Any of ``space``, ``affine`` (16 numbers, by row), ``shape``, ``tr`` (s), ``units``,
        ``zscored``, ``source``, ``licence``, ``vertices_left``, ``vertices_right``, or more.

    Returns
    -------
    xarray.Dataset
        ``response (presentation, voxel)``, ``roi_mask (roi, voxel)`` and what was given.

    Raises
    ------
    InputError
        If a rule is broken; the message says which one, where, and by which value.
    MismatchError
        If the length of a coordinate, a mask or a ceiling is not that of ``response``.

    Examples
    --------
    >>> data = response_set(
    ...     [[1.0, 2.0], [3.0, 4.0]],
    ...     presentation={"image": ["cat", "cat"]},
    ...     voxel={"subject": "s1", "hemisphere": "left"},
    ...     roi={"FFA": [True, False]},
    ... )
    >>> data["repetition"].values.tolist()
    [0, 1]
    """
    values = np.asarray(response, dtype=np.float32)
    if values.ndim != 2:
        raise InputError(f"response has shape {values.shape}; needed: (presentation, voxel).")
    return validate(assembled(values, presentation, voxel, roi, ncsnr, ceiling, attrs))


def assembled(
    values: NDArray[np.float32],
    presentation: Mapping[str, ArrayLike],
    voxel: Mapping[str, ArrayLike],
    roi: Mapping[str, ArrayLike] | None,
    ncsnr: ArrayLike | None,
    ceiling: ArrayLike | None,
    attrs: Mapping[str, Any] | None,
) -> xr.Dataset:
    """Put the parts of a response set together, unchecked; see :func:`response_set`."""
    count, voxels = values.shape
    for key in presentation:
        check_name("presentation key", key, _PRESENTATION)
    for key in voxel:
        check_name("voxel key", key, _VOXEL)
    coords: dict[str, Any] = {
        key: ("presentation", _column(key, column, count, "presentations"))
        for key, column in {"session": 0, "run": 0, **presentation}.items()
    }
    if "image" in coords and "repetition" not in coords:
        coords["repetition"] = ("presentation", count_repetitions(coords["image"][1]))
    for key, column in voxel.items():
        coords[key] = ("voxel", _column(key, column, voxels, "voxels"))
    masks = {} if roi is None else dict(roi)
    coords["roi"] = np.array(list(masks), dtype=str) if masks else np.array([], dtype="<U1")
    table = np.zeros((len(masks), voxels), dtype=bool)
    for row, (name, mask) in enumerate(masks.items()):
        table[row] = _mask(name, mask, voxels)
    data: dict[str, Any] = {
        "response": (("presentation", "voxel"), values),
        "roi_mask": (("roi", "voxel"), table),
    }
    for key, level in {"ncsnr": ncsnr, "ceiling": ceiling}.items():
        if level is not None:
            numbers = np.asarray(level, dtype=np.float64)
            data[key] = ("voxel", _column(key, numbers, voxels, "voxels"))
    plain = {key: _plain(value) for key, value in {**_ATTRS, **(attrs or {})}.items()}
    return xr.Dataset(data, coords=coords, attrs=plain)


def count_repetitions(image: ArrayLike) -> NDArray[np.int64]:
    """Return how often each presentation's image was shown before it, (presentation,)."""
    _, inverse = np.unique(np.asarray(image), return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(inverse[order]) != 0][: len(order)])
    lengths = np.diff(np.r_[starts, len(order)])
    repetition = np.empty(len(order), dtype=np.int64)
    repetition[order] = np.arange(len(order)) - np.repeat(starts, lengths)
    return repetition


def voxel_blocks(dataset: ResponseSet) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield blocks of voxels as (slice, values (presentation, block)), 64 MiB at most each."""
    presentations, voxels = dataset.sizes["presentation"], dataset.sizes["voxel"]
    width = max(1, _BLOCK_BYTES // (4 * max(1, presentations)))
    for start in range(0, voxels, width):
        block = slice(start, min(start + width, voxels))
        yield block, np.asarray(dataset["response"].isel(voxel=block).values)


def describe(dataset: ResponseSet) -> dict[str, int]:
    """Count what is in a response set, and what in it cannot be used.

    Returns
    -------
    dict of str to int
        ``presentations``, ``images``, ``subjects``, ``sessions``, ``voxels``, ``nan_voxels`` (a
        NaN in at least one presentation), ``constant_voxels`` (no NaN, one value throughout),
        ``rois``, ``empty_rois``.
    """
    missing, constant = _unusable(dataset)
    return {
        "presentations": dataset.sizes["presentation"],
        "images": len(np.unique(dataset["image"].values)),
        "subjects": len(np.unique(dataset["subject"].values)),
        "sessions": len(np.unique(dataset["session"].values)),
        "voxels": dataset.sizes["voxel"],
        "nan_voxels": int(missing.sum()),
        "constant_voxels": int(constant.sum()),
        "rois": dataset.sizes["roi"],
        "empty_rois": int((~dataset["roi_mask"].values.any(axis=1)).sum()),
    }


def drop_unusable_voxels(dataset: ResponseSet) -> tuple[ResponseSet, dict[str, int]]:
    """Remove the voxels with a NaN and those that never change, and say how many went.

    Returns
    -------
    dataset : xarray.Dataset
        Without these voxels; ROIs keep their names, and may be empty now.
    counts : dict of str to int
        ``voxels`` (before), ``nan_voxels``, ``constant_voxels``, ``kept``.

    Raises
    ------
    InputError
        If no voxel is left.
    """
    missing, constant = _unusable(dataset)
    keep = ~(missing | constant)
    counts = {
        "voxels": dataset.sizes["voxel"],
        "nan_voxels": int(missing.sum()),
        "constant_voxels": int(constant.sum()),
        "kept": int(keep.sum()),
    }
    if not keep.any():
        raise InputError(
            f"none of the {counts['voxels']} voxels can be used: {counts['nan_voxels']} hold NaN, "
            f"{counts['constant_voxels']} are constant over {dataset.sizes['presentation']} "
            "presentations. Check the mask, the file and the selection of presentations."
        )
    kept = dataset if keep.all() else dataset.isel(voxel=np.flatnonzero(keep))
    return kept, counts


def _unusable(dataset: ResponseSet) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    missing = np.zeros(dataset.sizes["voxel"], dtype=bool)
    constant = np.zeros_like(missing)
    for block, values in voxel_blocks(dataset):
        missing[block] = np.isnan(values).any(axis=0)
        constant[block] = (values == values[:1]).all(axis=0)
    return missing, constant


def _column(key: str, column: ArrayLike, count: int, what: str) -> NDArray[Any]:
    array = np.asarray(column)
    if key in _TEXT and array.dtype.kind in "OT" and all(type(x) is str for x in array.flat):
        array = as_text(array)
    if array.ndim == 0:
        return np.full(count, array)
    if array.shape != (count,):
        raise MismatchError(
            f"{key} has shape {array.shape}, the response has {count} {what}; "
            "give one value each, or a single one for all."
        )
    # uint8 or int32 labels compare equal but overflow and save differently.
    return array.astype(np.int64) if array.dtype.kind in "iu" else array


def _mask(name: str, mask: ArrayLike, voxels: int) -> NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.shape != (voxels,):
        raise MismatchError(
            f"roi {name!r} has shape {array.shape}; the response has {voxels} voxels."
        )
    if array.dtype != np.bool_:
        raise InputError(f"roi {name!r} is {array.dtype}; a mask is bool, e.g. labels == 3.")
    return array


def _plain(value: Any) -> Any:
    """Turn numpy values and tuples into what JSON knows; leave the rest for the rules."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value
