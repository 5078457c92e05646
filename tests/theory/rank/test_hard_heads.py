"""Agreement of hard heads of rank one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from neuroattn.errors import InputError
from neuroattn.theory.rank import head_agreement, target_agreement


def test_heads_that_share_a_direction_agree_as_two_normals_have_one_sign():
    # Catches asin without its factor: with equal keys only the queries' orthant counts.
    law = multivariate_normal(mean=[0, 0], cov=[[1, 0.6], [0.6, 1]])
    assert np.isclose(head_agreement(0.6, 1.0), 2 * law.cdf([0, 0]), atol=1e-6)


@pytest.mark.parametrize(("pair", "expected"), [((1, 1), 1.0), ((1, -1), 0.0), ((0, 0.9), 0.5)])
def test_the_same_head_agrees_always_and_an_orthogonal_one_by_chance(pair, expected):
    # Catches a half that is not added.
    assert np.isclose(head_agreement(*pair), expected)


def test_the_plane_has_its_published_numbers_and_its_closed_form():
    # Catches an integral over the wrong half.
    angles = np.array([0.3, 1.0, 2.0])
    assert np.allclose(target_agreement(angles), [0.7409, 0.6487, 0.3820], atol=5e-5)
    assert np.allclose(target_agreement(angles[:2]), 0.75 - (angles[:2] / np.pi) ** 2)


@pytest.mark.parametrize("dim", [3, 4, 7])
def test_higher_dimensions_equal_a_simulation(dim):
    # Catches a density of the plane's part of a unit vector that is off by one dimension.
    rng = np.random.default_rng(dim)
    x, y = rng.normal(size=(2, 200_000, dim))
    q, k = np.eye(dim)[0], np.cos(0.7) * np.eye(dim)[0] + np.sin(0.7) * np.eye(dim)[1]
    right = np.sign(x @ k) * np.sign(y @ q) == np.sign((x * y).sum(1))
    assert abs(right.mean() - target_agreement(0.7, dim)) < 4 * np.sqrt(0.25 / 200_000)


def test_bad_input_names_the_argument():
    # Catches silent NaN.
    with pytest.raises(InputError, match="query_cosine"):
        head_agreement(1.1, 0.0)
    with pytest.raises(InputError, match="angle"):
        target_agreement(4.0)
    with pytest.raises(InputError, match="dim=1"):
        target_agreement(0.5, 1)
