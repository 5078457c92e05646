"""Softmax attention: a plain reference, and torch's fused kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from neuroattn.attention.masks import allowed, masked_softmax
from neuroattn.attention.parameters import tensor
from neuroattn.attention.registry import Mechanism, Run, register

#: The kernels that can be asked for by name.
KERNELS = {
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-math": SDPBackend.MATH,
}


def softmax_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Return softmax(scale · q kᵀ + bias) over the allowed keys; rows without any are zero.

    Parameters
    ----------
    query, key : Tensor
        (batch, heads, queries, dim) and (batch, heads, keys, dim).
    causal, mask, scale
        As in :func:`neuroattn.attention.attend`.
    bias : Tensor, optional
        Added to the logits, (batch or 1, heads or 1, queries or 1, keys or 1).

    References
    ----------
    Vaswani et al. (2017), Attention is all you need, equation 1.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (query * scale) @ key.transpose(-1, -2)
    if bias is not None:
        logits = logits + bias
    seen = allowed(query.shape[-2], key.shape[-2], causal, mask, query.device)
    return masked_softmax(logits, seen)


def softmax_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Read the values with :func:`softmax_weights`."""
    return softmax_weights(query, key, causal=causal, mask=mask, scale=scale, bias=bias) @ value


def fused_softmax(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Do what :func:`softmax_attention` does through ``scaled_dot_product_attention``."""
    if causal and mask is None and bias is None and query.shape[-2] == key.shape[-2]:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    joined = allowed(query.shape[-2], key.shape[-2], causal, mask, query.device)
    if joined is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)
    # Fused kernels differ in what they give, and pass back, for a row that sees nothing.
    seen = joined.any(dim=-1, keepdim=True)
    joined = joined | ~seen
    if bias is not None:
        joined = torch.where(joined, bias, float("-inf"))
    read = F.scaled_dot_product_attention(query, key, value, attn_mask=joined, scale=scale)
    return read.masked_fill(~seen, 0.0)


def _with_kernel(kernel: SDPBackend) -> Callable[..., Tensor]:
    def run(query: Tensor, key: Tensor, value: Tensor, **given: object) -> Tensor:
        with sdpa_kernel(kernel):
            return fused_softmax(query, key, value, **given)  # type: ignore[arg-type]

    return run


register(
    Mechanism(
        name="softmax",
        family="softmax",
        paper="Vaswani et al. (2017), Attention is all you need, equation 1",
        summary="A convex mixture of the values, weighted by how well keys match the query.",
        formula=r"y_i = \sum_j \frac{e^{s\,q_i \cdot k_j + b_{ij}}}"
        r"{\sum_l e^{s\,q_i \cdot k_l + b_{il}}} v_j",
        runs=(
            Run("parallel", "sdpa", fused_softmax, half=True),
            Run("parallel", "reference", softmax_attention, half=True),
            *(Run("parallel", name, _with_kernel(KERNELS[name]), half=True) for name in KERNELS),
        ),
        weights=softmax_weights,
        parameters={
            "bias": tensor(
                "added to the logits", ("batch", "heads", "queries", "keys"), optional=True
            )
        },
        cost="time O(m n d), memory O(m + n) fused, O(m n) with explicit weights",
        laws={
            "test_outputs_and_gradients_equal_torch_on_both_backends": (
                "Equals torch's own attention; broken by a scale applied twice."
            ),
            "test_causal_attention_is_aligned_to_the_end": (
                "The last query sees the last key; broken by torch's is_causal at other lengths."
            ),
        },
        symbols={"Q, K, V": "query, key, value", "1/√d_k": "scale"},
    )
)
