"""Preparation: the order of its steps, what it counts, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from neuroattn.data import add_ncsnr, average_repetitions, zscore_within_session
from neuroattn.data.preparation import prepare
from neuroattn.data.schema import response_set
from neuroattn.encoders.inputs import ceiling_of
from neuroattn.errors import InputError

IMAGES, VOXELS = 20, 6


def responses(repeats: int = 3, sessions: int = 2, seed: int = 0, **more) -> xr.Dataset:
    draw = np.random.default_rng(seed)
    order = np.concatenate([draw.permutation(IMAGES) for _ in range(repeats)])
    session = np.arange(len(order)) * sessions // len(order)
    signal = draw.normal(size=(IMAGES, VOXELS))[order]
    noise = 0.7 * draw.normal(size=signal.shape)
    offset = 9 * draw.normal(size=(sessions, VOXELS))[session]
    return response_set(
        (1 + session)[:, None] * (signal + noise) + offset,
        presentation={"image": [f"im{i:02d}" for i in order], "session": session},
        voxel={"subject": "s1", "hemisphere": "left", "name": [f"v{i}" for i in range(VOXELS)]},
        roi={"A": np.arange(VOXELS) < 3},
        **more,
    )


def test_it_z_scores_estimates_and_averages_in_this_order():
    # Catches an average over sessions of other offsets, or an ncsnr of averages.
    data = responses()
    scored = zscore_within_session(data)
    expected = average_repetitions(add_ncsnr(scored))
    found = prepare(data)
    np.testing.assert_array_equal(found["response"], expected["response"])
    np.testing.assert_array_equal(found["ncsnr"], expected["ncsnr"])
    assert found["repeats"].values.tolist() == [3] * IMAGES
    assert found.attrs["zscored"] == "session"
    assert (found["ncsnr"] > 0.7).all()


def test_without_z_scores_the_units_stay():
    # Catches a switch that is ignored.
    data = responses(sessions=1)
    found = prepare(data, zscore=False)
    expected = average_repetitions(data)
    np.testing.assert_array_equal(found["response"], expected["response"])
    assert found.attrs["zscored"] == "none"
    assert "ncsnr" in found


def spoilt() -> xr.Dataset:
    data = responses()
    values = data["response"].values
    values[5, 1] = np.nan
    values[:, 2] = 4.0
    values[data["session"].values == 1, 4] = 0.0
    return data


@pytest.mark.parametrize("zscore", [True, False])
def test_voxels_that_cannot_be_used_are_dropped_and_counted(zscore):
    # Catches constant voxels that are counted as NaN because z-scores made them so.
    found = prepare(spoilt(), zscore)
    kept = ["v0", "v3", "v5"] if zscore else ["v0", "v3", "v4", "v5"]
    assert found["name"].values.tolist() == kept
    assert found.attrs["dropped_nan_voxels"] == 1
    assert found.attrs["dropped_constant_voxels"] == VOXELS - 1 - len(kept)
    counts = {name for name in found.attrs if name.startswith("dropped")}
    assert counts == {"dropped_nan_voxels", "dropped_constant_voxels"}
    assert np.isfinite(found["response"]).all()
    np.testing.assert_array_equal(found["roi_mask"][0], [int(n[1:]) < 3 for n in kept])


def test_where_nothing_is_dropped_the_counts_are_zero():
    # Catches counts of all voxels.
    attrs = prepare(responses()).attrs
    assert (attrs["dropped_nan_voxels"], attrs["dropped_constant_voxels"]) == (0, 0)


def test_a_set_without_any_usable_voxel_is_refused():
    # Catches an encoder of no voxels.
    data = responses()
    data["response"].values[:] = 2.0
    with pytest.raises(InputError, match="none of the 6 voxels can be used"):
        prepare(data)


def test_an_ncsnr_that_ships_with_the_data_is_kept():
    # Catches an estimate from few images that replaces the publisher's.
    shipped = np.linspace(0.1, 0.9, VOXELS)
    np.testing.assert_array_equal(prepare(responses(ncsnr=shipped))["ncsnr"], shipped)


def test_a_ceiling_that_ships_with_averages_is_kept():
    # Catches a data set of bootstraps that loses its only ceiling.
    shipped = np.linspace(0.1, 0.9, VOXELS)
    data = responses(repeats=1, sessions=1, ceiling=shipped)
    for zscore in (True, False):
        found = prepare(data, zscore)
        np.testing.assert_array_equal(found["ceiling"], shipped)
        np.testing.assert_array_equal(ceiling_of(found), shipped)
        assert "ncsnr" not in found


@pytest.mark.parametrize("sessions", [1, 2])
def test_a_ceiling_of_single_responses_gives_way_to_one_of_the_averages(sessions):
    # Catches repeats after which there is neither ceiling nor ncsnr, and no normalised score.
    data = responses(sessions=sessions, ceiling=np.full(VOXELS, 0.4))
    found = prepare(data)
    assert "ceiling" not in found
    assert np.isfinite(ceiling_of(found)).all()
    plain = prepare(data.drop_vars("ceiling"))
    np.testing.assert_array_equal(found["ncsnr"], plain["ncsnr"])


def test_what_is_prepared_is_left_as_it_is():
    # Catches a second round of z-scores or averages.
    once = prepare(responses())
    again = prepare(once)
    np.testing.assert_array_equal(once["response"], again["response"])
    np.testing.assert_array_equal(once["ncsnr"], again["ncsnr"])
    np.testing.assert_array_equal(once["repeats"], again["repeats"])


def test_the_given_responses_are_not_changed():
    # Catches z-scores in place.
    data = spoilt()
    copy = data.copy(deep=True)
    prepare(data)
    xr.testing.assert_identical(data, copy)


def test_images_shown_once_have_no_ncsnr():
    # Catches an estimate from nothing, or an error where a score without ceiling is possible.
    assert "ncsnr" not in prepare(responses(repeats=1))


def test_a_broken_set_is_refused_by_its_rule():
    # Catches a preparation that starts before the check.
    data = responses().drop_vars("session")
    with pytest.raises(InputError, match="session"):
        prepare(data)
