"""Metrics in which each image counts some number of times, from matrix products of moments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from neuroattn.errors import MismatchError
from neuroattn.metrics.moments import Float64, PairMoments, as_matrix, metric_from_moments

_VOXELS = 512  # with 256 resamples, one block of moments is 1 MiB
_CONSTANT = 1e-12  # below this share of the uncentred sum, a variance is rounding


def reweighted_scores(
    prediction: Any,
    response: Any,
    counts: npt.ArrayLike,
    weights: npt.ArrayLike,
    metric: str = "explained_variance",
) -> Float64:
    """Return weighted means over voxels of a metric in which each image counts so many times.

    Parameters
    ----------
    prediction, response : array or tensor (image, voxel)
        Any real dtype.
    counts : array (resample, image)
        How often each image was drawn, 0 or more.
    weights : array (output, voxel)
        Weights of the voxels in each output. Voxels whose score is undefined in a resample are
        left out of it, and the sum is scaled up by their number, so that a mean stays a mean.
    metric : {"explained_variance", "pearson", "r2"}
        The metric.

    Returns
    -------
    float64 array (resample, output)
        NaN where no voxel with a weight has a score.
    """
    prediction, response = matched(prediction, response)
    drawn, weights = np.asarray(counts, np.float64), np.asarray(weights, np.float64)
    result, missing = np.zeros((2, len(drawn), len(weights)))
    for block, images, offset in centred_blocks(prediction, response):
        share = weights[:, block]
        if not share.any():
            continue
        total = drawn.sum(axis=1, keepdims=True)
        scores = scores_from_sums(metric, total, offset, [drawn @ values for values in images])
        undefined = np.isnan(scores)
        if undefined.any():
            missing += undefined @ (share != 0).T.astype(np.float64)
            scores[undefined] = 0.0
        result += scores @ share.T
    voxels = (weights != 0).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(missing < voxels, result / (1 - missing / voxels), np.nan)


def centred_blocks(
    prediction: npt.NDArray[Any],
    response: npt.NDArray[Any],
    reference: npt.NDArray[Any] | None = None,
) -> Iterator[tuple[slice, list[Float64], Float64]]:
    """Yield per-image p, y, p², y², py of each block of voxels, centred, and mean(y) - mean(p).

    ``reference`` stands in for the prediction where its mean is subtracted, so that two
    predictions can be shifted alike.
    """
    reference = prediction if reference is None else reference
    for start in range(0, response.shape[1], _VOXELS):
        block = slice(start, start + _VOXELS)
        moments = PairMoments()
        moments.update(reference[:, block], response[:, block])
        with np.errstate(invalid="ignore", over="ignore"):
            p = np.subtract(prediction[:, block], moments.mean[0])
            y = np.subtract(response[:, block], moments.mean[1])
            offset = moments.mean[1] - moments.mean[0]
            yield block, [p, y, p * p, y * y, p * y], offset


def scores_from_sums(metric: str, count: Any, offset: Any, sums: Sequence[Any]) -> Float64:
    """Return the metric from sums over images (resample, voxel) of p, y, p², y², py."""
    p, y, pp, yy, py = sums
    with np.errstate(invalid="ignore", over="ignore"):
        prediction, response = pp - p * p / count, yy - y * y / count
        prediction = np.where(prediction <= _CONSTANT * pp, 0.0, prediction)
        response = np.where(response <= _CONSTANT * yy, 0.0, response)
        bias = (y - p) / count + offset
        return metric_from_moments(metric, count, bias, prediction, response, py - p * y / count)


def matched(prediction: Any, response: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return both as (image, voxel) arrays.

    Raises
    ------
    MismatchError
        If their shapes differ.
    """
    prediction, response = as_matrix("prediction", prediction), as_matrix("response", response)
    if prediction.shape != response.shape:
        raise MismatchError(
            f"prediction is {prediction.shape} and response {response.shape}; "
            "both must be (image, voxel) of the same images and voxels."
        )
    return prediction, response
