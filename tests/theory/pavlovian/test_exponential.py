"""The softmax read: how many associations the exponential tells apart."""

from __future__ import annotations

import math

import pytest
from scipy.integrate import quad

from neuroattn.errors import InputError
from neuroattn.theory.pavlovian import softmax_capacity
from neuroattn.theory.pavlovian.exponential import _wave, growth


def test_weight_of_the_target_has_the_derived_value() -> None:
    """Catches β where its half belongs: d = 32, N = 4096, β = 8."""
    held = softmax_capacity(32, 8.0)
    assert 1 / (1 + 4095 / (held - 1)) == pytest.approx(0.2156, abs=3e-4)


@pytest.mark.parametrize("dim", [2, 3, 9])
@pytest.mark.parametrize("beta", [0.5, 4.0, 20.0])
def test_mean_exponential_is_an_integral_over_the_sphere(dim: int, beta: float) -> None:
    """Catches a Bessel function of another order."""

    def area(angle: float) -> float:
        return math.sin(angle) ** (dim - 2)

    top, _ = quad(lambda x: math.exp(beta * math.cos(x)) * area(x), 0, math.pi, limit=200)
    expected = top / quad(area, 0, math.pi)[0]
    assert _wave(dim, beta) == pytest.approx(expected, rel=1e-8)


def test_on_a_line_the_exponential_is_a_cosh() -> None:
    """Catches d/2 - 1 for d/2."""
    assert softmax_capacity(1, 3.0) == pytest.approx(1 + math.exp(3) / math.cosh(3), rel=1e-12)


def test_many_dimensions_leave_the_other_keys_at_no_overlap() -> None:
    """Catches a capacity that grows without bound at a fixed β."""
    assert softmax_capacity(10**6, 5.0) == pytest.approx(1 + math.exp(5), rel=1e-4)


@pytest.mark.parametrize("steep", [0.2, 0.5, 2.0])
def test_growth_is_the_limit_of_the_logarithm(steep: float) -> None:
    """Catches a saddle point of another density."""
    low, high = (math.log(softmax_capacity(dim, steep * dim) - 1) for dim in (200, 240))
    assert (high - low) / 40 == pytest.approx(growth(steep), abs=1e-5)


def test_what_is_beyond_floating_point_is_infinite() -> None:
    """Catches an OverflowError, and e^(βc) that overflows to a capacity of 1."""
    assert softmax_capacity(4000, 3900.0) == math.inf
    assert softmax_capacity(10**7, 2e5) == math.inf


def test_a_sharp_read_of_few_dimensions_stays_finite() -> None:
    """Catches the same overflow where the capacity is small: e^β/I_0(β) and e^β/cosh β."""
    assert softmax_capacity(2, 5000.0) == pytest.approx(1 + math.sqrt(2 * math.pi * 5000), rel=1e-4)
    assert softmax_capacity(1, 5000.0) == pytest.approx(3.0, rel=1e-9)
    low, high = softmax_capacity(3, 700.0), softmax_capacity(3, 720.0)
    assert (high - 1) / (low - 1) == pytest.approx(720 / 700, rel=1e-9)
    # ln N = β - β²/2d, to a part in a million.
    assert math.log(softmax_capacity(10**7, 650.0)) == pytest.approx(650 - 0.021125, rel=1e-6)


def test_bad_arguments_are_refused_by_name() -> None:
    """Catches a temperature without a sign."""
    with pytest.raises(InputError, match="beta=0"):
        softmax_capacity(8, 0)
    with pytest.raises(InputError, match="dim=0"):
        softmax_capacity(0, 1.0)
