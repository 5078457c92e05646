from __future__ import annotations

import numpy as np
import pytest
from nilearn.glm.first_level import make_first_level_design_matrix

from neuroattn.data.bids.design import Frames, make_design
from neuroattn.data.bids.events import Trial
from neuroattn.errors import InputError, MismatchError
from tests.data.bids.builders import course, late

FRAMES = Frames(np.arange(80) * 1.5, 1.5)


def trials(*onsets, duration=2.0, kind="a"):
    return [Trial(onset, duration, {"trial_type": kind}) for onset in onsets]


@pytest.mark.parametrize("duration", [0.5, 2.0, 14.0])
@pytest.mark.parametrize("start", [0.0, 0.75])
def test_a_trial_is_its_response_with_a_peak_of_one(duration, start):
    # Catches a slice-time reference that is left out, and units that depend on the duration.
    frames = Frames(start + np.arange(80) * 1.5, 1.5)
    design = make_design(trials(7.3, 40.0, duration=duration), [], frames, "spm")
    for column, onset in enumerate((7.3, 40.0)):
        expected = course(onset, duration, frames.times)
        np.testing.assert_allclose(design.trials[:, column, 0], expected, atol=0.02)


def test_a_response_cut_off_by_the_end_is_not_stretched():
    # Catches scaling by the highest volume that was seen.
    design = make_design(trials(10, 114), [], FRAMES, "spm")
    assert design.trials[:, 0, 0].max() == pytest.approx(1, abs=0.03)
    assert design.trials[:, 1, 0].max() < 0.9


def test_drift_confounds_and_other_events_are_nuisance():
    # Catches an event of no interest that gets a beta, and a drift of another cutoff.
    draw = np.random.default_rng(0).normal(size=(80, 3))
    design = make_design(
        trials(10, 50), trials(30, 70, kind="press"), FRAMES, "spm", high_pass=0.02, confounds=draw
    )
    drift = make_first_level_design_matrix(FRAMES.times, high_pass=0.02).to_numpy()
    press = course(30, 2.0, FRAMES.times) + course(70, 2.0, FRAMES.times)
    assert design.trials.shape == (80, 2, 1)
    assert design.nuisance.shape == (80, 1 + 3 + drift.shape[1])
    np.testing.assert_allclose(design.nuisance[:, 1:4], draw)
    np.testing.assert_allclose(design.nuisance[:, 4:], drift)
    assert np.corrcoef(design.nuisance[:, 0], press)[0, 1] > 0.999
    constant = make_design(trials(10), [], FRAMES, "spm", high_pass=None).nuisance
    np.testing.assert_array_equal(constant, np.ones((80, 1)))


def test_derivatives_stand_behind_the_response_they_belong_to():
    # Catches betas of derivatives that are read as those of responses.
    plain = make_design(trials(10, 50), [], FRAMES, "spm")
    rich = make_design(trials(10, 50), [], FRAMES, "spm + derivative + dispersion")
    assert rich.trials.shape == (80, 2, 3)
    np.testing.assert_allclose(rich.trials[:, :, 0], plain.trials[:, :, 0], atol=1e-12)
    np.testing.assert_array_equal(rich.mains, [0, 3])
    np.testing.assert_array_equal(rich.matrix[:, rich.mains], rich.trials[:, :, 0])


def test_a_response_of_ones_own_is_used():
    # Catches a library that is read and then not used.
    times = np.arange(0, 50, 0.1)
    from neuroattn.data.bids.hrf import LibraryResponse

    design = make_design(trials(10), [], FRAMES, LibraryResponse(late(times)))
    expected = course(10, 2.0, FRAMES.times, late)
    np.testing.assert_allclose(design.trials[:, 0, 0], expected, atol=0.05)


def test_volumes_that_are_left_out_leave_the_others_in_place():
    # Catches frames that are counted again after scrubbing.
    kept = np.r_[5:30, 33:80]
    whole = make_design(trials(10, 60), [], FRAMES, "spm")
    part = make_design(trials(10, 60), [], Frames(FRAMES.times, 1.5, kept), "spm")
    np.testing.assert_array_equal(part.trials, whole.trials[kept])
    np.testing.assert_array_equal(part.nuisance, whole.nuisance[kept])


@pytest.mark.parametrize(
    ("onsets", "more", "message"),
    [
        ((10, 10), {}, "2 of 2 trials cannot be told .*first at 10 s"),
        ((10, 119.9), {}, "the trial at 119.9 s falls into no volume"),
        (tuple(range(79)), {}, "regressors for 80 volumes"),
        ((-30, 10), {}, "begins 30 s before the first volume"),
    ],
)
def test_trials_that_cannot_be_estimated_are_named(onsets, more, message):
    # Catches betas of rounding errors.
    with pytest.raises(InputError, match=message):
        make_design(trials(*onsets), [], FRAMES, "spm", name="run-1", **more)


def test_a_confound_that_is_a_trial_is_told():
    # Catches a trial that a confound explains: its beta would be half of it, at random.
    own = make_design(trials(10, 50), [], FRAMES, "spm").trials[:, 1]
    with pytest.raises(InputError, match=r"1 of 2 trials.*first at 50 s \(a\)"):
        make_design(trials(10, 50), [], FRAMES, "spm", confounds=own)
    with pytest.raises(MismatchError, match=r"79 rows, the images 80 volumes"):
        make_design(trials(10), [], FRAMES, "spm", confounds=np.ones((79, 1)))
