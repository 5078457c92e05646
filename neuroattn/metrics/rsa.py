"""Representational similarity analysis: how dissimilarities agree, with ceiling and interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import spatial, stats

from neuroattn.errors import InputError, MismatchError
from neuroattn.metrics.ceiling import Bounds
from neuroattn.metrics.moments import Float64
from neuroattn.metrics.resampling import bootstrap_interval
from neuroattn.names import check_name

if TYPE_CHECKING:
    import xarray as xr

METHODS = ("spearman", "rho-a", "tau-a", "pearson", "cosine")


def compare_rdms(first: Any, second: Any, method: str = "spearman") -> Float64:
    """Return how much dissimilarities agree.

    Parameters
    ----------
    first, second : array (pair,) or (rdm, pair)
        Dissimilarities of the same images in the same order.
    method : {"spearman", "rho-a", "tau-a", "pearson", "cosine"}
        "spearman": correlation of ranks, ties get their mean rank. "rho-a":
        12 Σ (p - p̄)(q - q̄) / (n³ - n) with ranks p, q of n pairs, and "tau-a":
        (concordant - discordant) / (n (n - 1) / 2), which do not favour a model with ties (a model
        of categories) over one without. "cosine" takes 0 for a true zero, as crossnobis has it.

    Returns
    -------
    float64 array
        (rdm of first, rdm of second), without the axis of what was one-dimensional. NaN where a
        dissimilarity is NaN or all are the same (for "cosine", all 0).

    Raises
    ------
    MismatchError
        If they are of different numbers of pairs.
    InputError
        If a number of pairs is that of no number of images (3 or more), or ``method`` is unknown.

    References
    ----------
    Nili et al. (2014), A toolbox for representational similarity analysis, PLoS Computational
    Biology 10:e1003553; Schütt et al. (2023), Statistical inference on representational
    geometries, eLife 12:e82566 (rho-a).
    """
    check_name("method", method, METHODS)
    one, two = _rdms("first", first), _rdms("second", second)
    if one.shape[1] != two.shape[1]:
        raise MismatchError(
            f"first has {one.shape[1]} pairs ({_images_of(one)} images), second {two.shape[1]} "
            f"({_images_of(two)}); both must be of the same images in the same order."
        )
    table = _similarities(one, two, method)
    axes = tuple(axis for axis, given in enumerate((first, second)) if np.ndim(given) == 1)
    return np.asarray(np.squeeze(table, axis=axes))


def rdm_ceiling(rdms: npt.ArrayLike, method: str = "spearman") -> Bounds:
    """Return the bounds between which the best possible model of these subjects would lie.

    Parameters
    ----------
    rdms : array (subject, pair)
        Dissimilarities of the same images in 2 subjects or more.
    method : {"spearman", "rho-a", "tau-a", "pearson", "cosine"}
        As for :func:`compare_rdms`.

    Returns
    -------
    Bounds
        Mean over subjects of the agreement with the mean of the other subjects (lower) and of all
        (upper). Before they are averaged, dissimilarities become ranks (spearman, rho-a, tau-a),
        z-scores (pearson) or are divided by their length (cosine), so that every subject counts
        the same and the mean is the best model (for tau-a nearly).

    Raises
    ------
    InputError
        If there are fewer than 2 subjects, or as for :func:`compare_rdms`.

    References
    ----------
    Nili et al. (2014), PLoS Computational Biology 10:e1003553, "Noise ceiling".
    """
    check_name("method", method, METHODS)
    known = _rdms("rdms", rdms)
    if len(known) < 2:
        raise InputError(f"rdms has shape {np.shape(rdms)}; needed: (subject, pair), 2 subjects.")
    scaled = _comparable(known, method)
    total = scaled.sum(axis=0)
    others = (total - scaled) / (len(known) - 1)
    lower = [
        _similarities(mean[None], own[None], method)[0, 0]
        for mean, own in zip(others, known, strict=True)
    ]
    upper = _similarities(total[None] / len(known), known, method)[0]
    return Bounds(np.mean(lower, axis=0), np.mean(upper, axis=0))


def compare_models(
    models: Mapping[str, npt.ArrayLike],
    rdms: npt.ArrayLike,
    method: str = "spearman",
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Compare models with measured dissimilarities: agreement, interval, p and ceiling.

    Parameters
    ----------
    models : mapping of str to array (pair,)
        Dissimilarities that each model predicts.
    rdms : array (subject, pair) or (pair,)
        Measured ones.
    method : {"spearman", "rho-a", "tau-a", "pearson", "cosine"}
        As for :func:`compare_rdms`.
    resamples : int
        Bootstrap samples of the images, and permutations; 0 for neither (NaN).
    level : float
        Coverage of the interval, in (0, 1).
    seed : int
        Of both.

    Returns
    -------
    xarray.Dataset
        ``agreement (model, subject)``; its mean over subjects ``score (model)``; ``low`` and
        ``high (model)`` of a BCa bootstrap over images, in which pairs of an image with itself
        are left out; ``p (model)``, one-sided: the share of random orders of the model's images
        that agree at least as well, (1 + number) / (1 + resamples); ``ceiling_low`` and
        ``ceiling_high``, see :func:`rdm_ceiling`, NaN for one subject.

    Raises
    ------
    InputError
        If there is no model, or as for :func:`compare_rdms`.
    MismatchError
        If a model is of another number of images.

    References
    ----------
    Nili et al. (2014), PLoS Computational Biology 10:e1003553.
    """
    import xarray as xr

    check_name("method", method, METHODS)
    if not models or resamples < 0:
        raise InputError(
            f"{len(models)} models, resamples={resamples}; give 1 model, and 0 or more."
        )
    measured = _rdms("rdms", rdms)
    predicted = np.concatenate([_rdms(f"models[{n!r}]", m)[:1] for n, m in models.items()])
    images = _images_of(measured)
    if predicted.shape[1] != measured.shape[1]:
        raise MismatchError(f"the models are of {_images_of(predicted)} images, rdms of {images}.")
    pairs = _pair_table(images)
    agreement = _similarities(predicted, measured, method)

    def scores(counts: Float64) -> Float64:
        table = np.empty((len(counts), len(predicted)))
        for row, count in enumerate(counts.astype(np.intp)):
            chosen = _drawn(pairs, np.repeat(np.arange(images), count))
            drawn = _similarities(predicted[:, chosen], measured[:, chosen], method)
            table[row] = drawn.mean(axis=1)
        return table

    generator = np.random.default_rng(seed)
    interval = bootstrap_interval(scores, images, resamples=resamples, level=level, seed=generator)
    score = agreement.mean(axis=1)
    p = _permutation_p(predicted, measured, method, resamples, generator)
    bounds = rdm_ceiling(measured, method) if len(measured) > 1 else (np.nan, np.nan)
    return xr.Dataset(
        {
            "agreement": (("model", "subject"), agreement),
            "score": ("model", score),
            "low": ("model", interval.low),
            "high": ("model", interval.high),
            "p": ("model", p),
            "ceiling_low": ((), bounds[0]),
            "ceiling_high": ((), bounds[1]),
        },
        coords={"model": list(models)},
        attrs={"method": method, "images": images, "resamples": resamples, "level": level},
    )


def _permutation_p(
    predicted: Float64,
    measured: Float64,
    method: str,
    resamples: int,
    generator: np.random.Generator,
) -> Float64:
    images = _images_of(measured)
    pairs, seen = _pair_table(images), _similarities(predicted, measured, method).mean(axis=1)
    if not resamples:
        return np.full(len(predicted), np.nan)
    reached = np.zeros(len(predicted))
    for _ in range(resamples):
        order = _drawn(pairs, generator.permutation(images))
        drawn = _similarities(predicted[:, order], measured, method).mean(axis=1)
        reached += ~(drawn < seen - 1e-12)
    return np.where(np.isfinite(seen), (1 + reached) / (1 + resamples), np.nan)


def _similarities(one: Float64, two: Float64, method: str) -> Float64:
    """Return the agreement (rdm of one, rdm of two)."""
    count = one.shape[1]
    if method == "tau-a":
        return np.array([[_tau_a(x, y) for y in two] for x in one])
    a, b = _centred(one, method), _centred(two, method)
    lengths = np.sqrt((a**2).sum(axis=1))[:, None] * np.sqrt((b**2).sum(axis=1))
    scale = (count**3 - count) / 12 if method == "rho-a" else lengths
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(lengths > 0, a @ b.T / scale, np.nan))


def _centred(rdms: Float64, method: str) -> Float64:
    if method == "cosine":
        return rdms
    values = rdms if method == "pearson" else stats.rankdata(rdms, axis=1, nan_policy="propagate")
    # The first one off keeps constants exact.
    values = values - values[:, :1]
    return np.asarray(values - values.mean(axis=1, keepdims=True))


def _comparable(rdms: Float64, method: str) -> Float64:
    if method in ("spearman", "rho-a", "tau-a"):
        return np.asarray(stats.rankdata(rdms, axis=1, nan_policy="propagate"), np.float64)
    centred = _centred(rdms, method)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(centred / np.sqrt((centred**2).sum(axis=1, keepdims=True)))


def _tau_a(x: Float64, y: Float64) -> float:
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("nan")
    pairs = len(x) * (len(x) - 1) / 2
    # scipy has tau-b, whose denominator leaves the ties of each side out.
    ties = [sum(n * (n - 1) / 2 for n in np.unique(v, return_counts=True)[1]) for v in (x, y)]
    b = float(stats.kendalltau(x, y).statistic)
    return b * float(np.sqrt((pairs - ties[0]) * (pairs - ties[1]))) / pairs


def _rdms(name: str, given: Any) -> Float64:
    values = np.atleast_2d(np.asarray(given, np.float64))
    if values.ndim != 2 or _images_of(values) < 3 or 0 in values.shape:
        raise InputError(
            f"{name} has shape {np.shape(given)}; needed: (pair,) or (rdm, pair), with "
            "n (n - 1) / 2 pairs of n images, 3 or more (see scipy.spatial.distance.squareform)."
        )
    return values


def _images_of(rdms: Float64) -> int:
    """Return the number of images of so many pairs, or 0 if there is none."""
    pairs = rdms.shape[-1]
    images = round((1 + np.sqrt(1 + 8 * pairs)) / 2)
    return images if images * (images - 1) // 2 == pairs else 0


def _pair_table(images: int) -> npt.NDArray[np.intp]:
    """Return the place of each pair (image, image), -1 on the diagonal."""
    table = spatial.distance.squareform(np.arange(1, images * (images - 1) // 2 + 1)) - 1
    return np.asarray(table, np.intp)


def _drawn(pairs: npt.NDArray[np.intp], chosen: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return the places of the pairs of some images, without those of an image with itself."""
    first, second = np.triu_indices(len(chosen), 1)
    places = pairs[chosen[first], chosen[second]]
    return np.asarray(places[places >= 0])
