"""The least error of a mixture of hard heads."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.rank import mixture_error


def drawn(heads: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, heads, dim))


def test_the_best_single_head_of_the_plane_leaves_seven_sixteenths():
    # Catches correlations of signs (error 3/4) in place of agreements: 1 - (3/4)^2.
    assert np.isclose(mixture_error(np.eye(2)[:1], np.eye(2)[:1]), 7 / 16)


def test_random_heads_of_the_plane_have_the_published_errors():
    # Catches a solve that loses digits where many heads are nearly the same.
    for heads, expected, apart in ((16, 0.16, 0.02), (64, 0.082, 0.01), (256, 0.045, 0.005)):
        mean = np.mean([mixture_error(*drawn(heads, 2, seed)) for seed in range(10)])
        assert abs(mean - expected) < apart


def test_weights_equal_a_regression_on_simulated_choices():
    # Catches a target's table that is not the heads' own agreement with it.
    queries, keys = drawn(3, 4)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 100_000, 4))
    heads = (np.sign(x @ keys.T) * np.sign(y @ queries.T) + 1) / 2
    wanted = (np.sign((x * y).sum(1)) + 1) / 2
    both = np.concatenate([heads, 1 - heads]), np.concatenate([wanted, 1 - wanted])
    weights = np.linalg.lstsq(*both, rcond=None)[0]
    left = 2 * np.mean((both[0] @ weights - both[1]) ** 2)
    assert abs(left - mixture_error(queries, keys)) < 0.01


def test_more_heads_never_hurt_and_lengths_do_not_matter():
    # Catches directions that are not normalised.
    queries, keys = drawn(9, 5)
    errors = [mixture_error(queries[:n], keys[:n]) for n in range(1, 10)]
    assert np.all(np.diff(errors) <= 1e-12)
    assert np.isclose(mixture_error(3 * queries, keys / 7), errors[-1])


def test_bad_input_names_what_is_wrong():
    # Catches shapes that broadcast.
    with pytest.raises(InputError, match="both be"):
        mixture_error(np.ones((2, 3)), np.ones((1, 3)))
    with pytest.raises(InputError, match="length 0"):
        mixture_error(np.zeros((1, 3)), np.ones((1, 3)))
