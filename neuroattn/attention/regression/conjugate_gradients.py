"""Conjugate gradients on the weighted covariance of keys, one system a query, no covariance formed.

A product with the covariance of query i is two passes of the size of an attention:
``Σ_j p_ij (k_j − k̄_i) ((k_j − k̄_i) · x_i)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Linear = Callable[[Tensor], Tensor]


def solve_rows(
    share: Tensor,
    key: Tensor,
    mean: Tensor,
    wanted: Tensor,
    ridge: float,
    iterations: int,
    tolerance: float,
) -> Tensor:
    """Solve (covariance of the keys under ``share`` + ridge) x = ``wanted`` for every query.

    Gradients solve the same systems again instead of passing through the iterations, so that
    nothing is kept of them.

    Parameters
    ----------
    share : Tensor
        Weights (batch, heads, queries, keys), each row of sum 1 or 0.
    key, mean, wanted : Tensor
        (batch, heads, keys, dim); its mean under ``share`` and the right-hand sides, both
        (batch, heads, queries, dim).
    ridge : float
        Above 0.
    iterations, tolerance : int, float
        Most iterations, and the residual, relative to the right-hand side, that is small enough.
    """

    def solve(target: Tensor) -> Tensor:
        fixed = _product(share.detach(), key.detach(), mean.detach(), ridge)
        return _iterate(fixed, target, iterations, tolerance)

    found = solve(wanted.detach())
    if not (torch.is_grad_enabled() and wanted.requires_grad):
        return found
    residual = wanted - _product(share, key, mean, ridge)(found)
    correction: Tensor = _Inverse.apply(residual, solve)  # type: ignore[no-untyped-call]
    return found + correction


def _product(share: Tensor, key: Tensor, mean: Tensor, ridge: float) -> Linear:
    def multiply(rows: Tensor) -> Tensor:
        along = rows @ key.transpose(-1, -2) - (rows * mean).sum(-1, keepdim=True)
        # The weights of ``along`` sum to nothing: the mean need not be taken off the keys again.
        return (share * along) @ key + ridge * rows

    return multiply


@torch.no_grad()
def _iterate(multiply: Linear, target: Tensor, iterations: int, tolerance: float) -> Tensor:
    found = torch.zeros_like(target)
    residual = direction = target
    square = (residual * residual).sum(-1, keepdim=True)
    enough = tolerance**2 * square
    for _ in range(iterations):
        if bool((square <= enough).all()):
            break
        product = multiply(direction)
        curvature = (direction * product).sum(-1, keepdim=True)
        # A row that is done has no direction left; it rests.
        step = torch.where(curvature > 0, square / curvature, 0.0)
        found = found + step * direction
        residual = residual - step * product
        before, square = square, (residual * residual).sum(-1, keepdim=True)
        direction = residual + torch.where(before > 0, square / before, 0.0) * direction
    return found


class _Inverse(torch.autograd.Function):
    """The solution for a right-hand side that is zero but for rounding; its gradient is solved."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, solve: Linear) -> Tensor:
        ctx.solve = solve
        return torch.zeros_like(residual)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.solve(gradient), None
