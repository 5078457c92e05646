"""Parallax: local linear attention whose slope is learned from the queries instead of solved."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuroattn.attention.learned import Learned
from neuroattn.attention.masks import allowed
from neuroattn.attention.parameters import integer, tensor
from neuroattn.attention.registry import Mechanism, Request, Run, register
from neuroattn.attention.softmax.softmax import softmax_weights


def parallax_weights(
    query: Tensor,
    key: Tensor,
    *,
    direction: Tensor,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    chunk_size: int = 64,
) -> Tensor:
    """Return p (1 − (k − k̄) · r), p the softmax weights and k̄ the mean key under them.

    Parameters
    ----------
    query, key : Tensor
        (batch, heads, queries, dim) and (batch, heads, keys, dim).
    direction : Tensor
        r, (batch or 1, heads or 1, queries or 1, dim).
    causal, mask, scale
        As in :func:`neuroattn.attention.attend`.
    chunk_size : int
        Without influence here.

    References
    ----------
    Parallax (2026), arXiv 2605.29157.
    """
    share = softmax_weights(query, key, causal=causal, mask=mask, scale=scale)
    along = direction @ key.transpose(-1, -2)
    return share * (1 + (share * along).sum(-1, keepdim=True) - along)


def parallax(query: Tensor, key: Tensor, value: Tensor, **given: object) -> Tensor:
    """Read the values with :func:`parallax_weights`."""
    return parallax_weights(query, key, **given) @ value  # type: ignore[arg-type]


def streamed_parallax(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    direction: Tensor,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    chunk_size: int = 64,
) -> Tensor:
    """Do what :func:`parallax` does in one pass over blocks of keys, as flash attention does.

    Two sums of weights and two reads are enough: of p and of p (k · r).
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    queries, keys = query.shape[-2], key.shape[-2]
    seen = allowed(queries, keys, causal, mask, query.device)
    rows = (*query.shape[:3], 1)
    highest = query.new_full(rows, float("-inf"))
    # Columns: the sum of weights, then the read; once for p and once for p (k · r).
    plain = query.new_zeros(*rows[:3], 1 + value.shape[-1])
    tilted = plain
    ones = value.new_ones(*value.shape[:3], 1)
    counted = torch.cat([ones, value], dim=-1)
    for start in range(0, keys, chunk_size):
        block = slice(start, start + chunk_size)
        near = key[:, :, block].transpose(-1, -2)
        logits = (query * scale) @ near
        if seen is not None:
            part = seen[..., block] if seen.shape[-1] > 1 else seen
            logits = logits.masked_fill(~part, float("-inf"))
        new = torch.maximum(highest, logits.detach().amax(-1, keepdim=True))
        finite = new.masked_fill(new.isinf(), 0.0)
        power = (logits - finite).exp()
        kept = (highest - finite).exp()
        plain = plain * kept + power @ counted[:, :, block]
        tilted = tilted * kept + (power * (direction @ near)) @ counted[:, :, block]
        highest = new
    total = plain[..., :1]
    plain, tilted = (each / total.masked_fill(total == 0, 1.0) for each in (plain, tilted))
    return plain[..., 1:] * (1 + tilted[..., :1]) - tilted[..., 1:]


class Direction(Learned):
    """A linear map of the queries, zero at first, so that training starts from softmax.

    Parameters
    ----------
    dim, heads, token_dim : int
        As in :class:`Learned`.
    """

    def __init__(self, dim: int, heads: int, token_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.direction = nn.Linear(dim, dim)
        nn.init.zeros_(self.direction.weight)
        nn.init.zeros_(self.direction.bias)

    def of_queries(self, queries: Tensor) -> dict[str, Tensor]:
        """Return ``direction`` (batch, heads, queries, width of a head)."""
        split = self.direction(queries).unflatten(-1, (self.heads, -1))
        return {"direction": split.transpose(1, 2)}


def _many_pairs(request: Request) -> str:
    pairs = request.queries * request.keys
    return f"{pairs:,} weights would be held at once" if pairs > 2**20 else ""


register(
    Mechanism(
        name="parallax",
        family="regression",
        paper="Parallax (2026), the successor of local linear attention; arXiv 2605.29157",
        summary="Softmax attention minus what a plane along a learned direction would add.",
        formula=r"y_i = \sum_j p_{ij} \bigl(1 - (k_j - \bar k_i)^\top r_i\bigr) v_j, \quad "
        r"p_i = \operatorname{softmax}(s\,K q_i), \; \bar k_i = K^\top p_i",
        runs=(
            Run("parallel", "reference", parallax, avoids=_many_pairs),
            Run("chunked", "reference", streamed_parallax),
        ),
        weights=parallax_weights,
        parameters={
            "direction": tensor(
                "r, the slope along which the mean key is corrected",
                ("batch", "heads", "queries", "dim"),
            ),
            "chunk_size": integer("keys a block", 64, 1),
        },
        cost="time O(m n d), memory O(m n), O(m (chunk + d)) chunked without gradients",
        laws={
            "test_no_direction_is_softmax": (
                "r = 0 is softmax; broken by a correction that is added instead of scaled by r."
            ),
            "test_the_solved_direction_is_local_linear": (
                "r = Cov(k)⁻¹ (k̄ − q) is local_linear at ridge 0; broken by the opposite sign of r."
            ),
            "test_the_slope_around_the_query_is_the_direction_up_to_sherman_morrison": (
                "r = (1 + δ·r) ρ with the paper's slope ρ; broken by covariances around q."
            ),
            "test_equals_the_two_sums_and_two_reads_of_the_paper": (
                "O₁/d₁ (1 + d₂/d₁) − O₂/d₁; broken by d₂ taken before it is divided by d₁."
            ),
        },
        symbols={"r": "direction", "p": "softmax weights", "λ": "none: r is not solved for"},
        module=Direction,
    )
)
