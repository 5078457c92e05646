"""The distance from the Bayes oracle, on encoders whose distance is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from neuroattn.encoders.adaptive import AdaptiveEncoder
from neuroattn.encoders.empirical_bayes import EmpiricalBayesEncoder
from neuroattn.encoders.oracle import excess_risk
from neuroattn.encoders.weight_prior import WeightPrior
from neuroattn.errors import InputError
from tests.encoders.drawn_voxels import normal, with_intercept
from tests.encoders.small import CHANNELS, small_features, small_responses

FEATURES = small_features()
SETS = [small_responses(FEATURES, list(range(20))), small_responses(FEATURES, list(range(30)))]
CONTEXT, QUERY = normal(40, CHANNELS, seed=1), normal(25, CHANNELS, seed=2)
NOISE = 0.8


class Rule(AdaptiveEncoder):
    """Writes what a function of the context says, and lists the contexts it was given."""

    def __init__(self, rule: Any = None) -> None:
        self.rule = rule
        self.embedding = None

    def _learn(self, sets, validation):
        self.given_ = []

    def write(self, context):
        self.given_.append(context)
        written = self.rule(context)
        return written[:, :-1], written[:, -1]

    def _prior_state(self):
        return {}, {}

    def _restore_prior(self, tensors, state):
        pass


def gaussian() -> WeightPrior:
    """One type of mean 0, one noise: risks have a closed form."""
    factor = normal(1, CHANNELS + 1, CHANNELS + 1, seed=3) / 2
    return WeightPrior(torch.zeros(1, CHANNELS + 1), factor, [1.0], [NOISE], torch.ones(1, 1, 1))


def mixture() -> WeightPrior:
    """Two types, two amplitudes and two noises."""
    shares = torch.tensor([[[1.0, 2], [3, 1]], [[2, 1], [1, 1]]], dtype=torch.float64)
    return WeightPrior(
        normal(2, CHANNELS + 1, seed=4),
        normal(2, CHANNELS + 1, CHANNELS + 1, seed=5) / 3,
        [0.5, 1.5],
        [0.2, 2.0],
        shares / shares.sum(),
    )


def rule(function: Any) -> Rule:
    return Rule(function).fit(FEATURES, SETS)


def zeros(context: Any) -> torch.Tensor:
    return torch.zeros(context.response.shape[1], CHANNELS + 1)


def oracle_of(prior: WeightPrior) -> Any:
    return lambda context: prior.posterior(context.embedded, context.response).weights


def excess(function: Any, prior: WeightPrior | None = None, **more: Any) -> xr.Dataset:
    settings = {"lengths": (3, 10, 40), "voxels": 300, **more}
    return excess_risk(rule(function), prior or gaussian(), CONTEXT, QUERY, **settings)


@pytest.mark.parametrize("prior", [gaussian(), mixture()], ids=["one type", "mixture"])
def test_the_oracle_itself_has_no_excess(prior):
    # Catches an oracle that is given other responses, images or noise than the encoder.
    found = excess(oracle_of(prior), prior)
    assert found["length"].values.tolist() == [3, 10, 40]
    assert (np.abs(found["excess"]) < 1e-5).all()
    assert (found["error"] < 1e-6).all()
    np.testing.assert_allclose(found["risk"], found["oracle"] + found["excess"], rtol=1e-12)
    assert (np.diff(found["oracle"]) < 0).all()


def test_nothing_written_risks_the_whole_signal():
    # Catches a risk that is not a share of the signal, or that counts the noise.
    found = excess(zeros, mixture())
    np.testing.assert_allclose(found["risk"], 1, rtol=1e-12)
    assert (found["oracle"] < 1).all()
    np.testing.assert_allclose(found["excess"], 1 - found["oracle"], rtol=1e-12)
    assert (found["excess"] > 5 * found["error"]).all()


def test_the_risks_are_those_of_the_closed_form():
    # Catches noise of the wrong size, an intercept that is dropped, and a share of the wrong
    # power: with one Gaussian type the oracle's risk and the signal are traces.
    prior, voxels = gaussian(), 8000
    found = excess(zeros, prior, voxels=voxels)
    covariance = prior.covariance().numpy()
    queries = with_intercept(QUERY).numpy()
    power = np.einsum("qd,de,qe->", queries, covariance, queries) / len(queries)
    order = np.random.default_rng(0).permutation(40)
    for length in (3, 10, 40):
        shown = with_intercept(CONTEXT).numpy()[order[:length]]
        inner = shown @ covariance @ shown.T + NOISE * np.eye(length)
        left = covariance - covariance @ shown.T @ np.linalg.solve(inner, shown @ covariance)
        expected = np.einsum("qd,de,qe->", queries, left, queries) / len(queries) / power
        assert float(found["oracle"].sel(length=length)) == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("prior", [gaussian(), mixture()], ids=["one type", "mixture"])
@pytest.mark.parametrize("wrong", ["mean", "shrunk", "other prior"])
def test_any_other_rule_has_an_excess(prior, wrong):
    # Catches a sign, and an oracle that is not the best.
    def function(context: Any) -> torch.Tensor:
        best = prior.posterior(context.embedded, context.response).weights
        if wrong == "mean":
            best[:, :-1] = 0
            best[:, -1] = context.response.double().mean(0)
            return best
        if wrong == "shrunk":
            return 0.6 * best
        noisier = WeightPrior(
            prior.means, prior.factors, prior.amplitudes, 9 * prior.noise, prior.shares
        )
        return noisier.posterior(context.embedded, context.response).weights

    found = excess(function, prior, lengths=(10,), voxels=1500)
    assert found["excess"].item() > 4 * found["error"].item()


def test_the_error_is_the_standard_error_over_voxels():
    # Catches an error over queries, of the risk alone, or that does not shrink.
    few, many = (excess(zeros, voxels=n, lengths=(10,))["error"].item() for n in (400, 6400))
    assert few / many == pytest.approx(4, rel=0.25)
    encoder, prior = rule(zeros), gaussian()
    found = excess_risk(encoder, prior, CONTEXT, QUERY, (10,), voxels=50, seed=6)
    (given,) = encoder.given_
    best = prior.posterior(given.embedded, given.response).weights
    truth = prior.sample(50, torch.Generator().manual_seed(6)).weights
    queries = with_intercept(QUERY)
    signal = (queries @ truth.T).square().mean(0)
    each = (signal - (queries @ (best - truth).T).square().mean(0)) / signal.mean()
    assert found["excess"].item() == pytest.approx(each.mean().item(), rel=1e-5)
    assert found["error"].item() == pytest.approx(each.std().item() / 50**0.5, rel=1e-5)


def test_contexts_are_the_beginnings_of_one_order_and_hold_no_query():
    # Catches a new draw for each length, and an encoder that is shown the images it is tested on.
    encoder = rule(zeros)
    excess_risk(encoder, gaussian(), CONTEXT, QUERY, (10, 3), voxels=4)
    small, large = encoder.given_
    assert len(small.images) == 3
    assert large.images[:3] == small.images
    assert len(set(large.images)) == 10
    for each in encoder.given_:
        rows = [int(name) for name in each.images]
        assert torch.equal(each.embedded, CONTEXT[rows].float())
        assert each.response.shape == (len(rows), 4)
        assert each.response.dtype == torch.float32
        assert each.voxels.sizes["voxel"] == 4
    assert torch.equal(large.response[:3], small.response)
    assert large.response[:, 0].std() > 0


def test_lengths_are_sorted_and_too_long_ones_left_out():
    # Catches rows under the wrong length.
    found = excess(zeros, lengths=(41, 10, 3, 10))
    assert found["length"].values.tolist() == [3, 10]
    assert float(found["oracle"][0]) > float(found["oracle"][1])
    assert found.attrs == {"voxels": 300, "seed": 0, "queries": 25}


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    # Catches draws from a global state.
    before = torch.get_rng_state()
    one, again, other = (excess(zeros, seed=seed) for seed in (1, 1, 2))
    xr.testing.assert_identical(one, again)
    assert (one["oracle"] != other["oracle"]).all()
    assert torch.equal(before, torch.get_rng_state())


def test_the_encoder_keeps_its_voxels():
    # Catches an encoder that afterwards predicts the drawn voxels.
    new = small_responses(FEATURES, [33, 34, 35])
    encoder = EmpiricalBayesEncoder(iterations=2).fit(FEATURES, SETS).adapt(FEATURES, new)
    before, noise = encoder.predict(FEATURES), encoder.noise_.copy()
    found = excess_risk(encoder, encoder.prior_, CONTEXT, QUERY, (10,), voxels=20)
    assert abs(found["excess"].item()) < 1e-5
    xr.testing.assert_identical(encoder.predict(FEATURES), before)
    np.testing.assert_array_equal(encoder.noise_, noise)
    assert encoder.context_ == ("im33", "im34", "im35")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths": (50,)}, r"lengths=\[50\].*at most 40"),
        ({"lengths": ()}, r"lengths=\[\] must be whole numbers of at least 2"),
        ({"lengths": (1, 10)}, r"lengths=\[1, 10\] must be whole numbers of at least 2"),
        ({"lengths": (-5, 10)}, "at least 2"),
        ({"lengths": (2.5,)}, "whole numbers"),
        ({"voxels": 1}, "voxels=1.*at least two voxels"),
        ({"query": QUERY[:0]}, "0 query images"),
        ({"query": QUERY[:, 1:]}, r"5 and 4, the prior is of 5"),
        ({"context": CONTEXT[:, 1:], "query": QUERY[:, 1:]}, r"4 and 4, the prior is of 5"),
        ({"encoder": Rule()}, "is not fitted"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    # Catches negative lengths that cut from the end, NaN errors, and matrix products that fail.
    arguments = {
        "encoder": rule(zeros),
        "prior": gaussian(),
        "context": CONTEXT,
        "query": QUERY,
        "lengths": (3,),
        "voxels": 8,
    }
    with pytest.raises(InputError, match=message):
        excess_risk(**{**arguments, **change})


def test_an_encoder_of_another_width_is_refused():
    # Catches an encoder that cannot read the prior's embedding.
    encoder = Rule(zeros).fit(small_features(channels=4), SETS)
    with pytest.raises(InputError, match="the prior is of 5, the encoder reads 4"):
        excess_risk(encoder, gaussian(), CONTEXT, QUERY, (3,))
