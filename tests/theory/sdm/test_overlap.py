"""The overlap as a user asks for it, against enumeration and known integers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.lab import Lab
from neuroattn.theory.sdm import intersection
from neuroattn.theory.sdm.integers import GOLDEN, conditioned, in_floats, in_int64
from neuroattn.theory.sdm.kernel import corners, indicators
from neuroattn.theory.sdm.overlap import at_distances, enumerated


def test_it_counts_the_corners_near_both_addresses():
    # Catches a radius that is exclusive, and a sum over one ball.
    for radius, distance in product(range(6), range(6)):
        first = np.zeros(5, dtype=int)
        second = (np.arange(5) < distance).astype(int)
        near = [
            max(sum(first != corner), sum(second != corner)) <= radius
            for corner in product((0, 1), repeat=5)
        ]
        assert intersection(5, radius, distance) == sum(near)


@pytest.mark.parametrize(("n", "radius"), GOLDEN)
def test_known_integers_come_out_one_by_one_and_together(n, radius):
    # Catches a sequence of distances that is read in another order, or in floats.
    row = GOLDEN[n, radius]
    assert [intersection(n, radius, x) for x in row] == list(row.values())
    assert intersection(n, radius, list(row)) == tuple(row.values())
    assert intersection(n, radius, np.array(list(row))) == tuple(row.values())
    assert all(isinstance(each, int) for each in intersection(n, radius, list(row)))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, 0, 0), "n=0"),
        ((8, 9, 0), "radius=9"),
        ((8, -1, 0), "radius=-1"),
        ((8, 3, 9), "distance=9"),
        ((8, 3, [0, 9]), "distance=9"),
        ((8, 2.5, 0), "radius=2.5"),
        ((8, True, 0), "radius=True"),
        ((8, 3, "x"), "distance='x'"),
    ],
)
def test_impossible_arguments_are_named(arguments, named):
    # Catches a radius beyond the cube that is quietly cut.
    with pytest.raises(InputError, match=named):
        intersection(*arguments)


def test_the_oracles_of_the_claims_agree_with_each_other():
    # Catches an oracle that shares the mistake of a mutant.
    counts = enumerated(Lab("sdm.test"))
    assert len(counts) == sum((n + 1) ** 2 for n in range(1, 12))
    assert all(conditioned(*case) == counts[case] for case in [(7, 3, 2), (11, 5, 11), (1, 0, 1)])
    assert in_floats(20, 5, 3) == in_int64(20, 5, 3) == conditioned(20, 5, 3)
    assert in_floats(64, 32, 5) != conditioned(64, 32, 5)
    assert in_int64(64, 32, 0) != conditioned(64, 32, 0)


def test_keys_lie_at_distances_0_to_n():
    # Catches a triangle of keys that is one off.
    query, key = at_distances(9)
    assert (query != key).sum(-1).flatten().tolist() == list(range(10))


def test_indicators_mark_the_ball():
    # Catches features of agreement in place of distance.
    found = indicators(corners(6)[:1], corners(6), 2)
    assert found.sum() == 1 + 6 + 15
    assert found[0, 0] == 1
    assert found[0, 63] == 0
