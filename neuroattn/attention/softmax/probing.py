"""Efficient probing: one learned query a head reads the tokens whole, without key projections."""

from __future__ import annotations

from torch import Tensor

from neuroattn.attention.registry import Mechanism, Run, register
from neuroattn.attention.softmax.softmax import fused_softmax, softmax_attention, softmax_weights


def probing_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return each head's softmax weights, scaled for all heads together.

    Parameters
    ----------
    query : Tensor
        Probes (batch, heads, queries, dim), as wide as the tokens.
    key : Tensor
        The tokens, the same for every head (batch, heads, keys, dim).
    causal, mask
        As in :func:`neuroattn.attention.weights`.
    scale : float, optional
        (dim / heads)^(-1/2) by default: dim is the width of the whole tokens.

    References
    ----------
    Psomas et al. (2025), Attention, please! Revisiting attentive probing through the lens of
    efficiency, section 3; arXiv 2506.10178.
    """
    return softmax_weights(query, key, causal=causal, mask=mask, scale=_scale(query, scale))


def probing_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Read the values with :func:`probing_weights`."""
    scale = _scale(query, scale)
    return softmax_attention(query, key, value, causal=causal, mask=mask, scale=scale)


def fused_probing(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Do what :func:`probing_attention` does through ``scaled_dot_product_attention``."""
    scale = _scale(query, scale)
    return fused_softmax(query, key, value, causal=causal, mask=mask, scale=scale)


def _scale(query: Tensor, scale: float | None) -> float:
    return float((query.shape[-1] / query.shape[1]) ** -0.5) if scale is None else scale


register(
    Mechanism(
        name="probing",
        family="softmax",
        paper="Psomas et al. (2025), Attention, please! Revisiting attentive probing through the "
        "lens of efficiency, section 3; arXiv 2506.10178",
        summary="Each head matches its probe with the whole tokens and reads its own block of "
        "value channels.",
        formula=r"y_i^h = \sum_j \mathrm{softmax}_j\left( (d/m)^{-1/2}\, q_i^h \cdot x_j \right)"
        r" v_j^h",
        runs=(
            Run("parallel", "sdpa", fused_probing, half=True),
            Run("parallel", "reference", probing_attention),
        ),
        weights=probing_weights,
        scale="(dim / heads)^(-1/2), dim the width of the whole tokens",
        cost="time O(m n d) a head, memory O(m + n) fused; no key projection",
        laws={
            "test_it_equals_cross_attention_with_identities_as_key_projections": (
                "Equals explicit multi-head cross-attention with W_K = I in every head; broken by "
                "keys cut into slices, or a scale of 1/sqrt(dim)."
            ),
            "test_a_head_reads_its_own_block_of_value_channels": (
                "Head j pools block j of the values; broken by heads that are summed."
            ),
            "test_the_block_has_no_key_projection": (
                "Probes and values only are learned; broken by a key projection kept unused."
            ),
        },
        symbols={"A, a_j": "query", "m": "heads", "X": "key", "W_V": "value", "d": "dim"},
        projections=("query", "value", "output"),
        whole_key=True,
    )
)
