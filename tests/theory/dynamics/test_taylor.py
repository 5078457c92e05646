"""The Taylor remainder, its bound and its features, against scipy, grids and golden numbers."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy.special import gammainc

from neuroattn.errors import InputError
from neuroattn.theory.dynamics import taylor_bound, taylor_error, taylor_features


@pytest.mark.parametrize(("radius", "order"), list(product((0.1, 1.0, 2.5, 6.0), (0, 1, 4, 9))))
def test_the_error_is_the_incomplete_gamma_function_and_within_the_bound(
    radius: float, order: int
) -> None:
    # A series that begins one term early or late would show.
    found = taylor_error(radius, order)
    assert found == pytest.approx(math.exp(radius) * gammainc(order + 1, radius), rel=1e-10)
    assert found < taylor_bound(radius, order) < found * math.exp(radius) * 1.0000001


def test_no_point_of_a_grid_is_worse_than_the_attained_error() -> None:
    # An error at x = -R, which is smaller, would show.
    x = np.linspace(-2, 2, 401)
    for order in range(6):
        polynomial = sum(x**m / math.factorial(m) for m in range(order + 1))
        worst = np.abs(np.exp(x) - polynomial).max()
        assert worst == pytest.approx(taylor_error(2.0, order), rel=1e-12)


def test_features_are_the_monomials() -> None:
    # Ordered monomials, d^m, or a missing constant would show; the numbers at d = 4 are golden.
    assert [taylor_features(4, p) for p in (2, 4, 6, 8)] == [15, 70, 210, 495]
    exponents = [e for e in product(range(4), repeat=3) if sum(e) <= 3]
    assert taylor_features(3, 3) == len(exponents)


def test_high_orders_go_through_logarithms() -> None:
    # A factorial of 201 is beyond float64, the bound is not.
    wanted = math.exp(2 + 201 * math.log(2) - math.lgamma(202))
    assert taylor_bound(2.0, 200) == pytest.approx(wanted, rel=1e-12)
    assert taylor_error(2.0, 200) <= taylor_bound(2.0, 200)
    assert taylor_error(50.0, 1) == pytest.approx(math.exp(50) - 51, rel=1e-12)


def test_a_radius_of_zero_has_no_error() -> None:
    # A series that never ends, or a tiny floor that is returned, would show.
    assert taylor_error(0.0, 2) == taylor_bound(0.0, 2) == 0.0


@pytest.mark.parametrize("function", [taylor_bound, taylor_error])
def test_bad_radius_and_order_are_refused(function: object) -> None:
    # A bound of a negative radius is no bound.
    with pytest.raises(InputError, match="radius=-1"):
        function(-1.0, 2)  # type: ignore[operator]
    with pytest.raises(InputError, match="radius=nan"):
        function(math.nan, 2)  # type: ignore[operator]
    with pytest.raises(InputError, match="order=-1"):
        function(1.0, -1)  # type: ignore[operator]
    with pytest.raises(InputError, match="radius='x'"):
        function("x", 2)  # type: ignore[operator]
    with pytest.raises(InputError, match="radius=inf"):
        function(math.inf, 2)  # type: ignore[operator]
    with pytest.raises(InputError, match=r"radius=1000\.0 at order=2 .* take a smaller radius"):
        function(1000.0, 2)  # type: ignore[operator]
    with pytest.raises(InputError, match="dim=0"):
        taylor_features(0, 2)
