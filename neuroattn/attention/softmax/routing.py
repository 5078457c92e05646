"""Routing attention: tokens attend within clusters, each query and key in its nearest ones."""

from __future__ import annotations

from math import nan
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neuroattn.attention.learned import Learned
from neuroattn.attention.masks import masked_softmax
from neuroattn.attention.parameters import integer, number, tensor
from neuroattn.attention.registry import Mechanism, Request, Run, register


class Centroids(Learned):
    """Centroids of queries and keys (heads, clusters, dim of a head), moved by averages.

    Which cluster a token is in has no gradient: :meth:`update` moves the centroids instead, once
    a training step.

    Parameters
    ----------
    dim, heads, token_dim : int
        As in :class:`Learned`.
    clusters : int
        Centroids a head.
    momentum : float
        How much of a centroid an update keeps.
    seed : int
        Of the random unit vectors that the centroids start from.
    """

    centroids: Tensor

    def __init__(
        self, dim: int, heads: int, token_dim: int, *, clusters: int, momentum: float, seed: int
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(heads, clusters, dim // heads, generator=generator)
        self.momentum = momentum
        self.register_buffer("centroids", F.normalize(start, dim=-1))

    def of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return ``centroids``, a copy: an update must not reach a graph that is in use."""
        return {"centroids": self.centroids.clone()}

    @torch.no_grad()
    def observe(self, query: Tensor, key: Tensor) -> None:
        """Move each centroid towards the mean direction of the tokens nearest to it.

        Parameters
        ----------
        query, key : Tensor
            (batch, heads, queries, dim of a head), (batch, heads, keys, dim of a head).

        References
        ----------
        Roy et al. (2021), section 4.1; the mean direction and the order of the update (mean
        first, then average) as in lucidrains/routing-transformer.
        """
        tokens = F.normalize(torch.cat([query, key], dim=2).to(self.centroids.dtype), dim=-1)
        tokens = tokens.transpose(0, 1).flatten(1, 2)
        nearest = (tokens @ self.centroids.mT).argmax(dim=-1)
        member = F.one_hot(nearest, self.centroids.shape[1]).to(tokens.dtype)
        mean = F.normalize(member.mT @ tokens, dim=-1)
        moved = self.momentum * self.centroids + (1 - self.momentum) * mean
        # A centroid that no token is nearest to stays.
        self.centroids.copy_(torch.where(member.any(dim=1)[..., None], moved, self.centroids))


def routing_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    centroids: Tensor,
    window: int | None = None,
) -> Tensor:
    """Return the mean, over the clusters of a query, of the softmax within each.

    Parameters
    ----------
    query, key, causal, mask, scale
        As in :func:`neuroattn.attention.attend`; there is no causal form.
    centroids : Tensor
        (heads or 1, clusters, dim)
    window : int, optional
        Queries, and keys, of each cluster: those of highest cosine with its centroid. By default
        as many as make all clusters hold all tokens once.

    References
    ----------
    Roy et al. (2021), Efficient content-based sparse attention with routing transformers,
    section 4.1 and algorithm 1.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (query * scale) @ key.transpose(-1, -2)
    asked, kept, real = _members(query, key, mask, centroids, window)
    shape = (*logits.shape[:2], centroids.shape[1])
    asks = torch.zeros(*shape, query.shape[-2], dtype=torch.bool, device=query.device)
    asks = asks.scatter(-1, asked, True)
    holds = torch.zeros(*shape, key.shape[-2], dtype=torch.bool, device=query.device)
    holds = holds.scatter(-1, kept, real)
    seen = asks[..., :, None] & holds[..., None, :]
    if mask is not None:
        seen = seen & mask[:, :, None]
    within = masked_softmax(logits[:, :, None].expand(seen.shape), seen)
    count = seen.any(dim=-1).sum(dim=2).clamp(min=1)
    return within.sum(dim=2) / count[..., None]


def routing_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    **clusters: Any,
) -> Tensor:
    """Read the values with :func:`routing_weights`."""
    return routing_weights(query, key, mask=mask, scale=scale, **clusters) @ value


def gathered_routing(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    centroids: Tensor,
    window: int | None = None,
) -> Tensor:
    """Do what :func:`routing_attention` does, from each cluster's own tokens only."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    asked, kept, real = _members(query, key, mask, centroids, window)
    logits = _gather(query * scale, asked) @ _gather(key, kept).mT
    seen = real[..., None, :].expand(logits.shape)
    if mask is not None:
        rows, columns = asked[..., :, None], kept[..., None, :]
        images, heads = (
            torch.arange(size, device=query.device).reshape(shape)
            for size, shape in zip(query.shape, ((-1, 1, 1, 1, 1), (-1, 1, 1, 1)), strict=False)
        )
        whole = mask.expand(*query.shape[:3], key.shape[-2])
        seen = seen & whole[images, heads, rows, columns]
    read = masked_softmax(logits, seen) @ _gather(value, kept)
    place = asked.flatten(2)
    output = torch.zeros_like(query[..., :1]).expand(*query.shape[:3], value.shape[-1])
    wide = place[..., None].expand(*place.shape, value.shape[-1])
    output = output.scatter_add(2, wide, read.flatten(2, 3))
    found = seen.any(dim=-1).flatten(2).to(query.dtype)
    count = torch.zeros_like(query[..., 0]).scatter_add(2, place, found)
    return output / count.clamp(min=1)[..., None]


def _members(
    query: Tensor, key: Tensor, mask: Tensor | None, centroids: Tensor, window: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each cluster's queries, its keys, and which of these exist (..., clusters, window)."""
    with torch.no_grad():
        centre = F.normalize(centroids.to(query.dtype), dim=-1)
        near = [centre @ F.normalize(tokens, dim=-1).mT for tokens in (query, key)]
        if mask is not None:
            # A key that is hidden from all queries takes no place in a cluster.
            near[1] = near[1].masked_fill(~mask.any(dim=2, keepdim=True), float("-inf"))
        clusters = centroids.shape[1]
        sizes = [min(window or -(-x.shape[-1] // clusters), x.shape[-1]) for x in near]
        asked, kept = (x.topk(size, dim=-1) for x, size in zip(near, sizes, strict=True))
    return asked.indices, kept.indices, kept.values > float("-inf")


def _gather(tokens: Tensor, index: Tensor) -> Tensor:
    """Return the tokens (batch, heads, clusters, window, dim) of an index without the last axis."""
    flat = index.flatten(2)[..., None].expand(-1, -1, -1, tokens.shape[-1])
    found: Tensor = tokens.gather(2, flat).unflatten(2, index.shape[2:])
    return found


def _small(request: Request) -> str:
    return "" if request.keys < 128 else "at least 128 keys: clusters of them are fewer pairs"


register(
    Mechanism(
        name="routing",
        family="softmax",
        paper="Roy, Saffar, Vaswani & Grangier (2021), Efficient content-based sparse attention "
        "with routing transformers, section 4.1 and algorithm 1, arXiv 2003.05997",
        summary="Softmax attention within clusters: each centroid gathers the queries and the "
        "keys that point its way, and a query of several clusters reads their mean.",
        formula=r"y_i = \frac{1}{|C_i|} \sum_{c \in C_i} \sum_{j \in K_c} "
        r"\frac{e^{s\,q_i \cdot k_j}}{\sum_{l \in K_c} e^{s\,q_i \cdot k_l}} v_j, \quad "
        r"K_c = \mathrm{top}_w\, \cos(\mu_c, k), \quad C_i = \{c : q_i \in \mathrm{top}_w\, "
        r"\cos(\mu_c, q)\}",
        runs=(
            Run("parallel", "reference", routing_attention, avoids=_small),
            Run("chunked", "reference", gathered_routing, order=nan),
        ),
        weights=routing_weights,
        parameters={
            "centroids": tensor("directions of the clusters", ("heads", "clusters", "dim")),
            "window": integer(
                "queries, and keys, of a cluster; by default their number over that of clusters",
                None,
                1,
                optional=True,
            ),
        },
        causal=(False,),
        queries_apart=False,
        module=Centroids,
        options={
            "clusters": integer("centroids a head", 8, 1),
            "momentum": number("of a centroid, what an update keeps", 0.999, 0, 1),
            "seed": integer("of the centroids' start", 0, 0, 2**63 - 1),
        },
        cost="k clusters of w tokens: time O(n k d + k w² d), which is O(n^1.5 d) at k = √n; "
        "memory O(n k + k w² + k w d)",
        laws={
            "test_one_cluster_of_all_tokens_is_softmax": (
                "k = 1, w = n is softmax; broken by attending with normalised queries or keys."
            ),
            "test_identical_tokens_are_weighed_alike": (
                "Identical keys in one cluster share alike; broken by a cosine added to logits."
            ),
            "test_shuffled_tokens_give_shuffled_reads": (
                "Equivariant to shuffles of queries, invariant to those of keys; broken by a "
                "cluster's place in the sequence."
            ),
            "test_a_query_of_no_cluster_reads_zeros_and_of_several_their_mean": (
                "Reads are averaged over a query's clusters; broken by a sum."
            ),
        },
        symbols={"μ": "centroids", "k": "clusters", "w": "window", "λ (decay)": "momentum"},
    )
)
