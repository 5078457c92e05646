"""Conjugate gradients against solutions of the covariances that they do not form."""

from __future__ import annotations

import torch

from neuroattn.attention.regression.conjugate_gradients import solve_rows
from tests.tolerances import TOLERANCE


def systems(queries=5, keys=9, dim=6):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(2, 1, *shape, generator=generator, dtype=torch.float64)

    share, key, wanted = normal(queries, keys).softmax(-1), normal(keys, dim), normal(queries, dim)
    return [each.requires_grad_() for each in (share, key, wanted)]


def solved(share, key, wanted, ridge):
    """Solve with every covariance formed from its differences."""
    away = key[:, :, None] - (share @ key)[:, :, :, None]
    covariance = torch.einsum("bhqk,bhqkd,bhqke->bhqde", share, away, away)
    system = covariance + ridge * torch.eye(key.shape[-1], dtype=key.dtype)
    return torch.linalg.solve(system, wanted[..., None])[..., 0]


def test_solutions_and_every_gradient_equal_a_direct_solver():
    # Catches a gradient that misses the system's own dependence on weights and keys.
    share, key, wanted = systems()
    found = solve_rows(share, key, share @ key, wanted, 0.2, 30, 1e-14)
    direct = solved(share, key, wanted, 0.2)
    torch.testing.assert_close(found, direct, **TOLERANCE["float64"])
    leaves = (share, key, wanted)
    slopes = torch.autograd.grad(found.square().sum(), leaves)
    correct = torch.autograd.grad(direct.square().sum(), leaves)
    # Rows of weights sum to 1: a step that leaves them so has no part along ones.
    centred = [each - each.mean(-1, keepdim=True) for each in (slopes[0], correct[0])]
    for pair in zip((centred[0], *slopes[1:]), (centred[1], *correct[1:]), strict=True):
        torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-10)


def test_rows_stop_on_their_own_and_zero_stays_zero():
    # Catches zero divided by zero in a row that has converged, and one that has nothing to solve.
    share, key, wanted = (each.detach().clone() for each in systems())
    wanted[:, :, 2] = 0.0
    share[:, :, 3] = 0.0
    found = solve_rows(share, key, share @ key, wanted, 0.5, 50, 0.0)
    assert torch.isfinite(found).all()
    assert (found[:, :, 2] == 0).all()
    # Without weights the system is the ridge alone.
    torch.testing.assert_close(found[:, :, 3], wanted[:, :, 3] / 0.5, **TOLERANCE["float64"])


def test_as_many_iterations_as_dimensions_are_enough_and_nothing_is_kept_of_them():
    # Catches a direction that is not conjugate, and an iteration recorded for the backward pass.
    share, key, wanted = systems()
    found = solve_rows(share, key, share @ key, wanted, 0.2, 6, 0.0)
    torch.testing.assert_close(found, solved(share, key, wanted, 0.2), rtol=1e-8, atol=1e-9)
    counts = []
    for iterations in (2, 20):
        pending = [solve_rows(share, key, share @ key, wanted, 0.2, iterations, 0.0).grad_fn]
        seen = set()
        while pending:
            node = pending.pop()
            if node is not None and node not in seen:
                seen.add(node)
                pending += [each for each, _ in node.next_functions]
        counts.append(len(seen))
    assert counts[0] == counts[1]
