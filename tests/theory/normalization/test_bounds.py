"""Bounds on weights, the entropy's deficit, and what survives a long context."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import entr, softmax

from neuroattn.errors import InputError
from neuroattn.theory.normalization import entropy_deficit, surviving_weight, weight_bounds


@pytest.mark.parametrize("length", [1, 2, 9, 1000])
def test_bounds_hold_for_every_corner_and_are_attained(length):
    # Catches a factor e^(2Δ) that should be its inverse.
    least, largest = weight_bounds(length, 0.7)
    one = np.full(length, -0.7)
    one[0] = 0.7
    assert np.isclose(softmax(one)[0], largest)
    assert np.isclose(softmax(-one)[0], least)
    drawn = softmax(np.random.default_rng(0).uniform(-0.7, 0.7, (200, length)), axis=1)
    assert drawn.min() >= least - 1e-15
    assert drawn.max() <= largest + 1e-15


@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0])
def test_the_deficit_is_that_of_many_uniform_logits(spread):
    # Catches the logarithm of the moment left out.
    count = 100_000
    logits = spread * ((2 * np.arange(count) + 1) / count - 1)
    found = np.log(count) - entr(softmax(logits)).sum()
    assert np.isclose(found, entropy_deficit(spread), rtol=1e-5, atol=1e-9)


def test_the_deficit_is_smooth_at_zero_and_finite_for_loud_logits():
    # Catches a cancellation near 0 and an overflow of sinh.
    assert entropy_deficit(0.0) == 0
    assert np.isclose(entropy_deficit(9.99e-4), entropy_deficit(1.001e-3), rtol=0.01)
    assert np.isclose(entropy_deficit(1000.0), np.log(2000) - 1, rtol=1e-3)


def test_the_threshold_of_survival_is_one_half():
    # Catches a threshold of 1.
    found = surviving_weight(np.array([10.0, 1e9]), 0.5)
    assert np.allclose(found, [1 / 1.9, 0.5])
    assert surviving_weight(10**9, 0.4) < 0.02
    assert surviving_weight(10**9, 0.6) > 0.98


def test_bad_input_names_the_argument():
    # Catches silent results for impossible sizes.
    with pytest.raises(InputError, match="length"):
        weight_bounds(0, 1.0)
    with pytest.raises(InputError, match="spread"):
        entropy_deficit(-1.0)
