"""The exact risk of softmax heads: against draws, a limit and the number of nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.icl import debiased_gd_risk, debiasing_constant, softmax_risk
from neuroattn.theory.icl.exact import head_moments


def drawn(omega: list[float], mu: list[float], length: int, dim: int) -> tuple[float, float]:
    """Return the mean squared error over draws of whole tasks, and its standard error."""
    rng, draws = np.random.default_rng(2), 15000
    x = rng.standard_normal((draws, length + 1, dim))
    slope = rng.standard_normal((draws, dim)) / dim**0.5
    y = np.einsum("bld,bd->bl", x, slope) + rng.standard_normal((draws, length + 1)) * 0.1**0.5
    logits = np.einsum("bld,bd->bl", x[:, :-1], x[:, -1])
    read = 0.0
    for strength, written in zip(omega, mu, strict=True):
        raw = np.exp(strength * logits - np.max(strength * logits, axis=1, keepdims=True))
        read = read + written * (raw / raw.sum(1, keepdims=True) * y[:, :-1]).sum(1)
    errors = (read - y[:, -1]) ** 2
    return float(errors.mean()), float(errors.std() / draws**0.5)


@pytest.mark.parametrize(
    ("omega", "mu", "length", "dim"),
    [
        ([0.447], [1.4], 20, 5),
        ([0.13, -0.13], [3.45, -3.45], 10, 5),
        ([0.5, -0.2, 0.1], [0.9, -0.8, 0.3], 7, 3),
        ([1.2], [0.6], 6, 1),
    ],
)
def test_risk_against_draws(omega: list[float], mu: list[float], length: int, dim: int) -> None:
    # Catches a wrong cross term of two heads, and one token counted with itself.
    mean, spread = drawn(omega, mu, length, dim)
    assert abs(softmax_risk(omega, mu, length, dim) - mean) < 4 * spread


def test_one_token_is_read_whatever_the_logit() -> None:
    # Catches weights that do not sum to one: the risk is 1 + σ² + μ²(1 + σ²) for one token.
    assert softmax_risk(0.7, 0.5, 1, 3, 0.2) == pytest.approx(1.2 * 1.25, abs=1e-7)


def test_uniform_weights_average_the_labels() -> None:
    # Catches a drift without its ω: uniform weights say nothing about the query.
    assert softmax_risk(0.0, 2.0, 8, 3, 0.2) == pytest.approx(1.2 + 4 * 1.2 / 8, abs=1e-7)


def test_golden_risks_of_one_head_and_two() -> None:
    # Catches a scale 1/sqrt(d + 1) that is left in the logits.
    assert softmax_risk([0.13, -0.13], [3.45, -3.45], 40, 5) == pytest.approx(0.24324, abs=1e-5)
    assert softmax_risk(0.5178, 1.485, 40, 5) == pytest.approx(0.4040, abs=2e-4)


def test_small_opposite_heads_are_debiased_gradient_descent() -> None:
    # Catches a loss of digits where two nearly equal heads cancel.
    mu = 0.8 / (2 * 0.003)
    found = softmax_risk([0.003, -0.003], [mu, -mu], 15, 4)
    assert found == pytest.approx(debiased_gd_risk(15, 4, 0.1, 0.8), abs=1e-5)


def test_more_nodes_change_nothing() -> None:
    # Catches a quadrature that is too coarse for sharp heads.
    few, many = (head_moments([0.85, -0.4], 12, 5, nodes=n) for n in (20, 36))
    for one, other in zip(few, many, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6)


def test_golden_debiasing_constant() -> None:
    # Catches the third moment in place of the third cumulant; 1.244 ± .02 was simulated.
    assert 0.897 * debiasing_constant(40, 5) == pytest.approx(1.2413, abs=1e-4)


def test_debiasing_constant_against_draws() -> None:
    # Catches a wrong moment of normal samples at a short length.
    rng, draws, length, dim, noise = np.random.default_rng(4), 100000, 5, 3, 0.2
    s = rng.standard_normal((draws, length))
    centred = s - s.mean(1, keepdims=True)
    second, third = ((centred**k).mean(1, keepdims=True) for k in (2, 3))
    cumulant = centred**3 / 6 - centred * second / 2 - third / 6
    square = (s * cumulant).sum(1) ** 2 / dim
    square += ((dim - 1) / dim + noise) * (cumulant**2).sum(1)
    square *= dim * (dim + 2) * (dim + 4) / length**2
    exact = debiasing_constant(length, dim, noise) ** 2
    assert abs(square.mean() - exact) < 4 * square.std() / draws**0.5


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: softmax_risk([0.1, 0.2], [1.0], 40, 5), "2 heads and mu 1"),
        (lambda: softmax_risk([], [], 40, 5), "omega has shape"),
        (lambda: softmax_risk(0.1, float("nan"), 40, 5), "mu has shape"),
        (lambda: softmax_risk(2.0, 1.0, 40, 5), "too sharp"),
        (lambda: softmax_risk(0.1, 1.0, 0, 5), "length=0"),
        (lambda: debiasing_constant(1, 5), "length=1"),
    ],
)
def test_impossible_arguments_are_named(call: Any, named: str) -> None:
    # Catches a NaN that goes on as a risk.
    with pytest.raises(InputError, match=named):
        call()
