"""Scores averaged over the voxels of ROIs, with intervals, and two encoders compared so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from neuroattn.metrics import agreement
from neuroattn.metrics.moments import Float64
from neuroattn.metrics.resampling import (
    Interval,
    bootstrap_interval,
    fdr,
    paired_permutation_test,
)
from neuroattn.metrics.reweighting import reweighted_scores

ALL = "all"

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


def summary(dataset: xr.Dataset, *, resamples: int, level: float, seed: int) -> xr.Dataset:
    """Average a score's dataset over ROIs; see :meth:`neuroattn.metrics.Score.by_roi`."""
    names, masks = _rows(dataset)
    scale = _scale(dataset)
    raw, normalised, limits = (dataset[k].to_numpy() for k in ("raw", "normalised", "ceiling"))
    prediction, response = dataset["prediction"].to_numpy(), dataset["response"].to_numpy()
    metric = dataset.attrs["metric"]
    weights = mean_weights(masks, np.isfinite(normalised), scale)
    raw_weights = mean_weights(masks, np.isfinite(raw), np.ones_like(raw))
    low, high, method = weighted_interval(
        lambda counts, w: reweighted_scores(prediction, response, counts, w, metric),
        np.concatenate([weights, raw_weights]),
        len(response),
        resamples=resamples,
        level=level,
        seed=seed,
    )
    rows = len(names)
    columns: dict[str, Any] = {
        "mean": over_rois(masks, normalised, np.mean),
        "median": over_rois(masks, normalised, np.median),
        "low": low[:rows],
        "high": high[:rows],
        "raw_mean": over_rois(masks, raw, np.mean),
        "raw_low": low[rows:],
        "raw_high": high[rows:],
        "ceiling": over_rois(masks & np.isfinite(normalised), limits, np.mean),
        "voxels": masks.sum(axis=1),
        "excluded": (masks & np.isnan(scale)).sum(axis=1),
        "undefined": (masks & np.isfinite(scale) & np.isnan(raw)).sum(axis=1),
        "interval": method[:rows],
        "raw_interval": method[rows:],
    }
    attrs = {**dataset.attrs, "resamples": resamples, "level": level, "seed": seed}
    data = {key: ("roi", value) for key, value in columns.items()}
    return xr.Dataset(data, coords={"roi": names}, attrs=attrs)


def comparison(
    dataset: xr.Dataset, other: xr.Dataset, *, resamples: int, level: float, seed: int
) -> xr.Dataset:
    """Compare the datasets of two scores; see :meth:`neuroattn.metrics.Score.compare`."""
    agreement.check_comparable(dataset, other)
    names, masks = _rows(dataset)
    scale = _scale(dataset)
    units = "normalised" if np.isfinite(scale).any() else "raw"
    scale = scale if units == "normalised" else np.ones_like(scale)
    both = np.isfinite(scale * dataset["raw"].to_numpy() * other["raw"].to_numpy())
    weights = mean_weights(masks, both, scale)
    mine, theirs = dataset["prediction"].to_numpy(), other["prediction"].to_numpy()
    response, metric = dataset["response"].to_numpy(), dataset.attrs["metric"]

    def difference(counts: Float64, w: Float64) -> Float64:
        own = reweighted_scores(mine, response, counts, w, metric)
        return own - reweighted_scores(theirs, response, counts, w, metric)

    low, high, method = weighted_interval(
        difference, weights, len(response), resamples=resamples, level=level, seed=seed
    )
    test = paired_permutation_test(
        mine, theirs, response, weights, metric=metric, resamples=resamples, seed=seed
    )
    voxel_p = np.where(both, test.voxel_p, np.nan)
    columns: dict[str, Any] = {
        "difference": ("roi", test.difference),
        "low": ("roi", low),
        "high": ("roi", high),
        "p": ("roi", test.p),
        "q": ("roi", np.append(fdr(test.p[:-1]), test.p[-1])),
        "voxels": ("roi", (masks & both).sum(axis=1)),
        "interval": ("roi", method),
        "voxel_difference": ("voxel", np.where(both, test.voxel_difference * scale, np.nan)),
        "voxel_p": ("voxel", voxel_p),
        "voxel_q": ("voxel", fdr(voxel_p)),
    }
    places = {k: v for k, v in dataset.coords.items() if v.dims == ("voxel",)}
    attrs = {"metric": metric, "units": units, "resamples": resamples, "level": level}
    attrs |= {"encoders": [dataset.attrs["encoder"], other.attrs["encoder"]], "seed": seed}
    return xr.Dataset(columns, coords={**places, "roi": names}, attrs=attrs)


def _scale(dataset: xr.Dataset) -> Float64:
    threshold = float(dataset.attrs["threshold"])
    return agreement.normaliser(dataset.attrs["metric"], dataset["ceiling"].to_numpy(), threshold)


def _rows(dataset: xr.Dataset) -> tuple[list[str], Masks]:
    """Return the ROI names and masks, with the row of all voxels last."""
    masks = dataset["roi_mask"].to_numpy()
    every = np.ones((1, masks.shape[1]), dtype=bool)
    names = [str(name) for name in dataset.coords["roi"].to_numpy()]
    return [*names, ALL], np.concatenate([masks, every])
