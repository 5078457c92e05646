"""Ridge where features outnumber presentations: himalaya's kernel ridge with a linear kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from neuroattn.encoders.gram_ridge import check_alphas
from neuroattn.encoders.voxel_blocks import fitted_blocks
from neuroattn.tasks import workers_in_use

__all__ = ["kernel_ridge_cv"]

_COLUMN_BLOCK = 4096
# himalaya decomposes the kernel of each fold anew for what one process is sent.
_BATCHES_ELSEWHERE = 8


def kernel_ridge_cv(
    X: torch.Tensor,
    Y: torch.Tensor,
    alphas: torch.Tensor,
    folds: torch.Tensor,
    voxel_block: int = 1024,
    alpha_block: int = 5,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Choose each voxel's penalty by cross-validation and fit, through the Gram matrix of rows.

    The result is that of :func:`neuroattn.encoders.gram_ridge.ridge_cv` and ``ridge_fit``: the
    same folds, centring, score and tie rule. The kernel is made and diagonalised in float64:
    in float32 its zero eigenvalues come out negative and forbid small penalties.

    Parameters
    ----------
    X : torch.Tensor
        (presentation, feature) design matrix.
    Y : torch.Tensor
        (presentation, voxel) responses.
    alphas : torch.Tensor
        (alpha) candidate penalties, positive.
    folds : torch.Tensor
        (presentation) integer: the fold in which a presentation is held out.
    voxel_block, alpha_block : int
        Voxels and penalties at a time (himalaya's ``n_targets_batch``, ``n_alphas_batch``).

    Returns
    -------
    best : torch.Tensor
        (voxel) float64, the chosen penalties, members of ``alphas``.
    scores : torch.Tensor
        (voxel) float64, minus the mean squared error of the chosen penalty averaged over folds.
    weights : torch.Tensor
        (feature, voxel) in the dtype of ``X``.
    intercept : torch.Tensor
        (voxel) in the dtype of ``X``.

    References
    ----------
    Saunders, Gammerman, Vovk (1998), Ridge regression learning algorithm in dual variables,
    ICML, eq. 8.
    """
    alphas = check_alphas(alphas)
    mean = X.mean(0, dtype=torch.float64)
    kernel = torch.zeros(len(X), len(X), dtype=torch.float64)
    # himalaya centres the kernel; centred columns keep the digits of features far from zero.
    for _, centred in _centred_blocks(X, mean):
        kernel += centred @ centred.T
    # However many batches himalaya is asked for at once, it computes each by itself.
    here = workers_in_use().here
    size = max(1, Y.shape[1]) if here else _BATCHES_ELSEWHERE * voxel_block
    shared = (kernel, alphas, torch.as_tensor(folds), voxel_block, alpha_block)
    best, scores = (torch.empty(Y.shape[1], dtype=torch.float64) for _ in range(2))
    dual = torch.empty(len(X), Y.shape[1], dtype=torch.float64)
    for block, found in fitted_blocks(_dual, shared, [Y], size):
        best[block], scores[block], dual[:, block] = found
    weights = torch.empty(X.shape[1], Y.shape[1], dtype=X.dtype)
    shift = torch.zeros(Y.shape[1], dtype=torch.float64)
    for block, centred in _centred_blocks(X, mean):
        solution = centred.T @ dual
        weights[block] = solution.to(X.dtype)
        shift += mean[block] @ solution
    intercept = Y.to(torch.float64).mean(0) - shift
    return best, scores, weights, intercept.to(X.dtype)


def _dual(
    kernel: torch.Tensor,
    alphas: torch.Tensor,
    folds: torch.Tensor,
    voxel_block: int,
    alpha_block: int,
    Y: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return chosen penalties (voxel), their scores (voxel), weights (presentation, voxel)."""
    from himalaya.kernel_ridge import KernelRidgeCV
    from sklearn.model_selection import PredefinedSplit

    batches = {"n_targets_batch": voxel_block, "n_targets_batch_refit": voxel_block}
    model = KernelRidgeCV(
        alphas=alphas,
        kernel="precomputed",
        fit_intercept=True,
        cv=PredefinedSplit(folds.numpy()),
        solver_params={**batches, "n_alphas_batch": alpha_block},
        warn=False,
    )
    with _torch_backend():
        model.fit(kernel, Y.to(torch.float64))
    # himalaya returns exp(log(alpha)): give back the members of the list.
    best = alphas[(alphas.log()[:, None] - model.best_alphas_.log()).abs().argmin(0)]
    return best, model.cv_scores_, model.dual_coef_


def _centred_blocks(X: torch.Tensor, mean: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    for start in range(0, X.shape[1], _COLUMN_BLOCK):
        block = slice(start, min(start + _COLUMN_BLOCK, X.shape[1]))
        yield block, X[:, block].to(torch.float64) - mean[block]


@contextmanager
def _torch_backend() -> Iterator[None]:
    """Set himalaya's global backend, and put the caller's back."""
    from himalaya.backend import get_backend, set_backend

    before = get_backend()
    set_backend("torch")
    try:
        yield
    finally:
        set_backend(before)
