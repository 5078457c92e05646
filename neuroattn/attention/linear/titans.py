"""Titans with a linear memory: the delta rule with momentum and forgetting."""

from __future__ import annotations

from math import nan
from typing import Any

import torch
from torch import Tensor, nn

from neuroattn.attention.linear.accumulate import started
from neuroattn.attention.linear.delta import ALPHA, NORMALIZE_KEYS, GatedWriteStrength
from neuroattn.attention.linear.delta_engine import (
    CHUNK_SIZE,
    Gates,
    chunked,
    diagonal,
    explicit,
    few_tokens,
    per_token,
    scaled,
    strength,
    unit,
)
from neuroattn.attention.parameters import choice, number
from neuroattn.attention.registry import Mechanism, Run, State, register

_AXES = (("batch", "heads", "keys"),)

BETA = number(
    "step on ½|Mᵀk - v|² (twice the paper's θ, whose loss has no ½); a repeated unit key is "
    "learned stably below 2 (1 + momentum)",
    1.0,
    0,
    axes=_AXES,
)
MOMENTUM = number("factor on the running sum of steps at every token", 0.0, 0, 1, axes=_AXES)

FROZEN = "chunk start"


def titans_rule(
    key: Tensor,
    mask: Tensor | None,
    *,
    beta: float | Tensor,
    alpha: float | Tensor,
    momentum: float | Tensor,
    normalize_keys: bool,
) -> tuple[Tensor, Gates]:
    """Return the keys and gates of S ← η S + β k (v - Mᵀk)ᵀ, M ← α M + S."""
    step = strength(beta, key, mask)
    gates = Gates(per_token(alpha, key), step, step, per_token(momentum, key))
    return unit(key, normalize_keys), gates


def _begun(state: State | None, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return memory, momentum, memory at the block's start, and tokens of the block so far."""
    shape = (key.shape[-1], value.shape[-1])
    memory, momentum = started(state, value, {"memory": shape, "momentum": shape})
    if state is None or "place" not in state:
        return memory, momentum, memory, 0
    (start,) = started(state, value, {"start": shape})
    return memory, momentum, start, int(state["place"])


def _ended(memory: Tensor, momentum: Tensor, start: Tensor, place: int, frozen: bool) -> State:
    state = {"memory": memory, "momentum": momentum}
    if frozen:
        state |= {"start": start, "place": memory.new_tensor(float(place))}
    return state


def recurrent_titans(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    scale: float | None,
    gradient: str,
    chunk_size: int,
    initial_state: State | None = None,
    **given: Any,
) -> tuple[Tensor, State]:
    """Write and read token by token.

    Parameters
    ----------
    query, key, value, causal, mask, scale, initial_state
        As in :func:`neuroattn.attention.attend`.
    gradient, chunk_size
        Of which memory the error is taken; with ``"chunk start"`` of the last one whose number
        of tokens is a multiple of ``chunk_size``.
    **given
        What :func:`titans_rule` takes.

    Returns
    -------
    tuple of Tensor and dict
        Output (batch, heads, queries, value_dim) and state.
    """
    query = scaled(query, scale)
    key, gates = titans_rule(key, mask, **given)
    retain, step, _, carry = (x[..., None, None] for x in gates if x is not None)
    memory, moving, start, place = _begun(initial_state, key, value)
    frozen = gradient == FROZEN
    reads = [value.new_zeros(*value.shape[:2], 0, value.shape[-1])]
    for token in range(key.shape[-2]):
        now = key[:, :, token, None]
        error = value[:, :, token, None] - now @ (start if frozen else memory)
        change = now.transpose(-1, -2) * (step[:, :, token] * error)
        moving = carry[:, :, token] * moving + change
        memory = retain[:, :, token] * memory + moving
        place = (place + 1) % chunk_size
        start = memory if place == 0 else start
        if causal:
            reads.append(query[:, :, token, None] @ memory)
    output = torch.cat(reads, dim=-2) if causal else query @ memory
    return output, _ended(memory, moving, start, place, frozen)


def chunked_titans(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    scale: float | None,
    gradient: str,
    chunk_size: int,
    initial_state: State | None = None,
    **given: Any,
) -> tuple[Tensor, State]:
    """Do what :func:`recurrent_titans` does in blocks, as matrix products."""
    query = scaled(query, scale)
    key, gates = titans_rule(key, mask, **given)
    memory, moving, start, place = _begun(initial_state, key, value)
    ways: dict[str, Any] = {"causal": causal, "chunk_size": chunk_size}
    if gradient != FROZEN:
        found = chunked(query, key, value, gates, (memory, moving), **ways)
        memory, moving = found.states
        return found.output, _ended(memory, moving, start, 0, frozen=False)
    # What is left of a block that has begun: its errors are known before.
    left = min(chunk_size - place, key.shape[-2]) if place else 0
    reads = []
    if left:
        first = gates.part(0, left)
        first = first._replace(erase=torch.zeros_like(first.erase))
        error = value[:, :, :left] - key[:, :, :left] @ start
        asked = query[:, :, :left] if causal else query
        found = chunked(asked, key[:, :, :left], error, first, (memory, moving), **ways)
        reads.append(found.output)
        memory, moving = found.states
        place = (place + left) % chunk_size
        start = memory if place == 0 else start
    rest = key.shape[-2] - left
    if rest or not left:
        asked = query[:, :, left:] if causal else query
        others, targets = key[:, :, left:], value[:, :, left:]
        last = gates.part(left)
        found = chunked(asked, others, targets, last, (memory, moving), **ways, frozen=True)
        reads.append(found.output)
        memory, moving = found.states
        place = rest % chunk_size
        start = found.last_start[0] if place else memory
    output = torch.cat(reads, dim=-2) if causal else reads[-1]
    return output, _ended(memory, moving, start, place, frozen=True)


def _whole(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    *,
    causal: bool,
    mask: Tensor | None,
    scale: float | None,
    gradient: str,
    chunk_size: int,
    **given: Any,
) -> Tensor:
    key, gates = titans_rule(key, mask, **given)
    right = diagonal(gates.write, key) if value is None else gates.write[..., None] * value
    block = chunk_size if gradient == FROZEN else 1
    return explicit(scaled(query, scale), key, right, gates, causal=causal, block=block)


def parallel_titans(query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Tensor:
    """Do what :func:`recurrent_titans` does from an empty memory in one triangular solve."""
    return _whole(query, key, value, **given)


def titans_weights(query: Tensor, key: Tensor, **given: Any) -> Tensor:
    """Return the explicit weights (batch, heads, queries, keys)."""
    return _whole(query, key, None, **given)


class SurpriseGates(GatedWriteStrength):
    """Step, retention and momentum from every token and head.

    Parameters
    ----------
    dim, heads, token_dim : int
        As in :class:`Learned`.
    """

    def __init__(self, dim: int, heads: int, token_dim: int) -> None:
        super().__init__(dim, heads, token_dim)
        self.momentum = nn.Linear(token_dim, heads)

    def of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return ``beta``, ``alpha`` and ``momentum``, all (batch, heads, tokens)."""
        momentum = self.momentum(tokens).sigmoid().transpose(1, 2)
        return {**super().of_tokens(tokens), "momentum": momentum}


register(
    Mechanism(
        name="titans",
        family="linear",
        paper="Behrouz, Zhong & Mirrokni (2024), Titans: learning to memorize at test time, "
        "equations 13 and 14 with a linear memory; for gradient='chunk start' section 3.2; arXiv "
        "2501.00663",
        summary="The delta rule as gradient descent with momentum on a memory that is decayed.",
        formula=r"S_t = \eta_t S_{t-1} + \beta_t k_t (v_t - M_{t-1}^\top k_t)^\top, \quad "
        r"M_t = \alpha_t M_{t-1} + S_t, \quad y_t = s\,M_t^\top q_t",
        runs=(
            Run("recurrent", "reference", recurrent_titans, stateful=True, avoids=few_tokens),
            Run("chunked", "reference", chunked_titans, stateful=True),
            Run("parallel", "reference", parallel_titans, order=nan),
        ),
        weights=titans_weights,
        parameters={
            "beta": BETA,
            "alpha": ALPHA,
            "momentum": MOMENTUM,
            "gradient": choice(
                "'each token': of the memory before the token, exactly, in every form; 'chunk "
                "start': of the memory before its block of chunk_size tokens, which is another "
                "mechanism (the paper's parallel training)",
                "each token",
                FROZEN,
            ),
            "normalize_keys": NORMALIZE_KEYS,
            "chunk_size": CHUNK_SIZE,
        },
        mask="keys",
        scale="1",
        cost="time O(n d²) and O(n c d) for blocks of c, memory O(d²) a state",
        laws={
            "test_without_momentum_and_forgetting_half_a_step_is_the_delta_rule": (
                "momentum = 0, alpha = 1 and θ = ½ (beta = 1) give delta with beta = 1; broken by "
                "the factor 2 of the gradient."
            ),
            "test_without_momentum_it_is_the_gated_delta_rule_with_the_error_first": (
                "momentum = 0 gives (αI - βkkᵀ)M + βkvᵀ; broken by an error taken after the decay."
            ),
            "test_heavy_ball_is_stable_up_to_one_plus_momentum": (
                "A repeated unit key converges iff θ < 1 + momentum, at the rate √momentum; broken "
                "by momentum on the memory instead of the step."
            ),
            "test_chunk_start_has_its_closed_form": (
                "With all gradients at M_0 the memory is the closed sum over them; broken by an "
                "initial momentum that is dropped."
            ),
            "test_gradients_at_the_chunk_start_are_another_mechanism": (
                "Equal to 'each token' for blocks of one token only; broken by either taken for "
                "the other."
            ),
        },
        symbols={
            "M_t": "memory, transposed",
            "S_t": "momentum of the state",
            "α_t": "1 - alpha",
            "θ_t": "beta / 2",
            "η_t": "momentum",
            "W_Q x, W_K x, W_V x": "query, key, value",
        },
        module=SurpriseGates,
    )
)
