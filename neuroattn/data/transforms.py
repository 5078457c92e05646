"""Functions over a response set: averages over repetitions, z-scores, noise-ceiling SNR."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.data.schema import ResponseSet, voxel_blocks
from neuroattn.errors import InputError


def average_repetitions(dataset: ResponseSet) -> ResponseSet:
    """Average the presentations of each image.

    Parameters
    ----------
    dataset : xarray.Dataset
        A response set. One that is averaged already comes back unchanged.

    Returns
    -------
    xarray.Dataset
        One presentation an image, in the order of first showing, with the coordinate
        ``repeats (presentation)``: how many were averaged; ``session``, ``run`` and
        ``repetition`` are -1. A NaN in one repetition makes the average NaN. ``ceiling``
        is dropped where more than one was averaged: it described single responses.
    """
    if "repeats" in dataset.coords:
        return dataset
    image = np.asarray(dataset["image"].values).astype(str)
    _, first, inverse, repeats = np.unique(
        image, return_index=True, return_inverse=True, return_counts=True
    )
    shown = np.argsort(first, kind="stable")
    rank = np.empty_like(shown)
    rank[shown] = np.arange(len(shown))
    order = np.argsort(rank[inverse], kind="stable")
    counts = repeats[shown]
    starts = np.r_[0, np.cumsum(counts)[:-1]]
    averaged = np.empty((len(shown), dataset.sizes["voxel"]), dtype=np.float32)
    for block, values in voxel_blocks(dataset):
        total = np.add.reduceat(values[order].astype(np.float64), starts, axis=0)
        averaged[:, block] = total / counts[:, None]
    unknown = np.full(len(shown), -1)
    # Responses stay where they are: selecting them first would read a lazy array twice.
    result = dataset.drop_vars("response").isel(presentation=first[shown])
    if counts.max() > 1:
        result = result.drop_vars("ceiling", errors="ignore")
    return result.assign(response=(("presentation", "voxel"), averaged)).assign_coords(
        session=("presentation", unknown),
        run=("presentation", unknown),
        repetition=("presentation", unknown),
        repeats=("presentation", counts.astype(np.int64)),
    )


def zscore_within_session(dataset: ResponseSet) -> ResponseSet:
    """Scale each voxel to zero mean and unit variance (``ddof=1``) within each session.

    A voxel that is constant in a session (also: the zeros that stand for invalid voxels)
    becomes NaN in that session, never infinite. NaN presentations are left out of mean and
    variance and stay NaN.

    Parameters
    ----------
    dataset : xarray.Dataset
        A response set that is not averaged. One that is z-scored already comes back unchanged.

    Returns
    -------
    xarray.Dataset
        With ``zscored = "session"``, ``units = "z"``, and the attributes ``zscore_nan_voxels``
        and ``zscore_constant_voxels``: voxels that held a NaN, or were constant in at least
        one session. ``ceiling`` is dropped where sessions are several.

    Raises
    ------
    InputError
        If the repetitions are averaged: the sessions are gone then.
    """
    if dataset.attrs["zscored"] == "session":
        return dataset
    if "repeats" in dataset.coords:
        raise InputError(
            "dataset is averaged over repetitions (coordinate repeats), so that its sessions are "
            "gone; call zscore_within_session before average_repetitions."
        )
    session = dataset["session"].values
    rows = [np.flatnonzero(session == number) for number in np.unique(session)]
    scaled = np.empty((dataset.sizes["presentation"], dataset.sizes["voxel"]), dtype=np.float32)
    missing = np.zeros(dataset.sizes["voxel"], dtype=bool)
    constant = np.zeros_like(missing)
    for block, values in voxel_blocks(dataset):
        missing[block] = np.isnan(values).any(axis=0)
        for here in rows:
            scaled[here, block], flat = zscore_block(values[here])
            constant[block] |= flat
    counts = {
        "zscored": "session",
        "units": "z",
        "zscore_nan_voxels": int(missing.sum()),
        "zscore_constant_voxels": int(constant.sum()),
    }
    result = dataset.assign(response=(("presentation", "voxel"), scaled)).assign_attrs(counts)
    return result.drop_vars("ceiling", errors="ignore") if len(rows) > 1 else result


def zscore_block(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the z-scores (presentation, voxel) of one session, and which voxels are constant."""
    exact = values.astype(np.float64)
    with warnings.catch_warnings():
        # Columns of NaN alone, or of one number, are what the NaN below is for.
        warnings.simplefilter("ignore", RuntimeWarning)
        mean = np.nanmean(exact, axis=0)
        spread = np.nanstd(exact, axis=0, ddof=1)
        # Equality, not a zero spread: rounding leaves a constant voxel a tiny one.
        flat = np.nanmax(exact, axis=0) == np.nanmin(exact, axis=0)
    spread[flat] = np.nan
    return (exact - mean) / spread, flat


def add_ncsnr(dataset: ResponseSet, repeats: int | None = None) -> ResponseSet:
    """Add ``ncsnr (voxel)``, estimated from the repeated images.

    Parameters
    ----------
    dataset : xarray.Dataset
        A response set with single presentations, some images of it shown more than once.
    repeats : int, optional
        Use only images shown exactly so often; by default all shown twice or more.

    Raises
    ------
    InputError
        If repetitions are averaged, or no image is repeated.

    References
    ----------
    Allen et al. (2022), "A massive 7T fMRI dataset to bridge cognitive neuroscience and
    artificial intelligence", Nature Neuroscience, Methods, "Noise ceiling estimation".
    """
    from neuroattn.metrics import ncsnr

    images = np.asarray(dataset["image"].values).astype(str)
    if "repeats" in dataset.coords or len(np.unique(images)) == len(images):
        raise InputError(
            f"dataset has {len(images)} presentations of {len(np.unique(images))} images, each "
            "shown or averaged to one; ncsnr needs single presentations of repeated images. "
            "Call add_ncsnr before average_repetitions, or give a ceiling."
        )
    estimate = np.empty(dataset.sizes["voxel"])
    for block, values in voxel_blocks(dataset):
        estimate[block] = ncsnr(values, images, dataset["session"].values, repeats=repeats)
    added: xr.Dataset = dataset.assign(ncsnr=("voxel", estimate))
    return added
