"""Mixture-of-heads attention: a router chooses which heads count for a query, and how much."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neuroattn.attention.learned import Learned
from neuroattn.attention.parameters import integer, tensor
from neuroattn.attention.registry import Mechanism, Run, register
from neuroattn.attention.softmax.softmax import fused_softmax, softmax_attention, softmax_weights
from neuroattn.errors import InputError


def head_gates(
    router: Tensor,
    heads: int,
    shared: int = 0,
    top: int | None = None,
    balance: Tensor | None = None,
) -> Tensor:
    """Return the gates (batch, heads, queries), which sum to ``shared + top`` over the heads.

    The first ``shared`` heads always count, of the others the ``top`` with the largest logits.
    Within either group the gates are a softmax of the logits times the group's size, the routed
    ones renormalised over those chosen; equal logits give gates of 1.

    Parameters
    ----------
    router : Tensor
        Logits (batch, heads or 1, queries).
    heads, shared, top : int
        Number of heads, of those always on, and of routed ones chosen; half of the routed heads,
        rounded up, by default.
    balance : Tensor, optional
        Logits (batch, 2, queries) of the two groups, whose softmax times 2 weighs them; it counts
        where there are shared heads.

    Raises
    ------
    InputError
        If there are fewer heads than shared and chosen ones.
    """
    shared, top = _counted(heads, shared, top)
    router = router.expand(-1, heads, -1)
    probability = router[:, shared:].softmax(dim=1)
    chosen = probability.topk(top, dim=1).indices
    kept = torch.zeros_like(probability, dtype=torch.bool).scatter(1, chosen, True)
    # The softmax over those chosen is their probability, renormalised, and cannot divide by 0.
    routed = top * router[:, shared:].masked_fill(~kept, float("-inf")).softmax(dim=1)
    if not shared:
        return routed
    always = shared * router[:, :shared].softmax(dim=1)
    if balance is not None:
        share = 2 * balance.softmax(dim=1)
        always, routed = share[:, :1] * always, share[:, 1:] * routed
    return torch.cat([always, routed], dim=1)


def balance_loss(router: Tensor, shared: int = 0, top: int | None = None) -> Tensor:
    """Return how unevenly the routed heads are used: mean(f · P) · E², ``top`` where all are alike.

    f is the fraction of queries that choose a head, P its mean probability and E the number of
    routed heads; the gradient passes through P. Add it, times about 0.01, to the training loss.

    Parameters
    ----------
    router : Tensor
        Logits (batch, heads, queries).
    shared, top : int
        As in :func:`head_gates`.

    References
    ----------
    Jin et al. (2024), MoH: multi-head attention as mixture-of-head attention, equation 7; arXiv
    2410.11842.
    """
    shared, top = _counted(router.shape[1], shared, top)
    probability = router[:, shared:].softmax(dim=1)
    chosen = probability.topk(top, dim=1).indices
    kept = torch.zeros_like(probability).scatter(1, chosen, 1.0)
    used, likely = kept.mean(dim=(0, 2)), probability.mean(dim=(0, 2))
    return (used * likely).mean() * len(used) ** 2


def _counted(heads: int, shared: int, top: int | None) -> tuple[int, int]:
    routed = heads - shared
    chosen = (routed + 1) // 2 if top is None else top
    if routed < 1 or chosen > routed:
        raise InputError(
            f"mixture_of_heads: shared={shared} and top={top} of heads={heads}; at least one head "
            "must be routed, and top must be at most heads - shared."
        )
    return shared, chosen


def _gates(query: Tensor, router: Tensor, choice: dict[str, Any]) -> Tensor:
    return head_gates(router, query.shape[1], **choice)[..., None]


def mixed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    router: Tensor,
    **choice: Any,
) -> Tensor:
    """Return each head's softmax attention times its gate, see :func:`head_gates`.

    Parameters
    ----------
    query, key, value, causal, mask, scale
        As in :func:`neuroattn.attention.attend`.
    router : Tensor
        Logits (batch or 1, heads or 1, queries or 1).
    **choice
        ``shared``, ``top`` and ``balance`` of :func:`head_gates`.

    References
    ----------
    Jin et al. (2024), MoH: multi-head attention as mixture-of-head attention, equations 4 to 6;
    arXiv 2410.11842.
    """
    read = softmax_attention(query, key, value, causal=causal, mask=mask, scale=scale)
    return _gates(query, router, choice) * read


def fused_mixed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    router: Tensor,
    **choice: Any,
) -> Tensor:
    """Do what :func:`mixed_attention` does through ``scaled_dot_product_attention``."""
    read = fused_softmax(query, key, value, causal=causal, mask=mask, scale=scale)
    return _gates(query, router, choice).to(read.dtype) * read


def mixed_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    router: Tensor,
    **choice: Any,
) -> Tensor:
    """Return each head's softmax weights times its gate."""
    convex = softmax_weights(query, key, causal=causal, mask=mask, scale=scale)
    return _gates(query, router, choice) * convex


class Router(Learned):
    """The logits of the heads and of the two groups, linear in the queries.

    Parameters
    ----------
    dim, heads, token_dim : int
        As in :class:`Learned`.
    shared : int
        Number of heads that are always on.
    """

    def __init__(self, dim: int, heads: int, token_dim: int, shared: int = 0) -> None:
        super().__init__()
        self.router = nn.Linear(dim, heads, bias=False)
        self.balance = nn.Linear(dim, 2, bias=False) if shared else None
        for layer in (self.router, self.balance):
            if layer is not None:
                nn.init.xavier_uniform_(layer.weight)

    def of_queries(self, queries: Tensor) -> dict[str, Tensor]:
        """Return ``router`` (batch, heads, queries) and ``balance`` (batch, 2, queries)."""
        named = {"router": self.router(queries).transpose(1, 2)}
        if self.balance is not None:
            named["balance"] = self.balance(queries).transpose(1, 2)
        return named


SHARED = integer("number of heads that are always on, the first ones", 0, 0)

register(
    Mechanism(
        name="mixture_of_heads",
        family="softmax",
        paper="Jin et al. (2024), MoH: multi-head attention as mixture-of-head attention, "
        "equations 4 to 7; arXiv 2410.11842",
        summary="Softmax attention in which a router switches most heads on or off for each query.",
        formula=r"y_i^h = g_i^h \sum_j \mathrm{softmax}_j(s\,q_i^h \cdot k_j^h)\, v_j^h,"
        r"\quad \sum_h g_i^h = \mathrm{shared} + \mathrm{top}",
        runs=(
            Run("parallel", "sdpa", fused_mixed),
            Run("parallel", "reference", mixed_attention),
        ),
        weights=mixed_weights,
        parameters={
            "router": tensor("logits of the heads", ("batch", "heads", "queries")),
            "balance": tensor(
                "logits of shared and routed heads", ("batch", 2, "queries"), optional=True
            ),
            "shared": SHARED,
            "top": integer(
                "number of routed heads that count for a query; half of them by default",
                None,
                1,
                optional=True,
            ),
        },
        cost="time O(m n d), memory O(m + n) fused; every head is computed",
        laws={
            "test_all_heads_and_a_constant_router_are_softmax": (
                "Every gate is 1 when all heads are routed alike; broken by gates that sum to 1."
            ),
            "test_exactly_top_heads_count_and_they_are_the_likeliest": (
                "Exactly top routed heads have a gate above 0; broken by a threshold that ties "
                "pass together."
            ),
            "test_gates_equal_the_equations": (
                "Gates equal the paper's; broken by a softmax over shared and routed heads at "
                "once, or gates not renormalised over those chosen."
            ),
            "test_the_auxiliary_loss_is_least_when_all_heads_are_used_alike": (
                "The loss is top at uniform use and larger otherwise; broken by f left out."
            ),
        },
        symbols={
            "W_r x, W_s x": "router",
            "W_h x": "balance",
            "h_s": "shared",
            "K - h_s": "top",
            "g_i": "gate",
        },
        module=Router,
        options={"shared": SHARED},
    )
)
