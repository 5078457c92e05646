from __future__ import annotations

import numpy as np
import pytest
from nilearn.glm.first_level import run_glm

from neuroattn.data.bids.design import Frames, make_design
from neuroattn.data.bids.events import Trial
from neuroattn.data.bids.glm import (
    Glm,
    SeparateModels,
    estimate,
    estimators,
    lsa,
    unexplained,
)
from neuroattn.errors import InputError
from tests.tolerances import TOLERANCE

FRAMES = Frames(np.arange(71) * 2.0, 2.0)
VOXELS = 37


def made(onsets, kernel="spm", **more):
    events = [Trial(float(onset), 1.0, {"trial_type": "a"}) for onset in onsets]
    confounds = np.random.default_rng(5).normal(size=(71, 2))
    return make_design(events, [], FRAMES, kernel, confounds=confounds, **more)


@pytest.fixture(scope="module")
def design():
    return made([4, 11, 20.5, 30, 37, 52, 70, 88, 101])


@pytest.fixture(scope="module")
def signal(design):
    """Betas, a drift and noise of many autocorrelations, one a voxel."""
    draw = np.random.default_rng(1)
    noise = draw.normal(size=(71, VOXELS))
    level = np.linspace(-0.4, 0.9, VOXELS)
    for row in range(1, 71):
        noise[row] += level * noise[row - 1]
    betas = draw.normal(1, 1, (9, VOXELS))
    weights = draw.normal(size=(design.nuisance.shape[1], VOXELS))
    return design.trials[:, :, 0] @ betas + design.nuisance @ weights + noise


def nilearn(signal, matrix, noise_model):
    """Return all weights of one model by nilearn, (regressor, voxel)."""
    labels, results = run_glm(signal, matrix, noise_model=noise_model)
    theta = np.empty((matrix.shape[1], signal.shape[1]))
    for label, result in results.items():
        theta[:, labels == label] = result.theta
    return theta


def test_lsa_without_autocorrelation_is_least_squares(design, signal):
    # Catches columns of other regressors, and a beta of another trial.
    expected = np.linalg.lstsq(design.matrix, signal, rcond=None)[0][:9]
    np.testing.assert_allclose(lsa(signal, design, "ols"), expected, **TOLERANCE["float64"])


def test_lsa_with_autocorrelation_is_nilearns_model(design, signal):
    # Catches voxels of one autocorrelation that get the betas of another.
    expected = nilearn(signal, design.matrix, "ar1")[:9]
    found = lsa(signal, design, "ar1")
    np.testing.assert_allclose(found, expected, **TOLERANCE["float64"])
    assert np.abs(found - lsa(signal, design, "ols")).max() > 0.05


@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
@pytest.mark.parametrize("kernel", ["spm", "glover + derivative"])
def test_lss_is_a_loop_of_whole_models(signal, noise_model, kernel):
    # Catches any shortcut of LSS that is not exact: nuisance, whitening, bins, the other trials.
    design = made([4, 11, 20.5, 30, 37, 52, 70, 88, 101], kernel)
    expected = np.empty((9, VOXELS))
    for trial in range(9):
        others = [number for number in range(9) if number != trial]
        rest = design.trials[:, others].sum(axis=1)
        matrix = np.concatenate([design.trials[:, trial], rest, design.nuisance], axis=1)
        expected[trial] = nilearn(signal, matrix, noise_model)[0]
    found = SeparateModels(design, noise_model).betas(signal)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def test_lss_with_blocks_of_voxels_is_lss(design, signal):
    # Catches weights that are kept from one block and wrong for the next.
    model = SeparateModels(design, "ar1")
    parts = [model.betas(signal[:, block]) for block in (slice(0, 11), slice(11, None))]
    whole = SeparateModels(design, "ar1").betas(signal)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-10)


def test_one_trial_alone_is_the_same_in_both_models(signal):
    # Catches an LSS that breaks without other trials.
    design = made([30])
    for noise_model in ("ols", "ar1"):
        found = SeparateModels(design, noise_model).betas(signal)
        np.testing.assert_allclose(found, lsa(signal, design, noise_model), rtol=1e-8)


def test_both_models_find_the_betas_without_noise(design):
    # Catches units: LSA is exact; LSS too where no trial overlaps another.
    draw = np.random.default_rng(3)
    betas = draw.normal(1, 1, (9, 5))
    clean = design.trials[:, :, 0] @ betas
    np.testing.assert_allclose(lsa(clean, design, "ols"), betas, rtol=1e-8)
    far = made([4, 60], high_pass=None)
    clean = far.trials[:, :, 0] @ betas[:2] + 3
    found = SeparateModels(far, "ols").betas(clean)
    np.testing.assert_allclose(found, betas[:2], atol=0.03)


def test_lss_is_less_noisy_where_trials_are_close():
    # Catches an LSS that is LSA: with trials 3 s apart its betas vary less.
    close = made(np.arange(4, 100, 3.0))
    draw = np.random.default_rng(0).normal(size=(71, 200))
    spread = [m(draw).std() for m in (lambda s: lsa(s, close, "ols"), SeparateModels(close).betas)]
    assert spread[1] < 0.7 * spread[0]


def test_each_voxel_is_estimated_with_its_own_response(design, signal):
    # Catches voxels that are put back in the order of their models.
    other = made([4, 11, 20.5, 30, 37, 52, 70, 88, 101], "glover")
    choice = np.arange(VOXELS) % 2
    for model in ("lsa", "lss"):
        both = estimators([design, other], Glm(model=model))
        found = estimate(signal, both, choice)
        for number in (0, 1):
            expected = both[number](signal)[:, choice == number]
            np.testing.assert_allclose(found[:, choice == number], expected, rtol=1e-10)


def test_what_is_left_is_the_residual_of_least_squares(design, signal):
    # Catches a choice of responses by something else than explained variance.
    residual = signal - design.matrix @ np.linalg.lstsq(design.matrix, signal, rcond=None)[0]
    found = unexplained(signal, [design, made([30])])
    np.testing.assert_allclose(found[0], (residual**2).sum(axis=0), rtol=1e-8)
    assert (found[1] > found[0]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "lsx"}, "glm.model='lsx'.*lsa, lss"),
        ({"noise_model": "ar2"}, "glm.noise_model='ar2'"),
        ({"high_pass": 0.0}, "glm.high_pass=0.0 must be above 0"),
        ({"tr": -1.0}, "glm.tr=-1.0"),
    ],
)
def test_settings_are_checked(settings, message):
    # Catches a misspelt model that is silently LSA.
    with pytest.raises(InputError, match=message):
        Glm(**settings).check()
