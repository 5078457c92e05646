from __future__ import annotations

import numpy as np

from neuroattn.metrics.averages import mean_weights, over_rois, weighted_interval

MASKS = np.array([[1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]], bool)


def test_weights_give_the_mean_of_scaled_scores():
    # Catches a mean over all members instead of the defined ones, and NaN times 0.
    defined = np.array([True, False, True, False])
    scale = np.array([2.0, np.nan, 4.0, np.nan])
    weights = mean_weights(MASKS, defined, scale)
    np.testing.assert_array_equal(weights, [[1, 0, 2, 0], [0] * 4, [0] * 4])


def test_averages_pass_over_undefined_voxels():
    # Catches an empty ROI that warns, and one NaN that costs the whole ROI.
    found = over_rois(MASKS, np.array([1.0, np.nan, 3.0, np.nan]), np.mean)
    np.testing.assert_array_equal(found, [2, np.nan, np.nan])


def test_rows_without_weights_have_no_interval_and_do_not_shift_the_others():
    # Catches intervals that are written to the row of another ROI.
    values = np.arange(4) * 10 + np.random.default_rng(0).standard_normal((30, 4))
    weights = np.array([[1.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
    found = weighted_interval(
        lambda counts, w: counts @ values @ w.T / 30, weights, 30, resamples=99, level=0.9, seed=0
    )
    assert found.method.tolist() == ["BCa", "none", "BCa"]
    assert np.isnan([found.low[1], found.high[1]]).all()
    means = values.mean(axis=0)
    assert found.low[0] < means[0] < found.high[0] < 5
    assert 25 < found.low[2] < means[3] < found.high[2]
