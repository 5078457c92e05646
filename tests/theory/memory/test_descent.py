"""The learning curve of the delta rule against a loop, and what it is compared with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuroattn.errors import InputError
from neuroattn.theory.memory import descent_error
from neuroattn.theory.memory.descent import proximal, stepped
from tests.tolerances import TOLERANCE


def test_curve_is_the_mean_of_many_tasks() -> None:
    """Catches a factor without the overshoot of the step, within four standard errors."""
    rng = np.random.default_rng(6)
    keys = rng.normal(size=(4000, 12, 5))
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    left = rng.normal(size=(4000, 5))
    left /= np.linalg.norm(left, axis=-1, keepdims=True)
    for token in range(12):
        key = keys[:, token]
        left = left - 0.6 * (left * key).sum(-1, keepdims=True) * key
        size = (left**2).sum(-1)
        z = (size.mean() - descent_error(token + 1, 5, 0.6)) / (size.std() / 4000**0.5)
        assert abs(z) < 4


def test_curve_at_its_ends() -> None:
    """Catches a first token that is counted twice, and a step of 2 that learns."""
    np.testing.assert_allclose(descent_error([0, 1], 1), [1.0, 0.0], **TOLERANCE["float64"])
    np.testing.assert_allclose(descent_error(7, 3, 2.0), 1.0, **TOLERANCE["float64"])


def test_steps_and_implicit_steps_have_their_closed_forms() -> None:
    """Catches a loss without one half, and an implicit step that is explicit."""
    key = torch.tensor([0.6, -1.1], dtype=torch.float64).reshape(1, 1, 1, 2)
    value = torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64)
    explicit = stepped(key, value, 0.3, 0.5).numpy()[:, 0]
    np.testing.assert_allclose(explicit, 0.6 * np.array([0.6, -1.1]), **TOLERANCE["float64"])
    shrunk = 0.3 / (1 + 0.3 * (0.36 + 1.21))
    found = proximal(key, value, 0.3)[:, 0]
    np.testing.assert_allclose(found, 2 * shrunk * np.array([0.6, -1.1]), **TOLERANCE["float64"])


@pytest.mark.parametrize(
    ("given", "named"),
    [((-1, 4, 1.0), "steps=-1"), ((3, 0, 1.0), "dim=0"), ((3, 4, 2.5), "beta=2")],
)
def test_impossible_tasks_are_named(given: tuple[int, int, float], named: str) -> None:
    """Catches a dimension of 0, which divides by nothing."""
    with pytest.raises(InputError, match=named):
        descent_error(*given)
