"""The empirical-Bayes encoder on responses that are linear in the features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from neuroattn.data.schema import response_set
from neuroattn.encoders.empirical_bayes import EmpiricalBayesEncoder
from neuroattn.encoders.prior_estimation import estimate_prior
from neuroattn.encoders.ridge import RidgeEncoder
from neuroattn.encoders.voxel_set import voxel_set
from neuroattn.errors import InputError, UnknownNameError
from tests.encoders.small import CHANNELS, small_features

RAW = {"view": "mean", "normalise": False}
IMAGES = 200


def features() -> xr.Dataset:
    return small_features(IMAGES, seed=5)


def noise_sd(subject: int, voxels: int = 120) -> np.ndarray:
    return np.random.default_rng(subject).choice([0.3, 1.2], voxels)


def responses(subject: int, images: slice, voxels: int = 120) -> xr.Dataset:
    """Two kinds of voxels (two ROIs), linear in the mean token, with noise of unequal size."""
    draw = np.random.default_rng(100 + subject)
    kind = np.arange(voxels) % 2
    means = np.zeros((2, CHANNELS))
    means[0, 0], means[1, 1] = 1, -1
    weights = means[kind] + 0.15 * draw.normal(size=(voxels, CHANNELS))
    noise = noise_sd(subject, voxels)
    embedded = features()["tokens"].values.mean(1)[images].astype(float)
    noisy = np.random.default_rng([subject, images.start]).normal(size=(len(embedded), voxels))
    return response_set(
        embedded @ weights.T - 1 + noise * noisy,
        presentation={"image": features()["image"].values[images]},
        voxel={
            "subject": f"s{subject}",
            "hemisphere": "left",
            "vertex": np.arange(voxels),
        },
        roi={"one": kind == 0, "two": kind == 1},
        attrs={"space": "native", "vertices_left": 500},
    )


def fitted(**parameters: object) -> EmpiricalBayesEncoder:
    encoder = EmpiricalBayesEncoder(embedding=RAW, **parameters)
    seen = [responses(0, slice(0, 80)), responses(1, slice(60, 150), 110)]
    return encoder.fit(features(), seen)


def test_what_is_written_is_the_posterior_mean_under_the_estimated_prior():
    # Catches an intercept left among the weights, and images or voxels in another order.
    encoder, new = fitted(types=2), responses(2, slice(150, 158))
    encoder.adapt(features(), new)
    seen = [responses(0, slice(0, 80)), responses(1, slice(60, 150), 110)]
    sets = [voxel_set(encoder.embedding_, features(), each) for each in seen]
    prior = estimate_prior(sets, 2, 30, seed=0).prior
    context = voxel_set(encoder.embedding_, features(), new)
    expected = prior.posterior(context.embedded, context.response)
    written = encoder.written()
    np.testing.assert_allclose(written["weights"], expected.weights[:, :-1].float(), rtol=1e-5)
    np.testing.assert_allclose(written["intercept"], expected.weights[:, -1].float(), rtol=1e-5)
    np.testing.assert_allclose(encoder.noise_, expected.noise)
    np.testing.assert_allclose(encoder.type_probability_, expected.type_probability)
    assert encoder.types_ == ("1", "2")
    assert encoder.prior_.means.shape == (2, CHANNELS + 1)


@pytest.mark.parametrize("noise", ["average", "maximum"])
def test_a_new_subject_is_predicted_better_from_five_images_than_by_ridge(noise):
    # Catches a prior that does not reach the new subject's voxels.
    new, unseen = responses(2, slice(150, 155)), responses(2, slice(160, 200))
    encoder = fitted(noise=noise).adapt(features(), new)
    ours = encoder.score(features(), unseen).dataset["raw"].values
    ridge = RidgeEncoder(view="mean", folds=5).fit(features(), new)
    theirs = ridge.score(features(), unseen).dataset["raw"].values
    difference = ours - theirs
    assert difference.mean() > 4 * difference.std() / np.sqrt(len(difference))
    assert np.median(ours) > np.median(theirs) + 0.1


@pytest.mark.parametrize("noise", ["average", "maximum"])
def test_noise_and_type_of_each_voxel_are_told(noise):
    encoder = fitted(types="roi", noise=noise)
    assert encoder.types_ == ("one", "two")
    new = responses(2, slice(150, 200))
    encoder.adapt(features(), new)
    ratio = np.log(encoder.noise_ / noise_sd(2) ** 2)
    assert np.abs(np.median(ratio)) < 0.2
    assert np.abs(ratio).max() < 1.2
    likeliest = encoder.type_probability_.argmax(1)
    np.testing.assert_array_equal(likeliest, np.arange(120) % 2)
    np.testing.assert_allclose(encoder.type_probability_.sum(1), 1)
    if noise == "maximum":  # one level of the grid each, not a mean over levels
        levels = encoder.prior_.noise.numpy()
        assert np.abs(encoder.noise_[:, None] - levels).min(1).max() < 1e-9 * levels.max()


@pytest.mark.parametrize("adapted", [False, True])
def test_an_encoder_survives_saving_bit_for_bit(tmp_path, adapted):
    # Catches float32 on the way, and learned attributes that are not saved.
    encoder = fitted(types=2, noise="maximum")
    if adapted:
        encoder.adapt(features(), responses(2, slice(150, 158)))
    encoder.save(tmp_path)
    again = EmpiricalBayesEncoder.from_directory(tmp_path)
    for name, value in vars(encoder.prior_).items():
        assert torch.equal(getattr(again.prior_, name), value)
    for name in ("weights_", "intercept_", "noise_", "type_probability_"):
        found, expected = getattr(again, name), getattr(encoder, name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert (again.types_, again.objective_) == (encoder.types_, encoder.objective_)
    assert again.get_params() == encoder.get_params()
    for one in (encoder, again):
        one.adapt(features(), responses(3, slice(150, 170)))
    np.testing.assert_array_equal(encoder.weights_, again.weights_)
    xr.testing.assert_identical(encoder.predict(features()), again.predict(features()))


def test_a_new_fit_forgets_the_voxels_before():
    encoder = fitted().adapt(features(), responses(2, slice(150, 158)))
    encoder.fit(features(), responses(0, slice(0, 80)))
    assert encoder.noise_.shape == (0,)
    assert encoder.type_probability_.shape == (0, 1)


def test_a_voxel_is_written_alike_alone_and_among_others():
    # Catches statistics over the new voxels.
    encoder, new = fitted(types=2), responses(2, slice(150, 158))
    together = encoder.adapt(features(), new).weights_
    alone = encoder.adapt(features(), new.isel(voxel=[7])).weights_
    np.testing.assert_allclose(alone[0], together[7], rtol=1e-6, atol=1e-7)


def test_the_order_of_the_context_does_not_matter():
    encoder, new = fitted(), responses(2, slice(150, 170))
    first = encoder.adapt(features(), new).weights_
    second = encoder.adapt(features(), new.isel(presentation=np.arange(20)[::-1])).weights_
    np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-6)


def test_parameters_reach_the_estimation():
    assert len(fitted(iterations=2).objective_) == 2
    one, other = (fitted(types=3, iterations=1, seed=seed).prior_ for seed in (0, 0))
    assert torch.equal(one.means, other.means)


def test_wrong_parameters_are_refused_by_fit():
    with pytest.raises(UnknownNameError, match="average, maximum"):
        fitted(noise="mean")
    with pytest.raises(InputError, match="types=0"):
        fitted(types=0)


def several(subject: int, images: slice, times: int) -> xr.Dataset:
    """Responses of which each averages some presentations."""
    one = responses(subject, images)
    noise = np.random.default_rng([subject, times]).normal(size=(times, *one["response"].shape))
    averaged = (noise_sd(subject) * noise).mean(0)
    draw = np.random.default_rng([subject, images.start]).normal(size=one["response"].shape)
    signal = one["response"] - noise_sd(subject) * draw
    count = ("presentation", np.full(one.sizes["presentation"], times))
    return one.assign(response=(signal + averaged).astype("float32")).assign_coords(repeats=count)


def test_responses_of_fewer_presentations_than_in_training_are_trusted_less(tmp_path):
    # Catches noise taken for that of the training: others saw images nine times, the new one once.
    seen = [several(subject, slice(0, 150), 9) for subject in (0, 1)]
    encoder = EmpiricalBayesEncoder(embedding=RAW).fit(features(), seen)
    assert encoder.repeats_ == 9
    new = several(2, slice(150, 156), 1)
    encoder.adapt(features(), new)
    context = voxel_set(encoder.embedding_, features(), new)
    given = context.embedded, context.response
    told = encoder.prior_.posterior(*given, precision=torch.full((6,), 1 / 9))
    np.testing.assert_allclose(encoder.weights_, told.weights[:, :-1].float(), rtol=1e-6)
    truth = several(2, slice(156, 200), 400)["response"].values
    design = torch.cat([torch.as_tensor(features()["tokens"].values.mean(1)[156:]).double(),
                        torch.ones(44, 1).double()], 1)  # fmt: skip

    def error(weights: torch.Tensor) -> float:
        return float(np.square((design @ weights.T).numpy() - truth).mean())

    assert error(told.weights) < 0.9 * error(encoder.prior_.posterior(*given).weights)
    encoder.save(tmp_path)
    again = EmpiricalBayesEncoder.from_directory(tmp_path)
    assert again.repeats_ == 9
    np.testing.assert_array_equal(again.adapt(features(), new).weights_, encoder.weights_)


def test_repetitions_in_the_context_are_averaged_and_trusted_more():
    # Catches counts lost between the average and the posterior.
    encoder, once = fitted(), responses(2, slice(150, 158))
    twice = xr.concat(
        [once, once.isel(presentation=[0, 1, 2])], "presentation", data_vars="minimal"
    )
    encoder.adapt(features(), twice)
    context = voxel_set(encoder.embedding_, features(), once)
    precision = torch.tensor([2.0] * 3 + [1.0] * 5)
    expected = encoder.prior_.posterior(context.embedded, context.response, precision=precision)
    np.testing.assert_allclose(encoder.weights_, expected.weights[:, :-1].float(), rtol=1e-5)
