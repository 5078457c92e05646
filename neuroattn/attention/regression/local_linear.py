"""Local linear attention: each query fits a weighted plane to the keys and reads it at itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuroattn.attention.parameters import choice, integer, number
from neuroattn.attention.registry import Mechanism, Request, Run, register
from neuroattn.attention.regression.conjugate_gradients import solve_rows
from neuroattn.attention.regression.precision import wide
from neuroattn.attention.softmax.softmax import softmax_weights
from neuroattn.errors import InputError

ITERATIVE = "conjugate gradients"


def local_linear_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    ridge: float = 0.01,
    solver: str = "direct",
    iterations: int = 32,
    tolerance: float = 1e-8,
    chunk_size: int = 64,
) -> Tensor:
    """Return the weights of the definition (batch, heads, queries, keys), which may be negative.

    Written around the softmax mean of the keys, where the slope needs no division that a row with
    few keys would make zero by zero; solved directly whatever the solver.

    Parameters
    ----------
    query, key : Tensor
        (batch, heads, queries, dim) and (batch, heads, keys, dim).
    causal, mask, scale
        As in :func:`neuroattn.attention.attend`.
    ridge : float
        Penalty on the slope, at least 0; at 0 the slope of least norm.
    solver, iterations, tolerance, chunk_size
        As in :func:`chunked_local_linear`; without influence here.

    Raises
    ------
    InputError
        If conjugate gradients are asked for without a ridge.

    References
    ----------
    Zuo et al. (2026), Local linear attention, arXiv 2510.01450.
    """
    _check(ridge, solver)
    share = softmax_weights(query, key, causal=causal, mask=mask, scale=scale)
    centre = centre_of(key, mask)
    key, query = key - centre, query - centre
    mean = share @ key
    away = key[:, :, None] - mean[:, :, :, None]
    covariance = (share[..., None] * away).transpose(-1, -2) @ away
    size = share @ key.square().sum(-1, keepdim=True)
    slope = solve_directly(covariance, mean - query, ridge, size)
    return share * (1 - (away @ slope[..., None])[..., 0])


def local_linear(query: Tensor, key: Tensor, value: Tensor, **given: object) -> Tensor:
    """Read the values with :func:`local_linear_weights`."""
    return local_linear_weights(query, key, **given) @ value  # type: ignore[arg-type]


def chunked_local_linear(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    ridge: float = 0.01,
    solver: str = "direct",
    iterations: int = 32,
    tolerance: float = 1e-8,
    chunk_size: int = 64,
) -> Tensor:
    """Read block by block of queries, without any tensor of queries x keys x dim.

    Parameters
    ----------
    query, key, value : Tensor
        (batch, heads, queries, dim), (batch, heads, keys, dim), (batch, heads, keys, value_dim).
    causal, mask, scale, ridge
        As in :func:`local_linear_weights`.
    solver : {"direct", "conjugate gradients"}
        From the covariances (queries, dim, dim) of a block; or by iterations of the size of an
        attention, which form none.
    iterations, tolerance : int, float
        Conjugate gradients stop after so many, or when every residual is this fraction of its
        right-hand side.
    chunk_size : int
        Queries a block.

    Raises
    ------
    InputError
        If conjugate gradients are asked for without a ridge.
    """
    _check(ridge, solver)
    dtype, queries, keys = query.dtype, query.shape[-2], key.shape[-2]
    query, key, value = wide(query, key, value)
    # The read depends on differences of keys alone; far from zero their moments would cancel.
    centre = centre_of(key, mask)
    key = key - centre
    products = _products(key) if solver == "direct" else None
    blocks = []
    for start in range(0, max(queries, 1), chunk_size):
        stop = min(start + chunk_size, queries)
        reach = max(0, stop + keys - queries) if causal else keys
        asked, near = query[:, :, start:stop], key[:, :, :reach]
        seen = _block_mask(mask, slice(start, stop), reach)
        share = softmax_weights(asked, near, causal=causal, mask=seen, scale=scale)
        mean = share @ near
        wanted = mean - (asked - centre)
        if products is None:
            slope = solve_rows(share, near, mean, wanted, ridge, iterations, tolerance)
        else:
            moment = (share @ products[:, :, :reach]).unflatten(-1, (key.shape[-1], -1))
            covariance = moment - mean[..., :, None] * mean[..., None, :]
            size = share @ near.square().sum(-1, keepdim=True)
            slope = solve_directly(covariance, wanted, ridge, size)
        along = slope @ near.transpose(-1, -2) - (slope * mean).sum(-1, keepdim=True)
        blocks.append((share * (1 - along)) @ value[:, :, :reach])
    return torch.cat(blocks, dim=-2).to(dtype)


def solve_directly(covariance: Tensor, wanted: Tensor, ridge: float, size: Tensor) -> Tensor:
    """Solve (covariance + ridge) x = wanted, at ridge 0 with the least norm.

    Parameters
    ----------
    covariance, wanted : Tensor
        (..., dim, dim), symmetric and positive semidefinite, and (..., dim).
    ridge : float
        At least 0.
    size : Tensor
        Mean squared length of the keys (..., 1): what the covariance's rounding is relative to.
    """
    dim = covariance.shape[-1]
    if ridge == 0:
        # Fewer keys than dim + 1, or weights on few, leave directions whose spread is rounding.
        cutoff = 100 * dim * torch.finfo(covariance.dtype).eps * size[..., 0].detach()
        inverse: Tensor = torch.linalg.pinv(covariance, atol=cutoff, hermitian=True)
        return (inverse @ wanted[..., None])[..., 0]
    eye = torch.eye(dim, dtype=covariance.dtype, device=covariance.device)
    solved: Tensor = torch.linalg.solve(covariance + ridge * eye, wanted[..., None])
    return solved[..., 0]


def centre_of(key: Tensor, mask: Tensor | None) -> Tensor:
    """Return a mean of the keys that some query sees; no gradient, as the read does not move."""
    if mask is None:
        return key.detach().mean(-2, keepdim=True)
    seen = mask.any(-2)[..., None]
    count = seen.expand(-1, -1, key.shape[-2], 1).sum(-2, keepdim=True).clamp_min(1)
    return key.detach().masked_fill(~seen, 0.0).sum(-2, keepdim=True) / count


def by_triton(query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Tensor:
    """Do what :func:`chunked_local_linear` does in our Triton kernel, imported when needed."""
    from neuroattn.attention import triton_local_linear

    return triton_local_linear.local_linear(query, key, value, **given)


def refuses_triton(request: Request) -> str:
    """Say why our kernel cannot serve a request, or ""."""
    if request.dtype == torch.float64:
        return "it accumulates in float32; float64 goes through the reference"
    if request.dim > 128:
        return f"it takes heads of at most 128 channels, not {request.dim}"
    return "conjugate gradients need ridge above 0" if request.parameters["ridge"] == 0 else ""


def _costly(request: Request) -> str:
    """Say why ``"auto"`` leaves our kernel for the reference."""
    if request.gradient:
        return "its backward pass is the reference's"
    single = request.dtype == torch.float32
    return "it solves in float32, the reference in float64; ask for it by name" if single else ""


def _check(ridge: float, solver: str) -> None:
    if solver == ITERATIVE and ridge == 0:
        raise InputError(
            f"solver={ITERATIVE!r} needs ridge above 0, {ridge} came: rows with few keys have no "
            "other unique slope; solver='direct' takes it."
        )


def _products(key: Tensor) -> Tensor:
    """Return every key's products with itself (batch, heads, keys, dim · dim)."""
    return (key[..., :, None] * key[..., None, :]).flatten(-2)


def _block_mask(mask: Tensor | None, rows: slice, reach: int) -> Tensor | None:
    if mask is None:
        return None
    if mask.shape[-2] > 1:
        mask = mask[:, :, rows]
    return mask[..., :reach] if mask.shape[-1] > 1 else mask


def _many_pairs(request: Request) -> str:
    pairs = request.queries * request.keys * request.dim
    return f"{pairs:,} differences of keys would be held at once" if pairs > 2**16 else ""


register(
    Mechanism(
        name="local_linear",
        family="regression",
        paper="Zuo et al. (2026), Local linear attention, definition of the estimator; "
        "arXiv 2510.01450",
        summary="Each query fits a plane to keys and values, weighted as in softmax, and reads it.",
        formula=r"y_i = \sum_j p_{ij} \bigl(1 - (k_j - \bar k_i)^\top r_i\bigr) v_j, \quad "
        r"r_i = (\operatorname{Cov}_{p_i}(k) + \lambda I)^{-1} (\bar k_i - q_i), \quad "
        r"p_i = \operatorname{softmax}(s\,K q_i), \; \bar k_i = K^\top p_i",
        runs=(
            Run(
                "parallel",
                "triton",
                by_triton,
                half=True,
                refuses=refuses_triton,
                avoids=_costly,
            ),
            Run("parallel", "reference", local_linear, avoids=_many_pairs),
            Run("chunked", "reference", chunked_local_linear),
        ),
        weights=local_linear_weights,
        parameters={
            "ridge": number("penalty on the slope; at 0 the slope of least norm", 0.01, 0),
            "solver": choice(
                "how the chunked form finds the slope; the kernel always iterates",
                "direct",
                ITERATIVE,
            ),
            "iterations": integer("most iterations of conjugate gradients", 32, 1),
            "tolerance": number("relative residual at which they stop", 1e-8, 0),
            "chunk_size": integer("queries a block", 64, 1),
        },
        cost="time O(m n d²) direct, O(m n d) an iteration; memory O(m n + (m + n) d²) direct, "
        "O(m n) by conjugate gradients, O(chunk n) without gradients",
        laws={
            "test_reads_the_intercept_of_a_weighted_ridge_regression": (
                "Equals weighted ridge least squares with an unpenalised intercept; broken by a "
                "ridge that is not multiplied by the sum of weights, or that shrinks the intercept."
            ),
            "test_equals_the_definition_by_differences_to_the_query": (
                "Equals the paper's w(1 − (k − q)·ρ)/(ω − μ·ρ); broken by a slope around q."
            ),
            "test_weights_sum_to_one_and_meet_the_query_at_ridge_zero": (
                "Weights sum to 1 and their mean key is the query; broken by a wrong sign."
            ),
            "test_affine_functions_are_read_exactly_where_softmax_errs": (
                "Affine functions are exact at ridge 0; broken by the bias that softmax has."
            ),
            "test_a_large_ridge_is_softmax_and_scale_zero_is_least_squares": (
                "Between softmax and linear regression; broken by a scale of zero taken for none."
            ),
            "test_golden_weights_are_negative_beyond_the_keys": (
                "Golden weights, some negative; broken by a clamp or a second normaliser."
            ),
            "test_conjugate_gradients_find_the_direct_solution": (
                "Both solvers agree; broken by a product that forgets the mean of the keys."
            ),
            "test_bias_at_a_boundary_is_of_second_order": (
                "Bias O(h²) at a boundary, O(h) for softmax; broken by a lost correction."
            ),
        },
        symbols={
            "λ": "ridge",
            "ω, μ, Σ": "sum of weights, of differences k − q, and of their products",
            "ρ": "slope around the query; ours, r, is around the mean key",
        },
    )
)
