"""Averages, z-scores and the ncsnr against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from neuroattn.data.rules import validate
from neuroattn.data.schema import describe
from neuroattn.data.transforms import add_ncsnr, average_repetitions, zscore_within_session
from neuroattn.errors import InputError
from tests.data.layouts import small_set
from tests.tolerances import TOLERANCE


def test_averages_equal_a_loop_over_images_in_the_order_of_showing(monkeypatch) -> None:
    # Catches a wrong grouping, a sorted order, and a block that is written to the wrong voxels.
    monkeypatch.setattr("neuroattn.data.schema._BLOCK_BYTES", 4 * 11 * 2)
    images = ["z", "b", "z", "a", "b", "z", "q", "a", "z", "b", "y"]
    data = small_set(presentations=11, presentation={"image": images})
    averaged = average_repetitions(data)
    assert averaged["image"].values.tolist() == ["z", "b", "a", "q", "y"]
    assert averaged["repeats"].values.tolist() == [4, 3, 2, 1, 1]
    for row, image in enumerate(averaged["image"].values):
        rows = [n for n, name in enumerate(images) if name == image]
        expected = data["response"].values[rows].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(
            averaged["response"].values[row], expected, **TOLERANCE["float32"]
        )
    assert set(averaged["session"].values) == set(averaged["repetition"].values) == {-1}
    np.testing.assert_array_equal(averaged["roi_mask"], data["roi_mask"])
    validate(averaged)


def test_averaging_twice_changes_nothing() -> None:
    # Catches repeats being counted anew as one.
    once = average_repetitions(small_set())
    assert average_repetitions(once).identical(once)


def test_a_missing_repetition_makes_the_average_nan_and_no_other() -> None:
    # Catches averages over unequal numbers of repeats that nobody knows of.
    data = small_set()
    data["response"].values[4, 2] = np.nan
    averaged = average_repetitions(data)["response"].values
    assert np.argwhere(np.isnan(averaged)).tolist() == [[0, 2]]


def test_a_ceiling_of_single_responses_does_not_survive_averaging() -> None:
    # Catches a ceiling that is too low for the average; without repeats it holds.
    repeated = small_set(ceiling=np.full(5, 0.5), ncsnr=np.ones(5))
    single = small_set(presentations=4, ceiling=np.full(5, 0.5))
    assert "ceiling" not in average_repetitions(repeated)
    assert "ncsnr" in average_repetitions(repeated)
    assert average_repetitions(single)["ceiling"].values.tolist() == [0.5] * 5


def test_zscores_equal_scipy_within_each_session() -> None:
    # Catches z-scoring over all sessions at once, and another ddof.
    data = small_set(presentations=13, seed=3)
    scaled = zscore_within_session(data)
    for session in np.unique(data["session"]):
        rows = data["session"].values == session
        expected = stats.zscore(data["response"].values[rows].astype(np.float64), ddof=1)
        np.testing.assert_allclose(scaled["response"][rows], expected, **TOLERANCE["float32"])
    assert scaled.attrs["zscored"] == "session"
    assert scaled.attrs["units"] == "z"
    assert data.attrs["zscored"] == "none"
    validate(scaled)


def test_constant_and_nan_voxels_become_nan_never_infinite_and_are_counted() -> None:
    # Catches 0 / 0 and x / 1e-8: 0.1 summed in floating point has a tiny spread.
    data = small_set(presentations=10)
    values = data["response"].values
    values[:5, 0] = 0.1
    values[:, 1] = 0.0
    values[7, 2] = np.nan
    values[:5, 3] = np.nan
    scaled = zscore_within_session(data)
    result = scaled["response"].values
    assert not np.isinf(result).any()
    assert np.isnan(result[:5, 0]).all()
    assert np.isfinite(result[5:, 0]).all()
    assert np.isnan(result[:, 1]).all()
    assert np.flatnonzero(np.isnan(result[:, 2])).tolist() == [7]
    rest = np.delete(values[5:, 2], 2)
    expected = (rest - rest.mean()) / rest.std(ddof=1)
    np.testing.assert_allclose(np.delete(result[5:, 2], 2), expected, rtol=1e-4)
    assert np.isnan(result[:5, 3]).all()
    assert scaled.attrs["zscore_nan_voxels"] == 2
    assert scaled.attrs["zscore_constant_voxels"] == 2
    assert describe(scaled)["nan_voxels"] == 4


def test_zscoring_twice_changes_nothing_and_averages_are_refused() -> None:
    # Catches a second z-score of what is z-scored, and one after the sessions are gone.
    once = zscore_within_session(small_set())
    assert zscore_within_session(once).identical(once)
    with pytest.raises(InputError, match="before average_repetitions"):
        zscore_within_session(average_repetitions(small_set()))


def test_a_ceiling_survives_the_zscore_of_a_single_session_only() -> None:
    # Catches a ceiling that several scales have made wrong.
    two = small_set(ceiling=np.full(5, 0.5))
    one = small_set(presentations=5, ceiling=np.full(5, 0.5))
    assert "ceiling" not in zscore_within_session(two)
    assert "ceiling" in zscore_within_session(one)


def test_the_ncsnr_of_a_simulation_is_recovered(monkeypatch) -> None:
    # Catches sessions that are ignored (they differ in gain here) and mixed-up voxel blocks.
    rng = np.random.default_rng(5)
    images, repeats = 400, 3
    truth = np.array([0.3, 0.6, 1.0, 1.5, 0.0])
    monkeypatch.setattr("neuroattn.data.schema._BLOCK_BYTES", 4 * images * repeats * 2)
    order = np.concatenate([rng.permutation(images) for _ in range(repeats)])
    session = np.arange(images * repeats) // 150
    signal = rng.standard_normal((images, 5)) * truth
    noisy = signal[order] + rng.standard_normal((images * repeats, 5))
    gain = rng.uniform(0.5, 2, (session.max() + 1, 5))[session]
    data = small_set(
        response=noisy * gain + 3 * gain,
        presentation={"image": order.astype(str), "session": session},
    )
    estimate = add_ncsnr(data)["ncsnr"].values
    np.testing.assert_allclose(estimate[:4], truth[:4], atol=0.08)
    # Without signal: two standard errors of the noise variance at 800 degrees of freedom.
    assert estimate[4] < np.sqrt(2 * np.sqrt(2 / 800))


def test_the_ncsnr_needs_repeats() -> None:
    # Catches an estimate from images that were shown once, or from averages.
    with pytest.raises(InputError, match="4 presentations of 4 images"):
        add_ncsnr(small_set(presentations=4))
    with pytest.raises(InputError, match="before average_repetitions"):
        add_ncsnr(average_repetitions(small_set()))
