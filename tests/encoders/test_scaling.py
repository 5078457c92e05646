"""Scaling curves against scores computed one context at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from neuroattn.encoders import RidgeEncoder
from neuroattn.encoders.adaptive import AdaptiveEncoder
from neuroattn.encoders.group_average import GroupAverageEncoder
from neuroattn.encoders.scaling import DEFINITIONS, scaling_curve, table
from neuroattn.errors import InputError, MismatchError, UnknownNameError
from tests.encoders.small import VOXELS, small_features, small_responses

FEATURES = small_features(images=80)
CONTEXT = small_responses(FEATURES, list(range(10, 50)), noise=1.0, ceiling=np.full(VOXELS, 0.5))
TEST = small_responses(
    FEATURES, list(range(50, 80)), seed=2, ceiling=np.linspace(0.05, 0.9, VOXELS)
)
LENGTHS = (8, 20, 40)


class Recorder(AdaptiveEncoder):
    """Writes the mean response as intercept, and lists the contexts it was given."""

    def __init__(self, embedding: Any = None) -> None:
        self.embedding = embedding

    def _learn(self, sets, validation):
        self.calls_ = []

    def write(self, context):
        self.calls_.append(context.images)
        width = self.embedding_.width
        mean = context.response.mean(0)
        return torch.full((len(mean), width), 0.01 * len(self.calls_)), mean

    def _prior_state(self):
        return {}, {}

    def _restore_prior(self, tensors, state):
        pass


def recorder() -> Recorder:
    return Recorder().fit(FEATURES, small_responses(FEATURES, list(range(10)), seed=5))


def ridge(**parameters: Any) -> RidgeEncoder:
    return RidgeEncoder(folds=2, **parameters)


def encoders() -> dict[str, Any]:
    group = GroupAverageEncoder().fit(FEATURES, small_responses(FEATURES, list(range(30)), seed=4))
    return {"group": group, "ridge": ridge(), "pooled": ridge(view="mean")}


@pytest.fixture(scope="module", name="curve")
def _curve() -> xr.Dataset:
    return scaling_curve(
        encoders(), FEATURES, CONTEXT, TEST, LENGTHS, draws=2, seed=3, resamples=60
    )


def scores(curve: xr.Dataset, name: str, length: int) -> list[Any]:
    """The score of each draw, by the encoder itself."""
    found = []
    for draw in range(curve.sizes["draw"]):
        shown = curve["images"].values[draw, :length]
        own = CONTEXT.isel(presentation=np.flatnonzero(np.isin(CONTEXT["image"].values, shown)))
        encoder = encoders()[name]
        ready = encoder.adapt(FEATURES, own) if name == "group" else encoder.fit(FEATURES, own)
        found.append(ready.score(FEATURES, TEST))
    return found


@pytest.mark.parametrize("name", ["group", "ridge", "pooled"])
@pytest.mark.parametrize("length", LENGTHS)
def test_means_are_over_the_voxels_and_draws_of_separate_scores(curve, name, length):
    # Catches draws that overwrite one another, contexts of the wrong length, ROIs of one draw.
    tables = [score.by_roi(resamples=0) for score in scores(curve, name, length)]
    for key in ("mean", "raw_mean"):
        expected = np.mean([part[key] for part in tables], axis=0)
        found = curve[key].sel(encoder=name, length=length)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert found["roi"].values.tolist() == ["even", "tail", "empty", "all"]


def test_intervals_and_differences_of_one_draw_are_those_of_the_scores():
    # Catches an unpaired bootstrap, a reversed sign, and the interval of another encoder.
    curve = scaling_curve(encoders(), FEATURES, CONTEXT, TEST, [20], draws=1, seed=7, resamples=99)
    (reference,) = scores(curve, "ridge", 20)
    for name in ("group", "pooled"):
        (score,) = scores(curve, name, 20)
        own = curve.sel(encoder=name, length=20)
        alone = score.by_roi(resamples=99, seed=7)
        paired = score.compare(reference, resamples=99, seed=7)
        for key, expected in {
            "low": alone["low"],
            "high": alone["high"],
            "difference": paired["difference"],
            "difference_low": paired["low"],
            "difference_high": paired["high"],
            "p": paired["p"],
        }.items():
            np.testing.assert_allclose(own[key], expected, rtol=1e-4, atol=1e-6)
        assert float(own["difference"][-1]) == pytest.approx(
            float(own["mean"][-1] - curve["mean"].sel(encoder="ridge", length=20)[-1]), abs=1e-6
        )


def test_the_reference_differs_from_itself_by_nothing(curve):
    # Catches a reference compared with another encoder, and numbers for an empty ROI.
    own = curve.sel(encoder="ridge").drop_sel(roi="empty")
    for key in ("difference", "difference_low", "difference_high"):
        assert (own[key] == 0).all()
        assert not np.signbit(own[key]).any()
    assert (own["p"] == 1).all()
    assert np.isnan(curve["difference"].sel(roi="empty")).all()
    other = scaling_curve(
        encoders(), FEATURES, CONTEXT, TEST, [20], draws=1, reference="group", resamples=9
    )
    assert (other["difference"].sel(encoder="group", roi="all") == 0).all()
    assert (other["difference"].sel(encoder="ridge", roi="all") != 0).all()


def test_every_encoder_is_given_the_same_nested_contexts():
    # Catches a draw for each encoder or length: differences would be of the images.
    first, second = recorder(), recorder()
    both = {"a": first, "ridge": ridge(), "b": second}
    curve = scaling_curve(both, FEATURES, CONTEXT, TEST, LENGTHS, draws=3, resamples=9)
    # The copies share the list that they append to.
    assert first.calls_ == second.calls_
    images = curve["images"].values
    assert images.shape == (3, 40)
    expected = [tuple(images[draw, :length]) for length in LENGTHS for draw in range(3)]
    assert first.calls_ == expected
    assert all(len(set(order)) == 40 for order in images.tolist())
    assert len({tuple(order[:8]) for order in images}) == 3
    assert set(images.ravel()) == set(CONTEXT["image"].values)


def test_draws_follow_the_seed_alone():
    # Catches a global generator, and draws that depend on how many there are or on the order of
    # the responses.
    def images(seed: int, draws: int, context: xr.Dataset = CONTEXT) -> np.ndarray:
        only = {"ridge": ridge(view="mean", alphas=[1.0])}
        curve = scaling_curve(
            only, FEATURES, context, TEST, [8], draws=draws, seed=seed, resamples=2
        )
        return curve["images"].values

    np.testing.assert_array_equal(images(1, 1), images(1, 3)[:1])
    assert (images(1, 1) != images(2, 1)).any()
    backwards = CONTEXT.isel(presentation=slice(None, None, -1))
    np.testing.assert_array_equal(images(1, 2), images(1, 2, backwards))


def test_the_encoders_given_stay_as_they_are():
    # Catches a curve that leaves its last context in the caller's encoder.
    given = {"group": encoders()["group"], "ridge": ridge()}
    given["group"].adapt(FEATURES, CONTEXT.isel(presentation=slice(0, 5)))
    before = given["group"].predict(FEATURES)
    scaling_curve(given, FEATURES, CONTEXT, TEST, [20], draws=1, resamples=2)
    assert given["group"].context_ == tuple(CONTEXT["image"].values[:5])
    xr.testing.assert_identical(given["group"].predict(FEATURES), before)
    with pytest.raises(NotFittedError):
        check_is_fitted(given["ridge"])


def test_lengths_beyond_the_pool_are_left_out_and_told():
    # Catches a context of 40 images in the column of 100, and silence about it.
    told: list[str] = []
    curve = scaling_curve(
        {"ridge": ridge()},
        FEATURES,
        CONTEXT,
        TEST,
        [100, 8, 41, 8],
        1,
        resamples=9,
        report=told.append,
    )
    assert curve["length"].values.tolist() == [8]
    assert curve["images"].shape == (1, 8)
    assert told[0] == "left out: contexts of 41, 100 images; there are 40 to draw from"
    mean = float(curve["mean"].sel(roi="all").item())
    assert told[1].startswith(f"ridge, 8 images: {mean:.3f} [")
    assert len(told) == 2


def test_without_ceilings_scores_are_raw_and_say_so(curve):
    # Catches a table of NaN.
    assert curve.attrs["units"] == "normalised"
    bare = [each.drop_vars("ceiling") for each in (CONTEXT, TEST)]
    raw = scaling_curve(encoders(), FEATURES, *bare, LENGTHS, draws=2, seed=3, resamples=60)
    assert raw.attrs["units"] == "raw"
    np.testing.assert_array_equal(raw["mean"], raw["raw_mean"])
    np.testing.assert_allclose(raw["raw_mean"], curve["raw_mean"], rtol=1e-6)
    full = raw.drop_sel(roi="empty")
    assert (full["low"] < full["mean"]).all()
    assert (full["mean"] < full["high"]).all()


def test_each_encoder_may_have_features_of_its_own():
    # Catches features that are given to the wrong encoder.
    group = encoders()["group"]
    vectors = group.embedding_.features(FEATURES)
    both = {"group": group, "ridge": ridge(standardise=False)}
    curve = scaling_curve(
        both, {"ridge": vectors, "group": FEATURES}, CONTEXT, TEST, [20], draws=1, resamples=9
    )
    shown = curve["images"].values[0]
    own = CONTEXT.isel(presentation=np.isin(CONTEXT["image"].values, shown))
    score = ridge(standardise=False).fit(vectors, own).score(vectors, TEST)
    assert float(curve["mean"].sel(encoder="ridge", roi="all").item()) == pytest.approx(
        float(score.by_roi(resamples=0)["mean"][-1]), rel=1e-5
    )
    with pytest.raises(MismatchError, match="given for ridge, but not for group"):
        scaling_curve(both, {"ridge": vectors}, CONTEXT, TEST, [20])


def test_repetitions_are_averaged_before_images_are_drawn():
    # Catches a context that counts presentations as images.
    twice = small_responses(FEATURES, [*range(10, 50), *range(10, 50)], noise=1.0)
    repeated = small_responses(FEATURES, [*range(50, 80)] * 2, seed=2)
    curve = scaling_curve(
        {"a": recorder()}, FEATURES, twice, repeated, [40], 1, reference="a", resamples=2
    )
    assert len(set(curve["images"].values[0])) == 40
    assert curve.attrs["test_images"] == 30


def test_the_table_holds_every_number_of_an_roi(curve, tmp_path):
    # Catches rows of another ROI, encoder or length, and a curve that cannot be saved.
    shown = table(curve, "tail")
    assert list(shown.columns) == list(DEFINITIONS)
    assert shown.index[:3].tolist() == [(8, "group"), (8, "ridge"), (8, "pooled")]
    for (length, name), row in shown.iterrows():
        own = curve.sel(encoder=name, length=length, roi="tail")
        assert row.tolist() == [float(own[key]) for key in DEFINITIONS]
    assert table(curve).loc[(40, "ridge"), "mean"] == float(
        curve["mean"].sel(encoder="ridge", length=40, roi="all")
    )
    with pytest.raises(UnknownNameError, match=r"roi='tial'.*'tail'"):
        table(curve, "tial")
    curve.to_netcdf(tmp_path / "curve.nc", engine="h5netcdf")
    again = xr.load_dataset(tmp_path / "curve.nc", engine="h5netcdf")
    np.testing.assert_array_equal(again["images"].values.astype(str), curve["images"].values)
    assert curve["encoder"].dtype.kind == "U"
    assert all(curve[key].attrs["definition"] == words for key, words in DEFINITIONS.items())


def test_more_images_help_where_there_is_something_to_learn(curve):
    # Catches lengths in the wrong order, from the outside.
    ridge_means = curve["mean"].sel(encoder="ridge", roi="all").values
    assert ridge_means[0] < ridge_means[2] - 0.05


def test_what_would_make_a_curve_meaningless_is_refused():
    # Catches test images in the context, voxels of two subjects, and typos.
    only = {"ridge": ridge()}
    overlapping = small_responses(FEATURES, list(range(48, 80)), seed=2)
    with pytest.raises(InputError, match=r"2 test images.*'im48', 'im49'"):
        scaling_curve(only, FEATURES, CONTEXT, overlapping, [8])
    other = TEST.assign_coords(vertex=("voxel", np.arange(VOXELS)))
    with pytest.raises(MismatchError, match="differ in vertex"):
        scaling_curve(only, FEATURES, CONTEXT, other, [8])
    fewer = TEST.isel(voxel=slice(1, None))
    with pytest.raises(MismatchError, match="7 voxels and test 6"):
        scaling_curve(only, FEATURES, CONTEXT, fewer, [8])
    with pytest.raises(UnknownNameError, match=r"reference='rigde'.*'ridge'"):
        scaling_curve(only, FEATURES, CONTEXT, TEST, [8], reference="rigde")
    with pytest.raises(UnknownNameError, match="reference='ridge'"):
        scaling_curve({}, FEATURES, CONTEXT, TEST, [8])
    for lengths in ([], [1, 8], [8.5]):
        with pytest.raises(InputError, match="whole numbers of at least 2"):
            scaling_curve(only, FEATURES, CONTEXT, TEST, lengths)
    with pytest.raises(InputError, match="drawn from 40 images"):
        scaling_curve(only, FEATURES, CONTEXT, TEST, [41])
    with pytest.raises(InputError, match="draws=0"):
        scaling_curve(only, FEATURES, CONTEXT, TEST, [8], draws=0)
