"""What the claims about learning rules predict with, against scipy and simulations."""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp

from neuroattn.theory.pavlovian.context import centred_error, hebbian_error
from neuroattn.theory.pavlovian.phenomena import STEP, _cycles
from neuroattn.theory.pavlovian.rules import flow


def test_the_closed_form_of_ojas_flow_is_the_solution_of_its_equation() -> None:
    """Catches a pace of e^{Ct} for e^{2Ct}, and a start that is taken for orthonormal."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5))
    covariance, start = root @ root.T / 5, rng.normal(size=(5, 2)) / 3

    def slope(_: float, flat: np.ndarray) -> np.ndarray:
        memory = flat.reshape(5, 2)
        return np.ravel(covariance @ memory - memory @ (memory.T @ covariance @ memory))

    for time in (0.5, 2.0):
        solved = solve_ivp(slope, (0, time), start.ravel(), rtol=1e-10, atol=1e-12)
        memory = solved.y[:, -1].reshape(5, 2)
        np.testing.assert_allclose(flow(covariance, start, time), memory @ memory.T, atol=1e-8)


def test_the_covariance_rules_error_is_that_of_a_simulation() -> None:
    """Catches (N-1)/d, which centring undercuts, and an error that depends on the context."""
    rng, pairs, dim, draws = np.random.default_rng(1), 4, 5, 40_000
    keys = rng.normal(size=(draws, pairs, dim))
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    values = rng.normal(size=(draws, pairs, 2)) / 2**0.5
    centred = keys - keys.mean(1, keepdims=True)
    mean = values.mean(1, keepdims=True)
    read = mean + centred @ centred.swapaxes(-1, -2) @ (values - mean)
    errors = np.square(read - values).sum(-1).mean(-1)
    assert abs(errors.mean() - centred_error(pairs, dim)) < 4.5 * errors.std() / draws**0.5


def test_the_hebbian_error_in_a_context_is_that_of_a_simulation() -> None:
    """Catches a context that counts in one of the two keys, and the target's own length."""
    rng, pairs, dim, draws = np.random.default_rng(2), 2, 5, 100_000
    keys = rng.normal(size=(draws, pairs, dim))
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    keys[..., 0] += 0.8
    values = rng.normal(size=(draws, pairs, 8)) / 8**0.5
    errors = np.square(keys @ keys.swapaxes(-1, -2) @ values - values).sum(-1).mean(-1)
    assert abs(errors.mean() - hebbian_error(pairs, dim, 0.8)) < 4.5 * errors.std() / draws**0.5
    assert hebbian_error(32, 64, 0.0) == 31 / 64


def test_the_cycles_of_inhibition_are_those_of_the_rule_by_loops() -> None:
    """Catches the two kinds of trial in the opposite order."""
    weight, found = np.zeros(2), []
    for _ in range(4):
        for key, outcome in (([1, 0], 1), ([1, 1], 0)):
            weight = weight + STEP * np.array(key) * (outcome - np.dot(key, weight))
        found.append(weight[1])
    np.testing.assert_allclose(_cycles(np.arange(1.0, 5)), np.array(found), atol=1e-14)
