"""Ridge from Gram matrices against himalaya, scikit-learn and brute force, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import PredefinedSplit

from neuroattn.encoders.gram_ridge import ridge_cv, ridge_fit
from neuroattn.errors import InputError, MismatchError
from tests.tolerances import TOLERANCE

ALPHAS = torch.logspace(-2, 5, 15, dtype=torch.float64)


def problem(
    presentations: int, features: int, voxels: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated features far from zero mean; voxels from noiseless to pure noise."""
    draw = np.random.default_rng(seed)
    mixing = draw.normal(size=(features, features)) * np.logspace(0, -1.5, features)
    X = draw.normal(size=(presentations, features)) @ mixing + 3
    weights = draw.normal(size=(features, voxels))
    noise = draw.normal(size=(presentations, voxels)) * np.logspace(-1, 3, voxels)
    return torch.from_numpy(X), torch.from_numpy(X @ weights + noise - 7)


def contiguous(presentations: int, folds: int) -> torch.Tensor:
    return torch.arange(presentations) * folds // presentations


def shuffled(presentations: int, folds: int) -> torch.Tensor:
    order = np.random.default_rng(1).permutation(presentations)
    return contiguous(presentations, folds)[torch.from_numpy(order)]


def brute_force_scores(
    X: torch.Tensor, Y: torch.Tensor, alphas: torch.Tensor, folds: torch.Tensor
) -> np.ndarray:
    """Fit scikit-learn's Ridge for every penalty and fold."""
    x, y, fold = X.numpy(), Y.numpy(), folds.numpy()
    scores = np.zeros((len(alphas), y.shape[1]))
    names = np.unique(fold)
    for a, alpha in enumerate(alphas.tolist()):
        for name in names:
            train = fold != name
            # The singular value solver: a Cholesky of the normal equations is no oracle.
            model = Ridge(alpha=alpha, solver="svd").fit(x[train], y[train])
            scores[a] -= ((y[~train] - model.predict(x[~train])) ** 2).mean(0) / len(names)
    return scores


def himalaya_fit(
    X: torch.Tensor, Y: torch.Tensor, alphas: torch.Tensor, folds: torch.Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    from himalaya.ridge import RidgeCV

    # numpy is himalaya's backend unless somebody changes it.
    model = RidgeCV(
        alphas=alphas.numpy(),
        fit_intercept=True,
        cv=PredefinedSplit(folds.numpy()),
        solver_params={"warn": False},
    ).fit(X.numpy(), Y.numpy())
    return model.best_alphas_, model.cv_scores_, model.coef_, model.intercept_


@pytest.mark.parametrize("layout", [contiguous, shuffled])
@pytest.mark.parametrize("shape", [(101, 7, 5), (64, 33, 17), (97, 63, 9)])
def test_scores_equal_a_loop_over_scikit_learn(shape, layout):
    # Catches a wrong sign or factor in the partial fractions, and a fold left uncentred.
    X, Y = problem(*shape)
    folds = layout(shape[0], 5)
    _, scores = ridge_cv(X, Y, ALPHAS, folds)
    np.testing.assert_allclose(scores, brute_force_scores(X, Y, ALPHAS, folds), rtol=1e-8)


@pytest.mark.parametrize("layout", [contiguous, shuffled])
def test_alphas_weights_and_scores_equal_himalaya(layout):
    # Catches another score, another average over folds or another tie rule than himalaya's.
    X, Y = problem(203, 31, 41)
    folds = layout(203, 4)
    best, scores = ridge_cv(X, Y, ALPHAS, folds)
    weights, intercept = ridge_fit(X, Y, best)
    alphas, chosen, coef, offset = himalaya_fit(X, Y, ALPHAS, folds)
    assert len(torch.unique(best)) > 5
    np.testing.assert_allclose(best, alphas, rtol=1e-12)
    # himalaya leaves its tie-breaking slope, 1e-10 log(alpha), in the score it returns.
    np.testing.assert_allclose(scores.max(0).values, chosen, rtol=1e-9, atol=3e-9)
    np.testing.assert_allclose(weights, coef, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(intercept, offset, rtol=1e-7, atol=1e-9)


def test_folds_of_unequal_size_weigh_the_same():
    # Catches a mean over presentations where himalaya and scikit-learn take one over folds.
    X, Y = problem(60, 5, 4)
    folds = torch.tensor([0] * 3 + [1] * 40 + [2] * 17)
    _, scores = ridge_cv(X, Y, ALPHAS, folds)
    np.testing.assert_allclose(scores, brute_force_scores(X, Y, ALPHAS, folds), rtol=1e-8)


def test_the_numbers_that_name_folds_do_not_matter():
    # Catches fold names used as indices.
    X, Y = problem(40, 5, 4)
    folds = contiguous(40, 3)
    _, scores = ridge_cv(X, Y, ALPHAS, folds)
    _, renamed = ridge_cv(X, Y, ALPHAS, torch.tensor([10, 30, 20])[folds])
    torch.testing.assert_close(scores, renamed, **TOLERANCE["float64"])


@pytest.mark.parametrize("voxel_block", [1, 3, 7, 100])
def test_blocks_of_voxels_change_nothing(voxel_block):
    # Catches a last block that is cut off or written to the wrong place.
    X, Y = problem(50, 9, 7)
    folds = contiguous(50, 5)
    best, scores = ridge_cv(X, Y, ALPHAS, folds)
    blocked_best, blocked = ridge_cv(X, Y, ALPHAS, folds, voxel_block)
    torch.testing.assert_close(blocked, scores, **TOLERANCE["float64"])
    assert torch.equal(best, blocked_best)
    weights, intercept = ridge_fit(X, Y, best)
    blocked_weights, blocked_intercept = ridge_fit(X, Y, best, voxel_block)
    torch.testing.assert_close(blocked_weights, weights, **TOLERANCE["float64"])
    torch.testing.assert_close(blocked_intercept, intercept, **TOLERANCE["float64"])


def orthonormal_design(presentations: int, features: int) -> torch.Tensor:
    """Every eigenvalue of every training fold nearly the same: all pairs nearly coincide."""
    draw = np.random.default_rng(2)
    blocks = [np.linalg.qr(draw.normal(size=(presentations // 4, features)))[0] for _ in range(4)]
    return torch.from_numpy(np.concatenate([*blocks[:2], *(-b for b in blocks[:2])]))


def almost_double(presentations: int, features: int, gap: float) -> torch.Tensor:
    """Pairs of eigenvalues that differ by about ``gap``, relatively."""
    X, _ = problem(presentations, features, 1)
    centred = X - X.mean(0)
    left, _, right = torch.linalg.svd(centred, full_matrices=False)
    power = torch.logspace(0, 2, features // 2, dtype=torch.float64).repeat_interleave(2)
    power[1::2] *= 1 + gap
    return (left * power) @ right


@pytest.mark.parametrize("gap", [0.0, 1e-13, 1e-9, 1e-6, 1e-5, 1e-3])
def test_eigenvalues_that_nearly_coincide_keep_their_digits(gap):
    # Catches the division by a vanishing difference of eigenvalues.
    X = almost_double(48, 12, gap)
    # The same rows twice: folds 0 and 1 train on twice each other's Gram matrix.
    X = torch.cat([X, X])
    Y = problem(96, 12, 6)[1]
    folds = contiguous(96, 2)
    _, scores = ridge_cv(X, Y, ALPHAS, folds)
    np.testing.assert_allclose(scores, brute_force_scores(X, Y, ALPHAS, folds), rtol=1e-9)


def test_an_orthonormal_design_is_exact():
    # Catches a treatment of coinciding eigenvalues that only holds for pairs.
    X = orthonormal_design(80, 11)
    Y = problem(80, 11, 6)[1]
    folds = contiguous(80, 4)
    _, scores = ridge_cv(X, Y, ALPHAS, folds)
    np.testing.assert_allclose(scores, brute_force_scores(X, Y, ALPHAS, folds), rtol=1e-9)


def test_constant_and_repeated_columns_are_harmless():
    # Catches zero eigenvalues that turn rounding into weights.
    X, Y = problem(70, 6, 5)
    X = torch.cat([X, torch.full((70, 2), 4.0, dtype=torch.float64), X[:, :3], 2 * X[:, 1:2]], 1)
    folds = shuffled(70, 5)
    best, scores = ridge_cv(X, Y, ALPHAS, folds)
    np.testing.assert_allclose(scores, brute_force_scores(X, Y, ALPHAS, folds), rtol=1e-8)
    weights, _ = ridge_fit(X, Y, best)
    np.testing.assert_allclose(weights[6:8], 0, atol=1e-9)
    torch.testing.assert_close(weights[:3], weights[8:11], rtol=1e-8, atol=1e-9)


def test_a_design_that_is_constant_predicts_the_training_mean():
    # Catches an empty eigenbasis.
    X, Y = torch.ones(12, 3, dtype=torch.float64), problem(12, 3, 4)[1]
    best, scores = ridge_cv(X, Y, ALPHAS, contiguous(12, 3))
    parts = Y.reshape(3, 4, 4)
    means = (Y.sum(0) - parts.sum(1)) / 8
    expected = -(parts - means[:, None]).square().mean((0, 1))
    torch.testing.assert_close(scores, expected.expand(len(ALPHAS), 4), **TOLERANCE["float64"])
    weights, intercept = ridge_fit(X, Y, best)
    assert not weights.any()
    torch.testing.assert_close(intercept, Y.mean(0), **TOLERANCE["float64"])
    # All scores tie, and the larger penalty must win.
    assert torch.equal(best, ALPHAS[-1].expand(4))


def test_more_features_than_presentations_agree_with_scikit_learn_too():
    # Catches reliance on a training Gram matrix of full rank.
    X, Y = problem(30, 71, 5)
    folds = contiguous(30, 5)
    _, scores = ridge_cv(X, Y, ALPHAS, folds)
    np.testing.assert_allclose(scores, brute_force_scores(X, Y, ALPHAS, folds), rtol=1e-7)


def test_weights_with_given_penalties_equal_scikit_learn():
    # Catches one penalty used for all voxels, or a penalised intercept.
    X, Y = problem(83, 19, 6)
    alpha = torch.tensor([0.01, 1.0, 10.0, 300.0, 1e4, 1e6], dtype=torch.float64)
    weights, intercept = ridge_fit(X, Y, alpha, voxel_block=4)
    model = Ridge(alpha=alpha.numpy(), solver="svd").fit(X.numpy(), Y.numpy())
    np.testing.assert_allclose(weights.T, model.coef_, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(intercept, model.intercept_, rtol=1e-8)


def test_single_precision_input_is_computed_in_double():
    # Catches a matrix product in float32, which loses the order of close scores.
    X, Y = problem(90, 21, 6)
    X, Y = X.float(), Y.float()
    folds = contiguous(90, 5)
    best, scores = ridge_cv(X, Y, ALPHAS, folds)
    exact_best, exact = ridge_cv(X.double(), Y.double(), ALPHAS, folds)
    assert torch.equal(best, exact_best)
    torch.testing.assert_close(scores, exact, **TOLERANCE["float64"])
    weights, _ = ridge_fit(X, Y, best)
    exact_weights, _ = ridge_fit(X.double(), Y.double(), best)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, exact_weights.float())


@pytest.mark.parametrize("alphas", [[0.0, 1.0], [-1.0], [float("nan")], [float("inf")], []])
def test_penalties_that_are_not_positive_are_refused(alphas):
    # Catches a division by zero that would surface as NaN predictions.
    X, Y = problem(20, 3, 2)
    with pytest.raises(InputError, match="penalties"):
        ridge_cv(X, Y, torch.tensor(alphas), contiguous(20, 2))


def test_inputs_that_do_not_belong_together_are_refused():
    # Catches silent broadcasting of folds, responses or penalties.
    X, Y = problem(20, 3, 2)
    with pytest.raises(MismatchError, match=r"\(20, 3\) and Y \(19, 2\)"):
        ridge_cv(X, Y[:19], ALPHAS, contiguous(20, 2))
    with pytest.raises(MismatchError, match="20 presentations"):
        ridge_cv(X, Y, ALPHAS, contiguous(19, 2))
    with pytest.raises(InputError, match="at least 2"):
        ridge_cv(X, Y, ALPHAS, torch.zeros(20))
    with pytest.raises(MismatchError, match="2 voxels"):
        ridge_fit(X, Y, torch.ones(3))
    with pytest.raises(InputError, match="voxel_block=0"):
        ridge_cv(X, Y, ALPHAS, contiguous(20, 2), voxel_block=0)
