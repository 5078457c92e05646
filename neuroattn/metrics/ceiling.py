"""Noise ceilings: which share of a voxel's variance over images any model could explain."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neuroattn.errors import InputError, MismatchError
from neuroattn.metrics.moments import Float64, PairMoments, as_matrix, pearson
from neuroattn.metrics.repeats import groups, halves, repeated, variance_within

_BLOCK = 1 << 22  # float64 numbers of one block of voxels: 32 MiB


class Bounds(NamedTuple):
    """Lower and upper bound of the ceiling, correlations (voxel,)."""

    lower: Float64
    upper: Float64


def ncsnr(
    betas: Any,
    images: npt.ArrayLike,
    sessions: npt.ArrayLike | None = None,
    *,
    zscore: bool = True,
    repeats: int | None = None,
) -> Float64:
    """Return the noise-ceiling signal-to-noise ratio σ_signal / σ_noise of single presentations.

    Noise variance: over repeats of the same image (ddof 1), pooled over images. Signal variance:
    what is left of the total, at least 0 (too low by about 1 / images).

    Parameters
    ----------
    betas : array or tensor (presentation, voxel)
        Single-presentation responses.
    images : array (presentation,)
        Image of each presentation.
    sessions : array (presentation,), optional
        Session of each presentation; left out, all are of one.
    zscore : bool
        Standardise each voxel within each session first, as NSD does: total variance 1. A voxel
        that is constant in a session is NaN there.
    repeats : int, optional
        Use only images shown exactly so often (NSD: 3); left out, all shown twice or more.

    Returns
    -------
    float64 array (voxel,)
        0 or more, infinite without noise; NaN for a constant voxel. A NaN takes its session
        out for that voxel, with every image shown there; without ``zscore`` the whole voxel.

    Raises
    ------
    MismatchError
        If the labels are not as many as the presentations.
    InputError
        If no image is repeated (or none exactly ``repeats`` times).

    References
    ----------
    Allen et al. (2022), A massive 7T fMRI dataset, Methods, "Noise ceiling estimation".
    """
    betas = as_matrix("betas", betas)
    group, sizes = groups("images", images, len(betas))
    sessions = np.zeros(len(betas)) if sessions is None else sessions
    session, session_sizes = groups("sessions", sessions, len(betas))
    used = repeated(sizes, repeats)
    order = np.argsort(group, kind="stable")
    rows, result = order[used[group[order]]], np.empty(betas.shape[1])
    for block in _blocks(betas):
        values = betas[:, block].astype(np.float64)
        if zscore:
            values = _standardised(values, session, session_sizes)
            total = np.where(np.isfinite(values).any(axis=0), 1.0, np.nan)
        else:
            total = _variance(values)
        noise = variance_within(values[rows], sizes[used])
        result[block] = _ratio(total, noise)
    return result


def noise_ceiling(ncsnr: npt.ArrayLike, repeats: npt.ArrayLike) -> Float64:
    """Return the share of variance that is signal once repeats are averaged.

    Parameters
    ----------
    ncsnr : array (voxel,)
        Single-presentation σ_signal / σ_noise, 0 or more.
    repeats : int or array (image,)
        How many presentations were averaged, for all images or for each.

    Returns
    -------
    float64 array (voxel,)
        ncsnr² / (ncsnr² + mean over images of 1 / repeats), a fraction of variance in [0, 1];
        its square root is the ceiling of a correlation.

    Raises
    ------
    InputError
        If a repeat count is under 1 or an ncsnr is negative.

    References
    ----------
    Allen et al. (2022), Methods, "Noise ceiling estimation"; Algonauts 2023 for mixed repeats.
    """
    ratio, counts = np.asarray(ncsnr, np.float64), np.asarray(repeats, np.float64)
    if counts.size == 0 or not (counts >= 1).all():
        raise InputError(f"repeats holds {counts.ravel()[:5]}; allowed are counts of 1 or more.")
    if (ratio < 0).any():
        raise InputError(f"ncsnr has a negative value, {np.nanmin(ratio)}; allowed is 0 or more.")
    with np.errstate(divide="ignore"):
        return np.asarray(1.0 / (1.0 + np.mean(1.0 / counts) / ratio**2))


def spearman_brown(rho: npt.ArrayLike, factor: float = 2.0) -> Float64:
    """Return the reliability of ``factor`` times as many measurements.

    Parameters
    ----------
    rho : array
        Reliability (correlation of two equal halves), in [-1, 1].
    factor : float
        By how much the number of measurements grows; 2 goes from half to whole.

    Returns
    -------
    float64 array
        factor·ρ / (1 + (factor - 1)·ρ); negative stays negative, NaN where the denominator is
        not positive.

    References
    ----------
    Spearman (1910) and Brown (1910), British Journal of Psychology 3.
    """
    rho = np.asarray(rho, np.float64)
    denominator = 1 + (factor - 1) * rho
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, factor * rho / denominator, np.nan)


def split_half_ceiling(
    betas: Any, images: npt.ArrayLike, seed: int | np.random.Generator, splits: int = 20
) -> Float64:
    """Return the reliability of the averaged repeats, from correlations of random halves.

    Every split deals each image's repeats into two halves of ⌊k/2⌋ (one rests when k is odd),
    averages them and correlates them over images; the mean correlation over splits is stepped up
    by Spearman-Brown to all repeats, with the factor mean(1/⌊k/2⌋) / mean(1/k).

    Parameters
    ----------
    betas : array or tensor (presentation, voxel)
        Single-presentation responses.
    images : array (presentation,)
        Image of each presentation; those shown once are left out.
    seed : int or numpy Generator
        Of the random halves.
    splits : int
        Number of random splits, 1 or more.

    Returns
    -------
    float64 array (voxel,)
        Share of variance of the averaged responses that is signal: divide an explained variance
        by it; its square root is the ceiling of a correlation. Can be negative by chance; NaN
        where a half is constant or a response NaN.

    Raises
    ------
    InputError
        If fewer than 2 images are repeated or ``splits`` is under 1.
    """
    betas = as_matrix("betas", betas)
    group, sizes = groups("images", images, len(betas))
    used = repeated(sizes, None)
    if used.sum() < 2 or splits < 1:
        raise InputError(
            f"{used.sum()} repeated images and splits={splits}; allowed are 2 and 1 or more."
        )
    generator = np.random.default_rng(seed)
    pairs = [halves(group, sizes, used, generator) for _ in range(splits)]
    rho = np.empty(betas.shape[1])
    for block in _blocks(betas):
        values = betas[:, block].astype(np.float64)
        # A common shift leaves every correlation alone and keeps constants exact.
        values -= values[:1]
        rho[block] = np.mean([pearson(a @ values, b @ values) for a, b in pairs], axis=0)
    factor = np.mean(1.0 / (sizes[used] // 2)) / np.mean(1.0 / sizes[used])
    return spearman_brown(rho, float(factor))


def leave_one_subject_out_ceiling(responses: npt.ArrayLike) -> Bounds:
    """Return bounds of the ceiling from how well subjects predict each other.

    Parameters
    ----------
    responses : array (subject, image, voxel)
        The same images and matched voxels in 2 or more subjects.

    Returns
    -------
    Bounds
        Mean over subjects of the correlation with the mean of the others (lower) and with the
        mean of all, the subject included (upper), each (voxel,). Square them for the variance.
        NaN where a subject's response is constant or NaN.

    Raises
    ------
    InputError
        If there are not three dimensions or fewer than 2 subjects.

    References
    ----------
    Nili et al. (2014), A toolbox for representational similarity analysis, "noise ceiling".
    """
    values = np.asarray(responses)
    if values.ndim != 3 or len(values) < 2:
        raise InputError(
            f"responses has shape {values.shape}; allowed is (subject, image, voxel) "
            "with 2 subjects or more."
        )
    total = values.sum(axis=0, dtype=np.float64)
    lower = [pearson((total - own) / (len(values) - 1), own) for own in values]
    upper = [pearson(total / len(values), own) for own in values]
    return Bounds(np.mean(lower, axis=0), np.mean(upper, axis=0))


def bootstrap_ceiling(response: Any, bootstraps: npt.ArrayLike) -> Float64:
    """Return the ceiling of a data set that ships bootstraps instead of single presentations.

    Parameters
    ----------
    response : array or tensor (image, voxel)
        Responses as they will be predicted.
    bootstraps : array (bootstrap, image, voxel)
        Bootstrapped estimates of the same responses, 2 or more.

    Returns
    -------
    float64 array (voxel,)
        max(0, 1 - noise / total): noise is the variance over bootstraps (ddof 1), mean over
        images; total the variance of ``response`` over images (ddof 1). NaN where constant or NaN.

    Raises
    ------
    MismatchError
        If the two shapes do not fit.

    Notes
    -----
    Bootstrapping k presentations underestimates the noise variance of their mean by the factor
    (k - 1) / k, so that the ceiling is a little high when k is small.
    """
    response, samples = as_matrix("response", response), np.asarray(bootstraps)
    if samples.ndim != 3 or samples.shape[1:] != response.shape or len(samples) < 2:
        raise MismatchError(
            f"bootstraps has shape {samples.shape}; allowed is (bootstrap, image, voxel) with 2 "
            f"bootstraps or more and (image, voxel) = {response.shape} like response."
        )
    noise = np.mean([_variance(samples[:, i]) for i in range(len(response))], axis=0)
    total = _variance(response)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, np.maximum(1 - noise / total, 0.0), np.nan)


def _ratio(total: Float64, noise: Float64) -> Float64:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, np.sqrt(np.maximum(total - noise, 0.0) / noise), np.nan)


def _variance(values: npt.NDArray[Any]) -> Float64:
    """Return the variance over rows (ddof 1), exactly 0 for a constant; NaN is not skipped."""
    moments = PairMoments()
    moments.update(values, values)
    return np.asarray(moments.comoment[0] / max(moments.count - 1, 1))


def _standardised(values: Float64, session: npt.NDArray[np.intp], sizes: Any) -> Float64:
    result = np.empty_like(values)
    for index in range(len(sizes)):
        here = session == index
        rows = values[here]
        with np.errstate(divide="ignore", invalid="ignore"):
            # The first row goes first, so that a large mean costs no digits.
            rows -= rows[0].copy()
            rows -= rows.mean(axis=0)
            scale = np.sqrt(np.einsum("rv,rv->v", rows, rows) / max(len(rows) - 1, 1))
            result[here] = rows / np.where(scale > 0, scale, np.nan)
    return result


def _blocks(betas: npt.NDArray[Any]) -> list[slice]:
    width = max(1, _BLOCK // max(len(betas), 1))
    return [slice(start, start + width) for start in range(0, betas.shape[1], width)]
