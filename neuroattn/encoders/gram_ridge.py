r"""Ridge regression with a cross-validated penalty per voxel, from Gram matrices.

All candidate penalties cost hardly more than one. With the eigendecomposition
:math:`X_t^T X_t = Q \Lambda Q^T` of a training fold, :math:`z = Q^T X_t^T y_t` and
:math:`d_i = 1 / (\lambda_i + \alpha)`, the squared error on the validation fold is

.. math:: \|y_v\|^2 - 2 \sum_i d_i z_i c_i + \sum_{ij} d_i d_j z_i z_j M_{ij},
          \quad c = Q^T X_v^T y_v, \quad M = Q^T X_v^T X_v Q.

The double sum seems to need a matrix product for each :math:`\alpha`. Partial fractions,
:math:`d_i d_j = (d_i - d_j) / (\lambda_j - \lambda_i)`, make it linear in :math:`d`:

.. math:: \sum_{i \ne j} d_i d_j z_i z_j M_{ij} = 2 \sum_i d_i z_i \sum_{j \ne i}
          \frac{M_{ij}}{\lambda_j - \lambda_i} z_j,

so that one product per fold serves every penalty. Pairs of eigenvalues that are closer than
:math:`\epsilon^{1/3}` (relatively) would lose digits in the difference; for them
:math:`d_i d_j` is replaced by :math:`(d_i^2 + d_j^2) / 2`, wrong by a relative
:math:`\epsilon^{2/3} / 2`. Everything is computed in float64, in blocks of voxels, by other
processes where :func:`neuroattn.tasks.use_workers` says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from neuroattn.encoders.voxel_blocks import fitted_blocks
from neuroattn.errors import InputError, MismatchError

__all__ = ["check_alphas", "ridge_cv", "ridge_fit"]

_EPSILON = torch.finfo(torch.float64).eps
_NEAR = _EPSILON ** (1 / 3)
# The slope by which himalaya breaks ties towards the larger penalty.
_TIE_SLOPE = 1e-10


def ridge_cv(
    X: torch.Tensor,
    Y: torch.Tensor,
    alphas: torch.Tensor,
    folds: torch.Tensor,
    voxel_block: int = 1024,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the ridge penalty of each voxel by cross-validation.

    Each fold in turn is predicted by a ridge regression with unpenalised intercept (features and
    responses centred by the training folds' means) on the others. The score is minus the mean
    squared error, averaged over folds with equal weight; the best penalty wins and, between
    scores that tie to about 1e-10, the larger one: the rules of ``himalaya.ridge.RidgeCV``, so
    that the same penalties are chosen.

    Parameters
    ----------
    X : torch.Tensor
        (presentation, feature) design matrix; any floating dtype, computed in float64.
    Y : torch.Tensor
        (presentation, voxel) responses; cast to float64 a block at a time.
    alphas : torch.Tensor
        (alpha) candidate penalties, positive.
    folds : torch.Tensor
        (presentation) integer: the fold in which a presentation is held out.
    voxel_block : int
        Voxels at a time; memory beside the inputs is about
        ``voxel_block * 8 * (presentations + 12 * features)`` bytes.

    Returns
    -------
    best : torch.Tensor
        (voxel) float64, the chosen penalties.
    scores : torch.Tensor
        (alpha, voxel) float64, minus the mean squared error averaged over folds.

    Raises
    ------
    InputError
        If a penalty is not positive, or there are fewer than two folds.
    MismatchError
        If the numbers of rows differ.

    References
    ----------
    Dupré la Tour, Eickenberg, Nunez-Elizalde, Gallant (2022), Feature-space selection with banded
    ridge regression, NeuroImage 264, 119728: the cross-validation scheme.
    """
    _check(X, Y)
    alphas = check_alphas(alphas)
    folds = torch.as_tensor(folds)
    if folds.shape != X.shape[:1]:
        raise MismatchError(
            f"folds has shape {tuple(folds.shape)} for {X.shape[0]} presentations: one each."
        )
    order = torch.argsort(folds, stable=True)
    sizes = torch.unique(folds, return_counts=True)[1].tolist()
    if len(sizes) < 2:
        raise InputError(f"folds names {len(sizes)} fold; cross-validation needs at least 2.")
    X = _centred(X)[order]
    gram = X.T @ X
    parts = [_prepare(rows, len(X), gram, alphas) for rows in torch.split(X, sizes)]
    scores = torch.empty(len(alphas), Y.shape[1], dtype=torch.float64)
    for block, (found,) in fitted_blocks(_block_scores, (parts, order, sizes), [Y], voxel_block):
        scores[:, block] = found
    best = (scores + _TIE_SLOPE * alphas.log()[:, None]).argmax(0)
    return alphas[best], scores


def ridge_fit(
    X: torch.Tensor, Y: torch.Tensor, alpha: torch.Tensor, voxel_block: int = 1024
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit ridge regressions with unpenalised intercept, each voxel with its own penalty.

    Parameters
    ----------
    X : torch.Tensor
        (presentation, feature) design matrix.
    Y : torch.Tensor
        (presentation, voxel) responses.
    alpha : torch.Tensor
        (voxel) penalties, positive.
    voxel_block : int
        Voxels at a time.

    Returns
    -------
    weights : torch.Tensor
        (feature, voxel) in the dtype of ``X``.
    intercept : torch.Tensor
        (voxel) in the dtype of ``X``.

    Raises
    ------
    InputError, MismatchError
        As :func:`ridge_cv`.
    """
    _check(X, Y)
    alpha = check_alphas(alpha)
    if alpha.shape != Y.shape[1:]:
        raise MismatchError(
            f"alpha has shape {tuple(alpha.shape)} for {Y.shape[1]} voxels: one each."
        )
    mean, centred = X.to(torch.float64).mean(0), _centred(X)
    eigenvalues, basis = _eigenbasis(centred.T @ centred)
    weights = torch.empty(X.shape[1], Y.shape[1], dtype=X.dtype)
    intercept = torch.empty(Y.shape[1], dtype=X.dtype)
    shared = (mean, centred, eigenvalues, basis, X.dtype)
    for block, found in fitted_blocks(_block_weights, shared, [Y, alpha], voxel_block):
        weights[:, block], intercept[block] = found
    return weights, intercept


@dataclass(frozen=True)
class _Fold:
    """What a fold needs for every block of voxels; shapes with r = rank of its training rows."""

    rows: torch.Tensor  # (validation presentation, feature), centred over all presentations
    train_mean: torch.Tensor  # (feature)
    train_size: int
    basis: torch.Tensor  # (feature, r)
    shrinkage: torch.Tensor  # (alpha, r)
    far: torch.Tensor  # (r, r), M_ij / (lambda_j - lambda_i)
    near: torch.Tensor  # (r, 1) the diagonal of M, or (r, r) where eigenvalues nearly coincide


def _prepare(
    rows: torch.Tensor, presentations: int, gram: torch.Tensor, alphas: torch.Tensor
) -> _Fold:
    """Diagonalise the training Gram matrix, got by subtraction, and rotate the validation one."""
    size, train_size = len(rows), presentations - len(rows)
    mean = -rows.sum(0) / train_size
    own = rows.T @ rows
    outer = torch.outer(mean, mean)
    eigenvalues, basis = _eigenbasis(gram - own - train_size * outer)
    rotated = basis.T @ (own + (size + 2 * train_size) * outer) @ basis
    gap = eigenvalues[None, :] - eigenvalues[:, None]
    close = gap.abs() <= _NEAR * (eigenvalues[None, :] + eigenvalues[:, None])
    far = torch.where(close, 0.0, rotated / torch.where(close, 1.0, gap))
    only_diagonal = int(close.sum()) == len(eigenvalues)
    return _Fold(
        rows=rows,
        train_mean=mean,
        train_size=train_size,
        basis=basis,
        shrinkage=1 / (eigenvalues + alphas[:, None]),
        far=far,
        near=rotated.diagonal()[:, None] if only_diagonal else torch.where(close, rotated, 0.0),
    )


def _block_scores(
    parts: list[_Fold], order: torch.Tensor, sizes: list[int], Y: torch.Tensor
) -> tuple[torch.Tensor]:
    """Return the scores (alpha, voxel) of some voxels."""
    responses = torch.split(_centred(Y)[order], sizes)
    moments = [part.rows.T @ y for part, y in zip(parts, responses, strict=True)]
    total = torch.stack(moments).sum(0)
    scores = torch.zeros(len(parts[0].shrinkage), Y.shape[1], dtype=torch.float64)
    for part, y, moment in zip(parts, responses, moments, strict=True):
        scores -= _validation_error(part, y, moment, total) / len(parts)
    return (scores,)


def _block_weights(
    mean: torch.Tensor,
    centred: torch.Tensor,
    eigenvalues: torch.Tensor,
    basis: torch.Tensor,
    dtype: torch.dtype,
    Y: torch.Tensor,
    alpha: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights and intercepts of some voxels."""
    y = Y.to(torch.float64)
    shrunk = (basis.T @ (centred.T @ y)) / (eigenvalues[:, None] + alpha)
    solution = basis @ shrunk
    return solution.to(dtype), (y.mean(0) - mean @ solution).to(dtype)


def _validation_error(
    fold: _Fold, y: torch.Tensor, moment: torch.Tensor, total: torch.Tensor
) -> torch.Tensor:
    """Return the mean squared error (alpha, voxel) on a fold.

    ``y`` (validation presentation, voxel) is centred over all presentations, as the features are,
    so that the sum over the training rows is minus the sum over the validation rows; ``moment`` is
    X^T y of the fold, ``total`` that of all presentations.
    """
    size, train_size = len(y), fold.train_size
    mean = -y.sum(0) / train_size
    outer = torch.outer(fold.train_mean, mean)
    z = fold.basis.T @ (total - moment - train_size * outer)
    c = fold.basis.T @ (moment + (size + 2 * train_size) * outer)
    near = fold.near * z if fold.near.shape[1] == 1 else fold.near @ z
    power = y.square().sum(0) + (size + 2 * train_size) * mean.square()
    linear = fold.shrinkage @ (z * (fold.far @ z - c))
    quadratic = fold.shrinkage.square() @ (z * near)
    return (power + 2 * linear + quadratic) / size


def _eigenbasis(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the eigenvalues that rounding cannot have made, ascending, and their vectors."""
    eigenvalues, vectors = torch.linalg.eigh(gram)
    keep = eigenvalues > len(gram) * _EPSILON * eigenvalues[-1].clamp(min=0)
    return eigenvalues[keep], vectors[:, keep]


def _centred(values: torch.Tensor) -> torch.Tensor:
    values = values.to(torch.float64)
    return values - values.mean(0)


def _check(X: torch.Tensor, Y: torch.Tensor) -> None:
    if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y):
        raise MismatchError(
            f"X has shape {tuple(X.shape)} and Y {tuple(Y.shape)}; needed: (presentation, feature) "
            "and (presentation, voxel) with the same presentations."
        )
    if len(X) < 2 or X.shape[1] == 0:
        raise InputError(
            f"X has shape {tuple(X.shape)}; needed: at least 2 presentations and 1 feature."
        )


def check_alphas(alphas: torch.Tensor) -> torch.Tensor:
    """Return penalties as float64.

    Raises
    ------
    InputError
        If they are not a list of positive finite numbers.
    """
    alphas = torch.as_tensor(alphas, dtype=torch.float64)
    if alphas.ndim != 1 or not len(alphas):
        raise InputError(f"alphas has shape {tuple(alphas.shape)}; needed: a list of penalties.")
    wrong = alphas[~((alphas > 0) & torch.isfinite(alphas))]
    if len(wrong):
        raise InputError(
            f"alphas holds {wrong[:5].tolist()}; needed: positive finite penalties. "
            "For no penalty take a very small one."
        )
    return alphas
