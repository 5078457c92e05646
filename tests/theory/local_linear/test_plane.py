"""The fitted plane against scikit-learn and against affine functions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

from neuroattn.errors import InputError
from neuroattn.theory.local_linear import local_fit
from tests.tolerances import TOLERANCE


def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a query, keys and values."""
    rng = np.random.default_rng(13)
    return rng.normal(size=3), rng.normal(size=(9, 3)), rng.normal(size=(9, 2))


@pytest.mark.parametrize("ridge", [0.01, 1.0, 30.0])
def test_plane_is_a_weighted_ridge_regression_with_an_intercept(ridge: float) -> None:
    """Catches a penalised height, and a ridge without the sum of the weights."""
    query, keys, values = drawn()
    weight = np.exp(0.8 * keys @ query)
    fit = Ridge(alpha=ridge * weight.sum()).fit(keys - query, values, sample_weight=weight)
    height, slope = local_fit(query, keys, values, 0.8, ridge)
    np.testing.assert_allclose(height, fit.intercept_, **TOLERANCE["float64"])
    np.testing.assert_allclose(slope, fit.coef_.T, **TOLERANCE["float64"])


def test_without_scale_and_ridge_it_is_ordinary_least_squares() -> None:
    """Catches a scale of 0 that is taken for none given."""
    query, keys, values = drawn()
    wanted = LinearRegression().fit(keys, values).predict(query[None])[0]
    found = local_fit(query, keys, values, 0.0, 0.0)[0]
    np.testing.assert_allclose(found, wanted, **TOLERANCE["float64"])


def test_affine_functions_are_exact_and_large_logits_finite() -> None:
    """Catches weights that overflow, and a bias."""
    query, keys, _ = drawn()
    values = keys @ np.array([[1.0], [-2.0], [0.5]]) + 3
    height, slope = local_fit(query, keys, values, 0.3)
    np.testing.assert_allclose(height, query @ [1.0, -2.0, 0.5] + 3, rtol=1e-9)
    np.testing.assert_allclose(slope[:, 0], [1.0, -2.0, 0.5], rtol=1e-9)
    assert np.isfinite(local_fit(query * 1e4, keys, values, 1.0, 0.1)[0]).all()


def test_shapes_and_ridges_that_do_not_fit_are_named() -> None:
    """Catches keys of another dimension than the query's, which broadcast."""
    query, keys, values = drawn()
    for bad in (
        (query[:2], keys, values),
        (query, keys, values[:4]),
        (query, keys[:0], values[:0]),
    ):
        with pytest.raises(InputError, match="query of shape"):
            local_fit(*bad)
    with pytest.raises(InputError, match=r"ridge=-1"):
        local_fit(query, keys, values, 1.0, -1)
