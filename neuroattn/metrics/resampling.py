"""Intervals and tests by resampling images, from matrix products over per-image moments."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from neuroattn.errors import InputError
from neuroattn.metrics.moments import Float64
from neuroattn.metrics.reweighting import centred_blocks, matched, scores_from_sums

_RESAMPLES = 256  # evaluated at once


class Interval(NamedTuple):
    """Bootstrap interval of each output; ``method`` is "BCa", "percentile" or "none"."""

    low: Float64
    high: Float64
    method: npt.NDArray[np.str_]


class PairedTest(NamedTuple):
    """Observed differences and two-sided p-values, by voxel and by weighted mean of voxels."""

    voxel_difference: Float64
    voxel_p: Float64
    difference: Float64
    p: Float64


def bootstrap_interval(
    statistic: Callable[[Float64], Float64],
    images: int,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int | np.random.Generator = 0,
) -> Interval:
    """Return the bias-corrected accelerated bootstrap interval over images of a statistic.

    Parameters
    ----------
    statistic : callable
        From counts (resample, image) to float64 (resample, output).
    images : int
        Number of images.
    resamples : int
        Number of bootstrap samples; 0 gives NaN and method "none".
    level : float
        Nominal coverage, in (0, 1).
    seed : int or numpy Generator
        Of the draws.

    Returns
    -------
    Interval
        Arrays (output,). Where BCa is not defined (the jackknife or the bootstrap is degenerate)
        the percentile interval stands instead, and ``method`` says so.

    Raises
    ------
    InputError
        If ``resamples`` is negative or ``level`` is not in (0, 1).

    References
    ----------
    Efron (1987), Better bootstrap confidence intervals, JASA 82.
    """
    if resamples < 0 or not 0 < level < 1:
        raise InputError(
            f"resamples={resamples}, level={level}; allowed are resamples >= 0 and 0 < level < 1."
        )
    outputs = statistic(np.ones((1, images))).shape[1]
    if not resamples or images < 2 or not outputs:
        empty = np.full(outputs, np.nan)
        return Interval(empty, empty.copy(), np.full(outputs, "none"))

    low, high, bca = _bca(statistic, images, resamples, level, np.random.default_rng(seed))
    method = np.where(bca, "BCa", np.where(np.isfinite(low), "percentile", "none"))
    return Interval(low, high, method)


def paired_permutation_test(
    first: Any,
    second: Any,
    response: Any,
    weights: npt.ArrayLike,
    *,
    metric: str = "explained_variance",
    resamples: int = 1000,
    seed: int | np.random.Generator = 0,
) -> PairedTest:
    """Test whether two predictions of the same images differ in a metric.

    Each resample swaps the two predictions of a random half of the images, for all voxels alike,
    and computes the difference anew: p = (1 + number at least as far from 0) / (1 + resamples).

    Parameters
    ----------
    first, second, response : array or tensor (image, voxel)
        Two predictions and what was measured.
    weights : array (output, voxel)
        Weights of the voxels in each output.
    metric : {"explained_variance", "pearson", "r2"}
        The metric.
    resamples, seed : int
        Number of random swaps, 1 or more (the smallest p is 1 / (1 + resamples)), and their seed.

    Returns
    -------
    PairedTest
        Metric of ``first`` minus metric of ``second``, and two-sided p: by voxel (unweighted) and
        by output, where undefined voxels count nothing. NaN where undefined; a resample in which
        a voxel's metric is undefined counts against a difference.

    Raises
    ------
    InputError
        If ``resamples`` is under 1.
    MismatchError
        If the shapes differ.
    """
    first, response = matched(first, response)
    second, _ = matched(second, response)
    weights = np.asarray(weights, np.float64)
    if resamples < 1:
        raise InputError(f"resamples={resamples}; allowed is 1 or more.")
    generator = np.random.default_rng(seed)
    swaps = np.zeros((1, len(response)))
    seen, seen_mean = _swapped_differences(first, second, response, swaps, weights, metric)
    reached, reached_mean = np.zeros(seen.shape[1]), np.zeros(len(weights))
    for start in range(0, resamples, _RESAMPLES):
        size = (min(_RESAMPLES, resamples - start), len(response))
        swaps = generator.integers(0, 2, size).astype(np.float64)
        drawn, drawn_mean = _swapped_differences(first, second, response, swaps, weights, metric)
        reached += _reached(drawn, seen)
        reached_mean += _reached(drawn_mean, seen_mean)
    usable = (weights * np.isfinite(seen[0])).any(axis=1)
    p, p_mean = (1 + reached) / (1 + resamples), (1 + reached_mean) / (1 + resamples)
    seen_mean = np.where(usable, seen_mean[0], np.nan)
    p, p_mean = np.where(np.isfinite(seen[0]), p, np.nan), np.where(usable, p_mean, np.nan)
    return PairedTest(seen[0], p, seen_mean, p_mean)


def fdr(p: npt.ArrayLike) -> Float64:
    """Return Benjamini-Hochberg adjusted p-values; NaN stays NaN and is not counted as a test.

    Parameters
    ----------
    p : array (test,)
        In [0, 1] or NaN.

    References
    ----------
    Benjamini & Hochberg (1995), Journal of the Royal Statistical Society B 57.
    """
    q = np.array(p, dtype=np.float64)
    tested = np.isfinite(q)
    if tested.any():
        q[tested] = stats.false_discovery_control(q[tested])
    return q


def _bca(
    statistic: Callable[[Float64], Float64],
    images: int,
    resamples: int,
    level: float,
    generator: np.random.Generator,
) -> tuple[Float64, Float64, npt.NDArray[np.bool_]]:
    def of_indices(index: npt.NDArray[np.intp], axis: int = -1) -> Float64:
        values = statistic(_counts(np.atleast_2d(index), images)).T
        return values if index.ndim == 2 else values[:, 0]

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # A degenerate output is told by its NaN, and the percentiles stand in for it.
        warnings.simplefilter("ignore")
        result = stats.bootstrap(
            (np.arange(images),),
            of_indices,
            n_resamples=resamples,
            batch=_RESAMPLES,
            vectorized=True,
            confidence_level=level,
            method="BCa",
            rng=generator,
        )
        tails = [(1 - level) / 2, (1 + level) / 2]
        low, high = np.nanquantile(result.bootstrap_distribution, tails, axis=-1)
    bca_low, bca_high = result.confidence_interval
    bca = np.isfinite(bca_low) & np.isfinite(bca_high)
    return np.where(bca, bca_low, low), np.where(bca, bca_high, high), bca


def _reached(drawn: Float64, seen: Float64) -> npt.NDArray[np.int64]:
    # Swaps that give the same difference but for rounding are ties, and ties count.
    bound = np.abs(seen) * (1 - 1e-9)
    return np.asarray((~(np.abs(drawn) < bound)).sum(axis=0))


def _counts(index: npt.NDArray[np.intp], images: int) -> Float64:
    flat = index + images * np.arange(len(index))[:, None]
    counts = np.bincount(flat.ravel(), minlength=len(index) * images)
    return counts.reshape(len(index), images).astype(np.float64)


def _swapped_differences(
    first: npt.NDArray[Any],
    second: npt.NDArray[Any],
    response: npt.NDArray[Any],
    swaps: Float64,
    weights: Float64,
    metric: str,
) -> tuple[Float64, Float64]:
    """Return metric(first) - metric(second) after swaps, by voxel and by weighted mean."""
    images = len(response)
    by_voxel = np.empty((len(swaps), response.shape[1]))
    means = np.zeros((len(swaps), len(weights)))
    blocks = zip(
        centred_blocks(first, response, second), centred_blocks(second, response), strict=True
    )
    for (block, a, offset), (_, b, _) in blocks:
        y, yy = a[1].sum(axis=0), a[3].sum(axis=0)
        scores = []
        moved = {k: swaps @ (b[k] - a[k]) for k in (0, 2, 4)}
        for own, sign in ((a, 1.0), (b, -1.0)):
            p, pp, py = (own[k].sum(axis=0) + sign * moved[k] for k in (0, 2, 4))
            scores.append(scores_from_sums(metric, images, offset, [p, y, pp, yy, py]))
        difference = scores[0] - scores[1]
        by_voxel[:, block] = difference
        means += np.where(np.isnan(difference), 0.0, difference) @ weights[:, block].T
    return by_voxel, means
