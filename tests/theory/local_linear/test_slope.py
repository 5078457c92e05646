"""The slope about the mean from the slope about the query."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.local_linear import centred_slope
from tests.tolerances import TOLERANCE


def test_slopes_solve_their_systems() -> None:
    """Catches a factor 1 - d . rho on the wrong side, and rho taken for r."""
    rng = np.random.default_rng(14)
    root, offset = rng.normal(size=(5, 4, 4)), rng.normal(size=(5, 4))
    own = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(4)
    outer = offset[:, :, None] * offset[:, None, :]
    rho, wanted = (np.linalg.solve(m, offset[..., None])[..., 0] for m in (own + outer, own))
    found = centred_slope(rho, offset)
    np.testing.assert_allclose(found, wanted, rtol=1e-8)
    eta = (wanted * offset).sum(-1, keepdims=True)
    np.testing.assert_allclose(found, (1 + eta) * rho, rtol=1e-8)


def test_no_offset_has_no_slope() -> None:
    """Catches 0/0 where the mean key is the query."""
    found = centred_slope(np.zeros(3), np.zeros(3))
    np.testing.assert_allclose(found, np.zeros(3), **TOLERANCE["float64"])


def test_impossible_slopes_are_named() -> None:
    """Catches a slope that no covariance has, which would turn the correction round."""
    with pytest.raises(InputError, match="needed is one shape"):
        centred_slope(np.zeros(3), np.zeros(2))
    with pytest.raises(InputError, match="below 1"):
        centred_slope([1.0, 0.0], [2.0, 0.0])
