"""The weights that shares are predicted from, against the fitted plane and golden numbers."""

from __future__ import annotations

import numpy as np

from neuroattn.theory.local_linear import local_fit
from neuroattn.theory.local_linear.negative import GOLDEN, weights_of


def test_weights_by_the_papers_sums_are_those_of_the_plane() -> None:
    """Catches a ridge without the sum of weights, and a slope of the wrong sign."""
    rng = np.random.default_rng(15)
    query, key = rng.normal(size=(6, 2)), rng.normal(size=(6, 5, 2))
    for ridge in (0.01, 1.0):
        found = weights_of(query, key, 0.5, ridge)
        for place in range(6):
            wanted = local_fit(query[place], key[place], np.eye(5), 0.5, ridge)[0]
            np.testing.assert_allclose(found[place], wanted, rtol=1e-7, atol=1e-9)


def test_golden_weights_are_those_of_the_plane() -> None:
    """Catches golden numbers of another query."""
    for ridge, golden in GOLDEN.items():
        found = local_fit([2.0], [[0.0], [0.5], [1.0]], np.eye(3), 1.0, ridge)[0]
        np.testing.assert_allclose(found, golden, atol=1e-8)
        np.testing.assert_allclose(sum(golden), 1.0, atol=2e-8)
