"""Dissimilarities between patterns: how far apart a region, or a model, holds two images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import spatial

from neuroattn.errors import InputError, MismatchError
from neuroattn.metrics.moments import Float64, as_matrix
from neuroattn.names import check_name

MEASURES = ("correlation", "sqeuclidean")


def dissimilarities(patterns: Any, measure: str = "correlation") -> Float64:
    """Return how much the patterns of every two images differ.

    Parameters
    ----------
    patterns : array, tensor or DataArray (image, voxel)
        Responses or predictions, of 2 images and voxels or more; features, flattened, do as well.
    measure : {"correlation", "sqeuclidean"}
        1 - r over voxels, 0 to 2, NaN for a pattern that is constant over voxels; or the squared
        Euclidean distance divided by the number of voxels, in squared units of the responses.

    Returns
    -------
    float64 array (pair,)
        In the order of :func:`scipy.spatial.distance.squareform`: (0, 1), (0, 2), …, (1, 2), ….
        A voxel with a NaN makes every pair of its image NaN.

    Raises
    ------
    InputError
        If ``patterns`` is not two-dimensional or too small, or ``measure`` is unknown.

    References
    ----------
    Kriegeskorte, Mur & Bandettini (2008), Representational similarity analysis, Frontiers in
    Systems Neuroscience 2:4.
    """
    check_name("measure", measure, MEASURES)
    values = np.asarray(as_matrix("patterns", patterns), np.float64)
    if min(values.shape) < 2:
        raise InputError(f"patterns has shape {values.shape}; needed are 2 images and 2 voxels.")
    if measure == "sqeuclidean":
        return np.asarray(spatial.distance.pdist(values, "sqeuclidean") / values.shape[1])
    constant = (values == values[:, :1]).all(axis=1)
    found = np.asarray(spatial.distance.pdist(values, "correlation"))
    # Rounding gives a constant pattern some correlation or other.
    first, second = np.triu_indices(len(values), 1)
    found[constant[first] | constant[second]] = np.nan
    return found


def crossnobis(
    betas: Any,
    images: npt.ArrayLike,
    folds: npt.ArrayLike,
    covariance: npt.ArrayLike | None = None,
) -> Float64:
    """Return cross-validated squared Mahalanobis distances: 0 on average where nothing differs.

    With the mean patterns a, b of two images in folds m and n of the repeats, and the noise
    covariance S over voxels, d = mean over m ≠ n of (aᵐ - bᵐ) S⁻¹ (aⁿ - bⁿ)ᵀ / voxels. Noise
    that is independent between folds adds nothing on average; single distances may be negative.

    Parameters
    ----------
    betas : array, tensor or DataArray (presentation, voxel)
        Single-presentation responses, no NaN.
    images, folds : array (presentation,)
        Which image; and which run or session: its noise is independent of that of the others.
        Every image is shown in every fold.
    covariance : array, optional
        (voxel, voxel) noise covariance, or (voxel,) noise variances. Left out: the covariance of
        the residuals around each image's mean, shrunk as Ledoit and Wolf (2004) say.

    Returns
    -------
    float64 array (pair,)
        For the images in the order of ``np.unique(images)``.

    Raises
    ------
    MismatchError
        If labels or the covariance do not fit the responses.
    InputError
        If there are fewer than 2 images or folds, an image is missing in a fold, a response is
        not finite, or the covariance is not positive definite.

    References
    ----------
    Walther et al. (2016), Reliability of dissimilarity measures for multi-voxel pattern analysis,
    NeuroImage 137, equation 10.
    """
    values = np.asarray(as_matrix("betas", betas), np.float64)
    if not np.isfinite(values).all():
        raise InputError("betas holds NaN or infinity; leave these voxels out.")
    image, fold = np.asarray(images), np.asarray(folds)
    for name, labels in {"images": image, "folds": fold}.items():
        if labels.shape != (len(values),):
            raise MismatchError(
                f"{name} has shape {labels.shape}; needed is one label for each of the "
                f"{len(values)} presentations."
            )
    names, row = np.unique(image, return_inverse=True)
    parts, column = np.unique(fold, return_inverse=True)
    shown = np.zeros((len(parts), len(names)))
    np.add.at(shown, (column, row), 1.0)
    if min(shown.shape) < 2 or not shown.all():
        raise InputError(
            f"{len(names)} images in {len(parts)} folds, {int((shown == 0).sum())} times an image "
            "is not shown in a fold; needed are 2 or more of both, every image in every fold."
        )
    means = np.zeros((*shown.shape, values.shape[1]))
    np.add.at(means, (column, row), values)
    means /= shown[..., None]
    white = _whitened(means, values, row, covariance)
    # The sum over m ≠ n is the square of the sum less the sum of the squares.
    between = spatial.distance.pdist(white.sum(axis=0), "sqeuclidean")
    within = sum(spatial.distance.pdist(part, "sqeuclidean") for part in white)
    count = len(parts) * (len(parts) - 1) * values.shape[1]
    return np.asarray((between - within) / count)


def _whitened(
    means: Float64, values: Float64, row: npt.NDArray[np.intp], covariance: npt.ArrayLike | None
) -> Float64:
    voxels = values.shape[1]
    if covariance is None:
        from sklearn.covariance import ledoit_wolf

        average = np.zeros((row.max() + 1, voxels))
        np.add.at(average, row, values)
        residuals = values - (average / np.bincount(row)[:, None])[row]
        # Each image's mean takes one degree of freedom.
        scale = len(values) / max(len(values) - len(average), 1)
        noise = ledoit_wolf(residuals, assume_centered=True)[0] * scale
    else:
        noise = np.asarray(covariance, np.float64)
        noise = np.diag(noise) if noise.ndim == 1 else noise
    if noise.shape != (voxels, voxels):
        raise MismatchError(
            f"covariance has shape {noise.shape}; needed: ({voxels}, {voxels}) or ({voxels},)."
        )
    try:
        factor = np.linalg.cholesky(noise)
    except np.linalg.LinAlgError as error:
        raise InputError(f"covariance is not positive definite: {error}.") from error
    return np.asarray(np.linalg.solve(factor, means.swapaxes(1, 2)).swapaxes(1, 2))
