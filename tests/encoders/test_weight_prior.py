"""The prior over voxels against dense Gaussian algebra, closed forms and its own draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from neuroattn.encoders import weight_prior as module
from neuroattn.encoders.weight_prior import Posterior, WeightPrior
from neuroattn.errors import InputError, MismatchError, UnknownNameError
from tests.tolerances import TOLERANCE

WIDTH = 5


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def some_prior(types: int = 2) -> WeightPrior:
    """Unequal types, correlated weights, levels in no order, one impossible combination."""
    shares = drawn(types, 3, 2, seed=3).exp()
    shares[0, 1, 1] = 0
    return WeightPrior(
        means=drawn(types, WIDTH + 1, seed=1),
        factors=drawn(types, WIDTH + 1, WIDTH + 1, seed=2),
        amplitudes=torch.tensor([0.7, 0.0, 1.9]),
        noise=torch.tensor([1.3, 0.2]),
        shares=shares / shares.sum(),
    )


def single_prior(width: int = WIDTH, noise: float = 0.8) -> WeightPrior:
    one = torch.ones(1, 1, 1)
    mean, factor = drawn(1, width + 1, seed=4), drawn(1, width + 1, width + 1, seed=5)
    return WeightPrior(mean, factor / width, one[0, 0], torch.tensor([noise]), one)


def design_of(embedded: torch.Tensor) -> np.ndarray:
    return np.column_stack([embedded.numpy(), np.ones(len(embedded))])


def dense_posterior(
    prior: WeightPrior, embedded: torch.Tensor, y: np.ndarray, at_most_likely: bool = False
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """One voxel, every (type, amplitude, noise) by dense matrices: textbook formulae."""
    P, n = design_of(embedded), len(embedded)
    log_joint = np.full(prior.shares.shape, -np.inf)
    means = np.zeros((*prior.shares.shape, P.shape[1]))
    for (k, a, g), share in np.ndenumerate(prior.shares.numpy()):
        scale, noise = float(prior.amplitudes[a]), float(prior.noise[g])
        mean = scale * prior.means[k].numpy()
        cov = scale**2 * (prior.factors[k] @ prior.factors[k].T).numpy()
        spread = P @ cov @ P.T + noise * np.eye(n)
        with np.errstate(divide="ignore"):
            log_joint[k, a, g] = np.log(share) + multivariate_normal.logpdf(y, P @ mean, spread)
        means[k, a, g] = mean + cov @ P.T @ np.linalg.solve(spread, y - P @ mean)
    evidence = float(logsumexp(log_joint))
    if at_most_likely:
        likelihood = logsumexp(log_joint, axis=0) - np.log(prior.shares.numpy().sum(0))
        a, g = np.unravel_index(likelihood.argmax(), likelihood.shape)
        kept = np.full_like(log_joint, -np.inf)
        kept[:, a, g] = log_joint[:, a, g]
        log_joint = kept
    r = np.exp(log_joint - logsumexp(log_joint))
    noise = float((r.sum((0, 1)) * prior.noise.numpy()).sum())
    return np.einsum("kag,kagd->d", r, means), r.sum((1, 2)), noise, evidence


@pytest.mark.parametrize("noise", ["average", "maximum"])
@pytest.mark.parametrize("images", [1, 3, WIDTH + 1, 17])
def test_the_posterior_is_that_of_dense_algebra_for_few_and_many_images(images, noise):
    # Catches any slip of the shared eigenbasis: the mean's part, the amplitude's powers, what lies
    # outside the span of the design where there are more images than weights.
    prior = some_prior()
    embedded, response = drawn(images, WIDTH, seed=6) + 1, 2 * drawn(images, 7, seed=7)
    found = prior.posterior(embedded, response, noise)
    for voxel in range(7):
        weights, types, level, evidence = dense_posterior(
            prior, embedded, response[:, voxel].numpy(), noise == "maximum"
        )
        near = {"rtol": 1e-9, "atol": 1e-10}
        np.testing.assert_allclose(found.weights[voxel], weights, **near)
        np.testing.assert_allclose(found.type_probability[voxel], types, **near)
        np.testing.assert_allclose(found.noise[voxel], level, **near)
        np.testing.assert_allclose(found.log_evidence[voxel], evidence, **near)


def test_the_posterior_is_right_where_the_prior_is_flat_in_some_directions():
    # Catches a division by a zero eigenvalue: the spectral prior's intercept follows its weights.
    embedded = drawn(12, WIDTH, seed=8) + 2
    prior = WeightPrior.spectral(embedded, 1.0, (0.1, 0.5), levels=3)
    for rows in (4, 12):
        y = drawn(rows, 1, seed=9)
        found = prior.posterior(embedded[:rows], y)
        weights = dense_posterior(prior, embedded[:rows], y[:, 0].numpy())[0]
        np.testing.assert_allclose(found.weights[0], weights, rtol=1e-9, atol=1e-11)


def test_very_unlikely_responses_leave_finite_answers():
    # Catches exponentials taken before the largest exponent is subtracted.
    found = some_prior().posterior(drawn(30, WIDTH), 1e4 * drawn(30, 3, seed=1))
    for value in vars(found).values():
        assert torch.isfinite(value).all()
    torch.testing.assert_close(found.type_probability.sum(1), torch.ones(3).double())


@pytest.mark.parametrize("images", [4, 23])
def test_a_voxel_does_not_depend_on_its_neighbours_or_its_block(images, monkeypatch):
    # Catches a block that reads its neighbour's responses, and one that is put at a wrong place.
    prior, embedded = some_prior(3), drawn(images, WIDTH)
    response = drawn(images, 11, seed=1)
    together = prior.posterior(embedded, response)
    monkeypatch.setattr(module, "BLOCK_BYTES", 2600)
    blocks = prior.posterior(embedded, response)
    alone = prior.posterior(embedded, response[:, 4:5])
    for name, value in vars(together).items():
        torch.testing.assert_close(getattr(blocks, name), value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(getattr(alone, name), value[4:5], rtol=1e-12, atol=1e-12)


def closed_form_excess(prior: WeightPrior, embedded: torch.Tensor, query: torch.Tensor) -> float:
    """Trace of the posterior covariance of one Gaussian against the queries' second moment."""
    P, Q = design_of(embedded), design_of(query)
    cov = (prior.factors[0] @ prior.factors[0].T).numpy()
    precision = np.linalg.inv(cov) + P.T @ P / float(prior.noise[0])
    return float(np.trace(np.linalg.inv(precision) @ Q.T @ Q) / len(Q))


def errors(weights: torch.Tensor, truth: torch.Tensor, query: torch.Tensor) -> np.ndarray:
    design = torch.from_numpy(design_of(query))
    return (((weights - truth) @ design.T) ** 2).mean(1).numpy()


@pytest.mark.parametrize("images", [3, 20])
def test_voxels_of_the_prior_are_predicted_with_the_closed_forms_excess_risk(images):
    # Catches a posterior that shrinks too much or too little: the error beyond the noise is known.
    prior, voxels = single_prior(), 4000
    embedded, query = drawn(images, WIDTH, seed=1), drawn(40, WIDTH, seed=2)
    generator = torch.Generator().manual_seed(0)
    truth = prior.sample(voxels, generator)
    design = torch.from_numpy(design_of(embedded))
    noise = truth.noise_sd * drawn(images, voxels, seed=3)
    found = prior.posterior(embedded, design @ truth.weights.T + noise)
    excess = errors(found.weights, truth.weights, query)
    expected = closed_form_excess(prior, embedded, query)
    assert abs(excess.mean() - expected) < 4 * excess.std() / math.sqrt(voxels)
    # Responses to the queries carry new noise: the squared error is excess plus noise.
    new = torch.from_numpy(design_of(query)) @ truth.weights.T + 0.8**0.5 * drawn(40, voxels)
    predicted = torch.from_numpy(design_of(query)) @ found.weights.T
    square = ((new - predicted) ** 2).mean(0).numpy()
    assert abs(square.mean() - 0.8 - expected) < 4 * square.std() / math.sqrt(voxels)


def test_no_ridge_penalty_and_no_other_prior_predicts_voxels_of_the_prior_better():
    # Catches a posterior that is linear in the responses but not the best such rule.
    prior, images, voxels = single_prior(), 12, 6000
    embedded, query = drawn(images, WIDTH, seed=1), drawn(200, WIDTH, seed=2)
    truth = prior.sample(voxels, torch.Generator().manual_seed(0))
    P = design_of(embedded)
    y = torch.from_numpy(P) @ truth.weights.T + truth.noise_sd * drawn(images, voxels, seed=3)
    best = errors(prior.posterior(embedded, y).weights, truth.weights, query)
    centred, mean = P[:, :-1] - P[:, :-1].mean(0), P[:, :-1].mean(0)
    rivals = []
    for alpha in np.logspace(-3, 3, 13):
        inverse = np.linalg.inv(centred.T @ centred + alpha * np.eye(WIDTH))
        w = inverse @ centred.T @ y.numpy()
        rivals.append(np.vstack([w, y.numpy().mean(0) - mean @ w]).T)
    for factor in (0.7, 1.4):
        wrong = WeightPrior(
            prior.means, prior.factors * factor, prior.amplitudes, prior.noise, prior.shares
        )
        rivals.append(wrong.posterior(embedded, y).weights.numpy())
    for rival in rivals:
        difference = errors(torch.from_numpy(rival), truth.weights, query) - best
        assert difference.mean() > 3 * difference.std() / math.sqrt(voxels)


def test_more_levels_than_true_find_the_noise_and_type_of_each_voxel():
    # Catches probabilities whose type and level axes are mixed up.
    means = torch.zeros(2, WIDTH + 1)
    means[0, 0], means[1, 1] = 3, 3
    shares = torch.full((2, 1, 3), 1 / 6)
    prior = WeightPrior(
        means, 0.3 * torch.eye(WIDTH + 1).repeat(2, 1, 1), [1.0], [0.1, 1.0, 10.0], shares
    )
    truth = prior.sample(400, torch.Generator().manual_seed(1))
    embedded = drawn(200, WIDTH)
    design = torch.from_numpy(design_of(embedded))
    y = design @ truth.weights.T + truth.noise_sd * drawn(200, 400, seed=3)
    found = prior.posterior(embedded, y)
    assert (found.type_probability.argmax(1) == truth.type).double().mean() > 0.99
    torch.testing.assert_close(found.noise, truth.noise_sd**2, rtol=1e-3, atol=0)


def test_draws_have_the_shares_means_and_covariance_of_the_prior():
    # Catches a transposed factor, and amplitudes that do not scale the mean.
    prior, count = some_prior(), 200_000
    found = prior.sample(count, torch.Generator().manual_seed(2))
    sampled = torch.cov(found.weights.T)
    scale = prior.covariance().diagonal().sqrt()
    assert ((sampled - prior.covariance()) / torch.outer(scale, scale)).abs().max() < 0.02
    shares = torch.bincount(found.type).double() / count
    torch.testing.assert_close(shares, prior.shares.sum((1, 2)), rtol=0, atol=0.005)
    for level, share in zip(prior.noise, prior.shares.sum((0, 1)), strict=True):
        assert ((found.noise_sd**2 - level).abs() < 1e-9).double().mean() == pytest.approx(
            float(share), abs=0.005
        )
    expected = (prior.shares.sum(2) @ prior.amplitudes) @ prior.means
    torch.testing.assert_close(found.weights.mean(0), expected, rtol=0, atol=0.03)
    again = prior.sample(count, torch.Generator().manual_seed(2))
    assert torch.equal(found.weights, again.weights)


def test_the_covariance_of_one_type_is_its_factors_square():
    prior = single_prior()
    expected = prior.factors[0] @ prior.factors[0].T
    torch.testing.assert_close(prior.covariance(), expected, **TOLERANCE["float64"])


@pytest.mark.parametrize("images", [4, 30])
@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5])
def test_a_spectral_prior_has_unit_signal_zero_mean_and_its_spectrum(images, exponent):
    # Catches a scale taken from the wrong spectrum, and an intercept that leaves a mean response.
    embedded = drawn(images, WIDTH, seed=1) * torch.tensor([4, 2, 1, 0.5, 0.1]) + 3
    prior = WeightPrior.spectral(embedded, exponent, (0.2, 0.5), levels=4)
    P = torch.from_numpy(design_of(embedded))
    cov = prior.factors[0] @ prior.factors[0].T
    assert float((P @ cov @ P.T).diagonal().mean()) == pytest.approx(1, rel=1e-9)
    mean = P.mean(0)
    assert float(mean @ cov @ mean) == pytest.approx(0, abs=1e-9)
    weights = cov[:-1, :-1]
    axes = torch.linalg.svd(embedded - embedded.mean(0), full_matrices=True)[2]
    rank = torch.arange(1, WIDTH + 1).double()
    held = min(images - 1, WIDTH)  # axes along which the images do not vary have no order
    along = (axes @ weights @ axes.T).diagonal()[:held]
    torch.testing.assert_close(along / along[0], rank[:held] ** -exponent, rtol=1e-8, atol=0)
    if exponent == 0:
        torch.testing.assert_close(weights, weights[0, 0] * torch.eye(WIDTH).double())
    paired = prior.shares[0].diagonal()
    assert paired.sum() == pytest.approx(1)
    torch.testing.assert_close(paired, torch.full((4,), 0.25).double())
    torch.testing.assert_close(prior.amplitudes**2 + prior.noise, torch.ones(4).double())
    expected = torch.tensor([0.2, 0.3, 0.4, 0.5]).double()
    torch.testing.assert_close(prior.amplitudes**2, expected)


def test_one_level_of_signal_is_the_middle():
    prior = WeightPrior.spectral(drawn(9, WIDTH), 0.0, (0.2, 0.6), levels=1)
    assert float(prior.amplitudes[0]) ** 2 == pytest.approx(0.4)


def test_tensors_bring_a_prior_back():
    prior = some_prior()
    again = WeightPrior.restored({**prior.tensors(), "other": torch.zeros(2)})
    for name, value in prior.tensors().items():
        assert torch.equal(getattr(again, name), value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shares": torch.ones(2, 3, 2)}, "shares sum to 12"),
        ({"shares": torch.ones(2, 2, 3) / 12}, "needed: means"),
        ({"factors": torch.ones(2, 5, 6)}, "needed: means"),
        ({"noise": torch.tensor([0.0, 1.0])}, "noise above 0"),
        ({"amplitudes": torch.tensor([0.7, -1.0, 1.9])}, "least amplitude is -1"),
        ({"means": torch.full((2, 6), math.nan)}, "NaN"),
        ({"noise": torch.ones(0), "shares": torch.ones(2, 3, 0)}, "at least one of each"),
    ],
)
def test_a_prior_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        WeightPrior(**{**some_prior().tensors(), **change})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((drawn(4, WIDTH), drawn(5, 2)), MismatchError, r"\(4, 5\) and response \(5, 2\)"),
        ((drawn(4, 3), drawn(4, 2)), MismatchError, "3 columns, but the prior is over 5"),
        ((drawn(4, WIDTH), drawn(4, 2) * math.nan), InputError, "response holds 8 values"),
        ((drawn(4, WIDTH) / 0, drawn(4, 2)), InputError, "embedded holds 20 values"),
        ((drawn(4, WIDTH), drawn(4, 0)), InputError, "nothing to read"),
        ((drawn(4, WIDTH), drawn(4, 2), "mean"), UnknownNameError, "average, maximum"),
    ],
)
def test_wrong_data_for_a_posterior_are_told_in_one_message(arguments, error, message):
    with pytest.raises(error, match=message):
        some_prior().posterior(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"signal": (0.5, 1.0)}, "low <= high < 1"),
        ({"signal": (0.5, 0.2)}, "low <= high < 1"),
        ({"levels": 0}, "at least one level"),
        ({"exponent": math.inf}, "a finite exponent"),
        ({"embedded": torch.ones(4, 3)}, "does not vary"),
    ],
)
def test_a_spectral_prior_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        WeightPrior.spectral(**{"embedded": drawn(5, 3), "exponent": 1.0, **arguments})


def test_no_voxels_cannot_be_drawn():
    with pytest.raises(InputError, match="count=0"):
        some_prior().sample(0, torch.Generator())


def test_a_posterior_is_float64_whatever_comes_in():
    found = some_prior().posterior(drawn(4, WIDTH).float(), drawn(4, 2).float())
    assert isinstance(found, Posterior)
    assert {value.dtype for value in vars(found).values()} == {torch.float64}
