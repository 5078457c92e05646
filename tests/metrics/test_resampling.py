from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from neuroattn.errors import InputError, MismatchError
from neuroattn.metrics import bootstrap_interval, fdr, paired_permutation_test
from neuroattn.metrics.moments import METRICS, PairMoments
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]


def metric(name: str, prediction: np.ndarray, response: np.ndarray) -> np.ndarray:
    moments = PairMoments()
    moments.update(prediction, response)
    return moments.metric(name)


def means_of(values: np.ndarray):
    """Return the weighted mean of each column as a statistic of counts."""
    return lambda counts: counts @ values / counts.sum(axis=1, keepdims=True)


def test_the_interval_is_that_of_scipy_on_the_values_themselves():
    # Catches wrong counts (axis, offset between resamples) and a lost tail or level.
    values = np.random.default_rng(0).exponential(size=(30, 2))
    found = bootstrap_interval(means_of(values), 30, resamples=400, level=0.8, seed=5)
    expected = stats.bootstrap(
        (np.arange(30),),
        lambda index, axis: np.stack([values[index, k].mean(axis=-1) for k in range(2)]),
        n_resamples=400,
        batch=256,
        confidence_level=0.8,
        rng=np.random.default_rng(5),
    ).confidence_interval
    np.testing.assert_allclose(found.low, expected.low, **EXACT)
    np.testing.assert_allclose(found.high, expected.high, **EXACT)
    assert found.method.tolist() == ["BCa", "BCa"]


def test_intervals_cover_the_truth_as_often_as_they_say():
    # Catches intervals that are too narrow or off centre; 300 trials have a standard error of .02.
    rng = np.random.default_rng(1)
    values = rng.standard_normal((60, 300))
    found = bootstrap_interval(means_of(values), 60, resamples=500, level=0.9, seed=2)
    coverage = np.mean((found.low < 0) & (found.high > 0))
    assert 0.84 < coverage < 0.95
    np.testing.assert_allclose(np.mean(found.high - found.low), 2 * 1.645 / np.sqrt(60), rtol=0.05)


def test_a_degenerate_output_falls_back_to_percentiles_and_says_so():
    # Catches NaN intervals, and one degenerate output that spoils the others.
    values = np.random.default_rng(2).standard_normal((20, 3))
    values[:, 1] = 4.0
    values[:, 2] = np.nan
    found = bootstrap_interval(means_of(values), 20, resamples=99)
    assert found.method.tolist() == ["BCa", "percentile", "none"]
    assert (found.low[1], found.high[1]) == (4.0, 4.0)
    assert np.isnan([found.low[2], found.high[2]]).all()


def test_no_resamples_give_no_interval_and_wrong_ones_are_refused():
    # Catches a quantile of nothing.
    found = bootstrap_interval(means_of(np.ones((5, 2))), 5, resamples=0)
    assert np.isnan(found.low).all()
    assert found.method.tolist() == ["none", "none"]
    with pytest.raises(InputError, match="resamples=-1"):
        bootstrap_interval(means_of(np.ones((5, 2))), 5, resamples=-1)
    with pytest.raises(InputError, match="level=95"):
        bootstrap_interval(means_of(np.ones((5, 2))), 5, level=95)


def pair(images: int, voxels: int, seed: int, better: float = 0.0):
    """Return two predictions with independent errors of the same law, and the response."""
    rng = np.random.default_rng(seed)
    response = rng.standard_normal((images, voxels))
    errors = rng.standard_normal((2, images, voxels)) * np.array([1 - better, 1])[:, None, None]
    return 0.5 * response + errors[0], 0.5 * response + errors[1], response


@pytest.mark.parametrize("name", METRICS)
def test_the_permutation_test_equals_swapping_by_hand(name):
    # Catches moments that are swapped with the wrong sign or about two different shifts.
    first, second, response = pair(12, 3, 0)
    first, second = first + 50, second + 49.5
    weights = np.array([[0.5, 0.5, 0], [1, 2, 3.0]])
    found = paired_permutation_test(
        first, second, response, weights, metric=name, resamples=300, seed=9
    )
    seen = metric(name, first, response) - metric(name, second, response)
    generator = np.random.default_rng(9)
    swaps = np.concatenate([generator.integers(0, 2, (n, 12)) for n in (256, 44)])[:, :, None]
    drawn = np.stack(
        [
            metric(name, np.where(s, second, first), response)
            - metric(name, np.where(s, first, second), response)
            for s in swaps
        ]
    )
    p = (1 + (np.abs(drawn) >= np.abs(seen) - 1e-10).sum(axis=0)) / 301
    np.testing.assert_allclose(found.voxel_difference, seen, rtol=1e-9)
    np.testing.assert_allclose(found.voxel_p, p, rtol=1e-12)
    np.testing.assert_allclose(found.difference, weights @ seen, rtol=1e-9)
    far = np.abs(drawn @ weights.T) >= np.abs(weights @ seen) - 1e-10
    np.testing.assert_allclose(found.p, (1 + far.sum(axis=0)) / 301, rtol=1e-12)


def test_under_the_null_p_is_uniform():
    # Catches a one-sided count, a doubled p and swaps that are not random.
    first, second, response = pair(40, 400, 3)
    found = paired_permutation_test(first, second, response, np.eye(400), resamples=399, seed=1)
    assert stats.kstest(found.voxel_p, "uniform").pvalue > 0.01
    np.testing.assert_array_equal(found.p, found.voxel_p)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_true_difference_is_found_in_either_direction(sign):
    # Catches a test without power or blind on one side.
    first, second, response = pair(80, 50, 4, better=0.4)
    first, second = (first, second)[::sign]
    weights = np.full((1, 50), 1 / 50)
    found = paired_permutation_test(first, second, response, weights, resamples=199)
    assert found.p == 1 / 200
    assert np.sign(found.difference) == sign
    assert np.mean(found.voxel_p < 0.05) > 0.8


def test_equal_predictions_have_p_of_one():
    # Catches ties that are not counted, or counted by the luck of rounding.
    first, _, response = pair(30, 5, 5)
    found = paired_permutation_test(first, first, response, np.ones((1, 5)), resamples=50)
    assert found.voxel_p.tolist() == [1.0] * 5
    assert found.p.tolist() == [1.0]


def test_swapping_every_image_is_a_tie_whatever_the_rounding():
    # Catches p-values that are too small with few images, by the luck of the last digit.
    first, second, response = pair(4, 300, 7)
    swaps = np.random.default_rng(2).integers(0, 2, (200, 4)).sum(axis=1)
    ties = np.isin(swaps, [0, 4]).sum()
    found = paired_permutation_test(
        first, second, response, np.ones((1, 300)), resamples=200, seed=2
    )
    assert found.voxel_p.min() >= (1 + ties) / 201


def test_undefined_voxels_have_no_p_and_leave_the_others_theirs():
    # Catches a NaN that spreads into an ROI, and a p for an ROI without voxels.
    first, second, response = pair(30, 4, 6)
    weights = np.array([[1, 1, 1, 1.0], [0, 1, 0, 0], [0, 0, 0, 0]])
    clean = paired_permutation_test(
        first[:, 1:], second[:, 1:], response[:, 1:], weights[:, 1:], resamples=99
    )
    response[:, 0] = 3.0
    found = paired_permutation_test(first, second, response, weights, resamples=99)
    np.testing.assert_array_equal(np.isnan(found.voxel_p), [True, False, False, False])
    np.testing.assert_allclose(found.p, clean.p, **EXACT)
    np.testing.assert_allclose(found.difference, clean.difference, **EXACT)
    assert np.isnan(found.p[2])


def test_false_discovery_rate_passes_nan_through():
    # Catches NaN counted as tests, which would inflate every other q.
    p = np.array([0.01, np.nan, 0.04, 0.03])
    np.testing.assert_allclose(fdr(p), [0.03, np.nan, 0.04, 0.04], **EXACT)
    assert np.isnan(fdr([np.nan])).tolist() == [True]
    assert p[0] == 0.01


def test_a_wrong_number_of_swaps_or_shape_is_refused():
    # Catches a p of 1/1 from no swap, and predictions that broadcast.
    first, second, response = pair(5, 2, 0)
    with pytest.raises(InputError, match="resamples=0"):
        paired_permutation_test(first, second, response, np.ones((1, 2)), resamples=0)
    with pytest.raises(MismatchError, match=r"\(5, 1\)"):
        paired_permutation_test(first, second[:, :1], response, np.ones((1, 2)))
