"""What every encoder asks of its inputs, and what it remembers of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from neuroattn.errors import InputError, MismatchError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def align(features: xr.Dataset, responses: xr.Dataset) -> NDArray[np.intp]:
    """Return the row of ``features`` that belongs to each presentation of ``responses``.

    Parameters
    ----------
    features : xarray.Dataset
        With the coordinate ``image (image)``, unique.
    responses : xarray.Dataset
        With the coordinate ``image (presentation)``.

    Returns
    -------
    numpy.ndarray
        (presentation), integers.

    Raises
    ------
    MismatchError
        If images of the responses have no features; names the first five and the counts.
    InputError
        If an image id occurs twice in ``features``, or there are no presentations.
    """
    if responses.sizes["presentation"] == 0 or responses.sizes["voxel"] == 0:
        raise InputError(
            f"responses hold {responses.sizes['presentation']} presentations of "
            f"{responses.sizes['voxel']} voxels: nothing to work on. Widen the selection."
        )
    return rows_of(features, responses["image"].values)


def rows_of(features: xr.Dataset, ids: Sequence[str] | NDArray[Any]) -> NDArray[np.intp]:
    """Return the rows of ``features`` that hold the images ``ids``; errors as :func:`align`."""
    index = pd.Index(np.asarray(features["image"].values, dtype=object))
    if not index.is_unique:
        twice = index[index.duplicated()].unique()
        raise InputError(
            f"features hold {len(twice)} image ids more than once (first: {list(twice[:5])}). "
            "Ids must be unique."
        )
    wanted = np.asarray(ids, dtype=object)
    rows = index.get_indexer(pd.Index(wanted))
    if (rows < 0).any():
        missing = pd.unique(wanted[rows < 0])
        raise MismatchError(
            f"{len(missing)} of {len(pd.unique(wanted))} images have no features (first: "
            f"{[str(i) for i in missing[:5]]}); the features hold {len(index)} images. "
            "Extract the features of these images, or drop their presentations."
        )
    return np.asarray(rows, dtype=np.intp)


def check_finite(responses: xr.Dataset, block: int = 1024) -> None:
    """Refuse responses with NaN or infinity.

    Raises
    ------
    InputError
        With the number of such values and of the voxels that have them.
    """
    response = responses["response"]
    per_voxel = np.zeros(response.sizes["voxel"], dtype=np.int64)
    for start in range(0, response.sizes["presentation"], block):
        values = response.isel(presentation=slice(start, start + block)).values
        per_voxel += (~np.isfinite(values)).sum(axis=0)
    if per_voxel.any():
        raise InputError(
            f"responses hold {per_voxel.sum()} values that are NaN or infinite, in "
            f"{(per_voxel > 0).sum()} of {per_voxel.size} voxels (first: voxel "
            f"{int(np.flatnonzero(per_voxel)[0])}). "
            "Call neuroattn.data.drop_unusable_voxels(responses) first."
        )


def voxel_table(responses: xr.Dataset) -> xr.Dataset:
    """Return what is known of the voxels: coordinates, ROIs and attributes, but no responses."""
    kept = [name for name in responses.coords if responses[name].dims in (("voxel",), ("roi",))]
    coords = {name: (responses[name].dims, responses[name].values) for name in kept}
    data = {}
    if "roi_mask" in responses:
        data["roi_mask"] = (("roi", "voxel"), responses["roi_mask"].values)
    return xr.Dataset(data, coords=coords, attrs=dict(responses.attrs))


def ceiling_of(averaged: xr.Dataset) -> NDArray[np.float64]:
    """Return the ceiling of averaged responses, per voxel, NaN where nothing is known.

    Parameters
    ----------
    averaged : xarray.Dataset
        One presentation an image, with the coordinate ``repeats``: how many were averaged.
    """
    if "ceiling" in averaged:
        return np.asarray(averaged["ceiling"].values, dtype=np.float64)
    if "ncsnr" in averaged:
        from neuroattn.metrics import noise_ceiling

        return np.asarray(
            noise_ceiling(averaged["ncsnr"].values, averaged["repeats"].values), dtype=np.float64
        )
    return np.full(averaged.sizes["voxel"], np.nan)


def describe_features(features: xr.Dataset) -> dict[str, Any]:
    """Return what an encoder must remember of its features, as plain data.

    Raises
    ------
    InputError
        If ``tokens`` or the attribute ``key`` is missing.
    """
    if "tokens" not in features or "key" not in features.attrs:
        raise InputError(
            f"features hold the variables {sorted(map(str, features))} and attributes "
            f"{sorted(map(str, features.attrs))}; needed: tokens (image, token, channel) and key. "
            "Open them with FeatureStore.open."
        )
    return {
        "basis": str(features.attrs.get("basis", "")),
        "key": str(features.attrs["key"]),
        "rows": int(features.attrs.get("rows", 0)),
        "columns": int(features.attrs.get("columns", 0)),
        "tokens": int(features.sizes["token"]),
        "channels": int(features.sizes["channel"]),
    }
