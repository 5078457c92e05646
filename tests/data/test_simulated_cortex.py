"""The simulated cortex: its truth is written out again here, number by number."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from neuroattn.data import SimulatedCortex, zscore_within_session
from neuroattn.data.rules import validate
from neuroattn.data.scenes import CATEGORIES
from neuroattn.data.simulated_cortex import CATEGORY_AREAS, EARLY_AREAS, Scanner
from neuroattn.errors import InputError
from neuroattn.features import GaborPyramid
from neuroattn.metrics import ncsnr

GRID = 7


def cortex(**more) -> SimulatedCortex:
    basis = GaborPyramid(size=56, grid=GRID, scales=2)
    given = {"scenes": 60, "size": 56, "voxels": (7, 5), "repeats": 2, "basis": basis, "seed": 3}
    return SimulatedCortex(**{**given, **more})


@pytest.fixture(scope="module")
def small() -> SimulatedCortex:
    return cortex()


@pytest.fixture(scope="module")
def large() -> SimulatedCortex:
    return cortex(scenes=500, voxels=(30, 10), repeats=3)


def tokens_of(made: SimulatedCortex) -> np.ndarray:
    tokens = made.basis.extract(list(made.scenes.images)).astype(float)
    return (tokens - tokens.mean((0, 1))) / tokens.std((0, 1))


def test_the_same_seed_gives_the_same_digits_and_another_seed_others(small):
    # Catches a generator that is shared between parts, so that their order matters.
    again, other = cortex(), cortex(seed=4)
    # Asked for in another order.
    responses, truth = again.responses(), again.truth()
    xr.testing.assert_identical(truth, small.truth())
    xr.testing.assert_identical(responses, small.responses())
    assert (responses["response"].values != other.responses()["response"].values).all()
    assert (other.scenes.images != small.scenes.images).any()


def test_responses_are_a_valid_response_set_of_all_areas(small):
    # Catches voxels that two areas count, or that none does.
    responses = validate(small.responses())
    areas = [*EARLY_AREAS, *CATEGORY_AREAS]
    assert responses["roi"].values.tolist() == areas
    assert responses["roi_mask"].sum("voxel").values.tolist() == [7] * 4 + [5] * 5
    assert (responses["roi_mask"].sum("roi") == 1).all()
    assert responses.sizes == {"presentation": 120, "voxel": 53, "roi": 9}
    assert responses.attrs["zscored"] == "none"
    assert set(responses["image"].values) == set(small.images().ids)


def test_every_image_is_shown_as_often_as_asked_before_it_comes_again(large):
    # Catches repeats in one block, which drift would make alike.
    responses = large.responses()
    image, repetition = responses["image"].values, responses["repetition"].values
    assert (np.unique(image, return_counts=True)[1] == 3).all()
    assert (np.diff(repetition) >= 0).all()
    for number in range(3):
        assert len(set(image[repetition == number])) == 500
    assert len(set(responses["session"].values)) == 2
    for session in (0, 1):
        runs = responses["run"].values[responses["session"].values == session]
        assert runs[0] == 0
        assert (np.bincount(runs)[:-1] == 63).all()


def test_signals_have_unit_variance_and_the_ceiling_follows_from_ncsnr(small):
    # Catches a ceiling of single presentations.
    truth = small.truth()
    np.testing.assert_allclose(truth["signal"].std("image"), 1.0, rtol=1e-12)
    np.testing.assert_allclose(truth["signal"].mean("image"), 0.0, atol=1e-12)
    level = truth["ncsnr"].values
    assert level.min() >= 0.5
    assert level.max() <= 1.3
    # Signal 1, noise 1 / ncsnr², halved by two repeats.
    np.testing.assert_allclose(truth["ceiling"], 1 / (1 + 1 / level**2 / 2), rtol=1e-12)


def test_an_early_voxel_is_a_gaussian_field_on_the_tokens(small):
    # Catches rows exchanged with columns, and weights in other units than the signal.
    truth, tokens = small.truth(), tokens_of(small)
    row, column = np.divmod(np.arange(GRID**2), GRID)
    for voxel in np.flatnonzero(truth["category"].values == ""):
        one = truth.isel(voxel=voxel)
        squared = (row - float(one["rf_row"])) ** 2 + (column - float(one["rf_column"])) ** 2
        field = np.exp(-squared / (2 * float(one["rf_radius"]) ** 2))
        signal = np.einsum("t,itc,c->i", field / field.sum(), tokens, one["weights"].values)
        np.testing.assert_allclose(one["signal"], signal - signal.mean(), atol=1e-6)


def test_a_category_voxel_reads_the_object_wherever_it_is(small):
    # Catches routing of another category, and a voxel that responds where nothing is shown.
    truth, tokens = small.truth(), tokens_of(small)
    for voxel in np.flatnonzero(truth["category"].values != ""):
        one = truth.isel(voxel=voxel)
        routing = one["routing"].sel(category_name=str(one["category"].values)).values
        present = routing.sum(1) > 0
        content = np.einsum("it,itc,c->i", routing, tokens, one["weights"].values)
        rest = (one["signal"].values - content)[present]
        np.testing.assert_allclose(rest, rest.mean(), atol=1e-5)
        silent = one["signal"].values[~present]
        np.testing.assert_allclose(silent, silent[0], atol=1e-12)
        assert one["signal"].values[present].mean() > silent[0]
        assert np.isnan(one["rf_row"])


def test_routing_is_the_share_of_the_objects_visible_pixels(small):
    # Catches cells that are shifted, and images without the category that still sum to one.
    routing, masks, side = small.truth()["routing"].values, small.scenes.masks(), 56 // GRID
    for image in range(0, 60, 7):
        for category in range(len(CATEGORIES)):
            mask = masks[image, category]
            for token in range(GRID**2):
                r, c = divmod(token, GRID)
                here = mask[r * side : (r + 1) * side, c * side : (c + 1) * side].sum()
                share = here / mask.sum() if mask.any() else 0.0
                assert routing[image, category, token] == pytest.approx(share, rel=1e-12)
    sums = routing.sum(2)
    shown = masks.any(axis=(2, 3))
    np.testing.assert_allclose(sums, shown.astype(float), rtol=1e-12)
    assert 0 < shown.mean() < 1


def test_each_hemisphere_sees_the_opposite_half_of_the_field(large):
    # Catches left voxels that look to the left.
    truth = large.truth()
    early = truth["category"].values == ""
    left = truth["hemisphere"].values == "left"
    column = truth["rf_column"].values
    assert (column[early & left] >= (GRID - 1) / 2).all()
    assert (column[early & ~left] <= (GRID - 1) / 2).all()
    assert early[left].any()
    assert early[~left].any()
    assert (truth["hemisphere"].values[truth["area"].values == "VWFA"] == "left").all()


def test_receptive_fields_grow_with_eccentricity_and_from_v1_to_v4(large):
    # Catches a radius that ignores where the field is.
    truth, slopes, middles = large.truth(), [], []
    for area in EARLY_AREAS:
        here = truth.isel(voxel=truth["area"].values == area)
        centre = (GRID - 1) / 2
        eccentricity = np.hypot(here["rf_row"] - centre, here["rf_column"] - centre)
        slope, start = np.polyfit(eccentricity, here["rf_radius"], 1)
        slopes.append(slope)
        middles.append(start + slope * 2.0)
    assert slopes[0] > 0.05
    assert (np.diff(slopes) > 0.02).all()
    assert (np.diff(middles) > 0.1).all()


def test_ncsnr_of_the_measured_responses_is_the_one_in_the_truth(large):
    # Catches noise in other units than its name: the oracle is the estimator of NSD.
    truth, responses = large.truth(), large.responses()
    found = ncsnr(responses["response"], responses["image"], responses["session"])
    error = found - truth["ncsnr"].values
    assert abs(error.mean()) < 0.02
    assert np.abs(error).max() < 0.2
    assert np.corrcoef(found, truth["ncsnr"])[0, 1] > 0.95


@pytest.mark.parametrize("drift", [0.0, 0.5, 1.0])
def test_drift_is_a_share_of_the_noise_and_not_added_to_it(drift):
    # Catches noise that grows with drift; white noise has no neighbours, drift has.
    made = cortex(scenes=300, scanner=Scanner(drift=drift, gain=0.0, session_trials=10_000))
    truth, responses = made.truth(), made.responses()
    signal = truth["signal"].sel(image=responses["image"].values).values
    noise = (responses["response"].values - signal) * truth["ncsnr"].values
    noise = noise - noise.mean(0)
    assert noise.var() == pytest.approx(1.0, abs=0.12)
    alike = (noise[1:] * noise[:-1]).mean() / noise.var()
    assert alike == pytest.approx(drift, abs=0.1)


def test_sessions_differ_in_offset_and_gain_until_they_are_z_scored(large):
    # Catches a simulation in which z-scoring within sessions makes no difference.
    responses = large.responses()
    first = responses["session"].values == 0
    raw, scored = responses["response"].values, zscore_within_session(responses)["response"].values
    assert np.abs(raw[first].mean(0) - raw[~first].mean(0)).mean() > 0.5
    ratio = np.log(raw[first].std(0) / raw[~first].std(0))
    assert ratio.std() == pytest.approx(np.sqrt(2) * 0.15, rel=0.25)
    assert np.abs(scored[first].mean(0) - scored[~first].mean(0)).max() < 1e-5


def test_subjects_see_the_same_images_with_voxels_of_their_own():
    # Catches subjects that are copies, and one that changes when another joins.
    two, one = cortex(subjects=2), cortex(subjects=1)
    truth = two.truth()
    assert truth.sizes["voxel"] == 106
    assert np.unique(truth["subject"]).tolist() == ["sub-01", "sub-02"]
    first, second = (truth.isel(voxel=truth["subject"].values == s) for s in ("sub-01", "sub-02"))
    np.testing.assert_array_equal(first["signal"], one.truth()["signal"])
    assert (first["weights"].values != second["weights"].values).all()
    np.testing.assert_array_equal(two.scenes.images, one.scenes.images)
    assert two.responses()["image"].values.tolist() == one.responses()["image"].values.tolist()


def test_voxels_have_places_of_their_own_on_their_side():
    # Catches areas that grow into each other, and hemispheres exchanged.
    responses = cortex(voxels=(1000, 700), repeats=1).responses()
    place = np.stack([responses[axis].values for axis in "ijk"], 1)
    affine = np.array(responses.attrs["affine"]).reshape(4, 4)
    millimetres = place @ affine[:3, :3].T + affine[:3, 3]
    assert (place >= 0).all()
    assert (place < responses.attrs["shape"]).all()
    assert len(np.unique(place, axis=0)) == len(place)
    side = np.where(responses["hemisphere"].values == "left", -1, 1)
    np.testing.assert_array_equal(np.sign(millimetres[:, 0]), side)
    for area, (_, centre) in CATEGORY_AREAS.items():
        inside = responses["roi_mask"].sel(roi=area).values & (side == -1)
        assert np.abs(np.median(millimetres[inside], axis=0) - centre).max() < 6


def test_changing_the_returned_truth_changes_nothing_else():
    # Catches a truth that a test spoils for the next one.
    made = cortex()
    expected = made.responses()
    truth = made.truth()
    truth["signal"].values[:] = 0.0
    xr.testing.assert_identical(made.responses(), expected)
    assert (made.truth()["signal"] != 0).any()


def test_arguments_out_of_range_are_named():
    # Catches a division by zero in the middle of a simulation.
    for name in ("scenes", "size", "repeats", "subjects"):
        with pytest.raises(InputError, match=f"{name}=0 must be at least 1"):
            cortex(**{name: 0})
    with pytest.raises(InputError, match="voxels=0 must be at least 1"):
        cortex(voxels=(5, 0))
    for wrong in ({"ncsnr": (0.0, 1.0)}, {"ncsnr": (1.0, 0.5)}, {"drift": 1.5}):
        with pytest.raises(InputError, match="scanner="):
            cortex(scanner=Scanner(**wrong))


def test_scenes_that_lack_a_category_are_refused():
    # Catches voxels of NaN, whose loss is only noticed as a count of dropped voxels.
    with pytest.raises(InputError, match=r"scenes=4 \(seed 3\) show a \w+ [01] times"):
        cortex(scenes=4).truth()
