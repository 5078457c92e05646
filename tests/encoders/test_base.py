"""What every encoder inherits, tested on one that predicts the training mean plus a slope."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.base import clone

from neuroattn.encoders.base import Encoder
from neuroattn.errors import InputError, MismatchError
from tests.encoders.small import CHANNELS, VOXELS, small_features, small_responses


class MeanEncoder(Encoder):
    """Predicts the mean response plus ``slope`` times the first feature."""

    def __init__(self, slope: float = 1.0) -> None:
        self.slope = slope

    def _fit(self, features, responses, validation):
        self.mean_ = responses["response"].values.mean(0)
        self.validated_ = validation is not None

    def _predict(self, features, rows):
        first = features["tokens"].values[rows, 0, 0]
        return self.mean_ + np.float32(self.slope) * first[:, None]

    def _state(self):
        return {"mean": torch.from_numpy(self.mean_)}, {"note": "kept"}

    def _restore(self, tensors, state):
        self.mean_ = tensors["mean"].numpy()
        self.note_ = state["note"]


FEATURES = small_features()
RESPONSES = small_responses(FEATURES, [*range(20), *range(5)])


def test_predictions_carry_the_labels_of_images_and_voxels():
    # Catches predictions that lose or shift the voxels' coordinates.
    predicted = MeanEncoder().fit(FEATURES, RESPONSES).predict(FEATURES)
    assert predicted.dims == ("image", "voxel")
    assert predicted.dtype == np.float32
    assert predicted["image"].values.tolist() == FEATURES["image"].values.tolist()
    for name in ("subject", "hemisphere", "vertex"):
        np.testing.assert_array_equal(predicted[name], RESPONSES[name])


def test_images_are_predicted_by_id_in_the_order_asked():
    # Catches prediction by position.
    encoder = MeanEncoder().fit(FEATURES, RESPONSES)
    whole = encoder.predict(FEATURES)
    ids = ["im7", "im0", "im31"]
    turned = FEATURES.isel(image=slice(None, None, -1))
    for features in (FEATURES, turned):
        some = encoder.predict(features, ids)
        assert some["image"].values.tolist() == ids
        np.testing.assert_array_equal(some, whole.sel(image=ids))
    assert encoder.predict(FEATURES, iter(["im3"])).shape == (1, VOXELS)


def test_features_of_another_basis_are_refused_with_both_keys():
    # Catches weights applied to features that they do not belong to.
    encoder = MeanEncoder().fit(FEATURES, RESPONSES)
    with pytest.raises(MismatchError, match=r"(?s)basis-k2.*k2.*basis-k1.*k1"):
        encoder.predict(small_features(key="k2"))


@pytest.mark.parametrize(
    ("sizes", "message"), [({"channels": 4}, "4 channels"), ({"rows": 4}, "12 tokens")]
)
def test_features_of_another_shape_are_refused(sizes, message):
    # Catches a token or channel count that would only fail inside a matrix product.
    encoder = MeanEncoder().fit(FEATURES, RESPONSES)
    with pytest.raises(MismatchError, match=message):
        encoder.predict(small_features(**sizes))


def test_an_encoder_that_is_not_fitted_says_so():
    # Catches an AttributeError about a private name.
    for call in (lambda e: e.predict(FEATURES), lambda e: e.score(FEATURES, RESPONSES)):
        with pytest.raises(InputError, match="not fitted"):
            call(MeanEncoder())


def test_nan_and_infinite_responses_are_refused_and_counted():
    # Catches NaN that spreads silently into every weight.
    spoilt = RESPONSES.copy(deep=True)
    spoilt["response"].values[3, 2] = np.nan
    spoilt["response"].values[4, 2] = np.inf
    spoilt["response"].values[5, 6] = np.nan
    with pytest.raises(InputError, match=r"3 values .* in 2 of 7 voxels.*drop_unusable_voxels"):
        MeanEncoder().fit(FEATURES, spoilt)
    with pytest.raises(InputError, match="3 values"):
        MeanEncoder().fit(FEATURES, RESPONSES, validation=spoilt)


def test_validation_must_be_of_the_same_voxels():
    # Catches a validation set of another subject.
    other = small_responses(FEATURES, [30, 31])
    assert MeanEncoder().fit(FEATURES, RESPONSES, validation=other).validated_
    shifted = other.assign_coords(vertex=("voxel", other["vertex"].values + 1))
    for wrong, message in ((shifted, "'vertex'"), (other.isel(voxel=slice(3)), "3 voxels")):
        with pytest.raises(MismatchError, match=message):
            MeanEncoder().fit(FEATURES, RESPONSES, validation=wrong)
        with pytest.raises(MismatchError, match=message):
            MeanEncoder().fit(FEATURES, RESPONSES).score(FEATURES, wrong)


def test_the_constructor_only_stores_and_clones():
    # Catches validation or copies in a constructor, which break scikit-learn's clone.
    encoder = clone(MeanEncoder(slope=2.0).fit(FEATURES, RESPONSES))
    assert encoder.get_params() == {"slope": 2.0}
    assert not hasattr(encoder, "voxels_")


def test_what_was_learned_of_features_and_voxels_is_kept():
    # Catches ROIs or the space getting lost before maps are drawn.
    encoder = MeanEncoder().fit(FEATURES, RESPONSES)
    assert encoder.features_ == {
        "basis": "basis-k1",
        "key": "k1",
        "rows": 2,
        "columns": 3,
        "tokens": 6,
        "channels": CHANNELS,
    }
    xr.testing.assert_equal(encoder.voxels_["roi_mask"], RESPONSES["roi_mask"])
    assert encoder.voxels_.attrs["space"] == "fsaverage"
    assert "presentation" not in encoder.voxels_.dims


def expected_score(encoder, test):
    """Explained variance of the averages, by hand."""
    images = np.unique(test["image"].values)
    y = np.stack([test["response"].values[test["image"].values == i].mean(0) for i in images])
    predicted = encoder.predict(FEATURES, images).values
    return 1 - (y.astype(float) - predicted).var(0) / y.astype(float).var(0)


def test_score_averages_repetitions_and_uses_the_ceiling_of_the_average():
    # Catches scoring single presentations against the ceiling of averages.
    test = small_responses(FEATURES, [30, 31, 30, 32, 33, 30, 31], ncsnr=np.linspace(0, 2, VOXELS))
    encoder = MeanEncoder(slope=0.1).fit(FEATURES, RESPONSES)
    score = encoder.score(FEATURES, test).dataset
    np.testing.assert_allclose(score["raw"], expected_score(encoder, test), rtol=1e-4, atol=1e-5)
    power = np.linspace(0, 2, VOXELS) ** 2
    mean_inverse = np.mean([1 / 3, 1 / 2, 1, 1])
    np.testing.assert_allclose(score["ceiling"], power / (power + mean_inverse), rtol=1e-6)
    assert score["repeats"].values.tolist() == [3, 2, 1, 1]
    assert score["image"].values.tolist() == ["im30", "im31", "im32", "im33"]
    np.testing.assert_array_equal(score["vertex"], test["vertex"])
    assert score.attrs["encoder"] == "MeanEncoder"


def test_a_shipped_ceiling_goes_before_an_estimated_one():
    # Catches a bootstrap ceiling that is replaced by one from ncsnr.
    shipped = np.linspace(0.05, 0.9, VOXELS)
    test = small_responses(FEATURES, [30, 31, 32], ceiling=shipped, ncsnr=np.ones(VOXELS))
    score = MeanEncoder().fit(FEATURES, RESPONSES).score(FEATURES, test, threshold=0.2).dataset
    np.testing.assert_allclose(score["ceiling"], shipped)
    np.testing.assert_array_equal(np.isnan(score["normalised"]), shipped < 0.2)


def test_without_a_ceiling_there_is_no_normalised_score():
    # Catches a ceiling of one where none is known.
    test = small_responses(FEATURES, [30, 31, 32])
    score = MeanEncoder().fit(FEATURES, RESPONSES).score(FEATURES, test, metric="pearson").dataset
    assert np.isnan(score["ceiling"]).all()
    assert np.isnan(score["normalised"]).all()
    assert np.isfinite(score["raw"]).all()
    assert score.attrs["metric"] == "pearson"
