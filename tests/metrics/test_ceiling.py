from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError, MismatchError
from neuroattn.metrics import (
    bootstrap_ceiling,
    explained_variance,
    leave_one_subject_out_ceiling,
    ncsnr,
    noise_ceiling,
    pearson,
    spearman_brown,
    split_half_ceiling,
)
from tests.tolerances import TOLERANCE

NOISE, SIGNAL = 1.5, np.array([0.0, 0.5, 1.5, 4.0])


def simulated(counts: np.ndarray, copies: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return betas (presentation, voxel), images (presentation,) and signal (image, voxel)."""
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((len(counts), 4 * copies)) * np.tile(SIGNAL, copies)
    images = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    betas = signal[images] + NOISE * rng.standard_normal((len(images), 4 * copies)) + 7
    return betas, images, signal


def by_level(values: np.ndarray) -> np.ndarray:
    """Return the mean over voxels that share a signal: the estimate without most of its luck."""
    return values.reshape(-1, 4).mean(axis=0)


def means(betas: np.ndarray, images: np.ndarray) -> np.ndarray:
    return np.stack([betas[images == i].mean(axis=0) for i in range(images.max() + 1)])


THREE = np.full(3000, 3)
MIXED = np.tile([1, 2, 3, 5], 800)


@pytest.mark.parametrize("zscore", [True, False])
@pytest.mark.parametrize("counts", [THREE, MIXED], ids=["three repeats", "mixed repeats"])
def test_ncsnr_recovers_the_truth(counts, zscore):
    # Catches ddof 0 (noise too low by a third), unweighted groups and a wrong total variance.
    betas, images, _ = simulated(counts, copies=25)
    found = by_level(ncsnr(betas, images, zscore=zscore) ** 2)
    # The standard error of one voxel's variance ratio is .02, of 25 voxels' .004.
    np.testing.assert_allclose(found[1:], (SIGNAL[1:] / NOISE) ** 2, rtol=0.03, atol=0.012)
    assert found[0] < 0.02


def test_ncsnr_equals_the_published_recipe_step_by_step():
    # Catches a departure from NSD: z-score by session, three repeats only, mean of variances.
    betas, images, _ = simulated(np.tile([1, 2, 3], 30))
    sessions = np.arange(len(images)) % 4
    scored = np.empty_like(betas)
    for s in range(4):
        part = betas[sessions == s]
        scored[sessions == s] = (part - part.mean(0)) / part.std(0, ddof=1)
    groups = [scored[images == i] for i in range(90) if (images == i).sum() == 3]
    noise = np.mean([group.var(axis=0, ddof=1) for group in groups], axis=0)
    expected = np.sqrt(np.maximum(0, 1 - noise) / noise)
    shifts = np.array([0, 50, -20, 3])[sessions][:, None]
    found = ncsnr(betas * 3 + shifts, images, sessions, repeats=3)
    np.testing.assert_allclose(found, expected, **TOLERANCE["float64"])
    assert not np.allclose(ncsnr(betas, images, sessions), expected, rtol=1e-3)


def test_drift_between_sessions_does_not_count_as_noise_or_signal():
    # Catches z-scoring over all sessions at once.
    betas, images, _ = simulated(THREE)
    sessions = np.arange(len(images)) % 5
    drifted = betas * (1 + sessions[:, None]) + 100 * sessions[:, None]
    np.testing.assert_allclose(ncsnr(drifted, images, sessions)[1:], SIGNAL[1:] / NOISE, rtol=0.05)


def test_undefined_voxels_are_nan_in_every_ceiling_and_do_not_spread():
    # Catches 0/0, NaN taken for a number, and matrix products that spread a NaN.
    betas, images, _ = simulated(np.full(40, 2))
    betas[:, 0] = 0.1
    betas[5, 1] = np.nan
    for found in (
        ncsnr(betas, images, zscore=False),
        ncsnr(betas, images),
        split_half_ceiling(betas, images, 0, splits=3),
        bootstrap_ceiling(betas, np.stack([betas, betas + 0.1])),
        *leave_one_subject_out_ceiling(np.stack([betas, betas + 1.0, betas * 2])),
    ):
        np.testing.assert_array_equal(np.isnan(found), [True, True, False, False])


def test_a_session_without_data_is_left_out_for_that_voxel():
    # Catches an invalid voxel (all 0 in one session) that loses its other sessions too.
    betas, images, _ = simulated(THREE)
    sessions = images % 2
    clean = ncsnr(betas, images, sessions)
    betas[sessions == 1, 2] = 0
    found = ncsnr(betas, images, sessions)
    np.testing.assert_allclose(found[2], SIGNAL[2] / NOISE, rtol=0.05)
    np.testing.assert_array_equal(np.delete(found, 2), np.delete(clean, 2))


def test_noiseless_repeats_are_infinite_and_reach_the_ceiling_of_one():
    # Catches an infinity that turns into NaN on its way to the ceiling.
    images = np.repeat(np.arange(5), 2)
    found = ncsnr(np.arange(5.0)[images][:, None], images, zscore=False)
    np.testing.assert_array_equal(found, [np.inf])
    np.testing.assert_array_equal(noise_ceiling([np.inf, 0.0, np.nan], 3), [1, 0, np.nan])


@pytest.mark.parametrize("counts", [THREE, MIXED], ids=["three repeats", "mixed repeats"])
def test_the_noise_ceiling_is_what_the_true_signal_explains(counts):
    # Catches 1/mean(k) in place of mean(1/k), and a ceiling in units of r.
    betas, images, signal = simulated(counts)
    reached = pearson(signal[:, 1:], means(betas, images)[:, 1:]) ** 2
    found = noise_ceiling(SIGNAL[1:] / NOISE, counts)
    np.testing.assert_allclose(found, reached, atol=0.03)
    fraction = SIGNAL[1:] ** 2 / (SIGNAL[1:] ** 2 + NOISE**2 * np.mean(1 / counts))
    np.testing.assert_allclose(found, fraction, **TOLERANCE["float64"])
    np.testing.assert_allclose(noise_ceiling(0.7, 3), 0.49 / (0.49 + 1 / 3), rtol=1e-12)


def test_spearman_brown_predicts_longer_measurements():
    # Catches a factor in the wrong place; the closed form is that of parallel measurements.
    reliability = 4.0 / (4.0 + 1.0 / np.array([1, 2, 3]))
    np.testing.assert_allclose(spearman_brown(reliability[0]), reliability[1], rtol=1e-12)
    np.testing.assert_allclose(spearman_brown(reliability[0], 3), reliability[2], rtol=1e-12)
    np.testing.assert_allclose(spearman_brown([-0.2, -1.0, np.nan]), [-0.5, np.nan, np.nan])


COUNTS = [np.full(1500, 2), THREE, MIXED]


@pytest.mark.parametrize("counts", COUNTS, ids=["two", "three", "mixed"])
def test_split_halves_recover_the_ceiling_of_the_averages(counts):
    # Catches halves that share a presentation, and the factor 2 where halves are not halves.
    betas, images, _ = simulated(counts, copies=12)
    found = by_level(split_half_ceiling(betas, images, seed=3, splits=2))
    expected = SIGNAL**2 / (SIGNAL**2 + NOISE**2 * np.mean(1 / counts[counts > 1]))
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_split_halves_depend_on_the_seed_only():
    # Catches the global generator, and splits that are all the same.
    betas, images, _ = simulated(np.full(50, 4))
    first = split_half_ceiling(betas, images, 1, splits=2)
    np.testing.assert_array_equal(first, split_half_ceiling(betas, images, 1, splits=2))
    assert not np.allclose(first, split_half_ceiling(betas, images, 2, splits=2), rtol=1e-6)
    assert not np.allclose(first, split_half_ceiling(betas, images, 1, splits=1), rtol=1e-6)


def test_voxel_blocks_change_nothing(monkeypatch):
    # Catches a block that is computed with another block's columns or other random halves.
    betas, images, _ = simulated(np.full(50, 3))
    whole = ncsnr(betas, images), split_half_ceiling(betas, images, 0, splits=3)
    monkeypatch.setattr("neuroattn.metrics.ceiling._BLOCK", 3 * len(betas))
    blocked = ncsnr(betas, images), split_half_ceiling(betas, images, 0, splits=3)
    np.testing.assert_allclose(blocked, whole, **TOLERANCE["float64"])


def test_other_subjects_bound_the_ceiling():
    # Catches a lower bound that contains the subject itself, and an upper one that does not.
    rng = np.random.default_rng(4)
    signal = rng.standard_normal((4000, 3)) * [0, 1, 3]
    responses = signal + rng.standard_normal((5, 4000, 3))
    bounds = leave_one_subject_out_ceiling(responses)
    variance = np.array([0, 1, 9])
    truth = np.sqrt(variance / (variance + 1))
    shared = variance / np.sqrt((variance + 1) * (variance + 1 / 4))
    np.testing.assert_allclose(bounds.lower, shared, atol=0.03)
    np.testing.assert_allclose(
        bounds.upper, np.sqrt((variance + 1 / 5) / (variance + 1)), atol=0.03
    )
    assert (bounds.lower[1:] < truth[1:]).all()
    assert (bounds.upper > truth).all()


def test_bootstraps_recover_the_ceiling():
    # Catches ddof 0 with few bootstraps (the noise would be a third too low) and unclipped noise.
    rng = np.random.default_rng(5)
    signal = rng.standard_normal((4000, 4)) * SIGNAL
    response = signal + NOISE * rng.standard_normal(signal.shape)
    bootstraps = response + NOISE * rng.standard_normal((3, *signal.shape))
    found = bootstrap_ceiling(response, bootstraps)
    np.testing.assert_allclose(found, SIGNAL**2 / (SIGNAL**2 + NOISE**2), atol=0.04)
    np.testing.assert_allclose(found[1:], explained_variance(signal, response)[1:], atol=0.06)
    assert bootstrap_ceiling(response, response + 9 * bootstraps).tolist() == [0.0] * 4


def test_what_cannot_have_a_ceiling_is_refused_with_what_came():
    # Catches silent NaN for data without repeats, and shapes that broadcast.
    betas = np.ones((4, 2))
    with pytest.raises(InputError, match="most often shown: 1"):
        ncsnr(betas, np.arange(4))
    with pytest.raises(InputError, match="exactly 3 times"):
        ncsnr(betas, [0, 0, 1, 1], repeats=3)
    with pytest.raises(InputError, match="repeats=1"):
        ncsnr(betas, [0, 0, 1, 1], repeats=1)
    with pytest.raises(MismatchError, match="sessions has shape"):
        ncsnr(betas, [0, 0, 1, 1], [0, 0])
    with pytest.raises(InputError, match="1 repeated images"):
        split_half_ceiling(betas, [0, 0, 1, 2], 0)
    with pytest.raises(InputError, match="splits=0"):
        split_half_ceiling(betas, [0, 0, 1, 1], 0, splits=0)
    with pytest.raises(InputError, match="repeats holds"):
        noise_ceiling(1.0, [3, 0])
    with pytest.raises(InputError, match="negative"):
        noise_ceiling([-1.0], 1)
    with pytest.raises(InputError, match="2 subjects"):
        leave_one_subject_out_ceiling(np.ones((1, 4, 2)))
    with pytest.raises(MismatchError, match="bootstraps has shape"):
        bootstrap_ceiling(betas, np.ones((3, 4, 1)))


def test_exactly_so_many_repeats_leaves_out_images_with_more() -> None:
    # Catches NSD's "exactly three" read as "three or more".
    betas, images, _ = simulated(np.tile([3, 5], 20))
    three = np.flatnonzero(np.bincount(images) == 3)
    found = ncsnr(betas, images, zscore=False, repeats=3)
    noise = np.mean([betas[images == i].var(axis=0, ddof=1) for i in three], axis=0)
    everything = ncsnr(betas, images, zscore=False)
    assert not np.allclose(found, everything)
    signal = np.maximum(0, betas.var(axis=0, ddof=1) - noise)
    np.testing.assert_allclose(found, np.sqrt(signal / noise), rtol=0.05, atol=0.05)
