"""Pearson's r, explained variance and R² per voxel, from one pass over the images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from neuroattn.errors import InputError, MismatchError
from neuroattn.names import check_name

Float64 = npt.NDArray[np.float64]

METRICS = ("explained_variance", "pearson", "r2")
_ROWS, _VOXELS = 128, 1024  # one block of two float64 operands stays in a core's cache


class PairMoments:
    """Streaming means and co-moments of prediction and response, for every voxel.

    Each batch is summed in float64 about the running mean, so large offsets cost no digits.
    Batches may come in any order and size; :meth:`merge` joins ranks that saw different images.

    Parameters
    ----------
    voxels : int, optional
        Number of voxels. Left out, the first batch says it.

    Attributes
    ----------
    count : int
        Images seen.
    mean : float64 array (2, voxel)
        Means of prediction and response.
    comoment : float64 array (3, voxel)
        Sums over images of the centred products prediction², response² and
        prediction x response.

    References
    ----------
    Chan, Golub & LeVeque (1983), Algorithms for computing the sample variance, eq. 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> moments = PairMoments()
    >>> moments.update(np.array([[1.0], [2.0], [3.0]]), np.array([[2.0], [4.0], [6.0]]))
    >>> moments.pearson()
    array([1.])
    """

    def __init__(self, voxels: int | None = None) -> None:
        self.count = 0
        self.mean: Float64 = np.zeros((2, voxels or 0))
        self.comoment: Float64 = np.zeros((3, voxels or 0))
        self._sized = voxels is not None

    def update(self, prediction: Any, response: Any) -> None:
        """Add a batch of images.

        Parameters
        ----------
        prediction, response : numpy array or torch tensor (batch, voxel)
            Any real dtype, any device. A NaN or an infinity makes its voxel NaN, no other one.

        Raises
        ------
        MismatchError
            If the two shapes differ, or the voxels are not as many as before.
        """
        prediction, response = as_matrix("prediction", prediction), as_matrix("response", response)
        if prediction.shape != response.shape:
            raise MismatchError(
                f"prediction is {prediction.shape} and response {response.shape}; "
                "both must be (batch, voxel) of the same images and voxels."
            )
        self._fit_voxels(prediction.shape[1])
        for start in range(0, len(prediction), _ROWS):
            rows = slice(start, start + _ROWS)
            self._add(prediction[rows], response[rows])

    def merge(self, other: PairMoments) -> None:
        """Add the images that another accumulator saw.

        Raises
        ------
        MismatchError
            If it holds another number of voxels.
        """
        if not other.count:
            return
        self._fit_voxels(other.mean.shape[1])
        if not self.count:
            self.count = other.count
            self.mean, self.comoment = other.mean.copy(), other.comoment.copy()
            return
        total = self.count + other.count
        with np.errstate(invalid="ignore", over="ignore"):
            delta = other.mean - self.mean
            weight = self.count * (other.count / total)
            self.comoment += other.comoment + weight * _products(delta)
            self.mean += delta * (other.count / total)
        self.count = total

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return what :meth:`from_state` needs, as plain arrays (to gather over ranks)."""
        return {
            "count": np.array(self.count, dtype=np.int64),
            "mean": self.mean.copy(),
            "comoment": self.comoment.copy(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, npt.ArrayLike]) -> Self:
        """Build an accumulator from :meth:`state`.

        Raises
        ------
        InputError
            If a key is missing or the shapes are not those of :meth:`state`.
        """
        if missing := {"count", "mean", "comoment"} - set(state):
            raise InputError(f"state lacks {sorted(missing)}; pass what PairMoments.state() gave.")
        mean = np.array(state["mean"], dtype=np.float64)
        comoment = np.array(state["comoment"], dtype=np.float64)
        if mean.ndim != 2 or comoment.shape != (3, mean.shape[-1]) or len(mean) != 2:
            raise InputError(
                f"state holds mean {mean.shape} and comoment {comoment.shape}; "
                "allowed are (2, voxel) and (3, voxel)."
            )
        moments = cls(mean.shape[1] or None)
        moments.count, moments.mean, moments.comoment = int(state["count"]), mean, comoment  # type: ignore[arg-type]
        return moments

    def pearson(self) -> Float64:
        """Return Pearson's r (voxel,), in [-1, 1]; NaN where either side is constant."""
        return self.metric("pearson")

    def explained_variance(self) -> Float64:
        """Return 1 - var(y - ŷ) / var(y) (voxel,), at most 1; NaN where y is constant."""
        return self.metric("explained_variance")

    def r2(self) -> Float64:
        """Return 1 - Σ(y - ŷ)² / Σ(y - ȳ)² (voxel,), at most 1; NaN where y is constant."""
        return self.metric("r2")

    def metric(self, name: str) -> Float64:
        """Return a metric by name: ``explained_variance``, ``pearson`` or ``r2`` (voxel,)."""
        if self.count < 2:
            return np.full(self.mean.shape[1], np.nan)
        with np.errstate(invalid="ignore"):
            bias = self.mean[1] - self.mean[0]
        return metric_from_moments(name, self.count, bias, *self.comoment)

    def _fit_voxels(self, voxels: int) -> None:
        if not self._sized:
            self.mean, self.comoment = np.zeros((2, voxels)), np.zeros((3, voxels))
            self._sized = True
        if voxels != self.mean.shape[1]:
            raise MismatchError(
                f"this batch has {voxels} voxels, earlier ones {self.mean.shape[1]}; "
                "use one accumulator a voxel set."
            )

    def _add(self, prediction: npt.NDArray[Any], response: npt.NDArray[Any]) -> None:
        if not self.count:
            # Any shift is valid; the first image's makes constants exactly constant.
            self.mean[0], self.mean[1] = prediction[0], response[0]
        total = self.count + len(prediction)
        scratch = np.empty((3, len(prediction), min(_VOXELS, self.mean.shape[1])))
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, self.mean.shape[1], _VOXELS):
                block = slice(start, start + _VOXELS)
                p, y, product = scratch[:, :, : self.mean[:, block].shape[1]]
                np.subtract(prediction[:, block], self.mean[0, block], out=p)
                np.subtract(response[:, block], self.mean[1, block], out=y)
                sums = np.stack([p.sum(axis=0), y.sum(axis=0)])
                comoment = self.comoment[:, block]
                comoment[2] += np.multiply(p, y, out=product).sum(axis=0)
                comoment[0] += np.multiply(p, p, out=product).sum(axis=0)
                comoment[1] += np.multiply(y, y, out=product).sum(axis=0)
                # The old images sum to zero about the old mean, so only the batch shifts it.
                comoment -= _products(sums) / total
                self.mean[:, block] += sums / total
        self.count = total


def metric_from_moments(
    name: str, count: Any, bias: Any, prediction: Any, response: Any, product: Any
) -> Float64:
    """Turn co-moments into a metric: the one definition that every score goes through.

    Parameters
    ----------
    name : {"explained_variance", "pearson", "r2"}
        The metric.
    count : int or array
        Number of images.
    bias : array
        Mean response minus mean prediction.
    prediction, response, product : array
        Sums over images of the centred squares and of their product.

    Returns
    -------
    float64 array
        NaN where the response is constant (for ``pearson`` also where the prediction is).
    """
    check_name("metric", name, METRICS)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if name == "pearson":
            scale = np.sqrt(prediction) * np.sqrt(response)
            defined = (prediction > 0) & (response > 0)
            return np.clip(np.where(defined, product / scale, np.nan), -1.0, 1.0)
        # Rounding must not turn a perfect prediction into more than all of the variance.
        residual = np.maximum(prediction + response - 2 * product, 0.0)
        if name == "r2":
            residual = residual + count * bias * bias
        return np.asarray(np.where(response > 0, 1 - residual / response, np.nan))


def as_matrix(argument: str, value: Any) -> npt.NDArray[Any]:
    """Return a numpy view or copy of a real (image, voxel) array or tensor.

    Raises
    ------
    InputError
        If it is not two-dimensional or not real.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if "bfloat16" in str(value.dtype) else value
    array = np.asarray(value)
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise InputError(
            f"{argument} has shape {array.shape} and dtype {array.dtype}; "
            "allowed is a real (image, voxel) array: for one voxel pass x[:, None]."
        )
    return array


def pearson(prediction: Any, response: Any) -> Float64:
    """Return Pearson's r over images of each voxel.

    Parameters
    ----------
    prediction, response : array or tensor (image, voxel)
        Any real dtype.

    Returns
    -------
    float64 array (voxel,)
        In [-1, 1]; NaN where undefined.
    """
    return _once("pearson", prediction, response)


def explained_variance(prediction: Any, response: Any) -> Float64:
    """Return 1 - var(response - prediction) / var(response) over images of each voxel.

    Parameters
    ----------
    prediction, response : array or tensor (image, voxel)
        Any real dtype.

    Returns
    -------
    float64 array (voxel,)
        At most 1, never clipped below; NaN where undefined.
    """
    return _once("explained_variance", prediction, response)


def r2(prediction: Any, response: Any) -> Float64:
    """Return the coefficient of determination over images of each voxel.

    Parameters
    ----------
    prediction, response : array or tensor (image, voxel)
        Any real dtype.

    Returns
    -------
    float64 array (voxel,)
        At most 1, never clipped below; an offset of the prediction counts against it.
    """
    return _once("r2", prediction, response)


def _once(name: str, prediction: Any, response: Any) -> Float64:
    moments = PairMoments()
    moments.update(prediction, response)
    return moments.metric(name)


def _products(pair: Float64) -> Float64:
    """Return the squares of both rows and their product, in the order of ``comoment``."""
    return np.stack([pair[0] * pair[0], pair[1] * pair[1], pair[0] * pair[1]])
