"""Softmax attention: a plain reference, and torch's fused kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from neuroattn.attention.flex import Score, entry, flex_read
from neuroattn.attention.masks import allowed, masked_softmax
from neuroattn.attention.parameters import tensor
from neuroattn.attention.registry import Mechanism, Request, Run, register
from neuroattn.errors import InputError

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
        Added to the logits, (batch or 1, heads or 1, queries or 1, keys or 1); -inf hides.

    References
    ----------
    Vaswani et al. (2017), Attention is all you need, equation 1.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (query * scale) @ key.transpose(-1, -2)
    bias, mask = _finite(bias, mask, logits.dtype)
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
    """Do what :func:`softmax_attention` does through ``scaled_dot_product_attention``.

    The kernels take a bias of the query's dtype only: another is rounded to it.
    """
    if causal and mask is None and bias is None and query.shape[-2] == key.shape[-2]:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    bias, mask = _finite(bias, mask, query.dtype)
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


def _finite(
    bias: Tensor | None, mask: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """Move what a bias of -inf hides into the mask: a row of -inf would have NaN gradients."""
    if bias is None:
        return None, mask
    bias = bias.to(dtype)
    hidden = bias.detach() == float("-inf")
    return bias.masked_fill(hidden, 0.0), ~hidden if mask is None else mask & ~hidden


def flex_softmax(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    bias: Tensor | None = None,
    **common: Any,
) -> Tensor:
    """Do what :func:`softmax_attention` does through FlexAttention; no bias is expanded."""
    return flex_read(query, key, value, score=None if bias is None else _plus(bias), **common)


def _plus(bias: Tensor) -> Score:
    at = entry(bias)

    def score(score: Tensor, image: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + at(image, head, query, key)

    return score


def _kernel_run(backend: str) -> Run:
    """Return the run of one of :data:`KERNELS`."""
    kernel = KERNELS[backend]

    def read(query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Tensor:
        try:
            with sdpa_kernel(kernel):
                return fused_softmax(query, key, value, **given)
        except RuntimeError as error:
            if "No available kernel" not in str(error):
                raise
            raise InputError(
                f"backend={backend!r} does not take query {tuple(query.shape)} and value "
                f"{tuple(value.shape)} of {query.dtype} on {query.device.type!r}; take "
                "backend='auto'. Torch's warnings say what its kernel lacks."
            ) from error

    return Run("parallel", backend, read, half=True, refuses=_refusals(backend))


def _refusals(backend: str) -> Callable[[Request], str]:
    """Return what a kernel cannot do, as far as torch says so beforehand."""

    def refuses(request: Request) -> str:
        bias = next((x for x in request.parameters.values() if isinstance(x, Tensor)), None)
        learned = bias is not None and bias.requires_grad
        cuda = request.device == "cuda"
        if backend == "sdpa-efficient" and request.dtype == torch.float64:
            return "it takes float32 and half precision, not torch.float64"
        if backend in ("sdpa-flash", "sdpa-cudnn") and learned:
            return "it passes no gradient to a bias"
        if backend != "sdpa-flash":
            return ""
        if request.dim != request.value_dim:
            return f"it needs value_dim = dim, not {request.value_dim} and {request.dim}"
        if cuda and request.dtype.itemsize != 2:
            return f"on CUDA it takes float16 and bfloat16, not {request.dtype}"
        uneven = request.causal and request.queries != request.keys
        if cuda and (request.masked or uneven or bias is not None):
            return "on CUDA it takes no mask and no bias, and causal reads of equal lengths only"
        return ""

    return refuses


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
            Run("parallel", "reference", softmax_attention),
            *(_kernel_run(backend) for backend in KERNELS),
            Run("parallel", "flex", flex_softmax, half=True),
        ),
        weights=softmax_weights,
        parameters={
            "bias": tensor(
                "added to the logits; -inf hides",
                ("batch", "heads", "queries", "keys"),
                optional=True,
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
