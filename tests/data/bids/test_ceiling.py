from __future__ import annotations

import numpy as np
import pytest

from neuroattn.data.bids.ceiling import ConditionNcsnr
from neuroattn.errors import InputError
from neuroattn.metrics import ncsnr
from tests.tolerances import TOLERANCE


def simulated(seed=0, voxels=23):
    draw = np.random.default_rng(seed)
    kinds = np.array([f"k{n}" for n in draw.integers(0, 7, 90)] + ["once"])
    sessions = np.sort(draw.integers(1, 4, len(kinds)))
    signal = {kind: draw.normal(size=voxels) for kind in np.unique(kinds)}
    betas = np.stack([signal[kind] for kind in kinds]) + draw.normal(size=(len(kinds), voxels))
    return betas + 5 * sessions[:, None], kinds, sessions


def test_session_by_session_is_what_all_betas_give():
    # Catches sums over sessions that forget the session's mean and scale, or a single trial.
    betas, kinds, sessions = simulated()
    betas[:, 3] = np.nan
    ratio = ConditionNcsnr(kinds, betas.shape[1])
    for session in np.unique(sessions):
        ratio.add(betas[sessions == session], kinds[sessions == session])
    expected = ncsnr(betas, kinds, sessions)
    np.testing.assert_allclose(ratio.value(), expected, **TOLERANCE["float64"])
    assert np.isnan(ratio.value()[3])


def test_the_ratio_of_a_simulation_is_found():
    # Catches a ratio of variances instead of standard deviations, and of means of repeats.
    draw = np.random.default_rng(4)
    kinds = np.repeat([f"k{n:03d}" for n in range(300)], 4)
    truth = np.array([0.5, 1.0, 2.0])
    betas = np.repeat(draw.normal(size=(300, 3)), 4, axis=0) * truth + draw.normal(size=(1200, 3))
    ratio = ConditionNcsnr(kinds, 3)
    ratio.add(betas, kinds)
    np.testing.assert_allclose(ratio.value(), truth, rtol=0.08)


def test_conditions_need_repeats():
    # Catches a ceiling of zero by zero.
    with pytest.raises(InputError, match=r"none of the 2 conditions has two trials"):
        ConditionNcsnr(["a", "b"], 3)
