"""The stability of Titans on a repeated key against companion matrices and golden numbers."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.memory import heavy_ball_edge, heavy_ball_radius
from tests.tolerances import TOLERANCE


def test_radius_is_that_of_the_companion_matrix() -> None:
    """Catches a root of the wrong sign, and a real formula where the roots are complex."""
    for eta in (0.0, 0.3, 0.8, 1.0):
        for theta in (0.0, 0.01, 0.5, 1.2, 1.9, 3.0):
            companion = np.array([[1 + eta - 2 * theta, -eta], [1.0, 0.0]])
            wanted = np.abs(np.linalg.eigvals(companion)).max()
            np.testing.assert_allclose(heavy_ball_radius(theta, eta), wanted, rtol=1e-7)


def test_radius_has_the_golden_numbers() -> None:
    """Catches a step of a loss with one half."""
    np.testing.assert_allclose(heavy_ball_radius([0.3, 1.79], 0.8), 0.8**0.5, rtol=1e-12)
    np.testing.assert_allclose(heavy_ball_radius(1.81, 0.8), 1.0776, atol=5e-5)


def test_the_edge_is_where_the_radius_passes_one() -> None:
    """Catches an edge that does not move with the momentum."""
    eta = np.linspace(0, 0.9, 7)
    edge = heavy_ball_edge(eta)
    np.testing.assert_allclose(heavy_ball_radius(edge, eta), 1.0, **TOLERANCE["float64"])
    assert np.all(heavy_ball_radius(edge - 0.01, eta) < 1)
    assert np.all(heavy_ball_radius(edge + 0.01, eta) > 1)


def test_impossible_steps_and_momenta_are_named() -> None:
    """Catches a momentum above 1 and a step below 0 that give a number all the same."""
    with pytest.raises(InputError, match=r"momentum=1.2 must be from 0 to 1"):
        heavy_ball_radius(0.5, 1.2)
    with pytest.raises(InputError, match=r"step=-0.5 must be finite"):
        heavy_ball_radius(-0.5, 0.5)
    with pytest.raises(InputError, match="momentum"):
        heavy_ball_edge(-0.1)
