"""Efficient attention: a softmax over channels of queries, one over positions of keys."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from neuroattn.attention.masks import masked_softmax, written
from neuroattn.attention.registry import Mechanism, Run, register


def _maps(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Return ρ_q (batch, heads, queries, dim) and ρ_k (batch, heads, dim, keys)."""
    seen = written(mask, key)
    over_positions = masked_softmax(
        key.transpose(-1, -2), None if seen is None else seen.transpose(-1, -2)
    )
    return (query if scale is None else query * scale).softmax(-1), over_positions


def efficient_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return the matrix ρ_q ρ_k (batch, heads, queries, keys) that is never made otherwise."""
    over_channels, over_positions = _maps(query, key, mask, scale)
    return over_channels @ over_positions


def efficient_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    **given: Any,
) -> Tensor:
    """Read the global context ρ_k v, one vector a channel, with ρ_q."""
    over_channels, over_positions = _maps(query, key, mask, scale)
    return over_channels @ (over_positions @ value)


register(
    Mechanism(
        name="efficient",
        family="linear",
        paper="Shen et al. (2021), Efficient attention: attention with linear complexities, "
        "with the softmax normalisation of queries and keys; arXiv 1812.01243",
        summary="Each channel of the keys averages the values once; queries mix these averages.",
        formula=r"y_i = \sum_c \frac{e^{s\,q_{ic}}}{\sum_{c'} e^{s\,q_{ic'}}} "
        r"\sum_j \frac{e^{k_{jc}}}{\sum_l e^{k_{lc}}} v_j",
        runs=(Run("parallel", "reference", efficient_attention, order=1.0),),
        weights=efficient_weights,
        causal=(False,),
        mask="keys",
        scale="1, on the query before its softmax",
        cost="time O((m + n) d v), memory O(d v); the softmax over positions needs all keys at "
        "once, hence no causal form, as published",
        laws={
            "test_every_number_equals_a_loop": (
                "The definition; broken by softmaxes that are exchanged."
            ),
            "test_the_implicit_matrix_is_a_mixture_of_low_rank": (
                "Weights not negative, rows that sum to 1, rank at most dim; broken by a softmax "
                "over the wrong axis."
            ),
            "test_one_channel_averages_all_values_alike_for_every_query": (
                "With dim = 1 no query differs; broken by a softmax over queries."
            ),
        },
        symbols={"ρ_q, ρ_k": "the softmax of queries and of keys", "G": "the context ρ_k v"},
    )
)
