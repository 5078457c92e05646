"""Numbers that user functions refuse, and extreme ones that they take."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.efficiency.exact import window_counts
from neuroattn.theory.hierarchy.divergence import tied_divergence
from neuroattn.theory.icl import debiased_gd_risk, softmax_risk
from neuroattn.theory.icl.risks import bayes_risk
from neuroattn.theory.initialization.mimetic import own_logit
from neuroattn.theory.local_linear.smoothing import regression_rate
from neuroattn.theory.memory.descent import descent_error
from neuroattn.theory.memory.elastic import elastic_net_step
from neuroattn.theory.memory.simplex import memora_gates
from neuroattn.theory.normalization.bounds import entropy_deficit, surviving_weight, weight_bounds
from neuroattn.theory.normalization.elementwise import expected_row_sum
from neuroattn.theory.rank.hard_heads import target_agreement


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: window_counts(8.5, 3), "tokens=8.5"),  # type: ignore[arg-type]
        (lambda: window_counts(8, 2.5), "window=2.5"),  # type: ignore[arg-type]
        (lambda: tied_divergence(np.eye(4), 1.5), "block_size=1.5"),  # type: ignore[arg-type]
        (lambda: bayes_risk(4, 2, draws=2.5), "draws=2.5"),  # type: ignore[arg-type]
        (lambda: regression_rate(1.5), "dim=1.5"),  # type: ignore[arg-type]
        (lambda: descent_error(1.5, 4), "steps=1.5"),
        (lambda: descent_error(1, 4.5), "dim=4.5"),  # type: ignore[arg-type]
        (lambda: descent_error(1, 4, 3.0), "beta=3.0"),
        (lambda: own_logit(2.5, 4), "dim=2.5"),  # type: ignore[arg-type]
        (lambda: target_agreement(0.3, 2.5), "dim=2.5"),  # type: ignore[arg-type]
        (lambda: memora_gates(math.inf, math.inf), "step=inf"),
        (lambda: elastic_net_step([1.0, 2.0], [1.0, 2.0, 3.0], 1, 1, 1), "gradient has shape"),
        (lambda: entropy_deficit(math.inf), "spread=inf"),
        (lambda: surviving_weight(10, -1), "growth=-1"),
        (lambda: expected_row_sum(5, "sigmoid_attention", 40.0), "spread=40"),
    ],
)
def test_impossible_numbers_are_named(call: Any, named: str) -> None:
    # Catches fractions taken for whole numbers, wrong names, and raw errors of Python and numpy.
    with pytest.raises(InputError, match=named):
        call()


def test_wide_logits_do_not_overflow() -> None:
    # Catches e^(2 spread) in float64: at 400 the least weight is 0 and the largest 1.
    assert weight_bounds(10, 400) == (0.0, 1.0)
    assert weight_bounds(1, 400) == (1.0, 1.0)


def test_row_sums_of_wide_logits() -> None:
    # Catches a quadrature too coarse for a sigmoid that is nearly a step: by symmetry n/2 at n = 1.
    assert expected_row_sum(1, "sigmoid_attention", 10.0) == pytest.approx(0.5, abs=1e-9)
    drawn = np.random.default_rng(0).normal(size=400_000) * 10.0
    one = 8 / (1 + np.exp(-(drawn - math.log(8))))
    found = expected_row_sum(8, "sigmoid_attention", 10.0)
    assert abs(found - one.mean()) < 4 * one.std() / drawn.size**0.5


def test_high_dimensions_are_finite() -> None:
    # Catches polynomials whose weights overflow: NaN or a wrong risk above 345 dimensions.
    mu = 0.8 / 0.004
    found = softmax_risk([0.002, -0.002], [mu, -mu], 1000, 500)
    assert found == pytest.approx(debiased_gd_risk(1000, 500, 0.1, 0.8), abs=5e-6)
    # The best head in many dimensions: E asin(r sin t) is E r sin t, E r = sqrt(pi / (2 d)).
    wanted = 0.5 + 2 / math.pi**2 * math.sqrt(math.pi / (2 * 3000)) * math.cos(0.3)
    assert target_agreement(0.3, 3000) == pytest.approx(wanted, abs=1e-5)
