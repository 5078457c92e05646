"""Averages over the voxels of ROIs, where some voxels and some ROIs have nothing to average."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from neuroattn.metrics.moments import Float64
from neuroattn.metrics.resampling import Interval, bootstrap_interval

Masks = npt.NDArray[np.bool_]


def mean_weights(masks: Masks, defined: Masks, scale: Float64) -> Float64:
    """Return weights (roi, voxel) whose product with raw scores is the mean scaled score.

    Parameters
    ----------
    masks : bool array (roi, voxel)
        Membership.
    defined : bool array (voxel,)
        Voxels to average; the others weigh nothing.
    scale : float64 array (voxel,)
        What each raw score is multiplied by first; read only where ``defined``.
    """
    used = masks & defined
    count = np.maximum(used.sum(axis=1, keepdims=True), 1)
    return np.asarray(used * np.where(defined, scale, 0.0) / count)


def over_rois(masks: Masks, values: Float64, average: Callable[[Float64], Any]) -> Float64:
    """Return the average over the finite values of each ROI; NaN where there is none."""
    finite = [values[mask & np.isfinite(values)] for mask in masks]
    return np.array([average(part) if part.size else np.nan for part in finite], dtype=np.float64)


def weighted_interval(
    statistic: Callable[[Float64, Float64], Float64],
    weights: Float64,
    images: int,
    *,
    resamples: int,
    level: float,
    seed: int,
) -> Interval:
    """Return bootstrap intervals of weighted means; NaN and "none" where all weights are 0.

    Parameters
    ----------
    statistic : callable
        From counts (resample, image) and weights (output, voxel) to (resample, output).
    weights : float64 array (output, voxel)
        Of the voxels in each output.
    images : int
        Number of images.
    resamples, level, seed
        As in :func:`neuroattn.metrics.bootstrap_interval`.
    """
    used = (weights != 0).any(axis=1)
    low, high = np.full((2, len(weights)), np.nan)
    method = np.full(len(weights), "none", dtype="<U10")
    low[used], high[used], method[used] = bootstrap_interval(
        lambda counts: statistic(counts, weights[used]),
        images,
        resamples=resamples,
        level=level,
        seed=seed,
    )
    return Interval(low, high, method)
