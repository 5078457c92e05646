"""Yaad's jump and the robust loss against direct calculation."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.memory import huber_jump, robust_loss
from tests.tolerances import TOLERANCE


@pytest.mark.parametrize("width", [1, 2, 5, 16])
def test_jump_is_within_its_bounds(width: int) -> None:
    """Catches a jump taken for the ratio of the lengths, the root of the number of channels."""
    rng = np.random.default_rng(10)
    for _ in range(50):
        unit = rng.normal(size=width)
        unit /= np.linalg.norm(unit)
        found = huber_jump(3 * unit, 2.0)
        wanted = 2 * np.sqrt(max(width + 1 - 2 * np.abs(unit).sum(), 0.0))
        np.testing.assert_allclose(found, wanted, atol=1e-7)
        assert 2 * (width**0.5 - 1) - 1e-9 <= found <= 2 * (width - 1) ** 0.5 + 1e-9


def test_jump_of_an_even_error() -> None:
    """Catches a length that is not divided out."""
    np.testing.assert_allclose(huber_jump([5, 5, 5, 5]), 1.0, **TOLERANCE["float64"])


def test_robust_loss_is_the_largest_over_random_noise() -> None:
    """Catches a lost cross term; the golden 2.18 of the errors (.9, 1.2) would be 1.33."""
    rng = np.random.default_rng(11)
    error = np.array([0.9, -1.2, 0.3])
    noise = rng.normal(size=(200000, 3))
    noise *= 0.6 / np.linalg.norm(noise, axis=1, keepdims=True)
    largest = ((error - noise) ** 2).sum(1).max() / 2
    bound = float(robust_loss(error, 0.6))
    assert bound - 1e-3 < largest <= bound


def test_robust_loss_without_noise_is_the_plain_one_for_every_row() -> None:
    """Catches a norm over all rows instead of each."""
    error = np.arange(6.0).reshape(2, 3)
    wanted = (error**2).sum(1) / 2
    np.testing.assert_allclose(robust_loss(error, 0.0), wanted, **TOLERANCE["float64"])


def test_impossible_surprises_are_named() -> None:
    """Catches a direction of no length, and noise of a negative one."""
    for direction, threshold in (([0.0, 0.0], 1.0), ([1.0], 0.0), ([[1.0]], 1.0)):
        with pytest.raises(InputError, match="threshold"):
            huber_jump(direction, threshold)
    with pytest.raises(InputError, match=r"noise=-1"):
        robust_loss([1.0], -1)
