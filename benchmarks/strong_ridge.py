"""The strongest ridge we can think of: many designs, and penalties that voxels share."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from benchmarks.common import gate
from benchmarks.incontext_run import NAME, Figures, FinishedRun, rounded
from neuroattn.encoders import RidgeEncoder
from neuroattn.encoders.ridge import ALPHAS
from neuroattn.encoders.scoring import score_predictions
from neuroattn.metrics import Score

#: Who shares a penalty, and how it is chosen: by cross-validation on the context, or, as nobody
#: could, by the score on the test images.
RULES = ("penalty a voxel", "penalty an ROI", "one penalty", "penalty an ROI, best on the test")
HINDSIGHT = RULES[3]
#: Scores of the same predictions agree to this.
SAME = 1e-4


@dataclass(frozen=True)
class Design:
    """What ridge is fitted to.

    Attributes
    ----------
    features : xarray.Dataset
        Of all images.
    view : str
        As for :class:`~neuroattn.encoders.RidgeEncoder`.
    standardise : bool
        Likewise.
    """

    features: xr.Dataset
    view: str = "flatten"
    standardise: bool = False


@dataclass(frozen=True)
class Path:
    """Ridge with each candidate penalty, fitted to several contexts.

    Attributes
    ----------
    errors : ndarray
        (penalty, draw, voxel) cross-validated mean squared error on the context.
    predictions : ndarray
        (penalty, draw, image, voxel) of the test images.
    """

    errors: NDArray[np.float64]
    predictions: NDArray[np.float32]


def ridge_path(
    design: Design,
    contexts: Sequence[xr.Dataset],
    test: xr.Dataset,
    seed: int,
    alphas: Sequence[float] = ALPHAS,
) -> Path:
    """Fit a design to contexts with each candidate penalty."""
    errors, predictions = [], []
    for alpha in alphas:
        fitted = [
            RidgeEncoder(
                design.view, alphas=[alpha], seed=seed, standardise=design.standardise
            ).fit(design.features, context)
            for context in contexts
        ]
        errors.append([-encoder.cv_scores_ for encoder in fitted])
        predictions.append(
            [encoder.predict(design.features, test["image"].values).values for encoder in fitted]
        )
    return Path(np.asarray(errors), np.asarray(predictions))


def by_rule(path: Path, test: xr.Dataset, rule: str) -> NDArray[np.float32]:
    """Return the predictions (draw, image, voxel) with the penalties that a rule chooses."""
    loss = path.errors
    if rule == HINDSIGHT:
        loss = -np.stack([normalised(draws, test) for draws in path.predictions])
        # Voxels without a ceiling are not scored, whatever their penalty.
        loss = np.nan_to_num(loss)
    best = np.empty(loss.shape[1:], dtype=int)
    for group in _groups(test, rule):
        best[:, group] = loss[:, :, group].mean(axis=2).argmin(axis=0)[:, None]
    picked: NDArray[np.float32] = np.take_along_axis(
        path.predictions, best[None, :, None, :], axis=0
    )[0]
    return picked


def normalised(predictions: NDArray[np.float32], test: xr.Dataset) -> NDArray[np.float64]:
    """Return the normalised scores (draw, voxel) of predictions (draw, image, voxel)."""
    flat = side_by_side(predictions, test, "").dataset["normalised"].values
    return np.asarray(flat.reshape(len(predictions), -1))


def side_by_side(predictions: NDArray[np.float32], test: xr.Dataset, name: str) -> Score:
    """Score predictions (draw, image, voxel): the voxels of each draw stand side by side."""
    draws, images, voxels = predictions.shape
    repeated = test.isel(voxel=np.tile(np.arange(voxels), draws))
    prediction = xr.DataArray(
        predictions.transpose(1, 0, 2).reshape(images, draws * voxels),
        dims=("image", "voxel"),
        coords={"image": test["image"].values.astype(str), **repeated["voxel"].coords},
    )
    return score_predictions(prediction, repeated, encoder=name)


def strongest_ridge(run: FinishedRun, lengths: Sequence[int], resamples: int) -> Figures:
    """Compare the in-context encoder with many kinds of ridge on the contexts of the run's curve.

    Returns
    -------
    dict
        By length and ridge (design and rule): ``score``, and
        ``difference``, the in-context encoder's advantage (value, low, high).

    Raises
    ------
    GateError
        If the scores of the in-context encoder and of the usual ridge are not those of the curve.
    """
    data, found = run.data, {}
    pool, test = data.part("train"), data.part("test")
    row = pd.Index(pool["image"].values.astype(str))
    designs = {
        "embedding": Design(run.embedded),
        "standardised embedding": Design(run.embedded, standardise=True),
        "all tokens": Design(data.features, standardise=True),
        "unstandardised tokens": Design(data.features),
        "mean token": Design(data.features, "mean", standardise=True),
    }
    for length in lengths:
        images = run.curve["images"].values[:, :length]
        contexts = [pool.isel(presentation=row.get_indexer(shown)) for shown in images]
        adapted = [copy.copy(run.incontext).adapt(data.features, each) for each in contexts]
        predicted = [each.predict(data.features, test["image"].values).values for each in adapted]
        ours = side_by_side(np.stack(predicted), test, NAME)
        gate("the in-context score is the curve's", *_as_in(run, ours, NAME, length))
        rows = {}
        for name, design in designs.items():
            path = ridge_path(design, contexts, test, data.seed)
            for rule in RULES:
                theirs = side_by_side(by_rule(path, test, rule), test, f"{name}, {rule}")
                rows[f"{name}, {rule}"] = {
                    "score": _ends(theirs.by_roi(resamples, seed=data.seed), "mean"),
                    "difference": _ends(
                        ours.compare(theirs, resamples, seed=data.seed), "difference"
                    ),
                }
                if (name, rule) == ("embedding", RULES[0]):
                    gate("the usual ridge is the curve's", *_as_in(run, theirs, "ridge", length))
        found[str(length)] = rows
    return found


def _as_in(run: FinishedRun, score: Score, name: str, length: int) -> tuple[bool, list[float]]:
    """Return whether the score over all voxels is that of the run's curve, and both."""
    own = float(score.by_roi(resamples=0)["mean"].sel(roi="all"))
    known = float(run.curve["mean"].sel(encoder=name, length=length, roi="all"))
    return abs(own - known) < SAME, [own, known]


def _ends(table: xr.Dataset, name: str) -> list[float | None]:
    return rounded(table[key].sel(roi="all") for key in (name, "low", "high"))


def _groups(responses: xr.Dataset, rule: str) -> list[NDArray[np.intp]]:
    """Return the voxels that share a penalty; one of several ROIs counts to the first."""
    voxels = np.arange(responses.sizes["voxel"])
    if rule == "penalty a voxel":
        return list(voxels[:, None])
    if rule == "one penalty":
        return [voxels]
    masks = responses["roi_mask"].values
    area = np.where(masks.any(axis=0), masks.argmax(axis=0), len(masks))
    return [voxels[area == each] for each in np.unique(area)]
