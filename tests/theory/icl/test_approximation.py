"""The approximate loss: against its definition spelled out, and minimisers of its own."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scipy.optimize import minimize

from neuroattn.errors import InputError
from neuroattn.theory.icl import approximate_loss, approximate_optimum


def test_loss_term_by_term() -> None:
    # Catches an exponential of the matrix in place of one of each entry.
    omega, mu, length, dim, noise = [0.2, -0.3], [1.5, -0.7], 30, 4, 0.25
    wanted = 1 + noise
    for i in range(2):
        wanted -= 2 * mu[i] * omega[i]
        for j in range(2):
            product = omega[i] * omega[j]
            overlap = (1 + noise) / length * math.exp(dim * product)
            wanted += mu[i] * mu[j] * (product + overlap)
    assert approximate_loss(omega, mu, length, dim, noise) == pytest.approx(wanted, rel=1e-13)


def test_golden_optima() -> None:
    # Catches κ without the noise.
    assert approximate_optimum(1, 40, 5) == pytest.approx(0.372073, abs=1e-6)
    assert approximate_optimum(2, 40, 5) == pytest.approx(0.220879, abs=1e-6)
    assert approximate_optimum(4, 40, 5) == approximate_optimum(2, 40, 5)


def test_one_head_is_minimised_over_both_of_its_numbers() -> None:
    # Catches an optimum over μ alone.
    found = minimize(lambda p: approximate_loss(p[0], p[1], 25, 3, 0.3), [0.4, 1.0], tol=1e-12)
    assert found.fun == pytest.approx(approximate_optimum(1, 25, 3, 0.3), abs=1e-8)
    assert found.x[0] == pytest.approx(3**-0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: approximate_loss(0.1, [1.0, 2.0], 40, 5), "1 heads and mu 2"),
        (lambda: approximate_loss(0.1, 1.0, 40, -5), "dim=-5"),
        (lambda: approximate_optimum(0, 40, 5), "heads=0"),
        (lambda: approximate_optimum(1, 40, 5, float("nan")), "noise=nan"),
    ],
)
def test_impossible_arguments_are_named(call: Any, named: str) -> None:
    # Catches a loss of no heads.
    with pytest.raises(InputError, match=named):
        call()
