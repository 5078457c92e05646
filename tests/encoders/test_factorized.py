"""The factorised encoder finds receptive fields that stay, and says where they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuroattn.encoders import FactorizedEncoder, RidgeEncoder, load
from neuroattn.encoders.factorized import FactorizedModule, FactorizedNetwork
from neuroattn.errors import InputError, MismatchError
from neuroattn.training.optimisation import Optimisation
from tests.encoders.trained_data import (
    COLUMNS,
    PLACES,
    ROWS,
    TOKENS,
    make_features,
    routed_responses,
    static_responses,
)
from tests.tolerances import TOLERANCE

FEATURES = make_features(300)
TRAIN, TEST = np.arange(260), np.arange(260, 300)
OPTIMISATION = {"epochs": 40, "learning_rate": 0.01, "batch_size": 16}


@pytest.fixture(scope="module")
def fitted() -> FactorizedEncoder:
    responses = static_responses(FEATURES).isel(presentation=TRAIN)
    return FactorizedEncoder(OPTIMISATION, seed=1).fit(FEATURES, responses)


def test_static_receptive_fields_are_found_where_they_are(fitted):
    # Catches maps of other voxels, and rows exchanged with columns.
    fields = fitted.receptive_fields()
    assert fields.dims == ("voxel", "row", "column")
    assert fields.shape == (len(PLACES), ROWS, COLUMNS)
    np.testing.assert_allclose(fields.sum(("row", "column")), 1.0, rtol=1e-5)
    for voxel, place in enumerate(PLACES):
        field = fields[voxel].values
        assert np.unravel_index(field.argmax(), field.shape) == divmod(place, COLUMNS)
        assert field.max() > 0.5
    assert fields["hemisphere"].values.tolist() == ["left"] * 3 + ["right"] * 3


def test_static_voxels_are_predicted_up_to_their_ceiling(fitted):
    # Catches an encoder that predicts in standardised units, or for other images.
    test = static_responses(FEATURES).isel(presentation=TEST)
    assert fitted.score(FEATURES, test).dataset["normalised"].min() > 0.9


def test_routed_voxels_are_out_of_its_reach():
    # Catches a leak of the test images: no static field can follow a target that moves.
    responses = routed_responses(FEATURES)
    encoder = FactorizedEncoder(OPTIMISATION).fit(FEATURES, responses.isel(presentation=TRAIN))
    score = encoder.score(FEATURES, responses.isel(presentation=TEST))
    assert score.dataset["normalised"].max() < 0.4


def test_the_network_standardises_and_reads_by_its_map():
    # Catches a scale that is multiplied, or applied before the mean.
    with torch.random.fork_rng(devices=[]):
        network = FactorizedNetwork(2, (3, 1), 4).double()
    network.mean.copy_(torch.arange(4.0))
    network.scale.copy_(torch.tensor([1.0, 2.0, 4.0, 0.5]))
    tokens = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    expected = network.readout((tokens - network.mean) / network.scale)
    torch.testing.assert_close(network(tokens), expected)


def test_statistics_of_the_channels_are_those_of_the_training_images_alone():
    # Catches test images that shift the network's inputs.
    spoilt = FEATURES.copy(deep=True)
    spoilt["tokens"].values[TEST] += 1000.0
    responses = static_responses(FEATURES).isel(presentation=TRAIN[:40])
    for features in (FEATURES, spoilt):
        module = FactorizedModule(Optimisation())
        module.prepare(features, responses, seed=0)
        tokens = FEATURES["tokens"].values[TRAIN[:40]].astype(float)
        np.testing.assert_allclose(module.network.mean, tokens.mean((0, 1)), rtol=1e-5)
        np.testing.assert_allclose(module.network.scale, tokens.std((0, 1)), rtol=1e-5)


def test_it_is_saved_and_loaded_bit_by_bit(fitted, tmp_path):
    # Catches statistics or maps that are not saved.
    fitted.save(tmp_path)
    loaded = load(tmp_path)
    assert isinstance(loaded, FactorizedEncoder)
    np.testing.assert_array_equal(loaded.predict(FEATURES), fitted.predict(FEATURES))
    np.testing.assert_array_equal(loaded.receptive_fields(), fitted.receptive_fields())
    assert loaded.get_params()["optimisation"]["epochs"] == 40


def test_another_class_does_not_read_its_folder(fitted, tmp_path):
    # Catches weights that are poured into another model.
    fitted.save(tmp_path)
    with pytest.raises(MismatchError, match=r"FactorizedEncoder"):
        RidgeEncoder.from_directory(tmp_path)


def test_maps_of_an_encoder_that_is_not_fitted_are_refused():
    # Catches an AttributeError about a private name.
    with pytest.raises(InputError, match="not fitted"):
        FactorizedEncoder().receptive_fields()


def test_a_module_becomes_an_encoder_with_its_own_settings():
    # Catches a trained recipe that is saved with default settings.
    responses = static_responses(FEATURES).isel(presentation=TRAIN)
    module = FactorizedModule(Optimisation(epochs=3))
    module.prepare(FEATURES, responses, seed=5)
    encoder = module.encoder(FEATURES, responses, seed=5)
    assert encoder.get_params()["optimisation"] == Optimisation(epochs=3)
    assert encoder.get_params()["seed"] == 5
    tokens = torch.from_numpy(FEATURES["tokens"].values[:2])
    with torch.no_grad():
        expected = module.network(tokens)
    np.testing.assert_array_equal(encoder.predict(FEATURES)[:2], expected)
    assert encoder.receptive_fields().size == len(PLACES) * TOKENS


def test_the_loss_holds_the_smoothness_penalty() -> None:
    # Catches a penalty that is computed and never trained with, or a weight of zero.
    network = FactorizedNetwork(2, (2, 3), 4).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        network.readout.logits.copy_(torch.randn(2, 6, generator=generator))
    tokens = torch.randn(5, 6, 4, generator=generator, dtype=torch.float64)
    response = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    found = network.loss(tokens, response).detach()
    alone = torch.nn.functional.mse_loss(network(tokens), response).detach()
    penalty = network.readout.penalty().detach()
    assert float(penalty) > 0
    torch.testing.assert_close(found, alone + penalty, **TOLERANCE["float64"])
