"""Attention of the Set Transformer: through inducing points (ISAB), or pooling (PMA)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from neuroattn.attention.learned import Learned
from neuroattn.attention.parameters import choice, integer, tensor
from neuroattn.attention.registry import Mechanism, Run, register
from neuroattn.attention.softmax.softmax import fused_softmax, softmax_attention
from neuroattn.errors import InputError


def set_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    pooling: str = "isab",
    feedforward: Tensor,
    feedforward_bias: Tensor,
    inducing: Tensor | None = None,
    inner: Tensor | None = None,
    inner_bias: Tensor | None = None,
    read: Callable[..., Tensor] = softmax_attention,
) -> Tensor:
    """Return MAB(query, tokens), or with inducing points MAB(query, MAB(inducing, tokens)).

    MAB(X, Y) = H + relu(W H), H = X + softmax(scale · X Yᵀ) Y', over heads that W mixes.

    Parameters
    ----------
    query, key, value
        As in :func:`neuroattn.attention.attend`, ``value_dim`` = ``dim``.
    causal : bool
        Always False.
    mask : Tensor of bool, optional
        (batch or 1, heads or 1, 1, keys)
    scale : float, optional
        1/sqrt(heads · dim) by default, the width of all heads.
    pooling : {"isab", "pma"}
        Through inducing points, or at once.
    feedforward, feedforward_bias : Tensor
        W, (heads, dim, heads, dim), from head and channel to head and channel; (heads, dim).
    inducing : Tensor, optional
        Projected inducing points (batch or 1, heads or 1, points, dim).
    inner, inner_bias : Tensor, optional
        (3, heads, dim, heads, dim) and (3, heads, dim): the inducing points' W, then their
        projections to keys and to values.
    read : callable
        Softmax attention.

    Raises
    ------
    InputError
        If values are not as wide as queries, or ISAB lacks a tensor.

    References
    ----------
    Lee et al. (2019), Set transformer, equations 6 to 11 and the authors' code; arXiv 1810.00825.
    """
    batch, heads, _, dim = query.shape
    if value.shape[-1] != dim:
        raise InputError(
            f"set_inducing adds what is read to the query; value_dim={value.shape[-1]} must be "
            f"dim={dim}."
        )
    if not key.shape[-2]:
        return torch.zeros_like(query)
    scale = (heads * dim) ** -0.5 if scale is None else scale
    tokens = key, value
    seen = mask
    if pooling == "isab":
        if inducing is None or inner is None or inner_bias is None:
            raise InputError(
                "set_inducing's pooling='isab' needs inducing, inner and inner_bias, which "
                "MultiheadAttention learns; give them, or set pooling='pma'."
            )
        points = inducing.expand(batch, heads, -1, -1)
        joined = points + read(points, key, value, mask=mask, scale=scale)
        summary = joined + _mixed(joined, inner[0], inner_bias[0]).relu()
        tokens = (
            _mixed(summary, inner[1], inner_bias[1]),
            _mixed(summary, inner[2], inner_bias[2]),
        )
        seen = None
    joined = query + read(query, *tokens, mask=seen, scale=scale)
    output = joined + _mixed(joined, feedforward, feedforward_bias).relu()
    return output if mask is None else output * mask.any(dim=-1, keepdim=True)


def _mixed(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a linear map to all heads' channels at once."""
    mixed = torch.einsum("bhnd,hdge->bgne", tokens, weight)
    return mixed + bias[:, None]


def fused_set(query: Tensor, key: Tensor, value: Tensor, **given: object) -> Tensor:
    """Do what :func:`set_attention` does through ``scaled_dot_product_attention``."""
    return set_attention(query, key, value, read=fused_softmax, **given)  # type: ignore[arg-type]


class InducingPoints(Learned):
    """Inducing points, their projections, and both feed-forward layers.

    Parameters
    ----------
    dim, heads, token_dim : int
        As in :class:`Learned`.
    points : int
        Number of inducing points.
    pooling : {"isab", "pma"}
        PMA has the last feed-forward layer only.
    """

    def __init__(
        self, dim: int, heads: int, token_dim: int, points: int = 32, pooling: str = "isab"
    ) -> None:
        super().__init__()
        self.heads = heads
        self.feedforward = nn.Linear(dim, dim)
        self.points: nn.Parameter | None = None
        if pooling == "isab":
            self.points = nn.Parameter(nn.init.xavier_uniform_(torch.empty(points, dim)))
            self.point_query = nn.Linear(dim, dim)
            self.inner = nn.ModuleList(nn.Linear(dim, dim) for _ in range(3))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return the named tensors, the same for all tokens."""
        weight, bias = self._by_head(self.feedforward)
        named = {"feedforward": weight, "feedforward_bias": bias}
        if self.points is not None:
            points = self.point_query(self.points).unflatten(-1, (self.heads, -1))
            inner = [self._by_head(layer) for layer in self.inner]
            named["inducing"] = points.transpose(0, 1)[None]
            named["inner"] = torch.stack([weight for weight, _ in inner])
            named["inner_bias"] = torch.stack([bias for _, bias in inner])
        return named

    def _by_head(self, layer: nn.Module) -> tuple[Tensor, Tensor]:
        weight, bias = (x.unflatten(0, (self.heads, -1)) for x in layer.parameters())
        return weight.unflatten(-1, (self.heads, -1)).permute(2, 3, 0, 1), bias


POOLING = choice(
    "isab through inducing points; pma at once: learned queries pool, the tokens' own are SAB",
    "isab",
    "pma",
)

register(
    Mechanism(
        name="set_inducing",
        family="softmax",
        paper="Lee et al. (2019), Set transformer: a framework for attention-based "
        "permutation-invariant neural networks, equations 6 to 11; arXiv 1810.00825",
        summary="Queries read a few inducing points that have read the tokens, each time with a "
        "residual and a feed-forward layer over all heads.",
        formula=r"\mathrm{MAB}(X, Y) = H + \mathrm{relu}(W H),\; H = X + \mathrm{softmax}"
        r"(s\,X Y^T)\,Y,\quad y = \mathrm{MAB}(q, \mathrm{MAB}(I, X))",
        runs=(
            Run("parallel", "sdpa", fused_set, order=1.0),
            Run("parallel", "reference", set_attention, order=1.0),
        ),
        parameters={
            "pooling": POOLING,
            "feedforward": tensor("the last W, over heads", ("heads", "dim", "heads", "dim")),
            "feedforward_bias": tensor("its bias", ("heads", "dim")),
            "inducing": tensor(
                "projected inducing points", ("batch", "heads", "points", "dim"), optional=True
            ),
            "inner": tensor(
                "the inducing points' W, then their projections to keys and values",
                (3, "heads", "dim", "heads", "dim"),
                optional=True,
            ),
            "inner_bias": tensor("their biases", (3, "heads", "dim"), optional=True),
        },
        causal=(False,),
        mask="keys",
        scale="1/sqrt(heads · dim), the width of all heads",
        cost="time O((m + n) points d), memory O((m + n) d) fused; pma O(m n d)",
        laws={
            "test_the_block_equals_the_set_transformer_written_out": (
                "Equals the authors' code path; broken by a scale of one head, or a residual of "
                "the unprojected tokens."
            ),
            "test_isab_is_equivariant_and_pma_invariant": (
                "ISAB follows a permutation of the tokens, PMA ignores it; broken by an index."
            ),
            "test_the_cost_grows_with_the_length_not_its_square": (
                "Linear in the tokens; broken by an attention of all pairs on the way."
            ),
        },
        symbols={
            "I": "inducing",
            "S": "query of pma",
            "m": "points",
            "rFF": "feedforward",
            "dim_V": "heads · dim",
        },
        module=InducingPoints,
        options={"points": integer("number of inducing points", 32, 1), "pooling": POOLING},
        projections=("query", "key", "value"),
    )
)
