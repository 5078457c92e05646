"""Memora's gates against a minimiser with explicit constraints."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from neuroattn.errors import InputError
from neuroattn.theory.memory import memora_gates
from neuroattn.theory.memory.simplex import minimiser, objective
from tests.tolerances import TOLERANCE


def test_gates_make_the_constrained_minimum() -> None:
    """Catches a step that the retention does not shorten, and lambda of the wrong penalty."""
    rng = np.random.default_rng(7)
    before, slope = rng.dirichlet(np.ones(4)), rng.normal(size=4)
    power, strength = memora_gates(0.8, 2.0)
    wanted = before**power * np.exp(-strength * slope)
    wanted /= wanted.sum()
    found = minimize(
        lambda w: w @ slope + (w @ np.log(w / before)) / 0.8 + (w @ np.log(w)) / 2.0,
        np.full(4, 0.25),
        bounds=[(1e-9, 1)] * 4,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(found.x, wanted, atol=1e-6)
    np.testing.assert_allclose(minimiser(before, slope, 0.8, 2.0), wanted, atol=1e-8)
    np.testing.assert_allclose(
        objective(np.log(wanted), before, slope, 0.8, 2.0), found.fun, atol=1e-9
    )


def test_infinite_retention_is_the_plain_exponentiated_gradient() -> None:
    """Catches a power that does not tend to 1."""
    np.testing.assert_allclose(memora_gates(0.7, np.inf), (1.0, 0.7), **TOLERANCE["float64"])


@pytest.mark.parametrize("given", [(0.0, 1.0), (1.0, -1.0), (float("nan"), 1.0)])
def test_impossible_penalties_are_named(given: tuple[float, float]) -> None:
    """Catches a penalty of 0, whose inverse is infinite."""
    with pytest.raises(InputError, match="must be above 0"):
        memora_gates(*given)
