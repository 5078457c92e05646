"""Kernel ridge by himalaya against our own solver, and its global backend."""

from __future__ import annotations

import pytest
import torch

from neuroattn.encoders.gram_ridge import ridge_cv, ridge_fit
from neuroattn.encoders.kernel_ridge import kernel_ridge_cv
from tests.encoders.test_gram_ridge import ALPHAS, contiguous, problem, shuffled


@pytest.mark.parametrize("shape", [(40, 95, 9), (60, 21, 9)])
def test_kernel_ridge_gives_the_same_alphas_scores_and_weights(shape, monkeypatch):
    # Catches uncentred kernels, column blocks that are lost, and dual weights used uncentred.
    monkeypatch.setattr("neuroattn.encoders.kernel_ridge._COLUMN_BLOCK", 17)
    X, Y = problem(*shape)
    folds = shuffled(shape[0], 4)
    best, scores = ridge_cv(X, Y, ALPHAS, folds)
    weights, intercept = ridge_fit(X, Y, best)
    alphas, chosen, dual_weights, dual_intercept = kernel_ridge_cv(X, Y, ALPHAS, folds, 4)
    assert torch.equal(alphas, best)
    torch.testing.assert_close(chosen, scores.max(0).values, rtol=1e-7, atol=3e-9)
    torch.testing.assert_close(dual_weights, weights, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(dual_intercept, intercept, rtol=1e-6, atol=1e-7)


def test_features_far_from_zero_keep_their_digits():
    # Catches a kernel of uncentred columns, in which the mean drowns the variance.
    X, Y = problem(30, 50, 4)
    folds = contiguous(30, 3)
    near, _, weights, _ = kernel_ridge_cv(X, Y, ALPHAS, folds)
    far, _, far_weights, _ = kernel_ridge_cv(X + 1e6, Y, ALPHAS, folds)
    assert torch.equal(near, far)
    torch.testing.assert_close(far_weights, weights, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("fails", [False, True])
def test_kernel_ridge_puts_himalayas_backend_back(fails):
    # Catches a global backend that stays changed, above all after an error.
    from himalaya.backend import get_backend

    X, Y = problem(12, 20, 3)
    before = get_backend().name
    assert before == "numpy"
    if fails:
        with pytest.raises(ValueError):
            kernel_ridge_cv(X, Y[:5], ALPHAS, contiguous(12, 3))
    else:
        kernel_ridge_cv(X, Y, ALPHAS, contiguous(12, 3))
    assert get_backend().name == before
