"""State spaces of the mechanisms that correct what the memory holds: Λ is not diagonal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuroattn.errors import InputError
from neuroattn.theory.dynamics.accumulating import plain
from neuroattn.theory.dynamics.decaying import each_token
from neuroattn.theory.dynamics.space import StateSpace


def unit(key: Tensor, normalize: bool) -> Tensor:
    """Return the keys, divided by their lengths if asked for."""
    return key / key.norm(dim=-1, keepdim=True).clamp(min=1e-12) if normalize else key


def outer(key: Tensor) -> Tensor:
    """Return k kᵀ, (batch, heads, tokens, dim, dim)."""
    return key[..., :, None] * key[..., None, :]


def eye(like: Tensor) -> Tensor:
    """Return the unit matrix of the last axis."""
    return torch.eye(like.shape[-1], dtype=like.dtype)


def rule(
    mechanism: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    *,
    retain: Tensor,
    erase: Tensor,
    write: Tensor,
) -> StateSpace:
    """Return Λ = retain I - erase k kᵀ, B = write k, C = q; the gates (batch, …, tokens, 1)."""
    asked = query if scale is None else query * scale
    step = retain[..., None] * eye(key) - erase[..., None] * outer(key)
    note = "the memory (dim, value_dim), each value channel; Λ is symmetric, not diagonal"
    return plain(mechanism, value, step, write * key, asked, note=note)


def delta(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    *,
    beta: float | Tensor,
    normalize_keys: bool,
    **_: Any,
) -> StateSpace:
    """Λ = I - β k kᵀ."""
    step = each_token(beta, key)
    used = unit(key, normalize_keys)
    gates = {"retain": torch.ones_like(step), "erase": step, "write": step}
    return rule("delta", query, used, value, scale, **gates)


def gated_delta(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    *,
    beta: float | Tensor,
    alpha: float | Tensor,
    order: str,
    normalize_keys: bool,
    **_: Any,
) -> StateSpace:
    """Λ = α (I - β k kᵀ), or α I - β k kᵀ with the error first."""
    step, kept = each_token(beta, key), each_token(alpha, key)
    erase = kept * step if order == "decay first" else step
    used = unit(key, normalize_keys)
    return rule("gated_delta", query, used, value, scale, retain=kept, erase=erase, write=step)


def longhorn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    *,
    beta: float | Tensor,
    **_: Any,
) -> StateSpace:
    """Λ = (I + β k kᵀ)⁻¹."""
    step = each_token(beta, key)
    step = step / (1 + step * key.square().sum(-1, keepdim=True))
    gates = {"retain": torch.ones_like(step), "erase": step, "write": step}
    return rule("longhorn", query, key, value, scale, **gates)


def titans(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    *,
    beta: float | Tensor,
    alpha: float | Tensor,
    momentum: float | Tensor,
    gradient: str,
    normalize_keys: bool,
    chunk_size: int,
    **_: Any,
) -> StateSpace:
    """Memory and momentum; with gradients at the start of a chunk also the memory there."""
    used = unit(key, normalize_keys)
    step, kept, carried = (each_token(each, key)[..., None] for each in (beta, alpha, momentum))
    one = eye(key)
    pull = step * outer(used)
    write = step[..., 0] * used
    nothing = torch.zeros_like(write)
    asked = query if scale is None else query * scale
    if gradient == "each token":
        # M ← α M + S, S ← η S + β k (v - Mᵀk): both rows from the memory before the token.
        rows = [[kept * one - pull, carried * one], [-pull, carried * one]]
        written, note = [write, write], "memory and momentum, each value channel"
    else:
        fresh = torch.arange(key.shape[2]) % chunk_size == 0
        new = fresh.to(key.dtype)[:, None, None]
        start, old = -pull * new, -pull * (1 - new)
        rows = [
            [kept * one + start, carried * one, old],
            [start, carried * one, old],
            [new * one, 0 * one, (1 - new) * one],
        ]
        written = [write, write, nothing]
        note = "memory, momentum and the memory at the start of the chunk, each value channel"
    joined = torch.cat([torch.cat([x.expand_as(pull) for x in row], -1) for row in rows], -2)
    read = torch.cat([asked] + [nothing] * (len(rows) - 1), -1)
    return plain("titans", value, joined, torch.cat(written, -1), read, note=note)


def oja(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    *,
    beta: float | Tensor,
    target: str,
    normalize: bool,
    memory: Tensor | None,
    **_: Any,
) -> StateSpace:
    """Λ = I - η v vᵀ, driven by the keys: the delta rule with keys and values exchanged."""
    if target == "output":
        raise InputError(
            "oja with target='output' has no linear state-space form: it writes y = W k, so that "
            "the memory is of third order in itself; target='value' has one."
        )
    step = each_token(beta, value)
    if normalize:
        step = step / (1 + step * value.square().sum(-1, keepdim=True))
    first = key.new_zeros(*key.shape[:2], key.shape[-1], value.shape[-1])
    if memory is not None:
        first = memory.to(key).expand_as(first)
    shift = eye(value) - step[..., None] * outer(value)
    return plain(
        "oja",
        key,
        shift,
        step * value,
        torch.ones_like(value),
        initial=first,
        mixing=query if scale is None else query * scale,
        note="the memory transposed, a row of value_dim states for each channel of the keys, "
        "which are the input",
    )


def mesa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    *,
    ridge: float,
    alpha: float | Tensor,
    beta: float | Tensor,
    **_: Any,
) -> StateSpace:
    """Λ = α I; the regression is in C = (Σ c k kᵀ + λ)⁻¹ q."""
    asked = query if scale is None else query * scale
    kept, step = each_token(alpha, key), each_token(beta, key)
    gram, reads = torch.zeros_like(outer(key[:, :, 0])), []
    for token in range(key.shape[2]):
        here = step[:, :, token, :, None] * outer(key[:, :, token])
        gram = kept[:, :, token, :, None] * gram + here
        reads.append(torch.linalg.solve(gram + ridge * eye(key), asked[:, :, token, :, None]))
    read = torch.stack(reads, 2)[..., 0] if reads else asked
    note = "Σ c_ij k_j v_j, each channel; all earlier keys are in C"
    return plain("mesa", value, kept.expand_as(key), step * key, read, note=note)
