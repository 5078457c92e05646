"""Feature maps: their moments, and what they and centring do to the crosstalk."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from neuroattn.errors import InputError, UnknownNameError
from neuroattn.theory.pavlovian import crosstalk_variance, feature_crosstalk
from neuroattn.theory.pavlovian.feature_maps import moments


def test_moments_of_elu_have_the_derived_values() -> None:
    """Catches elu without its + 1."""
    of = moments("elu")
    assert of.mean == pytest.approx(0.5 + norm.pdf(0) + math.exp(0.5) * norm.cdf(-1), rel=1e-10)
    assert of.second == pytest.approx(1.965987, abs=1e-6)
    assert of.cosine == pytest.approx(0.68505, abs=1e-5)


def test_moments_of_relu_have_closed_forms() -> None:
    """Catches moments about 0 for moments about the mean."""
    of = moments("relu")
    m = 1 / math.sqrt(2 * math.pi)
    assert (of.mean, of.second) == pytest.approx((m, 0.5), rel=1e-10)
    raw = (0.5, 2 * m, 1.5)
    assert of.third == pytest.approx(raw[1] - 3 * m * raw[0] + 2 * m**3, rel=1e-9)
    fourth = raw[2] - 4 * m * raw[1] + 6 * m**2 * raw[0] - 3 * m**4
    assert of.fourth == pytest.approx(fourth, rel=1e-9)


@pytest.mark.parametrize(("pairs", "dim"), [(1, 5), (4, 3), (33, 64)])
def test_without_a_map_the_crosstalk_is_that_of_gaussian_keys(pairs: int, dim: int) -> None:
    """Catches a fourth moment that is left out: 2/d."""
    expected = crosstalk_variance(pairs, dim, "gaussian")
    assert feature_crosstalk(pairs, dim, "identity") == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dim", [10, 1000, 10**6])
def test_a_positive_map_costs_the_same_in_every_dimension(dim: int) -> None:
    """Catches c for c²: .469 an item."""
    item = feature_crosstalk(9, dim) - feature_crosstalk(8, dim)
    assert item == pytest.approx(0.46930 + (1 - 0.46930) / dim, abs=1e-5)


def _simulated(pairs: int, dim: int, feature_map: str, centred: str) -> tuple[float, float]:
    """Return mean and standard error of the error of a memory in numpy."""
    rng, draws = np.random.default_rng(5), 200_000
    x = rng.standard_normal((draws, pairs, dim))
    phi = np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))) if feature_map == "elu" else x.clip(0)
    values = rng.standard_normal((draws, pairs))
    centre = (centred != "nothing") * phi.mean(1, keepdims=True)
    query = phi[:, 0] - (centred == "keys and queries") * centre[:, 0]
    weights = np.einsum("bd,bnd->bn", query, phi - centre)
    of = moments(feature_map)
    weights /= dim * (of.second if centred == "nothing" else of.variance)
    error = np.square((weights * values).sum(1) - values[:, 0])
    return float(error.mean()), float(error.std() / draws**0.5)


@pytest.mark.parametrize("feature_map", ["elu", "relu"])
@pytest.mark.parametrize("centred", ["nothing", "keys", "keys and queries"])
def test_the_crosstalk_is_exact_for_few_items_in_few_dimensions(
    feature_map: str, centred: str
) -> None:
    """Catches a term of order 1/N or 1/d: 3 items in 2 dimensions."""
    mean, spread = _simulated(3, 2, feature_map, centred)
    assert abs(mean - feature_crosstalk(3, 2, feature_map, centred)) < 4 * spread


def test_centring_keys_alone_costs_a_factor() -> None:
    """Catches a query whose mean is forgotten."""
    alone, both = (feature_crosstalk(5000, 1000, "elu", x) for x in ("keys", "keys and queries"))
    of = moments("elu")
    assert alone / both == pytest.approx(of.second / of.variance, rel=0.01)
    assert both == pytest.approx(5, rel=0.01)


@pytest.mark.parametrize("centred", ["keys", "keys and queries"])
def test_one_centred_item_is_refused(centred: str) -> None:
    """Catches an error of 1 out of a memory whose only key is its own mean."""
    with pytest.raises(InputError, match="pairs=1 must be a whole number of at least 2"):
        feature_crosstalk(1, 8, "elu", centred)
    assert feature_crosstalk(1, 8, "identity") == pytest.approx(2 / 8)


def test_bad_arguments_are_refused_by_name() -> None:
    """Catches a map that acts on several coordinates at once, and no dimension."""
    with pytest.raises(UnknownNameError, match="feature_map='softmax'"):
        feature_crosstalk(3, 4, "softmax")
    with pytest.raises(UnknownNameError, match="centred='query'"):
        feature_crosstalk(3, 4, "elu", "query")
    with pytest.raises(InputError, match="dim=0"):
        feature_crosstalk(3, 0)
