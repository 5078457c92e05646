"""The enumerated posterior."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.prior import edge_posterior


def test_it_equals_bayes_rule_written_out_for_one_channel():
    # Catches an observation whose sign is exchanged.
    observations, posterior = edge_posterior(np.array([[1.0], [-0.5]]), np.array([0.2, 0.8]))
    place = int(np.argmax(observations[:, 0]))
    up = 1 / (1 + np.exp(-2 * np.array([1.0, -0.5])))
    expected = up * [0.2, 0.8] / (up @ [0.2, 0.8])
    assert np.allclose(posterior[place], expected)


def test_it_is_what_draws_of_the_model_show():
    # Catches a posterior that is normalised over observations.
    rng = np.random.default_rng(0)
    keys, prior = rng.normal(size=(3, 2)), np.array([0.5, 0.3, 0.2])
    edges = rng.choice(3, size=200_000, p=prior)
    seen = np.where(rng.random((200_000, 2)) < 1 / (1 + np.exp(-2 * keys[edges])), 1.0, -1.0)
    observations, posterior = edge_posterior(keys, 7 * prior)
    for observation, row in zip(observations, posterior, strict=True):
        taken = edges[(seen == observation).all(1)]
        assert np.allclose(np.bincount(taken, minlength=3) / len(taken), row, atol=0.02)


def test_bad_input_is_refused():
    # Catches 2^dim observations of a wide model, and negative priors.
    with pytest.raises(InputError, match="dim from 1 to 16"):
        edge_posterior(np.zeros((2, 17)), np.ones(2))
    with pytest.raises(InputError, match="negative"):
        edge_posterior(np.zeros((2, 3)), np.array([1.0, -1.0]))
