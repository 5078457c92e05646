"""Elastic net retention against a search, and its limits."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.memory import elastic_net_step
from tests.tolerances import TOLERANCE


def test_step_is_the_minimum_on_a_grid() -> None:
    """Catches a threshold or a step that the ridge does not shorten, and a lost soft threshold."""
    grid = np.linspace(-4, 4, 80001)
    for memory in (-2.0, -0.3, 0.1, 1.7):
        value = 0.4 * grid + (grid - memory) ** 2 / 1.2 + grid**2 / 3.0 + np.abs(grid) / 2.5
        found = elastic_net_step(memory, 0.4, 0.6, 1.5, 2.5)
        np.testing.assert_allclose(found, grid[value.argmin()], atol=2e-4)


def test_without_penalties_it_is_a_gradient_step() -> None:
    """Catches an infinite penalty that makes NaN."""
    found = elastic_net_step([1.0, -2.0], [0.5, 0.25], 0.2, np.inf, np.inf)
    np.testing.assert_allclose(found, [0.9, -2.05], **TOLERANCE["float64"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((0.0, 1.0, 1.0), "step=0.0"),
        ((np.inf, 1.0, 1.0), "step=inf"),
        ((1.0, -1.0, 1.0), "ridge=-1.0"),
        ((1.0, 1.0, 0.0), "lasso=0.0"),
    ],
)
def test_impossible_penalties_are_named(given: tuple[float, ...], said: str) -> None:
    """Catches an infinite step, whose minimum has no memory."""
    with pytest.raises(InputError, match=said):
        elastic_net_step(1.0, 0.5, *given)
