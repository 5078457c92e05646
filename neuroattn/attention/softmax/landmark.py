"""Landmark attention: one landmark stands for each block of tokens that is not one's own."""

from __future__ import annotations

from math import nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn.attention.learned import Learned
from neuroattn.attention.masks import allowed, masked_softmax
from neuroattn.attention.parameters import choice, integer, tensor
from neuroattn.attention.registry import Mechanism, Request, Run, register
from neuroattn.errors import InputError


class LandmarkKeys(Learned):
    """One key a block, projected from the mean of its tokens.

    In the paper a landmark is a token of its own, whose key gathers its block in earlier layers;
    here the gathering is the mean.

    Parameters
    ----------
    dim, heads, token_dim : int
        As in :class:`Learned`.
    block_size : int
        Tokens a block.
    landmarks : str
        Where landmarks come from; nothing is learned unless they are ``"given"``.
    """

    def __init__(
        self, dim: int, heads: int, token_dim: int, *, block_size: int, landmarks: str
    ) -> None:
        super().__init__()
        self.heads, self.block_size = heads, block_size
        self.key = nn.Linear(token_dim, dim) if landmarks == "given" else None

    def of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return ``landmark_key`` (batch, heads, blocks, dim of a head)."""
        if self.key is None:
            return {}
        parts = tokens.split(self.block_size, dim=1)
        pooled = torch.stack([part.mean(dim=1) for part in parts], dim=1)
        keys: Tensor = self.key(pooled).unflatten(-1, (self.heads, -1))
        return {"landmark_key": keys.transpose(1, 2)}


def landmark_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    block_size: int = 64,
    landmarks: str = "given",
    landmark_key: Tensor | None = None,
    top: int | None = None,
) -> Tensor:
    """Return each landmark's weight times the softmax within its block.

    Parameters
    ----------
    query, key, causal, mask, scale
        As in :func:`neuroattn.attention.attend`. Query i's own block is that of token
        i + keys - queries, its keys weighed singly; without ``causal`` and with other numbers
        of queries than keys, no block is a query's own.
    block_size : int
        Tokens a block; the last block may be shorter.
    landmarks : {"given", "mean", "log-sum-exp"}
        The logits of landmarks: from ``landmark_key``, the mean of the block's logits, or the
        logarithm of the sum of their exponentials.
    landmark_key : Tensor, optional
        (batch or 1, heads or 1, blocks, dim)
    top : int, optional
        How many landmarks a query opens, those with the highest logits; all by default.

    Raises
    ------
    InputError
        If landmarks are to be given and are not, or are not one a block.

    References
    ----------
    Mohtashami & Jaggi (2023), Landmark attention: random-access infinite context length for
    transformers, section 3.1 (grouped softmax).
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    queries, keys = query.shape[-2], key.shape[-2]
    seen = _seen(query, key, causal, mask)
    logits = _blocks((query * scale) @ key.transpose(-1, -2), block_size)
    seen = _blocks(seen.expand(-1, -1, queries, keys), block_size)
    marks = _landmark_logits(logits, seen, query * scale, landmarks, landmark_key)
    own = _own(query, key, causal, block_size)
    opened = _opened(marks, seen.any(-1) & ~own, top)
    # Own tokens and the others' landmarks share one softmax.
    outer = torch.cat([logits.flatten(-2), marks], dim=-1)
    single = (seen & own[..., None]).flatten(-2).expand(*logits.shape[:-2], -1)
    shares = masked_softmax(outer, torch.cat([single, opened.expand_as(marks)], dim=-1))
    alone, mark = shares.split([single.shape[-1], marks.shape[-1]], dim=-1)
    found: Tensor = alone + (mark[..., None] * masked_softmax(logits, seen)).flatten(-2)
    return found[..., :keys]


def landmark_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    **blocks: Any,
) -> Tensor:
    """Read the values with :func:`landmark_weights`."""
    return landmark_weights(query, key, causal=causal, mask=mask, scale=scale, **blocks) @ value


def retrieved_landmark(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    block_size: int = 64,
    landmarks: str = "given",
    landmark_key: Tensor | None = None,
    top: int | None = None,
) -> Tensor:
    """Do what :func:`landmark_attention` does, from a query's own and its opened blocks only.

    Where masks differ between queries, or a landmark's logit needs its whole block for every
    query, it does the same as that.
    """
    named: dict[str, Any] = {"block_size": block_size, "landmarks": landmarks}
    named |= {"landmark_key": landmark_key, "top": top}
    by_row = mask is not None and mask.shape[-2] != 1
    if top is None or by_row or landmarks == "log-sum-exp" or not key.shape[-2]:
        common: dict[str, Any] = {"causal": causal, "mask": mask, "scale": scale}
        return landmark_attention(query, key, value, **common, **named)
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    queries, keys = query.shape[-2], key.shape[-2]
    count = -(-keys // block_size)
    pad = (0, 0, 0, count * block_size - keys)
    kept = [F.pad(x, pad).unflatten(2, (count, block_size)) for x in (key, value)]
    seen = torch.ones_like(key[:, :, None, :, 0], dtype=torch.bool)
    seen = _blocks(seen if mask is None else seen & mask, block_size)[:, :, 0]
    if landmarks == "mean":
        landmark_key = (kept[0] * seen[..., None]).sum(-2) / seen.sum(-1).clamp(min=1)[..., None]
    marks = _given_logits(query, landmark_key, count)
    place = _places(queries, keys, causal, query.device)
    own, block = place.div(block_size, rounding_mode="floor"), torch.arange(count).to(place)
    eligible = (block < own[:, None]) if causal else (block != own[:, None])
    eligible = eligible & seen.any(-1)[:, :, None]
    best = marks.masked_fill(~eligible, float("-inf")).topk(min(top, count), dim=-1).indices
    parts = []
    for rows in torch.arange(queries, device=query.device).split(max(block_size, 64)):
        opened, first = best[:, :, rows], own[rows, None]
        usable = eligible[:, :, rows].gather(-1, opened)
        blocks = torch.cat([first.clamp(min=0).expand_as(opened[..., :1]), opened], dim=-1)
        shown = _chosen(seen, blocks)
        if causal:
            position = blocks[..., None] * block_size + torch.arange(block_size).to(blocks)
            shown = shown & (position <= place[rows, None, None])
        usable = torch.cat([(first >= 0).expand_as(usable[..., :1]), usable], dim=-1)
        near, far = (_chosen(each, blocks) for each in kept)
        mark = marks[:, :, rows].gather(-1, opened)
        parts.append(_read_blocks(query[:, :, rows], near, far, mark, shown & usable[..., None]))
    return torch.cat(parts, dim=2)


def _chosen(entries: Tensor, blocks: Tensor) -> Tensor:
    """Return the named blocks (batch, heads, queries, several) of entries (..., blocks, size)."""
    index = blocks.flatten(2)[(..., *[None] * (entries.ndim - 3))]
    index = index.expand(-1, -1, -1, *entries.shape[3:])
    found: Tensor = entries.gather(2, index).unflatten(2, blocks.shape[2:])
    return found


def _read_blocks(query: Tensor, key: Tensor, value: Tensor, mark: Tensor, shown: Tensor) -> Tensor:
    """Read blocks (batch, heads, queries, 1 + top, size, dim), the first token by token."""
    logits = (key @ query[:, :, :, None, :, None])[..., 0]
    outer = torch.cat([logits[..., 0, :], mark], dim=-1)
    taken = torch.cat([shown[..., 0, :], shown[..., 1:, :].any(dim=-1)], dim=-1)
    single, mark = masked_softmax(outer, taken).split([logits.shape[-1], mark.shape[-1]], dim=-1)
    within = mark[..., None] * masked_softmax(logits[..., 1:, :], shown[..., 1:, :])
    shares = torch.cat([single[..., None, :], within], dim=-2)
    return (shares[..., None, :] @ value)[..., 0, :].sum(-2)


def _seen(query: Tensor, key: Tensor, causal: bool, mask: Tensor | None) -> Tensor:
    seen = allowed(query.shape[-2], key.shape[-2], causal, mask, query.device)
    if seen is None:
        return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=query.device)
    return seen.reshape((1,) * (4 - seen.ndim) + tuple(seen.shape))


def _blocks(entries: Tensor, size: int) -> Tensor:
    """Return the last axis cut into blocks (..., blocks, size), zeros after the last entry."""
    cut: Tensor = F.pad(entries, (0, -entries.shape[-1] % size)).unflatten(-1, (-1, size))
    return cut


def _places(queries: int, keys: int, causal: bool, device: torch.device) -> Tensor:
    """Return which token each query is (queries), negative where it is none of them."""
    if not causal and queries != keys:
        return torch.full((queries,), -1, device=device)
    return torch.arange(queries, device=device) + (keys - queries)


def _own(query: Tensor, key: Tensor, causal: bool, size: int) -> Tensor:
    queries, keys = query.shape[-2], key.shape[-2]
    place = _places(queries, keys, causal, query.device).div(size, rounding_mode="floor")
    return place[:, None] == torch.arange(-(-keys // size), device=query.device)


def _given_logits(query: Tensor, landmark_key: Tensor | None, count: int) -> Tensor:
    if landmark_key is None:
        raise InputError(
            "landmark needs landmark_key with landmarks='given': one key a block; "
            "MultiheadAttention learns it. landmarks='mean' or 'log-sum-exp' need none."
        )
    if landmark_key.shape[-2] != count:
        raise InputError(
            f"landmark's landmark_key has {landmark_key.shape[-2]} blocks; the keys fill {count} "
            "of block_size."
        )
    return query @ landmark_key.transpose(-1, -2)


def _landmark_logits(
    logits: Tensor, seen: Tensor, query: Tensor, landmarks: str, landmark_key: Tensor | None
) -> Tensor:
    """Return the logit of each block's landmark (batch, heads, queries, blocks)."""
    if landmarks == "given":
        return _given_logits(query, landmark_key, logits.shape[-2])
    if landmarks == "mean":
        return logits.masked_fill(~seen, 0.0).sum(-1) / seen.sum(-1).clamp(min=1)
    hidden = ~seen & seen.any(-1, keepdim=True)
    return logits.masked_fill(hidden, float("-inf")).logsumexp(-1)


def _opened(marks: Tensor, eligible: Tensor, top: int | None) -> Tensor:
    if top is None or top >= marks.shape[-1]:
        return eligible
    best = marks.masked_fill(~eligible, float("-inf")).topk(top, dim=-1).indices
    return torch.zeros_like(marks, dtype=torch.bool).scatter(-1, best, True) & eligible


def _small(request: Request) -> str:
    opened = request.parameters["top"]
    size = request.parameters["block_size"]
    if opened is None or request.keys <= max(512, 8 * opened * size):
        return ""
    return f"{opened} blocks of {size} are few of {request.keys} keys"


_BLOCK_SIZE = integer("tokens a block", 64, 1)
_LANDMARKS = choice("where the logits of landmarks come from", "given", "mean", "log-sum-exp")

register(
    Mechanism(
        name="landmark",
        family="softmax",
        paper="Mohtashami & Jaggi (2023), Landmark attention: random-access infinite context "
        "length for transformers, section 3.1, arXiv 2305.16300",
        summary="A query weighs the tokens of its own block singly and every other block by one "
        "landmark, whose weight the block's tokens share by their own softmax.",
        formula=r"p_{ij} = \frac{e^{s_{ij}}}{Z_i} \text{ in the own block } B(i), \quad "
        r"p_{ij} = \frac{e^{g_{iC}}}{Z_i} \frac{e^{s_{ij}}}{\sum_{l \in C} e^{s_{il}}} "
        r"\text{ in } C \ne B(i), \quad Z_i = \sum_{l \in B(i)} e^{s_{il}} + "
        r"\sum_{C \ne B(i)} e^{g_{iC}}",
        runs=(
            Run("parallel", "reference", landmark_attention, avoids=_small),
            Run("chunked", "reference", retrieved_landmark, order=nan),
        ),
        weights=landmark_weights,
        parameters={
            "block_size": _BLOCK_SIZE,
            "landmarks": _LANDMARKS,
            "landmark_key": tensor(
                "one key a block, for landmarks='given'",
                ("batch", "heads", "blocks", "dim"),
                optional=True,
            ),
            "top": integer(
                "landmarks that a query opens, those of highest logit; all by default",
                None,
                1,
                optional=True,
            ),
        },
        queries_apart=False,
        module=LandmarkKeys,
        options={"block_size": _BLOCK_SIZE, "landmarks": _LANDMARKS},
        cost="parallel: time O(m n d), memory O(m n); chunked with k = top of blocks of b: time "
        "and memory O(m (k b + n / b) d)",
        laws={
            "test_log_sum_exp_landmarks_give_softmax": (
                "Equals softmax when a landmark's logit is its block's log-sum-exp; broken by a "
                "softmax within the block that is not scaled by the landmark."
            ),
            "test_opening_all_landmarks_equals_no_limit": (
                "top = all blocks is no limit; broken by a query's own block taking a place."
            ),
            "test_every_number_equals_a_loop_over_blocks": (
                "Own tokens and the others' landmarks share one softmax; broken by a landmark "
                "of the own block."
            ),
        },
        symbols={
            "ℓ_block": "block_size",
            "G": "the blocks",
            "landmark token": "landmark_key",
            "k (retrieved blocks)": "top",
        },
    )
)
