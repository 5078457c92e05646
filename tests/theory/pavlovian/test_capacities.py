"""Capacities: on average, in the worst case, without an error, and the rate of errors."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import dblquad, quad
from scipy.stats import beta, norm

from neuroattn.errors import InputError, UnknownNameError
from neuroattn.theory.pavlovian import (
    capacity,
    crosstalk_variance,
    flawless_capacity,
    sign_error,
    worst_case_capacity,
)
from neuroattn.theory.pavlovian.adversary import mean_overlap
from neuroattn.theory.pavlovian.capacities import fitted
from neuroattn.theory.pavlovian.sign_bits import _wave


@pytest.mark.parametrize(("dim", "snr", "expected"), [(64, 1.0, 65), (64, 4, 17), (10, 0.5, 21)])
def test_capacity_is_where_the_crosstalk_reaches_the_ratio(
    dim: int, snr: float, expected: int
) -> None:
    """Catches a ratio of amplitudes, and the target counted as its own noise."""
    assert capacity(dim, snr) == expected
    assert crosstalk_variance(expected, dim) == pytest.approx(1 / snr)


@pytest.mark.parametrize("snr", [0, -1.0, math.nan, math.inf, "4", True])
def test_a_ratio_that_is_not_positive_is_refused(snr: float) -> None:
    """Catches a capacity below nothing."""
    with pytest.raises(InputError, match="snr="):
        capacity(64, snr)


def test_fit_finds_an_exponent_and_its_error() -> None:
    """Catches a base of logarithms that differs, and an error that is not relative."""
    at = [16, 32, 64, 128]
    values = 3 * np.array(at, dtype=float) ** 0.7
    slope, error = fitted(values, 0.01 * values, at)
    assert slope == pytest.approx(0.7, abs=1e-12)
    rng = np.random.default_rng(0)
    drawn = [
        np.polyfit(np.log(at), np.log(values * (1 + 0.01 * rng.standard_normal(4))), 1)[0]
        for _ in range(2000)
    ]
    assert error == pytest.approx(np.std(drawn), rel=0.1)


@pytest.mark.parametrize(("dim", "expected"), [(16, 6), (64, 11), (256, 21), (1024, 41)])
def test_worst_case_capacity_has_the_derived_values(dim: int, expected: int) -> None:
    """Catches the root mean square for the mean size, sqrt(d) for sqrt(pi d/2)."""
    assert round(worst_case_capacity(dim)) == expected
    low, high = (1 + math.sqrt(math.pi * x / 2) for x in (dim - 1, dim))
    assert low < worst_case_capacity(dim) < high


@pytest.mark.parametrize(("dim", "expected"), [(1, 1.0), (2, 2 / math.pi), (3, 0.5)])
def test_mean_overlap_is_exact_in_few_dimensions(dim: int, expected: float) -> None:
    """Catches Γ(d/2) and Γ((d+1)/2) the wrong way round, and an asymptotic form."""
    assert mean_overlap(dim) == pytest.approx(expected, rel=1e-13)
    assert worst_case_capacity(dim) == pytest.approx(1 + 1 / expected, rel=1e-13)


def test_mean_overlap_does_not_overflow() -> None:
    """Catches Γ(d/2) taken without logarithms."""
    assert mean_overlap(10**6) == pytest.approx(math.sqrt(2 / (math.pi * 1e6)), rel=1e-6)


@pytest.mark.parametrize(
    ("pairs", "expected"), [(9, 0.00234), (33, 0.07865), (65, 0.15866), (129, 0.23975)]
)
def test_sign_error_has_the_derived_tail(pairs: int, expected: float) -> None:
    """Catches d/(N-1) without its root."""
    assert sign_error(pairs, 64) == pytest.approx(expected, abs=5e-6)
    for law in ("sphere", "gaussian", "rademacher"):
        assert sign_error(pairs, 64, law) == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize(("others", "dim"), [(1, 3), (2, 3), (3, 2), (2, 1)])
def test_rademacher_sign_error_is_that_of_all_keys(others: int, dim: int) -> None:
    """Catches an edge of the binomial that is off by one, and ties counted whole."""
    wrong = []
    for signs in product((-1, 1), repeat=others * dim):
        read = dim + sum(signs)
        wrong.append(1.0 if read < 0 else 0.5 if read == 0 else 0.0)
    assert sign_error(others + 1, dim, "rademacher") == pytest.approx(np.mean(wrong), rel=1e-12)


@pytest.mark.parametrize(("pairs", "dim"), [(3, 2), (9, 16), (40, 5)])
def test_gaussian_sign_error_is_the_tail_over_the_lengths_of_keys(pairs: int, dim: int) -> None:
    """Catches degrees of freedom d-1 or N-1, and a target of size 1."""
    from scipy.stats import chi

    def wrong(length: float) -> float:
        tail = norm.sf(length * math.sqrt(dim / (pairs - 1)))
        return float(tail * chi.pdf(length * dim**0.5, dim) * dim**0.5)

    expected, _ = quad(wrong, 0, 8, epsabs=1e-12)
    assert sign_error(pairs, dim, "gaussian") == pytest.approx(expected, rel=1e-7)


def test_sphere_sign_error_is_that_of_a_sum_of_uniform_numbers_in_space() -> None:
    """Catches a Fourier series of another period: Irwin and Hall's law at d = 3."""
    for others in (2, 3, 5, 8):
        # The chance that a sum of numbers uniform on [0, 1] is below (others - 1)/2.
        below = (others - 1) / 2
        terms = (
            (-1) ** k * math.comb(others, k) * (below - k) ** others
            for k in range(math.floor(below) + 1)
        )
        expected = sum(terms) / math.factorial(others)
        assert sign_error(others + 1, 3, "sphere") == pytest.approx(expected, abs=1e-9)


def test_sphere_sign_error_is_an_integral_on_the_circle() -> None:
    """Catches a series that is cut too early, where it converges least."""
    found, _ = dblquad(
        lambda a, b: float(math.cos(a) + math.cos(b) < -1), 0, math.pi, 0, math.pi, epsabs=2e-3
    )
    assert sign_error(3, 2, "sphere") == pytest.approx(found / math.pi**2, abs=2e-3)
    # cos b below -1 - cos a, over the a at which that can be.
    exact, _ = quad(lambda a: math.pi - math.acos(-1 - math.cos(a)), math.pi / 2, math.pi)
    assert sign_error(3, 2, "sphere") == pytest.approx(exact / math.pi**2, abs=1e-6)


def _by_convolution(others: int, dim: int) -> float:
    """Return the chance that coordinates on the sphere sum to more than 1, by positive sums."""
    law = beta((dim - 1) / 2, (dim - 1) / 2, loc=-1, scale=2)
    count = 40 * round(math.sqrt(dim))
    one = whole = law.pdf(np.arange(-count, count + 1) / count)
    for _ in range(others - 2):
        whole = np.convolve(whole, one) / count
    middle = len(whole) // 2
    left = 1 - np.arange(-middle, middle + 1) / count
    return float((whole * law.sf(left)).sum() / count)


@pytest.mark.parametrize(
    ("others", "dim"),
    [(2, 18), (2, 128), (2, 300), (2, 2000), (3, 27), (5, 300), (8, 64), (8, 72), (64, 700)],
)
def test_sphere_sign_error_is_accurate_far_out_in_the_tail(others: int, dim: int) -> None:
    """Catches an overflow, a negative chance, and the rounding of a difference from 1/2."""
    expected = _by_convolution(others, dim)
    assert sign_error(others + 1, dim, "sphere") == pytest.approx(expected, rel=2e-11)


@pytest.mark.parametrize("dim", [1, 2, 3, 16, 128, 599, 601, 1219, 1221, 5000, 10**6])
def test_sphere_sign_error_is_a_chance_that_grows_with_the_pairs(dim: int) -> None:
    """Catches nan, a chance below 0 or above 1/2, and a seam between two ways to compute it."""
    numbers = sorted({2, 3, 5, 9, 17, 1 + dim // 9, 2 + dim // 9, 1 + dim, 10**4, 10**7})
    numbers = [pairs for pairs in numbers if pairs > 1]
    found = [sign_error(pairs, dim, "sphere") for pairs in numbers]
    assert all(0 <= each <= 0.5 for each in found)
    assert np.all(np.diff(found) > -1e-9)
    assert sign_error(10**7, dim, "sphere") == pytest.approx(sign_error(10**7, dim), abs=1e-7)


@pytest.mark.parametrize("width", [1, 4, 64])
def test_the_bound_on_wrong_bits_holds_with_the_exact_tail(width: int) -> None:
    """Catches a bound that the Gaussian tail keeps and the sphere's does not."""
    for dim in (*range(1, 200), *range(200, 4097, 97)):
        pairs = int(flawless_capacity(dim, width))
        if pairs > 1:
            bits = pairs * width
            wrong = bits * sign_error(pairs, dim, "sphere")
            assert wrong <= 1 / math.sqrt(4 * math.pi * math.log(bits)), (dim, wrong)


@pytest.mark.parametrize("dim", [10**8, 10**9, 10**12])
def test_worst_case_capacity_is_within_its_bounds_in_many_dimensions(dim: int) -> None:
    """Catches a difference of logarithms that cancels."""
    low, high = (1 + math.sqrt(math.pi * x / 2) for x in (dim - 1, dim))
    assert low * (1 - 1e-15) < worst_case_capacity(dim) < high * (1 + 1e-15)
    assert worst_case_capacity(dim) == pytest.approx((low + high) / 2, rel=1e-10)


def test_one_other_key_on_the_sphere_never_turns_a_sign() -> None:
    """Catches a Gaussian tail where the crosstalk is bounded by the target."""
    assert sign_error(2, 4, "sphere") == 0.0
    assert sign_error(1, 4) == sign_error(1, 4, "gaussian") == 0.0
    assert sign_error(2, 1, "sphere") == pytest.approx(0.25, rel=1e-12)


@pytest.mark.parametrize("dim", [2, 5, 64, 900])
def test_characteristic_function_is_the_same_by_series_and_by_bessel(dim: int) -> None:
    """Catches a jump where the two ways to compute it meet."""
    edge = math.sqrt(16 * dim)
    at = np.array([0.3 * edge, edge * (1 - 1e-12), edge * (1 + 1e-12)])
    found = _wave(at, dim)
    assert found[1] == pytest.approx(found[2], abs=1e-10)
    c, w = np.polynomial.legendre.leggauss(2000)
    angle = (c + 1) * math.pi / 2
    weight = w * np.sin(angle) ** (dim - 2)
    expected = (np.cos(at[:, None] * np.cos(angle)) * weight).sum(-1) / weight.sum()
    assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize(("dim", "width"), [(1, 1), (64, 32), (1000, 7)])
def test_flawless_capacity_solves_its_law(dim: int, width: int) -> None:
    """Catches ln M for 2 ln M, and bits of one value for bits of the memory."""
    held = flawless_capacity(dim, width)
    assert (held - 1) * 2 * math.log(held * width) == pytest.approx(dim, rel=1e-9)
    bits = held * width
    wrong = bits * norm.sf(math.sqrt(dim / (held - 1)))
    assert wrong < 1 / math.sqrt(4 * math.pi * math.log(bits))


def test_the_three_capacities_are_in_order() -> None:
    """Catches a law that belongs to another question."""
    assert worst_case_capacity(1024) < flawless_capacity(1024, 16) < capacity(1024, 1.0)


@pytest.mark.parametrize("call", [capacity, worst_case_capacity])
def test_no_dimension_is_refused(call: object) -> None:
    """Catches a division by 0."""
    with pytest.raises(InputError, match="dim=0"):
        call(0)  # type: ignore[operator]


def test_bad_bits_are_refused() -> None:
    """Catches a logarithm of 0, and a law that does not exist."""
    with pytest.raises(InputError, match="width=0"):
        flawless_capacity(8, 0)
    with pytest.raises(InputError, match="pairs=0"):
        sign_error(0, 8)
    with pytest.raises(UnknownNameError, match="gaussian"):
        sign_error(4, 8, "gauss")
