"""State spaces of the mechanisms whose memory fades: diagonal Λ."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuroattn.attention.linear.decay import schedule
from neuroattn.theory.dynamics.accumulating import plain
from neuroattn.theory.dynamics.space import StateSpace


def each_token(given: float | Tensor, key: Tensor) -> Tensor:
    """Return a number or a tensor with axes of size 1 as (batch, heads, tokens, 1)."""
    if not isinstance(given, Tensor):
        given = key.new_full((1, 1, 1), float(given))
    return given.to(key).expand(key.shape[:3])[..., None]


def fixed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    *,
    mechanism: str,
    decay: float | str | Tensor,
    layer: int,
    layers: int,
    normalize: bool = False,
    **_: Any,
) -> StateSpace:
    """Retention and Lightning Attention: one decay a head."""
    if isinstance(decay, str):
        decay = schedule(decay, query.shape[1], layer, layers)
    shaped = decay[None, :, None] if isinstance(decay, Tensor) else decay
    kept, asked = each_token(shaped, key), query * scale
    if normalize:
        # What is left of the keys, and of ones: the paper's two normalisers.
        lag = torch.arange(key.shape[2])
        left = (kept[..., :1, :] ** (lag[:, None] - lag).clamp(min=0)).tril()
        root = left.sum(-1, keepdim=True).sqrt()
        total = ((asked @ key.transpose(-1, -2)) * left).sum(-1, keepdim=True)
        asked = asked / root / (total / root).abs().clamp(min=1.0)
    note = "Σ γ^(i-j) k_j v_j, each channel"
    return plain(mechanism, value, kept.expand_as(key), key, asked, note=note)


def retention(query: Tensor, *tensors: Any, **given: Any) -> StateSpace:
    """Retention: scale 1/√dim."""
    key, value, scale = tensors
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return fixed(query, key, value, scale, mechanism="retention", **given)


def lightning(query: Tensor, *tensors: Any, **given: Any) -> StateSpace:
    """Lightning Attention: scale 1."""
    key, value, scale = tensors
    scale = 1.0 if scale is None else scale
    return fixed(query, key, value, scale, mechanism="lightning", **given)


def ssd(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    *,
    alpha: float | Tensor,
    beta: float | Tensor,
    **_: Any,
) -> StateSpace:
    """One retention and one input gate a token."""
    asked = query if scale is None else query * scale
    kept = each_token(alpha, key).expand_as(key)
    note = "Σ (α_(j+1) ⋯ α_i) β_j k_j v_j, each channel"
    return plain("ssd", value, kept, each_token(beta, key) * key, asked, note=note)


def s6(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    *,
    step: float | Tensor,
    rate: float | Tensor,
    **_: Any,
) -> StateSpace:
    """Let every state of every channel decay at its own rate."""
    steps = torch.as_tensor(step, dtype=value.dtype).expand(value.shape)[..., None]
    rates = torch.as_tensor(rate, dtype=value.dtype)
    rates = rates.expand(value.shape[1], key.shape[-1], value.shape[-1]).transpose(-1, -2)
    asked = query if scale is None else query * scale
    return StateSpace(
        "s6",
        value,
        (-steps * rates[:, None]).exp(),
        steps * key[:, :, :, None],
        asked[:, :, :, None],
        value.new_zeros(1, 1, value.shape[2], 1),
        value.new_zeros(*value.shape[:2], value.shape[-1], key.shape[-1]),
        note="the memory (dim, value_dim), every entry with its own decay",
    )
