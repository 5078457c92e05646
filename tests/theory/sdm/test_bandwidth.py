"""Inverse temperatures against numpy's fits and known values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import linregress, multivariate_normal

from neuroattn.errors import InputError
from neuroattn.theory.sdm import beta, gaussian_intersection, intersection, local_beta
from neuroattn.theory.sdm.bandwidth import GOLDEN
from neuroattn.theory.sdm.closeness import floor, variation
from neuroattn.theory.sdm.gaussian import orthant


@pytest.mark.parametrize(("n", "radius"), GOLDEN)
def test_known_values_of_both_estimators(n, radius):
    # Catches the published quotient under the name of least squares.
    published, least = GOLDEN[n, radius]
    assert beta(n, radius) == pytest.approx(least, abs=1e-5)
    assert beta(n, radius, "published") == pytest.approx(published, abs=1e-5)
    ratio = beta(n, radius, "published") / beta(n, radius)
    assert ratio == pytest.approx(radius / (radius - 1), rel=1e-12)


def test_least_squares_is_scipys_line():
    # Catches a line through another number of points.
    logs = np.log(np.array(intersection(33, 9, range(9)), dtype=float))
    assert beta(33, 9) == pytest.approx(-33 / 2 * linregress(range(9), logs).slope, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((64, 1), "radius=1"),
        ((64, 65), "radius=65"),
        ((1, 1), "n=1"),
        ((64, 11, "ridge"), "estimator='ridge'"),
    ],
)
def test_a_line_needs_two_points_and_an_estimator(arguments, named):
    # Catches a division by zero at radius 1.
    with pytest.raises(InputError, match=named):
        beta(*arguments)


@pytest.mark.parametrize(("c", "rho"), [(-1.3, 0.8), (0.0, -0.5), (0.7, 0.0), (-3.0, 0.98)])
def test_the_orthant_is_scipys(c, rho):
    # Catches Owen's function with the arguments of another quadrant.
    law = multivariate_normal([0, 0], [[1, rho], [rho, 1]])
    assert orthant(c, rho) == pytest.approx(float(law.cdf([c, c])), rel=1e-4, abs=1e-9)


def test_the_orthants_ends():
    # Catches a division by zero where the addresses are opposite.
    assert orthant(1.0, -1.0) == pytest.approx(0.6826894921, abs=1e-9)
    assert orthant(-1.0, -1.0) == 0.0
    assert gaussian_intersection(1000, 451, 0) == pytest.approx(1079.6e-6, abs=1e-7)
    assert gaussian_intersection(1000, 451, 0, continuity=False) == pytest.approx(
        970.77e-6, abs=1e-8
    )


def test_no_share_is_negative():
    # Catches the rounding of a difference that is returned as a share.
    for x in range(0, 1001, 50):
        assert 0 <= gaussian_intersection(1000, 100, x) < 1e-100
    assert gaussian_intersection(1000, 100, 500) == 0.0
    with pytest.raises(InputError, match="radius=100"):
        local_beta(1000, 100, 500)


def test_the_local_slope_is_that_of_the_approximation():
    # Catches the factor 2 of the correlation.
    for x in (50, 200, 400):
        logs = [np.log(gaussian_intersection(1000, 451, x + step)) for step in (-1, 1)]
        assert local_beta(1000, 451, x) == pytest.approx(-500 * (logs[1] - logs[0]) / 2, rel=1e-3)
    assert local_beta(1000, 451, 200) == pytest.approx(5.309, abs=5e-4)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((64, 11, 0), "distance=0"), ((64, 11, 64), "distance=64"), ((10**6, 1, 10**5), "radius=1")],
)
def test_no_slope_where_there_is_none(arguments, named):
    # Catches an infinity or a nan that comes out as an answer.
    with pytest.raises(InputError, match=named):
        local_beta(*arguments)


def test_the_floor_is_below_every_staircases_distance():
    # Catches a bound that holds for one table only.
    generator = np.random.default_rng(0)
    for inverse in (0.5, 3.0, 14.0, 60.0):
        soft = np.exp(-2 * inverse * np.arange(65) / 64)
        soft /= soft.sum()
        for _ in range(200):
            stairs = np.sort(generator.exponential(size=33) ** 3)[::-1]
            table = np.repeat(stairs, 2)[1:]
            apart = np.abs(table / table.sum() - soft).sum() / 2
            assert apart >= floor(64, inverse)


def test_total_variation_of_known_radii():
    # Catches a distance that is not halved.
    found = [variation(64, d, beta(64, d)) for d in (5, 11, 15)]
    assert found == pytest.approx([0.1562, 0.1217, 0.0900], abs=5e-4)
