"""The grid of the integrated bias, and the rates against a search over bandwidths."""

from __future__ import annotations

import numpy as np

from neuroattn.theory.local_linear import regression_rate
from neuroattn.theory.local_linear.rates import grid


def test_the_grid_integrates_layers_and_inside() -> None:
    """Catches a layer that is missing from the grid."""
    places, shares = grid(0.01)
    np.testing.assert_allclose(shares @ places**3, 0.25, rtol=1e-12)
    np.testing.assert_allclose(shares @ np.exp(-places / 0.01), 0.01, rtol=1e-4)


def test_rates_balance_bias_and_variance() -> None:
    """Catches the exponents exchanged; by minimising over a grid of bandwidths."""
    widths = np.exp(np.linspace(-9, 0, 20001))
    for fit, power in (("constant", 3), ("linear", 4)):
        for dim in (1, 3):
            risks = [(widths**power + 1 / (n * widths**dim)).min() for n in (1e4, 1e6)]
            slope = -np.log(risks[1] / risks[0]) / np.log(100)
            np.testing.assert_allclose(regression_rate(dim, fit), slope, atol=1e-4)
    assert regression_rate(2, "global") == 0
