"""Whether arrays and scores belong together, and what is said when they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from neuroattn.errors import InputError, MismatchError
from neuroattn.metrics.moments import Float64

_PLACES = ("subject", "hemisphere", "vertex", "i", "j", "k")


def check_dimensions(
    response: xr.DataArray, **others: tuple[xr.DataArray, tuple[str, ...]]
) -> None:
    """Check dimensions and sizes against the response (image, voxel).

    Raises
    ------
    MismatchError
        If an array has other dimensions or sizes.
    InputError
        If there are fewer than 2 images or no voxel.
    """
    arrays = {"response": (response, ("image", "voxel")), **others}
    for name, (array, dims) in arrays.items():
        wanted = {dim: response.sizes.get(dim, 0) for dim in dims if dim != "roi"}
        found = {str(dim): size for dim, size in array.sizes.items() if dim != "roi"}
        if array.dims != dims or found != wanted:
            raise MismatchError(
                f"{name} has dimensions {dict(array.sizes)}; allowed is {dims} with {wanted} as "
                "in response (transpose or select first)."
            )
    if response.sizes["image"] < 2 or response.sizes["voxel"] < 1:
        raise InputError(
            f"response has {dict(response.sizes)}; a score needs 2 images and 1 voxel or more."
        )


def check_same(response: xr.DataArray, other: xr.DataArray, name: str) -> None:
    """Check that images and voxel places agree wherever both arrays name them.

    Raises
    ------
    MismatchError
        Naming the coordinate and the first position that differs.
    """
    for key in ("image", *_PLACES):
        if key not in response.coords or key not in other.coords:
            continue
        mine, theirs = response.coords[key].to_numpy(), other.coords[key].to_numpy()
        if mine.shape == theirs.shape and (mine == theirs).all():
            continue
        at = int(np.flatnonzero(mine != theirs)[0]) if mine.shape == theirs.shape else 0
        raise MismatchError(
            f"{name} and response differ in {key}, first at position {at}: {theirs[at]} and "
            f"{mine[at]}; both must hold the same in the same order."
        )


def check_comparable(first: xr.Dataset, second: xr.Dataset) -> None:
    """Check that two scores rest on the same images, voxels, responses and rules.

    Raises
    ------
    MismatchError
        Naming everything that differs.
    """
    different = [
        f"{key} ({first.attrs[key]} and {second.attrs[key]})"
        for key in ("metric", "threshold")
        if first.attrs[key] != second.attrs[key]
    ]
    different += [
        f"{dim}s ({first.sizes[dim]} and {second.sizes[dim]})"
        for dim in ("image", "voxel", "roi")
        if first.sizes[dim] != second.sizes[dim]
    ]
    if not any(first.sizes[dim] != second.sizes[dim] for dim in ("image", "voxel", "roi")):
        for key in ("image", *_PLACES, "roi", "roi_mask", "response", "ceiling"):
            there = (key in first.variables) + (key in second.variables)
            if there == 1 or (there == 2 and not _equal(first[key], second[key])):
                different.append(key)
    if different:
        raise MismatchError(
            f"these scores differ in {', '.join(different)}; a paired comparison needs both "
            "encoders scored on the same test set by the same rules: score them again."
        )


def _equal(first: xr.DataArray, second: xr.DataArray) -> bool:
    one, two = first.to_numpy(), second.to_numpy()
    return np.array_equal(one, two, equal_nan=one.dtype.kind == "f" == two.dtype.kind)


def checked_ceiling(ceiling: xr.DataArray, threshold: float) -> Float64:
    """Return the ceilings as float64.

    Raises
    ------
    InputError
        If one is over 1 (a percentage) or the threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold={threshold}; allowed is a share of variance in (0, 1].")
    limits = np.asarray(ceiling.to_numpy(), np.float64)
    if (limits > 1 + 1e-6).any():
        raise InputError(
            f"ceiling holds {np.nanmax(limits):g}; allowed is a fraction of variance, at most 1. "
            "Divide percentages by 100."
        )
    return limits


def normaliser(metric: str, ceiling: Float64, threshold: float) -> Float64:
    """Return what a raw score is multiplied by; NaN for an excluded voxel."""
    with np.errstate(invalid="ignore"):
        kept = np.where(ceiling >= threshold, ceiling, np.nan)
    return np.asarray(1.0 / np.sqrt(kept) if metric == "pearson" else 1.0 / kept)


def coordinates(response: xr.DataArray, roi: xr.DataArray) -> dict[str, Any]:
    """Return the plain coordinates of images and voxels, and the ROI names."""
    kept = {
        str(name): (array.dims, array.to_numpy())
        for name, array in response.coords.items()
        if array.dims in (("image",), ("voxel",)) and name != "repeats"
    }
    return {**kept, "roi": ("roi", roi.coords["roi"].to_numpy())}


def no_rois(voxels: int) -> xr.DataArray:
    """Return a mask table of no ROI."""
    names = np.array([], dtype="<U1")
    return xr.DataArray(np.zeros((0, voxels), bool), {"roi": names}, ("roi", "voxel"))
