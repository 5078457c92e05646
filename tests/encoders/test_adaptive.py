"""What every adaptive encoder does: learn from several sets, and be written anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.base import clone

import neuroattn
from neuroattn.data.transforms import average_repetitions
from neuroattn.encoders.adaptive import chosen_images
from neuroattn.encoders.embedding import EmbeddingConfig
from neuroattn.errors import InputError, MismatchError, UnknownNameError
from tests.encoders.adaptive_data import (
    FEATURES,
    KINDS,
    NEW,
    OTHER,
    PCA3,
    SETS,
    TEST,
    Writer,
    fitted,
)
from tests.encoders.small import CHANNELS, VOXELS, small_responses
from tests.tolerances import TOLERANCE

ALL = np.arange(60)


@pytest.fixture(params=sorted(KINDS))
def kind(request):
    return KINDS[request.param]


def test_each_set_is_averaged_over_its_own_repetitions():
    # Catches sets that are merged or cut to common images, and repetitions that count as images.
    first, second = fitted().sets_
    assert first.images == tuple(f"im{i}" for i in range(15))
    assert second.images == tuple(f"im{i}" for i in range(10, 30))
    raw = SETS[0]["response"].values.astype(float)
    expected = np.vstack([(raw[:5] + raw[15:]) / 2, raw[5:15]])
    np.testing.assert_allclose(first.response, expected, **TOLERANCE["float32"])
    np.testing.assert_array_equal(second.response, SETS[1]["response"])
    np.testing.assert_array_equal(second.embedded, fitted().sets_[1].embedded)


def test_one_set_is_a_list_of_one_and_sets_may_come_from_anywhere(kind):
    # Catches a dataset that is taken for its variables.
    one = kind().fit(FEATURES, SETS[0]).adapt(FEATURES, NEW).predict(FEATURES)
    xr.testing.assert_identical(
        one, kind().fit(FEATURES, [SETS[0]]).adapt(FEATURES, NEW).predict(FEATURES)
    )
    both = fitted(kind).adapt(FEATURES, NEW).predict(FEATURES)
    again = kind().fit(FEATURES, iter(SETS)).adapt(FEATURES, NEW).predict(FEATURES)
    xr.testing.assert_identical(both, again)
    assert not np.array_equal(one, both)


def test_the_embedding_is_learned_from_the_images_of_all_sets_alone():
    # Catches components learned from validation or context images, or from the first set alone.
    changed = FEATURES.copy(deep=True)
    changed["tokens"][30:] = 5 * changed["tokens"][30:] - 1
    held_out = [small_responses(FEATURES, [30, 31]), small_responses(FEATURES, [32])]
    one = Writer(PCA3).fit(FEATURES, SETS, held_out)
    other = Writer(PCA3).fit(changed, SETS)
    less = Writer(PCA3).fit(FEATURES, SETS[0])
    for name, value in one.embedding_.tensors().items():
        assert torch.equal(value, other.embedding_.tensors()[name])
        assert not torch.equal(value, less.embedding_.tensors()[name])
    assert [each.images for each in one.validation_] == [("im30", "im31"), ("im32",)]


def test_adapting_averages_repetitions_first(kind):
    # Catches an image that counts as often as it was shown.
    encoder = fitted(kind).adapt(FEATURES, NEW)
    assert encoder.context_ == ("im30", "im33", "im31", "im38", "im36")
    found = encoder.weights_.copy()
    averaged = average_repetitions(NEW)
    assert averaged.sizes["presentation"] == 5
    np.testing.assert_array_equal(encoder.adapt(FEATURES, averaged).weights_, found)


def test_what_is_written_comes_from_the_averaged_context():
    # Catches weights of the wrong rows; the writer's rule by hand.
    raw = NEW["response"].values.astype(float)
    response = np.vstack([raw[0], raw[[1, 3]].mean(0), raw[[2, 5]].mean(0), raw[4], raw[6]])
    vectors = FEATURES["tokens"].values.mean(1, dtype=float)[[30, 33, 31, 38, 36]]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    encoder = fitted().adapt(FEATURES, NEW)
    np.testing.assert_allclose(encoder.weights_, 2 * response.T @ vectors / 5, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(encoder.intercept_, response.mean(0), rtol=1e-5, atol=1e-6)
    assert encoder.weights_.dtype == encoder.intercept_.dtype == np.float32


def test_only_the_chosen_images_are_read(kind):
    # Catches a context that is all of the responses; order and repetition of ids play no role.
    part = NEW.isel(presentation=[0, 1, 3, 4])
    expected = fitted(kind).adapt(FEATURES, part)
    for images in (["im38", "im33", "im30", "im33"], iter(["im30", "im33", "im38"])):
        encoder = fitted(kind).adapt(FEATURES, NEW, images)
        assert encoder.context_ == expected.context_ == ("im30", "im33", "im38")
        np.testing.assert_array_equal(encoder.weights_, expected.weights_)


def test_choosing_images_keeps_all_their_presentations():
    # Catches the first presentation alone, and ids that are numbers.
    found = chosen_images(NEW, np.array(["im33", "im36"]))
    assert found["image"].values.tolist() == ["im33", "im33", "im36"]
    assert chosen_images(NEW, None) is NEW
    with pytest.raises(MismatchError, match=r"2 of 3 context images have no response.*'5', 'im2'"):
        chosen_images(NEW, ["im2", "im30", 5])


def test_adapting_again_forgets_the_first_voxels(kind):
    # Catches anything of the first subject that stays: voxels, context, noise.
    fresh = fitted(kind).adapt(FEATURES, OTHER)
    encoder = fitted(kind).adapt(FEATURES, NEW).adapt(FEATURES, OTHER)
    xr.testing.assert_identical(encoder.predict(FEATURES), fresh.predict(FEATURES))
    xr.testing.assert_identical(encoder.written(), fresh.written())
    assert encoder.context_ == fresh.context_
    encoder.score(FEATURES, NEW.isel(voxel=[1, 4]))  # the first context is no leak any more


def test_fitting_again_forgets_the_voxels(kind):
    # Catches predictions by weights of another prior.
    encoder = fitted(kind).adapt(FEATURES, NEW).fit(FEATURES, SETS)
    assert encoder.weights_.shape == (0, CHANNELS)
    assert encoder.context_ == ()
    with pytest.raises(InputError, match="no voxels yet"):
        encoder.predict(FEATURES)


@pytest.mark.parametrize("embedding", [None, PCA3, {"view": "flatten", "normalise": False}])
def test_the_written_weights_predict_what_predict_predicts(kind, embedding):
    # Catches weights for columns other than those of the embedding, or an intercept left out.
    encoder = fitted(kind, embedding=embedding).adapt(FEATURES, NEW)
    written = encoder.written()
    assert written["weights"].dims == ("voxel", "feature")
    assert written["weights"].dtype == written["intercept"].dtype == np.float32
    assert written.attrs == {"images": 5, "embedding": encoder.embedding_.config.view}
    for name in ("subject", "hemisphere", "vertex"):
        np.testing.assert_array_equal(written[name], NEW[name])
    vectors = encoder.embedding_.transform(FEATURES, ALL).numpy().astype(float)
    expected = vectors @ written["weights"].values.T + written["intercept"].values
    found = encoder.predict(FEATURES)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    some = encoder.predict(FEATURES, ["im9", "im2"])
    np.testing.assert_allclose(some, found.sel(image=["im9", "im2"]), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found["vertex"], NEW["vertex"])


def test_a_score_is_of_predictions_and_averaged_responses(kind):
    # Catches a score of the training voxels, or of single presentations.
    encoder = fitted(kind).adapt(FEATURES, NEW)
    score = encoder.score(FEATURES, TEST, metric="r2").dataset
    raw = TEST["response"].values.astype(float)
    y = np.vstack([raw[[0, 3]].mean(0), raw[1], raw[2], raw[4]])
    predicted = encoder.predict(FEATURES, ["im50", "im51", "im52", "im53"]).values
    expected = 1 - ((y - predicted) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(score["raw"], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(MismatchError, match="2 voxels"):
        encoder.score(FEATURES, TEST.isel(voxel=[0, 1]))


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("name", ["empirical Bayes", "group average"])
def test_an_encoder_survives_saving_bit_for_bit(tmp_path, name, adapted):
    # Catches rounding on the way, and a context that is lost: the leak test would be, too.
    encoder = fitted(KINDS[name], embedding=EmbeddingConfig("pca", components=3))
    if adapted:
        encoder.adapt(FEATURES, NEW)
    encoder.save(tmp_path)
    loaded = neuroattn.load(tmp_path)
    assert type(loaded) is type(encoder)
    assert loaded.context_ == encoder.context_
    assert (loaded.zscored_, loaded.features_) == (encoder.zscored_, encoder.features_)
    xr.testing.assert_identical(loaded.voxels_, encoder.voxels_)
    if adapted:
        xr.testing.assert_identical(loaded.predict(FEATURES), encoder.predict(FEATURES))
        xr.testing.assert_identical(loaded.written(), encoder.written())
        with pytest.raises(InputError, match="'im30'"):
            loaded.score(FEATURES, NEW)
    else:
        with pytest.raises(InputError, match="no voxels yet"):
            loaded.predict(FEATURES)
    for each in (loaded, encoder):
        each.adapt(FEATURES, OTHER)
    xr.testing.assert_identical(loaded.predict(FEATURES), encoder.predict(FEATURES))
    with pytest.raises(MismatchError, match="zscored"):
        loaded.adapt(FEATURES, NEW.assign_attrs(zscored="session"))


def test_a_prior_may_have_tensors_of_any_name(tmp_path):
    # Catches a tensor of the prior that overwrites the written weights.
    encoder = fitted(factor=1.5).adapt(FEATURES, NEW)
    encoder.save(tmp_path)
    loaded = Writer.from_directory(tmp_path)
    assert torch.equal(loaded.learned_, torch.tensor(3.0))
    xr.testing.assert_identical(loaded.written(), encoder.written())


@pytest.mark.parametrize("embedding", [None, PCA3, EmbeddingConfig("class")])
def test_an_encoder_is_cloned_unfitted_with_its_parameters(kind, embedding):
    # Catches a constructor that changes what it is given, and a clone that knows voxels.
    encoder = fitted(kind, embedding=embedding).adapt(FEATURES, NEW)
    assert encoder.get_params()["embedding"] == embedding
    again = clone(encoder)
    assert again.get_params() == encoder.get_params()
    with pytest.raises(InputError, match="is not fitted"):
        again.adapt(FEATURES, NEW)
    xr.testing.assert_identical(
        again.fit(FEATURES, SETS).adapt(FEATURES, NEW).predict(FEATURES), encoder.predict(FEATURES)
    )


def test_an_embedding_may_be_a_configuration_or_a_mapping(kind):
    # Catches a mapping that is not read, and a wrong one that is found late.
    one = fitted(kind, embedding=PCA3).adapt(FEATURES, NEW).predict(FEATURES)
    two = fitted(kind, embedding=EmbeddingConfig(**PCA3)).adapt(FEATURES, NEW).predict(FEATURES)
    xr.testing.assert_identical(one, two)
    with pytest.raises(UnknownNameError, match=r"embedding\.view='median'"):
        fitted(kind, embedding={"view": "median"})


def test_writing_leaves_the_encoder_as_it_is(kind):
    # Catches a prior or voxels that change with what was written last.
    encoder = fitted(kind).adapt(FEATURES, NEW)
    before = encoder.predict(FEATURES)
    sets = fitted().sets_
    for each in sets:
        weights, intercept = encoder.write(each)
        assert weights.shape == (VOXELS, CHANNELS)
        assert intercept.shape == (VOXELS,)
    xr.testing.assert_identical(encoder.predict(FEATURES), before)
    xr.testing.assert_identical(encoder.adapt(FEATURES, NEW).predict(FEATURES), before)
