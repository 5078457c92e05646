"""Gated attention: a sigmoid gate on what softmax attention reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuroattn.attention.learned import Learned
from neuroattn.attention.parameters import choice, tensor
from neuroattn.attention.registry import Mechanism, Run, register
from neuroattn.attention.softmax.softmax import fused_softmax, softmax_attention, softmax_weights
from neuroattn.errors import InputError


def gated_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    gate: Tensor,
) -> Tensor:
    """Return sigmoid(gate) · softmax attention.

    Parameters
    ----------
    query, key, value, causal, mask, scale
        As in :func:`neuroattn.attention.attend`.
    gate : Tensor
        Logits (batch or 1, heads or 1, queries or 1, 1 or value_dim).

    References
    ----------
    Qiu et al. (2025), Gated attention for large language models, equation 5; arXiv 2505.06708.
    """
    read = softmax_attention(query, key, value, causal=causal, mask=mask, scale=scale)
    return gate.sigmoid() * read


def fused_gated(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    gate: Tensor,
) -> Tensor:
    """Do what :func:`gated_attention` does through ``scaled_dot_product_attention``."""
    read = fused_softmax(query, key, value, causal=causal, mask=mask, scale=scale)
    return gate.to(read.dtype).sigmoid() * read


def gated_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    gate: Tensor,
) -> Tensor:
    """Return the weights of a gate with one number a query and head; rows sum to the gate.

    Raises
    ------
    InputError
        If the gate has a number for every channel: no one matrix reads all channels then.
    """
    if gate.shape[-1] != 1:
        raise InputError(
            f"gated's gate has {gate.shape[-1]} channels, so that each channel has weights of its "
            "own; an explicit matrix needs (batch, heads, queries, 1), granularity='head'."
        )
    return gate.sigmoid() * softmax_weights(query, key, causal=causal, mask=mask, scale=scale)


class Gate(Learned):
    """The gate's logits, linear in the queries.

    Parameters
    ----------
    dim, heads, token_dim : int
        As in :class:`Learned`.
    granularity : {"head", "element"}
        One gate a query and head, or one for each of the head's channels too.
    """

    def __init__(self, dim: int, heads: int, token_dim: int, granularity: str = "head") -> None:
        super().__init__()
        self.heads = heads
        self.linear = nn.Linear(dim, heads if granularity == "head" else dim)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def of_queries(self, queries: Tensor) -> dict[str, Tensor]:
        """Return ``gate`` (batch, heads, queries, 1 or value_dim)."""
        logits: Tensor = self.linear(queries)
        return {"gate": torch.unflatten(logits, -1, (self.heads, -1)).transpose(1, 2)}


register(
    Mechanism(
        name="gated",
        family="softmax",
        paper="Qiu et al. (2025), Gated attention for large language models: non-linearity, "
        "sparsity, and attention-sink-free, equation 5; arXiv 2505.06708",
        summary="Softmax attention whose read is multiplied by a sigmoid gate of the query.",
        formula=r"y_i = \sigma(g_i) \odot \sum_j \mathrm{softmax}_j(s\,q_i \cdot k_j)\, v_j",
        runs=(
            Run("parallel", "sdpa", fused_gated, half=True),
            Run("parallel", "reference", gated_attention),
        ),
        weights=gated_weights,
        parameters={
            "gate": tensor(
                "logits of the gate, by head or by channel",
                ("batch", "heads", "queries", 1),
                ("batch", "heads", "queries", "value_dim"),
            )
        },
        cost="time O(m n d), memory O(m + n) fused; the gate adds O(m d)",
        laws={
            "test_a_wide_open_gate_is_softmax_and_a_closed_one_reads_nothing": (
                "Logits of +100 give softmax, of -100 zeros, of 0 half; broken by a gate on the "
                "logits or the weights before they are normalised."
            ),
            "test_the_gate_is_applied_to_each_channel_of_the_read": (
                "Each channel has its own gate; broken by a gate on the values, by key."
            ),
            "test_the_gate_lifts_the_rank_of_value_times_output": (
                "The map from a token to the output exceeds the rank of a head; broken by a gate "
                "that does not depend on the query."
            ),
        },
        symbols={"X W_θ": "gate", "Y": "what softmax reads", "Y'": "output"},
        module=Gate,
        options={"granularity": choice("one gate a head or a channel", "head", "element")},
    )
)
