"""The overlap of two Hamming balls against enumeration of the cube, in exact integers."""

from __future__ import annotations

from itertools import product
from math import comb

import pytest

from neuroattn.attention.memory.intersection import (
    ball,
    circle_table,
    intersection,
    intersection_by_agreement,
    krawtchouk,
    spectrum,
)
from neuroattn.errors import InputError

#: Integers of Kanerva's overlap, by dim and radius, and distance.
GOLDEN = {
    (8, 3): {0: 93, 1: 58, 2: 58, 3: 38, 4: 38, 5: 20, 6: 20, 7: 0, 8: 0},
    (10, 4): dict(enumerate((386, 260, 260, 190, 190, 130, 130, 70, 70, 0, 0))),
    (64, 5): {0: 8303633, 1: 1274786, 2: 1274786, 5: 36022, 10: 252, 11: 0},
    (64, 11): {0: 927740240713, 1: 311949983890, 11: 3163160662, 22: 705432},
    (64, 15): {0: 224723513577529, 1: 102591779307634, 15: 1487910543862, 30: 155117520},
}


def enumerated(dim, radius, distance):
    """Count the corners near both 00...0 and 1...10...0, one after the other."""
    found = 0
    for corner in product((0, 1), repeat=dim):
        first = sum(corner)
        second = sum(bit != (place < distance) for place, bit in enumerate(corner))
        found += first <= radius and second <= radius
    return found


@pytest.mark.parametrize("dim", range(1, 8))
def test_three_closed_forms_equal_enumeration(dim):
    # Catches an off-by-one in any of the sums' ends, also at radius 0 and beyond the cube.
    for radius in range(dim + 2):
        table = circle_table(dim, radius)
        assert len(table) == dim + 1
        for distance in range(dim + 1):
            wanted = enumerated(dim, radius, distance)
            assert intersection(dim, radius, distance) == wanted
            assert table[distance] == wanted
            if radius <= dim:
                assert intersection_by_agreement(dim, radius, distance) == wanted


@pytest.mark.parametrize(("dim", "radius"), GOLDEN)
def test_golden_integers_come_out_exact(dim, radius):
    # Catches float arithmetic, which has lost digits at 64 bits.
    for distance, wanted in GOLDEN[dim, radius].items():
        assert intersection(dim, radius, distance) == wanted
        assert intersection_by_agreement(dim, radius, distance) == wanted
        assert circle_table(dim, radius)[distance] == wanted


@pytest.mark.parametrize(("dim", "radius"), [*GOLDEN, (9, 0), (16, 5), (200, 90)])
def test_the_table_is_a_staircase_with_known_ends(dim, radius):
    # Catches a table that is shifted by one distance.
    table = circle_table(dim, radius)
    assert table[0] == ball(dim, radius) == sum(comb(dim, i) for i in range(radius + 1))
    assert all(table[2 * t - 1] == table[2 * t] for t in range(1, dim // 2 + 1))
    if 2 * radius <= dim:
        assert table[2 * radius] == comb(2 * radius, radius)
        assert not any(table[2 * radius + 1 :])
    total = sum(comb(dim, distance) * shared for distance, shared in enumerate(table))
    assert total == ball(dim, radius) ** 2


def test_kanervas_thousand_dimensions():
    # Catches the Gaussian approximation, up to 14 % off here, in place of the sum.
    table = circle_table(1000, 451)
    wanted = {0: 1071.850049, 1: 958.436527, 50: 476.873676, 200: 103.460716, 500: 1.101265}
    for distance, neurons in wanted.items():
        assert table[distance] * 10**6 / 2**1000 == pytest.approx(neurons, abs=5e-7)


@pytest.mark.parametrize(("dim", "radius"), [(5, 2), (8, 3), (16, 5)])
def test_the_spectrum_of_squares_gives_the_table_back(dim, radius):
    # Catches the Krawtchouk polynomials of the wrong dimension.
    values = spectrum(dim, radius)
    assert min(values) >= 0
    assert values[0] == ball(dim, radius) ** 2
    for distance, shared in enumerate(circle_table(dim, radius)):
        total = sum(value * krawtchouk(dim, w, distance) for w, value in enumerate(values))
        assert total == 2**dim * shared


def test_krawtchouk_polynomials_are_sums_of_signs():
    # Catches a sign that alternates with the degree instead of with the place.
    for degree in range(6):
        for place in range(6):
            point = [1] * place + [0] * (5 - place)
            wanted = sum(
                (-1) ** sum(a * b for a, b in zip(point, corner, strict=True))
                for corner in product((0, 1), repeat=5)
                if sum(corner) == degree
            )
            if place <= 5:
                assert krawtchouk(5, degree, min(place, 5)) == wanted


@pytest.mark.parametrize("wrong", [(0, 1, 0), (4, -1, 0), (4, 1, 5), (4, 1, -1)])
def test_numbers_out_of_range_are_refused(wrong):
    # Catches a silent zero for a distance that no two points have.
    for form in (intersection, intersection_by_agreement):
        with pytest.raises(InputError, match=rf"distance={wrong[2]};.*from 0 to dim"):
            form(*wrong)
