"""The gradient of a q-norm against finite differences, and the numerical mirror map."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.memory import retention_gradient
from neuroattn.theory.memory.mirror_map import minimiser


@pytest.mark.parametrize("norm", [1.5, 2.0, 4.0])
def test_gradient_equals_finite_differences(norm: float) -> None:
    """Catches the exponent of the dual norm, and a lost sign."""
    memory = np.random.default_rng(8).normal(size=(3, 2))

    def value(weights: np.ndarray) -> float:
        return float((np.abs(weights) ** norm).sum() ** (2 / norm) / 2)

    found = retention_gradient(memory, norm)
    for row, column in np.ndindex(3, 2):
        step = np.zeros((3, 2))
        step[row, column] = 1e-6
        slope = (value(memory + step) - value(memory - step)) / 2e-6
        np.testing.assert_allclose(found[row, column], slope, atol=1e-7)


def test_numerical_mirror_map_is_the_dual_formula() -> None:
    """Catches a minimiser that stops at the quoted map, which only rescales."""
    accumulator = np.random.default_rng(9).normal(size=(3, 2))
    p = 4 / 3
    size = (np.abs(accumulator) ** p).sum() ** (1 / p)
    wanted = np.sign(accumulator) * np.abs(accumulator) ** (p - 1) * size ** (2 - p)
    found = minimiser(accumulator, 4.0)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    quoted = accumulator / np.sum(accumulator**4) ** 0.5
    assert np.linalg.norm(found - quoted) > 0.1


def test_a_norm_of_one_and_an_empty_memory_are_named() -> None:
    """Catches a gradient of 0/0."""
    with pytest.raises(InputError, match=r"norm=1.0 must be above 1"):
        retention_gradient(np.ones(2), 1.0)
    with pytest.raises(InputError, match="not zero"):
        retention_gradient(np.zeros(2), 3.0)
