"""What encoders trained by gradient descent share: seeds, held-out images, settings, statistics."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.base import clone

from neuroattn.encoders import FactorizedEncoder, TransformerEncoder
from neuroattn.encoders.trained import channel_statistics
from neuroattn.errors import InputError
from neuroattn.training import loop
from neuroattn.training.optimisation import Optimisation
from tests.encoders.small import CHANNELS, VOXELS, small_features, small_responses

FEATURES = small_features(images=60)
RESPONSES = small_responses(FEATURES, list(range(40)))
HELD_OUT = small_responses(FEATURES, list(range(40, 50)))
NETWORK = {"dim": 8, "heads": 2, "feedforward": 8, "dropout": 0.3, "static_branch": True}
QUICK = {"epochs": 3, "batch_size": 8}


def encoder(kind: str, seed: int = 0, optimisation: Any = QUICK, **more: Any):
    if kind == "factorized":
        return FactorizedEncoder(optimisation, seed=seed, **more)
    return TransformerEncoder(NETWORK, optimisation, seed=seed, **more)


KINDS = ["factorized", "transformer"]


@pytest.fixture
def trainers(monkeypatch) -> list[pl.Trainer]:
    """Collect the trainers that are made."""
    made, original = [], pl.Trainer

    def spy(*arguments, **given):
        made.append(original(*arguments, **given))
        return made[-1]

    monkeypatch.setattr(loop.pl, "Trainer", spy)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_digits_and_another_seed_others(kind):
    # Catches a global generator in weights, order, dropout or held-out images.
    torch.rand(3)
    first = encoder(kind).fit(FEATURES, RESPONSES).predict(FEATURES)
    torch.rand(5)
    again = encoder(kind).fit(FEATURES, RESPONSES).predict(FEATURES)
    np.testing.assert_array_equal(first, again)
    other = encoder(kind, seed=1).fit(FEATURES, RESPONSES).predict(FEATURES)
    assert (first != other).mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_fitting_predicting_and_loading_leave_the_global_generators_alone(kind, tmp_path):
    # Catches an encoder that changes the numbers of whatever runs after it.
    numpys = np.random.get_state
    states = torch.random.get_rng_state(), random.getstate(), numpys()[1].tolist()
    fitted = encoder(kind).fit(FEATURES, RESPONSES)
    fitted.predict(FEATURES)
    fitted.save(tmp_path)
    type(fitted).from_directory(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert numpys()[1].tolist() == states[2]


@pytest.mark.parametrize("kind", KINDS)
def test_repeated_presentations_are_averaged_before_the_fit(kind):
    # Catches repeats of one image on both sides of the held-out images.
    twice = small_responses(FEATURES, [*range(40), *range(40)])
    values = twice["response"].values
    mean = (values[:40] + values[40:]) / 2
    averaged = RESPONSES.assign(response=(("presentation", "voxel"), mean))
    first = encoder(kind).fit(FEATURES, twice).predict(FEATURES)
    second = encoder(kind).fit(FEATURES, averaged).predict(FEATURES)
    np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-4)


def test_given_validation_images_are_watched_and_all_others_learned(trainers):
    # Catches training images that are held out although a validation set was given.
    encoder("transformer").fit(FEATURES, RESPONSES, HELD_OUT)
    parts = trainers[0].datamodule.parts
    assert parts["train"].sizes["presentation"] == 40
    assert set(parts["validation"]["image"].values) == {f"im{i}" for i in range(40, 50)}


def test_without_validation_a_fraction_of_the_training_images_is_held_out(trainers):
    # Catches early stopping on the images that are learned.
    optimisation = {**QUICK, "validation_fraction": 0.25}
    encoder("transformer", optimisation=optimisation).fit(FEATURES, RESPONSES)
    parts = trainers[0].datamodule.parts
    held, learned = (set(parts[name]["image"].values) for name in ("validation", "train"))
    assert (len(held), len(learned)) == (10, 30)
    assert not held & learned


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_validate_on_is_refused_before_training(kind, trainers):
    # Catches a run that ends with a missing best.ckpt; given validation images are enough.
    optimisation = {**QUICK, "validation_fraction": 0.0}
    with pytest.raises(InputError, match=r"validation_fraction=0.*validation="):
        encoder(kind, optimisation=optimisation).fit(FEATURES, RESPONSES)
    assert trainers == []
    encoder(kind, optimisation=optimisation).fit(FEATURES, RESPONSES, HELD_OUT)


def test_training_stops_when_the_validation_loss_no_longer_falls(trainers):
    # Catches a patience that is ignored.
    noise = np.random.default_rng(0).normal(size=RESPONSES["response"].shape)
    nothing = RESPONSES.assign(response=(("presentation", "voxel"), noise.astype(np.float32)))
    optimisation = {"epochs": 60, "learning_rate": 0.05, "patience": 2}
    encoder("factorized", optimisation=optimisation).fit(FEATURES, nothing)
    encoder("factorized", optimisation={**optimisation, "epochs": 12, "patience": 0}).fit(
        FEATURES, nothing
    )
    assert trainers[0].current_epoch < 30
    assert trainers[1].current_epoch == 12


def test_the_weights_of_the_best_epoch_are_kept(trainers):
    # Catches the last epoch's weights, after the noise was learned by heart.
    noise = np.random.default_rng(0).normal(size=(50, VOXELS)).astype(np.float32)
    fit, watch = (
        part.assign(response=(("presentation", "voxel"), values))
        for part, values in ((RESPONSES, noise[:40]), (HELD_OUT, noise[40:]))
    )
    optimisation = {"epochs": 30, "learning_rate": 0.05, "schedule": "constant"}
    fitted = encoder("factorized", optimisation=optimisation).fit(FEATURES, fit, watch)
    best = float(trainers[0].checkpoint_callback.best_model_score)
    predicted = fitted.predict(FEATURES, watch["image"].values)
    loss = float(((predicted.values - watch["response"].values) ** 2).mean())
    assert loss == pytest.approx(best, rel=1e-4)
    assert best < 0.8 * float(trainers[0].callback_metrics["validation_loss"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_constructor_only_stores_and_clones(kind):
    # Catches settings that are converted in the constructor, which breaks scikit-learn's clone.
    configured = encoder(kind, optimisation=Optimisation(epochs=2), progress=True)
    copy = clone(configured)
    assert copy.get_params() == configured.get_params()
    assert not hasattr(copy, "network_")
    assert encoder(kind).set_params(seed=4).seed == 4


@pytest.mark.parametrize("kind", KINDS)
def test_configurations_may_be_mappings_or_objects(kind):
    # Catches a mapping that trains with defaults.
    first = encoder(kind, optimisation=QUICK).fit(FEATURES, RESPONSES)
    second = encoder(kind, optimisation=Optimisation(**QUICK)).fit(FEATURES, RESPONSES)
    np.testing.assert_array_equal(first.predict(FEATURES), second.predict(FEATURES))


@pytest.mark.parametrize("progress", [True, False])
def test_a_progress_bar_is_shown_when_it_is_asked_for(progress, trainers, capsys):
    # Catches bars in scripts that asked for none.
    encoder("factorized", progress=progress).fit(FEATURES, RESPONSES)
    assert (trainers[0].progress_bar_callback is not None) == progress
    shown = capsys.readouterr()
    assert ("Epoch" in shown.out + shown.err) == progress


def test_predictions_in_blocks_equal_single_ones():
    # Catches a last block that is left uninitialised.
    many = small_features(images=150)
    fitted = encoder("transformer").fit(many, small_responses(many, list(range(40))))
    whole = fitted.predict(many)
    for image in ("im0", "im63", "im64", "im128", "im149"):
        np.testing.assert_allclose(
            fitted.predict(many, [image])[0], whole.sel(image=image), rtol=1e-4, atol=1e-5
        )
    assert fitted.predict(many, []).shape == (0, VOXELS)
    assert not fitted.network_.training


def test_ranges_are_checked_when_a_mapping_is_read():
    # Catches a fraction that shows after the features were read.
    with pytest.raises(InputError, match="validation_fraction=1"):
        encoder("factorized", optimisation={"validation_fraction": 1.0}).fit(FEATURES, RESPONSES)


def test_channel_statistics_are_streamed_exactly():
    # Catches variances of block means, and squares that lose all digits.
    features = small_features(images=200)
    features["tokens"].values[..., 0] = 7.0
    features["tokens"].values[..., 1] += 3e4
    images = features["image"].values[np.random.default_rng(0).permutation(200)[:150]]
    mean, scale = channel_statistics(features, images)
    tokens = features["tokens"].sel(image=images).values.astype(float)
    np.testing.assert_allclose(mean, tokens.mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(scale[1:], tokens.std((0, 1))[1:], rtol=1e-5)
    assert scale[0] == 1.0
    assert mean.dtype == scale.dtype == torch.float32
    assert len(mean) == CHANNELS


def test_statistics_of_half_precision_tokens_do_not_overflow():
    # Catches sums in float16.
    values = np.full((70, 6, CHANNELS), 6e4, np.float16)
    values[::2] = -6e4
    features = small_features(images=70).assign(tokens=(("image", "token", "channel"), values))
    mean, scale = channel_statistics(features, features["image"].values)
    np.testing.assert_allclose(mean, 0.0, atol=1e-6)
    np.testing.assert_allclose(scale, float(np.float16(6e4)), rtol=1e-6)
