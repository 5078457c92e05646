"""The noise-ceiling SNR that NSD ships, against the one estimated from the betas."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from neuroattn.errors import InputError, MismatchError


def compare_ncsnr(dataset: xr.Dataset, shipped: ArrayLike) -> dict[str, float | int]:
    """Compare the recomputed with the shipped noise-ceiling SNR, voxel by voxel.

    Both use all sessions of a subject only if all were read: from fewer, the recomputed one is
    noisier. NSD keeps images with exactly three trials, :func:`neuroattn.data.add_ncsnr` all that
    are repeated; these are the same for the subjects with 40 sessions.

    Parameters
    ----------
    dataset : xarray.Dataset
        A response set with ``ncsnr``, see :func:`neuroattn.data.add_ncsnr`.
    shipped : array_like
        (voxel,) as :meth:`NSD.shipped_ncsnr` returns it.

    Returns
    -------
    dict
        ``voxels``; ``compared``, finite in both; ``only_recomputed`` and ``only_shipped``, finite
        in one; over the compared ones ``correlation`` (Pearson; NaN for fewer than two, or where
        one is constant), ``median_absolute_difference``, ``median_recomputed`` and
        ``median_shipped`` (NaN where none is compared).

    Raises
    ------
    InputError
        If the data set has no ``ncsnr``.
    MismatchError
        If the numbers of voxels differ.
    """
    if "ncsnr" not in dataset:
        raise InputError("dataset has no variable ncsnr; call neuroattn.data.add_ncsnr first.")
    ours = np.asarray(dataset["ncsnr"].values, dtype=np.float64)
    theirs = np.asarray(shipped, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise MismatchError(
            f"shipped has shape {theirs.shape}, the data set has {len(ours)} voxels; give the map "
            "of the same voxels (shipped_ncsnr of the same reader)."
        )
    here, there = np.isfinite(ours), np.isfinite(theirs)
    one, other = ours[here & there], theirs[here & there]
    varied = len(one) > 1 and np.ptp(one) > 0 and np.ptp(other) > 0
    nothing = float("nan")
    return {
        "voxels": len(ours),
        "compared": len(one),
        "only_recomputed": int((here & ~there).sum()),
        "only_shipped": int((there & ~here).sum()),
        "correlation": float(np.corrcoef(one, other)[0, 1]) if varied else nothing,
        "median_absolute_difference": float(np.median(np.abs(one - other)))
        if len(one)
        else nothing,
        "median_recomputed": float(np.median(one)) if len(one) else nothing,
        "median_shipped": float(np.median(other)) if len(one) else nothing,
    }
