"""Responses reduced without loss, and the evidence of one Gaussian, against dense algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from neuroattn.encoders import evidence as module
from neuroattn.encoders.evidence import Reduced, TypeBasis
from neuroattn.errors import InputError, MismatchError
from tests.encoders.drawn_voxels import normal, with_intercept
from tests.tolerances import TOLERANCE

WIDTH = 4


@pytest.mark.parametrize("images", [2, WIDTH + 1, WIDTH + 2, 13])
def test_reduced_responses_are_as_far_from_every_prediction_as_the_full_ones(images, monkeypatch):
    # Catches a rest that is lost or counted twice, and voxels lost at the edge of a block.
    monkeypatch.setattr(module, "_BLOCK", 2)
    embedded, response, weights = normal(images, WIDTH), normal(images, 5, seed=1), normal(5, 5)
    found = Reduced.of(embedded, response)
    full = (response - with_intercept(embedded) @ weights).square().sum(0)
    short = (found.response - found.design @ weights).square().sum(0) + found.outside
    torch.testing.assert_close(short, full, **TOLERANCE["float64"])
    assert len(found.design) + found.spare == images
    assert len(found.design) == min(images, WIDTH + 1)


def test_nothing_is_left_of_noiseless_responses():
    # Catches the difference of two squares, which leaves 1e-16 of the responses' power.
    embedded = normal(50, WIDTH)
    response = 1e4 + with_intercept(embedded) @ normal(5, 3)
    found = Reduced.of(embedded, response)
    assert (found.outside < 1e-28 * response.square().sum(0)).all()


@pytest.mark.parametrize("images", [3, 11])
def test_the_evidence_at_every_level_is_the_dense_density(images):
    # Catches a determinant or a constant that lacks the rows beyond the design's rank.
    embedded, response = normal(images, WIDTH), normal(images, 3, seed=1)
    mean, factor = normal(WIDTH + 1, seed=2), normal(WIDTH + 1, WIDTH + 1, seed=3)
    grid = torch.tensor([[0.0, 0.5, 2.0], [0.3, 1.0, 0.1]]).double()
    data = Reduced.of(embedded, response)
    basis = TypeBasis.of(data.design, mean, factor)
    z = basis.vectors.T @ data.response
    found = basis.log_evidence(z, data.outside, data.spare, grid)
    design = with_intercept(embedded)
    for level, (a, g) in enumerate(grid.T):
        covariance = a**2 * design @ factor @ factor.T @ design.T + g * torch.eye(images)
        dense = multivariate_normal.logpdf(response.T, a * design @ mean, covariance)
        np.testing.assert_allclose(found[level], dense, rtol=1e-9)


def test_shrunk_responses_are_averaged_over_levels_by_their_probability():
    # Catches a probability that is applied to amplitude and noise in another order than the grid's.
    data = Reduced.of(normal(7, WIDTH), normal(7, 3, seed=1))
    mean, factor = normal(WIDTH + 1, seed=2), normal(WIDTH + 1, WIDTH + 1, seed=3)
    basis = TypeBasis.of(data.design, mean, factor)
    z = basis.vectors.T @ data.response
    grid = torch.tensor([[0.5, 2.0], [0.3, 1.0]]).double()
    share = torch.tensor([[0.2, 0.5, 1.0], [0.8, 0.5, 0.0]]).double()
    found = factor @ basis.back @ basis.shrunk(z, share, grid)
    expected = torch.zeros(WIDTH + 1, 3).double()
    for (a, g), part in zip(grid.T, share, strict=True):
        covariance = a**2 * factor @ factor.T
        spread = data.design @ covariance @ data.design.T + g * torch.eye(len(data.design))
        residual = data.response - a * (data.design @ mean)[:, None]
        expected += part * (covariance @ data.design.T @ torch.linalg.solve(spread, residual))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("images", [3, 11])
def test_responses_of_unequal_precision_have_the_dense_density(images):
    # Catches rows scaled by the precision instead of its root, an intercept that is not scaled,
    # and a density of the scaled responses in place of the given ones.
    embedded, response = normal(images, WIDTH), normal(images, 3, seed=1)
    precision = torch.tensor([1.0, 3, 0.5] * 4).double()[:images]
    mean, factor = normal(WIDTH + 1, seed=2), normal(WIDTH + 1, WIDTH + 1, seed=3)
    data = Reduced.of(embedded, response, precision)
    basis = TypeBasis.of(data.design, mean, factor)
    grid = torch.tensor([[0.7], [0.3]], dtype=torch.float64)
    z = basis.vectors.T @ data.response
    found = basis.log_evidence(z, data.outside, data.spare, grid)[0] + data.log_scale
    design = with_intercept(embedded)
    covariance = 0.7**2 * design @ factor @ factor.T @ design.T + 0.3 * (1 / precision).diag()
    dense = multivariate_normal.logpdf(response.T, 0.7 * design @ mean, covariance)
    np.testing.assert_allclose(found, dense, rtol=1e-9)


@pytest.mark.parametrize(
    ("precision", "error", "message"),
    [
        (torch.ones(4), MismatchError, r"\(4,\); needed: one for each of the 3"),
        (torch.tensor([1.0, 0, 1]), InputError, "goes from 0.0 to 1.0"),
        (torch.tensor([1.0, np.nan, 1]), InputError, "finite and positive"),
    ],
)
def test_a_precision_that_makes_no_sense_is_refused(precision, error, message):
    # Catches infinite noise and NaN that travel on.
    with pytest.raises(error, match=message):
        Reduced.of(normal(3, WIDTH), normal(3, 2), precision)
