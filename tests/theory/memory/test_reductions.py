"""The change of gates between the two orders of the gated delta rule."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.memory import decay_first
from tests.tolerances import TOLERANCE


def test_changed_gates_do_the_same_by_hand() -> None:
    """Catches a value that is divided by the retention, or a write strength multiplied by it."""
    rng = np.random.default_rng(5)
    key, memory, alpha, beta, value = rng.normal(size=4), rng.normal(size=4), 0.7, 0.4, 1.3
    wanted = alpha * memory + beta * (value - memory @ key) * key
    a, b, v = decay_first(alpha, beta, value)
    found = a * memory + b * (v - a * memory @ key) * key
    np.testing.assert_allclose(found, wanted, **TOLERANCE["float64"])


@pytest.mark.parametrize("alpha", [0.0, 1.5, np.array([0.5, 0.0])])
def test_a_retention_without_a_change_is_named(alpha: float) -> None:
    """Catches a division by a retention of 0."""
    with pytest.raises(InputError, match="alpha"):
        decay_first(alpha, 0.5, 1.0)
