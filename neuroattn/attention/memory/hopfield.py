"""The modern Hopfield network: queries move towards stored keys before they read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from neuroattn.attention.masks import allowed
from neuroattn.attention.parameters import integer, number
from neuroattn.attention.registry import Mechanism, Run, register
from neuroattn.attention.softmax.softmax import fused_softmax, softmax_attention, softmax_weights


def energy(
    state: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return the energy that no step raises, (batch, heads, queries).

    E = -log(mean_j exp(β ξ·k_j))/β + ξ·ξ/2 + max_j ‖k_j‖²/2, at least 0; over the keys that a
    state may see, of which there must be one.

    Parameters
    ----------
    state, key : Tensor
        (batch, heads, queries, dim) and (batch, heads, keys, dim).
    causal, mask, scale
        As in :func:`neuroattn.attention.attend`.

    References
    ----------
    Ramsauer et al. (2021), Hopfield networks is all you need, equation 2; arXiv 2008.02217.
    """
    scale = state.shape[-1] ** -0.5 if scale is None else scale
    shape = (*state.shape[:3], key.shape[2])
    seen = allowed(shape[2], shape[3], causal, mask, state.device)
    hidden = torch.zeros(shape, dtype=torch.bool, device=state.device)
    hidden = hidden if seen is None else hidden | ~seen
    logits = (scale * state @ key.transpose(-1, -2)).masked_fill(hidden, -math.inf)
    count = (~hidden).sum(-1).to(state.dtype)
    lengths = key.square().sum(-1)[:, :, None].expand(shape).masked_fill(hidden, -math.inf)
    soft = (logits.logsumexp(-1) - count.log()) / scale
    return -soft + state.square().sum(-1) / 2 + lengths.amax(-1) / 2


def settle(
    read: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    *,
    steps: int,
    tolerance: float,
    **common: Any,
) -> Tensor:
    """Return the queries after ``steps - 1`` moves to the mean of the keys that they see.

    Parameters
    ----------
    read : callable
        Softmax attention, as :func:`softmax_attention`.
    query, key, steps, tolerance
        As in the mechanism ``hopfield``.
    **common
        ``causal``, ``mask`` and ``scale``.
    """
    moving: Tensor | None = None
    for _ in range(steps - 1):
        moved = read(query, key, key, **common)
        if tolerance == 0:
            query = moved
            continue
        # A query that has arrived stays, whatever the others of the batch still do.
        far = (moved - query).norm(dim=-1, keepdim=True) > tolerance
        query = moved if moving is None else torch.where(moving, moved, query)
        moving = far if moving is None else moving & far
        if not moving.any():
            break
    return query


def hopfield_weights(
    query: Tensor, key: Tensor, *, steps: int = 1, tolerance: float = 0.0, **common: Any
) -> Tensor:
    """Return the weights of the last step, (batch, heads, queries, keys).

    Parameters
    ----------
    query, key : Tensor
        (batch, heads, queries, dim) and (batch, heads, keys, dim).
    steps, tolerance, **common
        As in :func:`neuroattn.attention.attend`.

    References
    ----------
    Ramsauer et al. (2021), equation 3; arXiv 2008.02217.
    """
    state = settle(softmax_attention, query, key, steps=steps, tolerance=tolerance, **common)
    return softmax_weights(state, key, **common)


def _reading(read: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(
        query: Tensor, key: Tensor, value: Tensor, *, steps: int, tolerance: float, **common: Any
    ) -> Tensor:
        state = settle(read, query, key, steps=steps, tolerance=tolerance, **common)
        return read(state, key, value, **common)

    return run


register(
    Mechanism(
        name="hopfield",
        family="memory",
        paper="Ramsauer et al. (2021), Hopfield networks is all you need, equations 3 and 10; "
        "arXiv 2008.02217",
        summary="Each query moves for some steps to the softmax mean of the stored keys, then "
        "reads the values there.",
        formula=r"\xi \leftarrow K^\top \operatorname{softmax}(\beta K \xi)"
        r" \text{ (steps } - 1 \text{ times from } \xi = q_i),\quad "
        r"y_i = V^\top \operatorname{softmax}(\beta K \xi)",
        runs=(
            Run("parallel", "sdpa", _reading(fused_softmax)),
            Run("parallel", "reference", _reading(softmax_attention)),
        ),
        weights=hopfield_weights,
        parameters={
            "steps": integer("softmax reads, the last of them of the values", 1, 1),
            "tolerance": number(
                "a query stops once a move is no longer than this; 0 does all steps", 0.0, 0.0
            ),
        },
        cost="time O(steps m n d), memory O(m + n) fused, O(m n) with explicit weights",
        laws={
            "test_one_step_is_softmax_attention": (
                "One step is softmax attention; broken by a move too many."
            ),
            "test_the_energy_never_rises": (
                "No step raises the energy; broken by a step along the values, or by another "
                "scale in the moves than in the read."
            ),
            "test_stored_patterns_are_retrieved_from_noise": (
                "At a large scale a noisy pattern settles on the stored one; broken by moves "
                "that start from the query anew."
            ),
            "test_the_target_weight_follows_the_exponential_capacity": (
                "The weight of the target is 1/(1 + (N-1) e^-β E e^(βc)); broken by a scale that "
                "is divided by sqrt(dim) as well."
            ),
        },
        symbols={"β": "scale", "ξ": "query", "X, Y": "key", "update steps": "steps"},
    )
)
