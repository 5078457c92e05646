"""Biases of local fits against dense data, and the keys that stand for a density."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import truncnorm

from neuroattn.errors import InputError
from neuroattn.theory.local_linear import regression_rate, smoothing_bias
from neuroattn.theory.local_linear.smoothing import bins


@pytest.mark.parametrize("fit", ["constant", "linear"])
@pytest.mark.parametrize("point", [0.0, 0.1, 0.5, 1.0])
def test_bias_equals_that_of_a_dense_grid(fit: str, point: float) -> None:
    """Catches a kernel of the wrong width, and data beyond the ends."""
    places = (np.arange(200000) + 0.5) / 200000
    values, weight = np.exp(places), np.exp(-((places - point) ** 2) / (2 * 0.05**2))
    design = np.stack([np.ones_like(places), places - point])[: 1 if fit == "constant" else 2]
    solved = np.linalg.solve((design * weight) @ design.T, (design * weight) @ values)
    found = smoothing_bias(np.exp, point, 0.05, fit)
    np.testing.assert_allclose(found, solved[0] - np.exp(point), rtol=1e-4, atol=1e-9)


def test_bias_has_its_golden_constants() -> None:
    """Catches a boundary that is taken for the inside: 2 sqrt(2/pi) = 1.5958."""
    slope = smoothing_bias(lambda x: 2 * x, 0.0, 0.01, "constant") / 0.01
    np.testing.assert_allclose(slope, 1.5957691, rtol=1e-6)
    assert abs(smoothing_bias(lambda x: 2 * x + 1, 0.0, 0.01, "linear")) < 1e-12
    curved = smoothing_bias(lambda x: x**2, 0.0, 0.01) / 0.01**2
    np.testing.assert_allclose(curved, (np.pi - 4) / (np.pi - 2), rtol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 9.0), (-9.0, 9.0), (-9.0, 0.0), (-1.0, 2.0)])
def test_keys_have_the_moments_of_their_density(low: float, high: float) -> None:
    """Catches keys at the wrong end of a truncated normal, and a tail that is left out."""
    found = bins(low, high, 0.2, 500)
    law = truncnorm(low - 0.2, high - 0.2, loc=0.2)
    np.testing.assert_allclose(found.mean(), law.mean(), atol=1e-9)
    np.testing.assert_allclose(found.var(), law.var(), rtol=1e-9)
    assert np.all(np.diff(found) > 0)
    wanted = law.ppf((np.arange(500) + 0.5) / 500)
    np.testing.assert_allclose(found[10:-10], wanted[10:-10], atol=5e-3)


def test_impossible_fits_are_named() -> None:
    """Catches a point outside of the data, and a fit that does not exist."""
    for point, width in ((-0.1, 0.1), (0.5, 0.0)):
        with pytest.raises(InputError, match="point="):
            smoothing_bias(np.sin, point, width)
    with pytest.raises(InputError, match="linear"):
        smoothing_bias(np.sin, 0.5, 0.1, "linaer")
    with pytest.raises(InputError, match="dim=0"):
        regression_rate(0)
