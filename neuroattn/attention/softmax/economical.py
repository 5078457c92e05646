"""Softmax attention with fewer projections: optimised, economical ("efficient") and super."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuroattn.attention.learned import Learned
from neuroattn.attention.masks import written
from neuroattn.attention.parameters import integer, tensor
from neuroattn.attention.registry import Mechanism, Run, register
from neuroattn.attention.softmax.softmax import fused_softmax, softmax_attention, softmax_weights
from neuroattn.errors import InputError


def super_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    alignment: Tensor,
) -> Tensor:
    """Return softmax attention to values that are mixed over the tokens first.

    Parameters
    ----------
    query, key, value, causal : Tensor, bool
        As in :func:`neuroattn.attention.attend`.
    mask : Tensor of bool, optional
        (batch or 1, heads or 1, 1, keys); a hidden key's value is not mixed into others.
    scale : float, optional
        As in :func:`neuroattn.attention.attend`.
    alignment : Tensor
        (keys, keys): row j mixes the values into the one at key j. Its lower triangle counts in
        a causal read.

    References
    ----------
    Hosseini & Hosseini (2024), You need to pay better attention, section 3; arXiv 2403.01643.
    """
    aligned = _aligned(value, causal, mask, alignment)
    return softmax_attention(query, key, aligned, causal=causal, mask=mask, scale=scale)


def fused_super(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    alignment: Tensor,
) -> Tensor:
    """Do what :func:`super_attention` does through ``scaled_dot_product_attention``."""
    aligned = _aligned(value, causal, mask, alignment)
    return fused_softmax(query, key, aligned, causal=causal, mask=mask, scale=scale)


def super_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    alignment: Tensor,
) -> Tensor:
    """Return the softmax weights times the alignment; rows need not sum to 1."""
    convex = softmax_weights(query, key, causal=causal, mask=mask, scale=scale)
    joined = convex @ _lower(alignment, key.shape[-2], causal)
    return joined if mask is None else joined * mask


def _aligned(value: Tensor, causal: bool, mask: Tensor | None, alignment: Tensor) -> Tensor:
    kept = written(mask, value)
    return _lower(alignment, value.shape[-2], causal) @ (value if kept is None else value * kept)


def _lower(alignment: Tensor, keys: int, causal: bool) -> Tensor:
    alignment = alignment.expand(keys, keys)
    return alignment.tril() if causal else alignment


class Alignment(Learned):
    """The alignment of the values, shared by the heads; it starts as the identity.

    Parameters
    ----------
    dim, heads, token_dim : int
        As in :class:`Learned`.
    length : int
        Largest number of tokens; shorter sequences use the first rows and columns.
    """

    def __init__(self, dim: int, heads: int, token_dim: int, length: int = 1024) -> None:
        super().__init__()
        self.alignment = nn.Parameter(torch.eye(length))

    def of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return ``alignment`` (keys, keys).

        Raises
        ------
        InputError
            If there are more tokens than ``length``.
        """
        count, most = tokens.shape[1], len(self.alignment)
        if count > most:
            raise InputError(
                f"attention='super' learned an alignment of length={most}, and {count} tokens "
                f"came; set length={count} or more among its parameters."
            )
        return {"alignment": self.alignment[:count, :count]}


SOFTMAX = (
    Run("parallel", "sdpa", fused_softmax, half=True),
    Run("parallel", "reference", softmax_attention),
)
PAPER = (
    "Hosseini & Hosseini (2024), You need to pay better attention: rethinking the mathematics of "
    "the attention mechanism, section 3; arXiv 2403.01643"
)

register(
    Mechanism(
        name="optimised",
        family="softmax",
        paper=PAPER,
        summary="Softmax attention without a projection of the values: heads read slices of the "
        "tokens.",
        formula=r"y_i^h = \sum_j \mathrm{softmax}_j(s\,q_i^h \cdot k_j^h)\, x_j^h",
        runs=SOFTMAX,
        weights=softmax_weights,
        cost="time O(m n d), memory O(m + n) fused; 3 d² weights instead of 4 d²",
        laws={
            "test_softmax_with_identities_for_the_dropped_projections_is_the_same": (
                "Equals softmax with W_V = I; broken by heads that all read the whole token."
            ),
            "test_the_number_of_weights_is_as_published": (
                "3 d² weights; broken by a projection that is kept and not used."
            ),
        },
        symbols={"W^Q, W^K, W^O": "query, key, output"},
        projections=("query", "key", "output"),
    )
)

register(
    Mechanism(
        name="economical",
        family="softmax",
        paper=PAPER,
        summary="Softmax attention without projections of keys and values (the paper's Efficient "
        "Attention, which has one head).",
        formula=r"y_i^h = \sum_j \mathrm{softmax}_j(s\,q_i^h \cdot x_j^h)\, x_j^h",
        runs=SOFTMAX,
        weights=softmax_weights,
        cost="time O(m n d), memory O(m + n) fused; 2 d² weights instead of 4 d²",
        laws={
            "test_softmax_with_identities_for_the_dropped_projections_is_the_same": (
                "Equals softmax with W_K = W_V = I; broken by heads that all read the whole token."
            ),
            "test_the_number_of_weights_is_as_published": (
                "2 d² weights; broken by a projection that is kept and not used."
            ),
        },
        symbols={"W^Q, W^O": "query, output"},
        projections=("query", "output"),
    )
)

register(
    Mechanism(
        name="super",
        family="softmax",
        paper=PAPER,
        summary="Economical attention to values that a learned matrix mixes over the tokens.",
        formula=r"y_i^h = \sum_j \mathrm{softmax}_j(s\,q_i^h \cdot x_j^h) \sum_l A_{jl}\, x_l^h",
        runs=(
            Run("parallel", "sdpa", fused_super, half=True),
            Run("parallel", "reference", super_attention),
        ),
        weights=super_weights,
        parameters={
            "alignment": tensor(
                "mixes the values over the tokens; its lower triangle in a causal read",
                ("keys", "keys"),
            )
        },
        mask="keys",
        cost="time O(m n d + n² d), memory O(m + n²) fused; 2 d² + L² weights",
        laws={
            "test_an_identity_as_alignment_is_economical": (
                "Equals economical at A = I; broken by an alignment applied from the right."
            ),
            "test_every_number_of_super_equals_loops_over_keys": (
                "Equals the double sum; broken by a transposed alignment, or by one that is not "
                "cut to its lower triangle in a causal read."
            ),
            "test_the_number_of_weights_is_as_published": (
                "2 d² + L² weights; broken by an alignment for each head."
            ),
        },
        symbols={"W^A": "alignment", "W^Q, W^O": "query, output", "ℓ": "length"},
        projections=("query", "output"),
        module=Alignment,
        options={"length": integer("largest number of tokens", 1024, 1)},
    )
)
