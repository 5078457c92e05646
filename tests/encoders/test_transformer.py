"""The transformer encoder follows what moves, says where it looks, and survives a save."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from neuroattn.encoders import FactorizedEncoder, TransformerEncoder, load
from neuroattn.encoders.decoder import DecoderConfig
from neuroattn.encoders.transformer import TransformerModule
from neuroattn.errors import InputError, MismatchError, UnknownNameError
from neuroattn.training.optimisation import Optimisation
from tests.encoders.trained_data import (
    COLUMNS,
    ROWS,
    make_features,
    routed_responses,
    standardised,
    static_responses,
)

FEATURES = make_features(420)
TRAIN, TEST = np.arange(340), np.arange(340, 420)
ROUTED, STATIC = routed_responses(FEATURES), static_responses(FEATURES)
MIXED = ROUTED.copy(deep=True)
MIXED["response"][:, 3:] = STATIC["response"].values[:, 3:]
NETWORK = {"queries": "hemisphere", "dim": 16, "heads": 2, "feedforward": 16, "dropout": 0.0}
OPTIMISATION = {"epochs": 30, "learning_rate": 0.01, "batch_size": 16}
QUICK = {"epochs": 2}


def fit(responses: xr.Dataset, network=NETWORK, **more) -> TransformerEncoder:
    encoder = TransformerEncoder(network, OPTIMISATION, **more)
    return encoder.fit(FEATURES, responses.isel(presentation=TRAIN))


@pytest.fixture(scope="module")
def routed() -> TransformerEncoder:
    return fit(ROUTED)


@pytest.fixture(scope="module")
def mixed() -> TransformerEncoder:
    return fit(MIXED, {**NETWORK, "static_branch": True})


def test_it_beats_the_factorised_encoder_where_the_target_moves(routed):
    # Catches attention that does not depend on the image.
    test = ROUTED.isel(presentation=TEST)
    static = FactorizedEncoder(OPTIMISATION).fit(FEATURES, ROUTED.isel(presentation=TRAIN))
    ours = routed.score(FEATURES, test)
    found = ours.compare(static.score(FEATURES, test), resamples=300, seed=0).sel(roi="all")
    assert found["low"] > 0.3
    assert ours.dataset["normalised"].min() > 0.9


def test_attention_looks_at_the_target(routed):
    # Catches maps whose images, rows or columns are out of order.
    ids = FEATURES["image"].values[TEST[::-1]]
    maps = routed.attention_maps(FEATURES, ids)
    assert maps.dims == ("image", "query", "head", "row", "column")
    assert maps.shape == (len(TEST), 2, 2, ROWS, COLUMNS)
    assert maps.dtype == np.float32
    assert maps["image"].values.tolist() == ids.tolist()
    assert maps["query"].values.tolist() == ["left", "right"]
    np.testing.assert_allclose(maps.sum(("row", "column")), 1.0, rtol=1e-5)
    row, column = np.divmod(FEATURES["target"].values[TEST[::-1]], COLUMNS)
    on_target = maps.values[np.arange(len(TEST)), :, :, row, column]
    assert (on_target.mean(0).max(1) > 0.8).all()


def test_maps_of_all_images_equal_maps_in_parts(routed):
    # Catches a batch of maps that is lost or doubled at a border.
    whole = routed.attention_maps(FEATURES)
    assert whole["image"].values.tolist() == FEATURES["image"].values.tolist()
    part = routed.attention_maps(FEATURES, ["im70", "im3"])
    np.testing.assert_allclose(part, whole.sel(image=["im70", "im3"]), rtol=1e-4, atol=1e-6)
    assert routed.attention_maps(FEATURES, []).shape == (0, 2, 2, ROWS, COLUMNS)


def test_wrong_images_layers_and_features_are_refused(routed):
    # Catches maps of a layer or basis that is not the encoder's.
    with pytest.raises(InputError, match="layer=1 is not one of the 1 layers"):
        routed.attention_maps(FEATURES, ["im0"], layer=1)
    with pytest.raises(MismatchError, match="'nobody'"):
        routed.attention_maps(FEATURES, ["nobody"])
    with pytest.raises(MismatchError, match="key"):
        routed.attention_maps(FEATURES.assign_attrs(key="other"))
    with pytest.raises(InputError, match="not fitted"):
        TransformerEncoder().attention_maps(FEATURES)


def test_gates_say_which_voxels_are_static(mixed):
    # Catches a gate turned round, or one that stays at one half.
    gates = mixed.gates()
    assert gates.dims == ("voxel",)
    assert gates["hemisphere"].values.tolist() == MIXED["hemisphere"].values.tolist()
    assert (gates[:3] < 0.3).all()
    assert (gates[3:] > 0.7).all()
    score = mixed.score(FEATURES, MIXED.isel(presentation=TEST))
    assert score.dataset["normalised"].min() > 0.85


def test_without_a_static_branch_there_are_no_gates(routed):
    # Catches a share of a branch that does not exist.
    assert np.isnan(routed.gates()).all()
    assert routed.gates().sizes == {"voxel": 6}


@pytest.mark.parametrize("name", ["routed", "mixed"])
def test_it_is_saved_and_loaded_bit_by_bit(name, request, tmp_path):
    # Catches gates, statistics, memberships or settings that are not saved.
    encoder = request.getfixturevalue(name)
    encoder.save(tmp_path)
    loaded = load(tmp_path)
    assert isinstance(loaded, TransformerEncoder)
    xr.testing.assert_identical(loaded.predict(FEATURES), encoder.predict(FEATURES))
    few = ["im1", "im400"]
    xr.testing.assert_identical(
        loaded.attention_maps(FEATURES, few), encoder.attention_maps(FEATURES, few)
    )
    xr.testing.assert_identical(loaded.gates(), encoder.gates())
    assert loaded.query_map_.names == encoder.query_map_.names
    loaded.save(tmp_path / "again")
    first, second = (folder / "weights.safetensors" for folder in (tmp_path, tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()


def test_weights_of_another_network_are_refused(routed, tmp_path):
    # Catches a config.json that was exchanged between two runs.
    routed.save(tmp_path / "a")
    other = TransformerEncoder({**NETWORK, "dim": 24}, QUICK)
    other.fit(FEATURES, ROUTED.isel(presentation=TRAIN)).save(tmp_path / "b")
    (tmp_path / "a/config.json").write_text((tmp_path / "b/config.json").read_text())
    with pytest.raises(MismatchError):
        load(tmp_path / "a")
    with pytest.raises(MismatchError, match="TransformerEncoder"):
        FactorizedEncoder.from_directory(tmp_path / "b")


@pytest.mark.parametrize(
    ("network", "names"),
    [
        ({}, ("left A", "left odd", "right A", "right odd")),
        ({"queries": "hemisphere"}, ("left", "right")),
        ({"queries": "voxel", "query_block": 4}, tuple(f"voxel {v}" for v in range(6))),
        ({"queries": "parcel", "parcels": 3}, 3),
        ({"layers": 2, "static_branch": True}, 4),
    ],
)
def test_every_kind_of_query_is_trained_and_saved(network, names, tmp_path):
    # Catches a kind that works in one part of the package only.
    encoder = TransformerEncoder({**NETWORK, "queries": "roi", **network}, QUICK)
    encoder.fit(FEATURES, ROUTED.isel(presentation=TRAIN)).save(tmp_path)
    loaded = load(tmp_path)
    found = loaded.attention_maps(FEATURES, ["im0"])["query"].values
    assert (len(found) if isinstance(names, int) else tuple(found)) == names
    xr.testing.assert_identical(loaded.predict(FEATURES), encoder.predict(FEATURES))


def test_images_are_predicted_by_their_tokens_and_not_by_their_place(routed):
    # Catches predictions that follow the rows of the store.
    turned = FEATURES.isel(image=slice(None, None, -1))
    first, second = routed.predict(FEATURES, ["im5", "im300"]), routed.predict(turned, ["im300"])
    np.testing.assert_allclose(first[1:], second, rtol=1e-5, atol=1e-6)


def test_half_precision_tokens_are_accepted():
    # Catches a store of float16 that the network multiplies with float32.
    half = FEATURES.assign(tokens=FEATURES["tokens"].astype(np.float16))
    encoder = TransformerEncoder(NETWORK, QUICK).fit(half, ROUTED.isel(presentation=TRAIN))
    assert encoder.predict(half).dtype == np.float32
    assert np.abs(standardised(half)).max() < 30


def test_a_module_becomes_an_encoder_with_its_own_settings():
    # Catches a trained recipe that is saved with default settings.
    module = TransformerModule(DecoderConfig(**NETWORK), Optimisation(epochs=3))
    module.prepare(FEATURES, ROUTED.isel(presentation=TRAIN), seed=5)
    encoder = module.encoder(FEATURES, ROUTED.isel(presentation=TRAIN), seed=5)
    assert encoder.get_params()["network"] == DecoderConfig(**NETWORK)
    assert encoder.get_params()["optimisation"].epochs == 3
    assert encoder.query_map_.names == ("left", "right")


def test_wrong_settings_are_named_with_the_closest_match():
    # Catches a typo that trains with a default.
    responses = ROUTED.isel(presentation=TRAIN)
    for network, kind, message in (
        ({"querys": "roi"}, InputError, r"network has no field 'querys'; did you mean 'queries'"),
        ({"queries": "rois"}, UnknownNameError, "did you mean 'roi'"),
        ({"attention": "softmx"}, UnknownNameError, "did you mean 'softmax'"),
        ({"dim": 10, "heads": 4}, InputError, "dim=10 must be a multiple of heads=4"),
        ({"dim": "64"}, InputError, r"network has dim='64', a str; allowed is int"),
        ({"queries": "parcel"}, InputError, "parcels=0"),
    ):
        with pytest.raises(kind, match=message):
            TransformerEncoder(network, QUICK).fit(FEATURES, responses)


def test_statistics_of_the_channels_are_those_of_the_training_images_alone():
    # Catches a leak: centring and scaling with images that are held out.
    training = ROUTED.isel(presentation=slice(0, 50))
    network = TransformerModule(DecoderConfig(**NETWORK)).build(FEATURES, training, 0)
    tokens = FEATURES["tokens"].sel(image=training["image"].values).values.astype(np.float64)
    np.testing.assert_allclose(network.mean.numpy(), tokens.mean(axis=(0, 1)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(network.scale.numpy(), tokens.std(axis=(0, 1)), rtol=1e-5)
    everything = FEATURES["tokens"].values.mean(axis=(0, 1))
    assert not np.allclose(network.mean.numpy(), everything, rtol=1e-3)
