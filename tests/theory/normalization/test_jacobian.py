"""The corrected bound on a softmax's Jacobian."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.normalization import jacobian_norm


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.1])
def test_no_weights_of_a_grid_exceed_the_norms_and_a_tie_reaches_them(temperature):
    # Catches the entrywise bound 1/(4T) taken for the spectral one.
    norms, entries = [], []
    for p in np.linspace(0, 1, 41):
        for q in np.linspace(0, 1 - p, 21):
            weights = np.array([p, q, 1 - p - q])
            matrix = (np.diag(weights) - np.outer(weights, weights)) / temperature
            norms.append(np.linalg.norm(matrix, 2))
            entries.append(np.abs(matrix).max())
    assert np.isclose(max(norms), jacobian_norm(temperature))
    assert np.isclose(max(entries), jacobian_norm(temperature, "entry"))


def test_golden_numbers_and_bad_input():
    # Catches a temperature that multiplies.
    assert np.allclose(jacobian_norm(np.array([1.0, 0.5, 0.1])), [0.5, 1.0, 5.0])
    with pytest.raises(InputError, match="temperature"):
        jacobian_norm(0.0)
    with pytest.raises(InputError, match="norm"):
        jacobian_norm(1.0, "frobenius")
