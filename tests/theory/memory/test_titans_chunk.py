"""The coefficients of a chunk of Titans against the recursion, and against their double sum."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.memory import titans_coefficients
from tests.tolerances import TOLERANCE


def gates(tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return random forgetting, momentum and steps."""
    rng = np.random.default_rng(3)
    return rng.uniform(0, 0.5, tokens), rng.uniform(0, 1, tokens), rng.uniform(0, 2, tokens)


@pytest.mark.parametrize("tokens", [1, 2, 7])
def test_coefficients_unroll_the_recursion(tokens: int) -> None:
    """Catches an initial momentum that is dropped and a product that starts a token too early."""
    alpha, eta, theta = gates(tokens)
    rng = np.random.default_rng(4)
    memory, moving, slopes = rng.normal(), rng.normal(), rng.normal(size=tokens)
    b, f, g = titans_coefficients(alpha, eta, theta)
    wanted = b * memory + f * moving - g @ slopes
    for a, e, t, slope in zip(alpha, eta, theta, slopes, strict=True):
        moving = e * moving - t * slope
        memory = (1 - a) * memory + moving
    np.testing.assert_allclose(wanted, memory, **TOLERANCE["float64"])


def test_coefficients_equal_the_double_sum() -> None:
    """Catches a Horner's rule that is not the sum that the claim states."""
    alpha, eta, theta = gates(6)
    left = np.cumprod(1 - alpha)
    f = sum(left[-1] / left[i] * np.prod(eta[: i + 1]) for i in range(6))
    g = [
        sum(left[-1] / left[i] * theta[j] * np.prod(eta[j + 1 : i + 1]) for i in range(j, 6))
        for j in range(6)
    ]
    found = titans_coefficients(alpha, eta, theta)
    np.testing.assert_allclose(found[0], left[-1], **TOLERANCE["float64"])
    np.testing.assert_allclose(found[1], f, **TOLERANCE["float64"])
    np.testing.assert_allclose(found[2], g, **TOLERANCE["float64"])


def test_a_token_that_forgets_all_needs_no_quotient() -> None:
    """Catches a division by the product of what is kept, which is 0 here."""
    b, f, g = titans_coefficients([0.1, 1.0, 0.2], [0.5, 0.5, 0.5], [1.0, 1.0, 1.0])
    assert b == 0
    np.testing.assert_allclose(f, 0.25 * 0.8 + 0.125, **TOLERANCE["float64"])
    np.testing.assert_allclose(g, [0.5 * 0.8 + 0.25, 0.8 + 0.5, 1.0], **TOLERANCE["float64"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (([0.1], [0.5, 0.5], [1.0]), "one vector's"),
        (([], [], []), "at least one token"),
        (([1.1], [0.5], [1.0]), "forget=.*from 0 to 1"),
        (([0.1], [-0.5], [1.0]), "momentum=.*from 0 to 1"),
        (([0.1], [0.5], [float("nan")]), "step="),
    ],
)
def test_impossible_gates_are_named(given: tuple[list[float], ...], said: str) -> None:
    """Catches gates of other lengths, and retention taken for forgetting where it exceeds 1."""
    with pytest.raises(InputError, match=said):
        titans_coefficients(*given)
