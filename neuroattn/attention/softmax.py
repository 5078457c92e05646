"""Softmax attention: a plain reference, and torch's fused kernels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from neuroattn.attention.registry import Mechanism, allowed, register


def softmax_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return softmax(scale · q kᵀ) over the allowed keys; rows without any are zero.

    Parameters
    ----------
    query, key : Tensor
        (batch, heads, queries, dim) and (batch, heads, keys, dim).
    causal, mask, scale
        As in :func:`neuroattn.attention.attend`.

    References
    ----------
    Vaswani et al. (2017), Attention is all you need, equation 1.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (query * scale) @ key.transpose(-1, -2)
    mask = allowed(query.shape[-2], key.shape[-2], causal, mask, query.device)
    if mask is None:
        return logits.softmax(dim=-1)
    logits = logits.masked_fill(~mask, float("-inf"))
    empty = ~mask.any(dim=-1, keepdim=True)
    return logits.masked_fill(empty, 0.0).softmax(dim=-1).masked_fill(empty, 0.0)


def softmax_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Read the values with softmax weights; ``backend`` is ``"reference"`` or ``"sdpa"``."""
    if backend == "reference":
        return softmax_weights(query, key, causal=causal, mask=mask, scale=scale) @ value
    joined = allowed(query.shape[-2], key.shape[-2], causal, mask, query.device)
    if joined is None:
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    # Fused kernels differ in what they give, and pass back, for a row that sees nothing.
    seen = joined.any(dim=-1, keepdim=True)
    read = F.scaled_dot_product_attention(query, key, value, attn_mask=joined | ~seen, scale=scale)
    return read.masked_fill(~seen, 0.0)


register(
    Mechanism(
        name="softmax",
        family="softmax",
        paper="Vaswani et al. (2017), Attention is all you need, equation 1",
        forward=softmax_attention,
        weights=softmax_weights,
        causal=True,
        cross=True,
        forms=("parallel",),
        backends=("reference", "sdpa"),
        cost="time O(m n d), memory O(m + n) fused, O(m n) with explicit weights",
    )
)
