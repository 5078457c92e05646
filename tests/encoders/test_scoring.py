"""From predictions to a score: the ceiling, repeats and ROIs go along in the right order."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from neuroattn.data.transforms import average_repetitions
from neuroattn.encoders.scoring import score_predictions
from neuroattn.metrics import noise_ceiling
from tests.encoders.small import VOXELS, small_features, small_responses
from tests.tolerances import TOLERANCE

FEATURES = small_features()
NCSNR = np.linspace(0.0, 2.0, VOXELS)
SHOWN = [5, 3, 5, 9, 3, 5, 7, 11]


def predicted(averaged: xr.Dataset, seed: int = 0) -> xr.DataArray:
    noise = np.random.default_rng(seed).normal(size=averaged["response"].shape)
    return xr.DataArray(
        averaged["response"].values + noise,
        dims=("image", "voxel"),
        coords={
            "image": averaged["image"].values,
            **averaged["response"]
            .isel(presentation=0)
            .drop_vars(["image", "session", "run", "repetition", "repeats"])
            .coords,
        },
    )


def test_the_score_is_that_of_the_averages_over_their_ceiling():
    # Catches a ceiling of single presentations, or repeats in another order than the images.
    averaged = average_repetitions(small_responses(FEATURES, SHOWN, ncsnr=NCSNR))
    prediction = predicted(averaged)
    score = score_predictions(prediction, averaged, threshold=0.3, encoder="mine").dataset
    y = averaged["response"].values.astype(float)
    raw = 1 - (y - prediction.values).var(0) / y.var(0)
    ceiling = noise_ceiling(NCSNR, [3, 2, 1, 1, 1])
    np.testing.assert_allclose(score["raw"], raw, **TOLERANCE["float64"])
    np.testing.assert_allclose(score["ceiling"], ceiling, **TOLERANCE["float64"])
    wanted = np.where(ceiling < 0.3, np.nan, raw / np.where(ceiling > 0, ceiling, 1))
    np.testing.assert_allclose(score["normalised"], wanted, **TOLERANCE["float64"])
    assert np.isnan(wanted).any()
    assert score["repeats"].values.tolist() == [3, 2, 1, 1, 1]
    assert score["image"].values.tolist() == ["im5", "im3", "im9", "im7", "im11"]
    assert (score.attrs["encoder"], score.attrs["threshold"]) == ("mine", 0.3)
    np.testing.assert_array_equal(score["roi_mask"], averaged["roi_mask"])


def test_a_ceiling_that_ships_with_the_data_goes_before_ncsnr():
    # Catches a ceiling that is computed again from something weaker.
    shipped = np.linspace(0.2, 0.8, VOXELS)
    responses = small_responses(FEATURES, [1, 2, 3, 4], ceiling=shipped, ncsnr=NCSNR)
    averaged = average_repetitions(responses)
    score = score_predictions(predicted(averaged), averaged)
    np.testing.assert_allclose(score.dataset["ceiling"], shipped, **TOLERANCE["float64"])


def test_without_any_ceiling_there_is_no_normalised_score():
    # Catches a ceiling of one that nobody measured.
    averaged = average_repetitions(small_responses(FEATURES, [1, 2, 3, 4]))
    score = score_predictions(predicted(averaged), averaged).dataset
    assert np.isnan(score["normalised"]).all()
    assert np.isfinite(score["raw"]).all()


@pytest.mark.parametrize("metric", ["pearson", "r2", "explained_variance"])
def test_the_metric_is_the_one_asked_for(metric):
    # Catches a default that overrides the argument.
    averaged = average_repetitions(small_responses(FEATURES, [1, 2, 3, 4]))
    prediction = predicted(averaged) + 0.5
    score = score_predictions(prediction, averaged, metric=metric)
    y, p = averaged["response"].values.astype(float), prediction.values
    expected = {
        "pearson": [np.corrcoef(a, b)[0, 1] for a, b in zip(y.T, p.T, strict=True)],
        "r2": 1 - ((y - p) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0),
        "explained_variance": 1 - (y - p).var(0) / y.var(0),
    }
    assert score.metric == metric
    np.testing.assert_allclose(score.dataset["raw"], expected[metric], **TOLERANCE["float64"])
