"""The kernels of flash-linear-attention behind our layout, scales, masks and states.

Its tensors are (batch, tokens, heads, dim), its scale is 1/√dim and its normaliser's default
differs from kernel to kernel; here all of them are given. Its kernels are causal: where every
query reads the end, the final state is read instead. The package is imported when a kernel runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from neuroattn.attention.linear.accumulate import divided, started
from neuroattn.attention.linear.features import features, never_negative, scale_of
from neuroattn.attention.masks import written
from neuroattn.attention.registry import Request, State

#: Retentions below this count as this: the kernels take logarithms.
LEAST = 1e-13

#: The reason why a kernel cannot serve a request, or "".
Refusal = Callable[[Request], str]


def coarse(request: Request) -> str:
    """Say why ``"auto"`` leaves these kernels for float32."""
    single = request.dtype == torch.float32
    return "its products of float32 are of TF32; ask for it by name" if single else ""


def refuses(request: Request) -> str:
    """Say why the kernels cannot serve a request, or ""."""
    if request.dtype == torch.float64:
        return "it accumulates in float32; float64 goes through the reference"
    if request.dim % 2 or request.value_dim % 2:
        return f"it takes even widths, not dim={request.dim}, value_dim={request.value_dim}"
    if request.parameters.get("normalize") and "decay" in request.parameters:
        return "it does not normalise scores"
    return ""


def refuses_linear(request: Request) -> str:
    """Say why ``linear`` cannot be served, or ""."""
    if request.parameters.get("center"):
        return "it does not centre"
    if request.parameters.get("feature_map") == "taylor":
        return "it takes as many features as channels, which feature_map='taylor' has not"
    return refuses(request)


def refuses_delta(request: Request) -> str:
    """Say why a delta rule cannot be served, or ""."""
    if request.dtype == torch.float32:
        return "its delta rules take float16 and bfloat16, not float32"
    if request.dim > 256:
        return f"its delta rules take heads of at most 256 channels, not {request.dim}"
    if request.parameters.get("order") == "error first":
        return "its gated delta rule measures the error after the decay; order='error first' is not"
    return refuses(request)


def decayed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    alpha: Tensor,
    *,
    scale: float,
    causal: bool,
    memory: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """Do what :func:`neuroattn.attention.linear.decayed.chunked` does with ``chunk_simple_gla``.

    A retention below 1e-13 counts as 1e-13, and has no gradient. The kernel has blocks of its
    own: ``chunk_size`` is not used.
    """
    from fla.ops.simple_gla import chunk_simple_gla

    logs = alpha.float().clamp(min=LEAST).log()
    if logs.shape[::2] == (1, 1) and not logs.requires_grad:
        # The kernel gives no gradient to one decay a head.
        gates: dict[str, Any] = {"g_gamma": logs[0, :, 0].expand(key.shape[1]).contiguous()}
    else:
        gates = {"g": _tokens_first(logs.expand(key.shape[:3]))}
    return _read(chunk_simple_gla, query, key, value, memory, scale=scale, causal=causal, **gates)


def linear(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    scale: float | None,
    initial_state: State | None,
    feature_map: str,
    order: int,
    normalize: bool,
    center: bool,
    chunk_size: int,
) -> tuple[Tensor, State]:
    """Read the mechanism ``linear`` with ``chunk_linear_attn``, un-normalised.

    The normaliser is ours, in float32: the package sums keys in their own precision.
    """
    from fla.ops.linear_attn import chunk_linear_attn

    scale = scale_of(feature_map, query.shape[-1], scale)
    asked = features(query.float() * scale, feature_map, order)
    keyed, value = _hidden(mask, features(key.float(), feature_map, order), value)
    memory, normalizer = started(
        initial_state,
        keyed,
        {"memory": (keyed.shape[-1], value.shape[-1]), "normalizer": (keyed.shape[-1],)},
    )
    tensors = asked.to(query), keyed.to(key), value, memory
    read, memory = _read(chunk_linear_attn, *tensors, scale=1.0, causal=causal, normalize=False)
    sums = normalizer[:, :, None] + keyed.cumsum(2)
    last = sums[:, :, -1] if keyed.shape[2] else normalizer
    if normalize:
        total = asked * (sums if causal else last[:, :, None])
        positive = never_negative(feature_map, order)
        read = divided(read.float(), total.sum(-1, keepdim=True), positive).to(query)
    return read, {"memory": memory, "normalizer": last}


def ruled(rule: Callable[..., tuple[Tensor, Any]]) -> Callable[..., tuple[Tensor, State]]:
    """Return the run of a delta rule on ``chunk_delta_rule`` or ``chunk_gated_delta_rule``.

    Parameters
    ----------
    rule : callable
        ``rule(key, mask, **parameters)`` to the keys that are used and their gates, see
        :func:`neuroattn.attention.linear.delta.runs_of`. The gated kernel is taken where the
        mechanism has a parameter ``alpha``.
    """

    def run(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        causal: bool,
        mask: Tensor | None,
        scale: float | None,
        initial_state: State | None,
        chunk_size: int,
        **given: Any,
    ) -> tuple[Tensor, State]:
        used, gates = rule(key.float(), mask, **given)
        named = {"beta": _gate(gates.write, key)}
        if "alpha" in given:
            from fla.ops.gated_delta_rule import chunk_gated_delta_rule as kernel

            named["g"] = _gate(gates.retain, key).clamp(min=LEAST).log()
        else:
            from fla.ops.delta_rule import chunk_delta_rule as kernel

        memory = None
        if initial_state is not None:
            shape = (key.shape[-1], value.shape[-1])
            (memory,) = started(initial_state, used, {"memory": shape})
        used, value = _hidden(mask, used.to(key), value)
        scale = 1.0 if scale is None else scale
        tensors = query, used, value, memory
        read, memory = _read(kernel, *tensors, scale=scale, causal=causal, **named)
        return read, {"memory": memory}

    return run


def _hidden(mask: Tensor | None, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    seen = written(mask, key)
    if seen is None:
        return key, value
    return key.masked_fill(~seen, 0.0), value.masked_fill(~seen, 0.0)


def _tokens_first(each: Tensor) -> Tensor:
    return each.transpose(1, 2).contiguous()


def _gate(each: Tensor, key: Tensor) -> Tensor:
    """Return a gate (batch or 1, heads or 1, keys) as (batch, keys, heads)."""
    return _tokens_first(each.float().expand(key.shape[:3]))


def _read(
    kernel: Callable[..., tuple[Tensor, Tensor]],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    memory: Tensor | None,
    *,
    scale: float,
    causal: bool,
    **named: Any,
) -> tuple[Tensor, Tensor]:
    """Run a kernel on our layout; return the read and the final state (float32)."""
    asked = query if causal else key
    read, state = kernel(
        q=_tokens_first(asked),
        k=_tokens_first(key),
        v=_tokens_first(value),
        scale=scale,
        initial_state=None if memory is None else memory.float().contiguous(),
        output_final_state=True,
        **named,
    )
    if causal:
        return read.transpose(1, 2), state
    return (scale * query.float() @ state).to(query.dtype), state
