"""Embeddings against numpy and scikit-learn, and their keys."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from neuroattn.encoders.config import as_config
from neuroattn.encoders.embedding import Embedding, EmbeddingConfig, fit_embedding
from neuroattn.errors import InputError, MismatchError, UnknownNameError
from tests.encoders.small import CHANNELS, small_features
from tests.tolerances import TOLERANCE

FEATURES = small_features(images=50)
IDS = [f"im{i}" for i in range(20)]
ALL = np.arange(50)
TOKENS = FEATURES["tokens"].values.astype(float)
PCA4 = EmbeddingConfig("pca", components=4)


def embedded(config: EmbeddingConfig, features: xr.Dataset = FEATURES, ids=IDS) -> np.ndarray:
    return fit_embedding(config, features, ids).transform(features, ALL).numpy()


def key(config: EmbeddingConfig, features: xr.Dataset = FEATURES, ids=IDS) -> str:
    return fit_embedding(config, features, ids).features(features).attrs["key"]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("mean", TOKENS.mean(1)),
        ("class", FEATURES["class_token"].values.astype(float)),
        ("flatten", TOKENS.reshape(50, -1)),
    ],
)
def test_a_view_is_the_features_themselves_and_is_normalised_by_image(view, expected, normalise):
    # Catches columns centred on training images: published weights are for raw embeddings.
    found = embedded(EmbeddingConfig(view, normalise=normalise))
    wanted = unit(expected) if normalise else expected
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, **TOLERANCE["float32"])
    embedding = fit_embedding(EmbeddingConfig(view), FEATURES, [])
    assert embedding.width == expected.shape[1]


@pytest.mark.parametrize("images", [12, 45])
def test_pca_is_that_of_standardised_columns_of_the_training_images(images):
    # Catches components of raw columns, and statistics of all images; 30 columns, so that both
    # ways of solving are tried.
    ids = [f"im{i}" for i in range(images)]
    scaler = StandardScaler().fit(TOKENS.reshape(50, -1)[:images])
    columns = scaler.transform(TOKENS.reshape(50, -1))
    pca = PCA(4, svd_solver="full").fit(columns[:images])
    expected = pca.transform(columns)
    found = embedded(replace(PCA4, normalise=False), ids=ids)
    sign = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * sign, expected, rtol=1e-4, atol=1e-5)
    normalised = embedded(PCA4, ids=ids)
    np.testing.assert_allclose(normalised, unit(found.astype(float)), **TOLERANCE["float32"])


def test_an_image_without_any_activation_stays_zero():
    # Catches a division by zero: NaN would reach every voxel.
    features = FEATURES.copy(deep=True)
    features["tokens"][3] = 0
    found = embedded(EmbeddingConfig(), features)
    assert np.isfinite(found).all()
    assert (found[3] == 0).all()


@pytest.mark.parametrize("config", [EmbeddingConfig("mean"), EmbeddingConfig("flatten"), PCA4])
def test_other_images_do_not_leak_into_the_embedding(config):
    # Catches moments or components of test images.
    changed = FEATURES.copy(deep=True)
    changed["tokens"][20:] = 7 * changed["tokens"][20:] + 1
    one, other = (fit_embedding(config, each, IDS) for each in (FEATURES, changed))
    for name, value in one.tensors().items():
        assert torch.equal(value, other.tensors()[name])


def test_ids_count_once_and_in_any_order():
    # Catches an image that is weighted by how often it is named.
    again = fit_embedding(PCA4, FEATURES, [*IDS[::-1], *IDS[:9]])
    for name, value in fit_embedding(PCA4, FEATURES, IDS).tensors().items():
        assert torch.equal(value, again.tensors()[name])


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("view", ["mean", "flatten", "pca"])
def test_a_vector_becomes_what_an_image_of_that_one_token_becomes(view, normalise):
    # Catches texts that are scaled or normalised otherwise than images.
    one = FEATURES.isel(token=slice(0, 1))
    config = EmbeddingConfig(view, 3 if view == "pca" else 0, normalise)
    embedding = fit_embedding(config, one, IDS)
    vectors = torch.from_numpy(one["tokens"].values[:, 0])
    assert torch.equal(embedding.apply(vectors), embedding.transform(one, ALL))
    assert embedding.apply(vectors.double()[:2]).dtype == torch.float32


@pytest.mark.parametrize("shape", [(3, CHANNELS + 1), (CHANNELS,), (2, 3, CHANNELS)])
def test_vectors_of_another_space_are_refused(shape):
    # Catches text vectors of another model, broadcast or cut to fit.
    with pytest.raises(MismatchError, match=f"takes vectors of {CHANNELS} channels"):
        fit_embedding(EmbeddingConfig(), FEATURES, IDS).apply(torch.zeros(shape))


@pytest.mark.parametrize("config", [EmbeddingConfig("class"), PCA4])
def test_features_of_one_token_hold_the_vectors_by_image(config):
    # Catches an order or a layout that other encoders would read wrongly.
    embedding = fit_embedding(config, FEATURES, IDS)
    found = embedding.features(FEATURES)
    assert found["tokens"].dims == ("image", "token", "channel")
    assert found["tokens"].shape == (50, 1, embedding.width)
    np.testing.assert_array_equal(found["tokens"][:, 0], embedding.transform(FEATURES, ALL))
    np.testing.assert_array_equal(found["image"], FEATURES["image"])
    assert (found.attrs["rows"], found.attrs["columns"]) == (1, 1)
    assert found.attrs["basis"] == f"basis-k1, {config.view}"


def test_the_key_changes_with_everything_that_changes_the_vectors():
    # Catches weights applied to vectors of another embedding.
    moved = FEATURES.assign(tokens=FEATURES["tokens"] * 2)
    cases = [
        (EmbeddingConfig("mean"), FEATURES, IDS),
        (EmbeddingConfig("mean", normalise=False), FEATURES, IDS),
        (EmbeddingConfig("class"), FEATURES, IDS),
        (EmbeddingConfig("flatten"), FEATURES, IDS),
        (EmbeddingConfig("mean"), FEATURES.assign_attrs(key="k2"), IDS),
        (PCA4, FEATURES, IDS),
        (replace(PCA4, components=5), FEATURES, IDS),
        (replace(PCA4, normalise=False), FEATURES, IDS),
        (PCA4, FEATURES, IDS[1:]),
        (PCA4, FEATURES.assign_attrs(key="k2"), IDS),
        (PCA4, moved, IDS),
    ]
    keys = [key(*case) for case in cases]
    assert len({*keys, FEATURES.attrs["key"]}) == len(cases) + 1


@pytest.mark.parametrize("config", [EmbeddingConfig("mean"), PCA4])
def test_the_key_stays_where_the_vectors_stay(config):
    # Catches features that are refused although nothing changed: other images, another name.
    wanted = key(config)
    assert key(config, FEATURES.isel(image=slice(0, 30))) == wanted
    assert key(config, FEATURES.assign_attrs(basis="renamed")) == wanted
    assert key(config, ids=IDS[::-1]) == wanted
    embedding = fit_embedding(config, FEATURES, IDS)
    again = Embedding.restored(config, {**embedding.tensors(), "weights": torch.zeros(2)})
    assert again.features(FEATURES).attrs["key"] == wanted
    assert key(EmbeddingConfig("mean"), ids=IDS[:3]) == key(EmbeddingConfig("mean"))


@pytest.mark.parametrize("config", [EmbeddingConfig("class", normalise=False), PCA4])
def test_tensors_bring_an_embedding_back_bit_for_bit(config):
    # Catches a layout or a dtype that rounds otherwise after a file.
    embedding = fit_embedding(config, FEATURES, IDS)
    assert all(value.is_contiguous() for value in embedding.tensors().values())
    again = Embedding.restored(config, {k: v.clone() for k, v in embedding.tensors().items()})
    assert again.width == embedding.width
    assert torch.equal(again.transform(FEATURES, ALL), embedding.transform(FEATURES, ALL))


def test_a_class_token_that_is_missing_is_told_with_the_basis():
    # Catches a KeyError from inside the features.
    bare = FEATURES.drop_vars("class_token")
    with pytest.raises(InputError, match=r"'class' needs a class token, and basis 'basis-k1'"):
        fit_embedding(EmbeddingConfig("class"), bare, IDS)


@pytest.mark.parametrize("components", [20, 31])
def test_more_components_than_images_or_columns_are_refused(components):
    # Catches components that are rounding.
    ids = IDS if components == 20 else [f"im{i}" for i in range(50)]
    with pytest.raises(InputError, match=f"components={components} must be 1 to"):
        fit_embedding(EmbeddingConfig("pca", components=components), FEATURES, ids)


def test_training_images_without_features_are_refused():
    # Catches components learned from whatever image stands last.
    with pytest.raises(MismatchError, match="'im77'"):
        fit_embedding(PCA4, FEATURES, [*IDS, "im77"])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"view": "pca"}, InputError, "view='pca' and components=0"),
        ({"view": "pca", "components": -2}, InputError, "components=-2"),
        ({"components": 3}, InputError, "view='mean' and components=3"),
        ({"components": -1}, InputError, "components=-1: give a positive number"),
        ({"view": "means"}, UnknownNameError, r"embedding\.view.*mean"),
        ({"veiw": "mean"}, InputError, "view"),
        ({"normalise": 1}, InputError, "normalise=1"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(given, error, message):
    # Catches a setting that is silently not used.
    with pytest.raises(error, match=message):
        as_config("embedding", given, EmbeddingConfig)
