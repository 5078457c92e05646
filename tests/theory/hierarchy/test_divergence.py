"""The divergence that tied blocks leave."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from neuroattn.errors import InputError
from neuroattn.theory.hierarchy import tied_divergence


def test_it_equals_a_numerical_minimum_over_tied_weights():
    # Catches a closed form that forgets the sizes of blocks, or takes the log of a mean.
    scores = np.random.default_rng(0).normal(size=(5, 5))
    target = log_softmax(scores, axis=1)
    blocks = [np.array([0, 1]), np.array([2, 3]), np.array([4])]

    def divergence(free: np.ndarray) -> float:
        logs, place = np.zeros((5, 5)), 0
        for own, rows in enumerate(blocks):
            sizes = [1.0] + [len(b) for n, b in enumerate(blocks) if n != own]
            mass = np.exp(free[place : place + 3])
            mass = mass / (mass @ sizes)
            place += 3
            others = iter(mass[1:])
            for n, columns in enumerate(blocks):
                if n != own:
                    logs[np.ix_(rows, columns)] = np.log(next(others))
            for row in rows:
                inside = log_softmax(free[place : place + len(rows)])
                place += len(rows)
                logs[row, rows] = np.log(mass[0]) + inside
        return float((np.exp(logs) * (logs - target)).sum() / 5)

    found = minimize(divergence, np.zeros(9 + 4 + 4 + 1), tol=1e-10)
    assert np.isclose(found.fun, tied_divergence(scores, 2), atol=1e-7)


def test_single_tokens_and_one_block_cost_nothing():
    # Catches a block that is its own neighbour.
    scores = np.random.default_rng(1).normal(size=(7, 7))
    assert abs(tied_divergence(scores, 1)) < 1e-12
    assert abs(tied_divergence(scores, 7)) < 1e-12
    assert tied_divergence(scores, 3) > 0.01


def test_bad_input_names_the_argument():
    # Catches scores of a cross read, which have no blocks in common.
    with pytest.raises(InputError, match="scores"):
        tied_divergence(np.zeros((2, 3)), 1)
    with pytest.raises(InputError, match="block_size=0"):
        tied_divergence(np.zeros((2, 2)), 0)
