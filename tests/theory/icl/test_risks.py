"""Risks of gradient descent and ridge: against simulation, minimisers and golden numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.linear_model import Ridge

from neuroattn.errors import NeuroattnError
from neuroattn.theory.icl import (
    bayes_limit,
    bayes_risk,
    debiased_gd_risk,
    gd_limit,
    gd_risk,
    optimal_preconditioner,
    optimal_step,
    preconditioned_risk,
)


def simulated(
    root: np.ndarray, matrix: np.ndarray, length: int, noise: float, debiased: bool
) -> tuple[float, float]:
    """Return the mean squared error over draws, and its standard error."""
    draws, dim = 20000, len(root)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((draws, length + 1, dim)) @ root
    y = (x @ rng.standard_normal((draws, dim, 1)) / dim**0.5)[..., 0]
    y += rng.standard_normal(y.shape) * noise**0.5
    context, asked = x[:, :-1], x[:, -1]
    if debiased:
        context = context - context.mean(1, keepdims=True)
    read = np.einsum("bl,bli,ij,bj->b", y[:, :-1], context, matrix, asked, optimize=True) / length
    errors = (read - y[:, -1]) ** 2
    return float(errors.mean()), float(errors.std() / draws**0.5)


def test_golden_risks() -> None:
    # Catches a noise floor added twice, and 1/L for 1/(L-1) in the debiased risk.
    found = [gd_risk(n, 5, 0.1, 0.897) for n in (10, 20, 40, 100)]
    np.testing.assert_allclose(found, [0.6336, 0.3721, 0.2414, 0.1629], atol=5e-5)
    found = [debiased_gd_risk(n, 5, 0.1, 0.897) for n in (10, 20, 40, 100)]
    np.testing.assert_allclose(found, [0.6078, 0.3703, 0.2432, 0.1643], atol=5e-5)


@pytest.mark.parametrize(("rule", "risk"), [("gd", gd_risk), ("debiased", debiased_gd_risk)])
def test_optimal_step_minimises_the_risk(rule: str, risk: Any) -> None:
    # Catches the optimum of the other rule.
    best = minimize_scalar(lambda step: risk(7, 3, 0.4, step))
    assert optimal_step(7, 3, 0.4, rule) == pytest.approx(best.x, abs=1e-6)
    assert risk(7, 3, 0.4) == pytest.approx(best.fun, abs=1e-10)


@pytest.mark.parametrize("debiased", [False, True])
def test_preconditioned_risk_against_draws(debiased: bool) -> None:
    # Catches a transposed preconditioner and traces of the wrong products.
    rng = np.random.default_rng(0)
    root, matrix = rng.standard_normal((2, 3, 3))
    rule = "debiased" if debiased else "gd"
    mean, spread = simulated(root, 0.3 * matrix, 6, 0.5, debiased)
    exact = preconditioned_risk(root.T @ root, 0.3 * matrix, 6, 0.5, rule)
    assert abs(mean - exact) < 4 * spread


@pytest.mark.parametrize(("rule", "risk"), [("gd", gd_risk), ("debiased", debiased_gd_risk)])
def test_isotropic_covariates_are_a_special_case(rule: str, risk: Any) -> None:
    # Catches a factor of the dimension between the general and the special formula.
    assert preconditioned_risk(np.eye(4), 0.8 * np.eye(4), 9, 0.2, rule) == pytest.approx(
        risk(9, 4, 0.2, 0.8), rel=1e-12
    )
    best = optimal_preconditioner(np.eye(4), 9, 0.2, rule)
    np.testing.assert_allclose(best, optimal_step(9, 4, 0.2, rule) * np.eye(4), atol=1e-12)


def test_long_contexts_are_preconditioned_by_the_inverse_covariance() -> None:
    # Catches the inverse of the root of the covariance.
    covariance = np.diag([0.5, 1.0, 3.0])
    best = optimal_preconditioner(covariance, 10**8)
    np.testing.assert_allclose(best, np.linalg.inv(covariance), rtol=1e-6, atol=1e-9)


def test_bayes_risk_against_scikit_learn() -> None:
    # Catches a penalty of the noise without the dimension.
    rng = np.random.default_rng(5)
    length, dim, noise, draws = 12, 3, 0.4, 1000
    errors = []
    for _ in range(draws):
        x = rng.standard_normal((length, dim))
        slope = rng.standard_normal(dim) / dim**0.5
        y = x @ slope + rng.standard_normal(length) * noise**0.5
        fitted = Ridge(alpha=dim * noise, fit_intercept=False).fit(x, y).coef_
        errors.append(noise + ((fitted - slope) ** 2).sum())
    risk, spread = bayes_risk(length, dim, noise)
    assert abs(np.mean(errors) - risk) < 4 * np.hypot(np.std(errors) / draws**0.5, spread)


def test_golden_bayes_risk_and_limits() -> None:
    # Catches the excess risk in place of the risk.
    assert bayes_risk(40, 5)[0] == pytest.approx(0.1145, abs=3e-4)
    assert bayes_limit(0.2, 3.0) == pytest.approx(3.405125, abs=1e-6)
    assert gd_limit(0.2, 3.0) == pytest.approx(3.444444, abs=1e-6)
    risk, spread = bayes_risk(1000, 200, 3.0, draws=20)
    assert abs(risk - bayes_limit(0.2, 3.0)) < 1e-3 + 4 * spread


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: gd_risk(0, 5), "length=0"),
        (lambda: gd_risk(40, 0), "dim=0"),
        (lambda: debiased_gd_risk(40, 2.5), "dim=2.5"),
        (lambda: gd_risk(40, 5, -0.1), "noise=-0.1"),
        (lambda: gd_risk(40, 5, 0.1, float("inf")), "step=inf"),
        (lambda: optimal_step(40, 5, 0.1, "sgd"), "rule='sgd'"),
        (lambda: bayes_risk(40, 5, 0.0), "noise=0.0"),
        (lambda: bayes_risk(40, 5, draws=1), "draws=1"),
        (lambda: bayes_limit(0.0, 1.0), "ratio=0.0"),
        (lambda: gd_limit(0.2, -1.0), "noise=-1.0"),
        (lambda: preconditioned_risk([[1.0, 2.0], [2.0, 1.0]], np.eye(2), 4), "covariance"),
        (lambda: preconditioned_risk(np.eye(2), np.eye(3), 4), "preconditioner"),
    ],
)
def test_impossible_arguments_are_named(call: Any, named: str) -> None:
    # Catches a NaN or a negative risk that goes on as a result.
    with pytest.raises(NeuroattnError, match=named):
        call()
