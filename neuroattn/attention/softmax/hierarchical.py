r"""Hierarchical attention: the tied attention on a tree of blocks that is closest to softmax.

Blocks B and C with one parent tie their pairs: every token of B gives every token of C the same
weight. Among all such weights, those below minimise the sum of the rows' Kullback-Leibler
divergences from softmax attention.

Tied weights leave all tokens of a node A the same mass m for A. What A's rows cost on average
within A is then F_A(m) = min mean_i Σ_j p_ij (log p_ij - s_ij), and for a child B of A, with mass
m_B for itself and w_BC for each token of its sibling C,

    m_B log m_B - m_B l_B + Σ_C |C| w_BC (log w_BC - mean s_BC),   m_B + Σ_C |C| w_BC = m,

because F_B(m_B) = m_B log m_B - m_B l_B, which holds for a token with l = s_ii. The least is at
m_B = m e^{l_B} / Z_B and w_BC = m e^{mean s_BC} / Z_B with Z_B = e^{l_B} + Σ_C |C| e^{mean s_BC},
and F_A(m) = m log m - m l_A with l_A = Σ_B (|B| / |A|) log Z_B: the same form again, so that one
pass up the tree gives all l and Z, and one pass down the reads. The mean score of two blocks is the
product of their mean query and mean key.

The weights of one token follow from the queries of its whole block, later ones too: there is no
causal form.
"""

from __future__ import annotations

from math import nan
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neuroattn.attention.masks import masked_softmax, written
from neuroattn.attention.parameters import choice, integer, tensor
from neuroattn.attention.registry import Mechanism, Request, Run, register
from neuroattn.attention.softmax.trees import Family, families_of, levels_of


def hierarchical_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    block_size: tuple[int, ...] | int = 16,
    blocks: Tensor | None = None,
    score: str = "dot",
) -> Tensor:
    """Return the tied weights closest to softmax attention (batch, heads, queries, keys).

    Parameters
    ----------
    query, key, causal, scale
        As in :func:`neuroattn.attention.attend`; there is no causal form.
    mask : Tensor of bool, optional
        Of keys; a hidden token is no part of the tree, neither as a key nor as a query.
    block_size, blocks
        The tree, see :func:`neuroattn.attention.softmax.trees.levels_of`.
    score : {"dot", "distance"}
        s = scale · q·k, or -scale · |q - k|² / 2 as in the paper's energy.

    References
    ----------
    Amizadeh et al. (2025), Hierarchical self-attention: generalizing neural attention mechanics
    to multi-scale problems; the closed form is derived at the head of this module.
    """
    query, key = _scored(query, key, scale, score)
    tokens = query.shape[-2]
    levels = levels_of(tokens, block_size, blocks, query.device)
    seen = _visible(mask, key)
    within = [level[:, None] == level for level in levels]
    scores = query @ key.mT
    means = torch.eye(tokens, dtype=query.dtype, device=query.device)
    own, exists = scores.diagonal(dim1=-2, dim2=-1), seen
    passed = []
    for wide, narrow in zip(within[-2::-1], within[:0:-1], strict=True):
        between = wide & ~narrow & seen[..., None, :]
        logits = torch.cat([means @ scores @ means.mT, own[..., None]], dim=-1)
        taken = torch.cat([between, exists[..., None]], dim=-1)
        shares, total = _normalised(logits, taken)
        passed.append(shares)
        counted = (wide & seen[..., None, :]).to(query.dtype)
        means = counted / counted.sum(-1, keepdim=True).clamp(min=1)
        own, exists = (means @ total[..., None])[..., 0], counted.any(-1)
    mass = torch.ones_like(own)[..., None]
    found = torch.zeros_like(scores)
    for shares in reversed(passed):
        found, mass = found + mass * shares[..., :-1], mass * shares[..., -1:]
    return found + torch.diag_embed(mass[..., 0])


def hierarchical_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    **tree: Any,
) -> Tensor:
    """Read the values with :func:`hierarchical_weights`."""
    return hierarchical_weights(query, key, mask=mask, scale=scale, **tree) @ value


def pooled_hierarchical(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    block_size: tuple[int, ...] | int = 16,
    blocks: Tensor | None = None,
    score: str = "dot",
) -> Tensor:
    """Do what :func:`hierarchical_attention` does, from the blocks' mean queries, keys and values.

    The passes up and down the tree take O(nodes · children²) time and memory.
    """
    if not key.shape[-2]:
        return torch.zeros_like(value)
    query, key = _scored(query, key, scale, score)
    levels = levels_of(query.shape[-2], block_size, blocks, query.device)
    families = families_of(levels)
    size = _visible(mask, key).to(query.dtype)
    own = (query * key).sum(-1)
    means = torch.cat([query, key, value], dim=-1)
    widths = [query.shape[-1], key.shape[-1], value.shape[-1]]
    passed = []
    for family in reversed(families):
        counts = size[..., family.members] * family.real
        kin = means[..., family.members, :]
        kept, read, total = _siblings(kin.split(widths, -1), counts, own, family)
        passed.append((family, kept, read))
        size = counts.sum(-1)
        share = counts / size.clamp(min=1)[..., None]
        means = (share[..., None] * kin).sum(-2)
        own = (share * total).sum(-1)
    mass = torch.ones_like(own)
    output = torch.zeros_like(means[..., : widths[2]])
    for family, kept, read in reversed(passed):
        wide = mass[..., family.parent]
        output = output[..., family.parent, :] + wide[..., None] * read
        mass = wide * kept
    return output + mass[..., None] * value


def _siblings(
    kin: tuple[Tensor, ...], counts: Tensor, own: Tensor, family: Family
) -> tuple[Tensor, Tensor, Tensor]:
    """Share a unit of mass between each node and its siblings.

    Returns what each node keeps (..., children), what it reads of its siblings (..., children,
    value_dim), and its log Z (..., nodes, children).
    """
    query, key, value = kin
    children = counts.shape[-1]
    itself = torch.eye(children, dtype=torch.bool, device=query.device)
    present = (counts > 0)[..., None, :].expand(*counts.shape, children)
    logits = query @ key.mT + counts.clamp(min=1).log()[..., None, :]
    logits = torch.where(itself, own[..., family.members][..., None], logits)
    shares, total = _normalised(logits, present)
    kept = shares.diagonal(dim1=-2, dim2=-1).flatten(-2)[..., family.slot]
    read = (shares.masked_fill(itself, 0.0) @ value).flatten(-3, -2)[..., family.slot, :]
    return kept, read, total


def _normalised(logits: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
    """Return the softmax of what is taken and the logarithm of its sum; zeros if nothing is."""
    shares = masked_softmax(logits, taken)
    some = taken.any(-1, keepdim=True)
    total = logits.masked_fill(~taken & some, float("-inf")).logsumexp(-1)
    return shares, total.masked_fill(~some[..., 0], 0.0)


def _scored(query: Tensor, key: Tensor, scale: float | None, score: str) -> tuple[Tensor, Tensor]:
    """Return queries and keys whose products are the scores."""
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    if score == "dot":
        return query, key
    # What is the same for all keys, |q|² / 2, is the same in a row's every exponent.
    factor = key.shape[-1] ** -0.5 if scale is None else scale
    half = key.square().sum(-1, keepdim=True) / -2
    return F.pad(query, (0, 1), value=factor), torch.cat([key, half], dim=-1)


def _visible(mask: Tensor | None, key: Tensor) -> Tensor:
    """Return which tokens are part of the tree (batch or 1, heads or 1, tokens)."""
    hidden = written(mask, key)
    if hidden is None:
        return torch.ones(1, 1, key.shape[-2], dtype=torch.bool, device=key.device)
    return hidden[..., 0]


def _long(request: Request) -> str:
    return "" if request.keys < 256 else "at least 256 keys: their blocks are fewer pairs"


register(
    Mechanism(
        name="hierarchical",
        family="softmax",
        paper="Amizadeh et al. (2025), Hierarchical self-attention: generalizing neural "
        "attention mechanics to multi-scale problems, arXiv 2509.15448",
        summary="On a tree of blocks, the attention closest to softmax that ties the weights "
        "between any two blocks of one parent.",
        formula=r"p_{ij} = m_A \frac{e^{\bar s_{BC}}}{Z_B} \text{ for } i \in B, j \in C "
        r"\text{ below } A, \quad m_B = m_A \frac{e^{l_B}}{Z_B}, \quad Z_B = e^{l_B} + "
        r"\sum_{C \ne B} |C| e^{\bar s_{BC}}, \quad l_A = \sum_B \frac{|B|}{|A|} \log Z_B, "
        r"\quad l_i = s_{ii}",
        runs=(
            Run("parallel", "reference", hierarchical_attention, avoids=_long, order=3.0),
            Run("chunked", "reference", pooled_hierarchical, order=nan),
        ),
        weights=hierarchical_weights,
        parameters={
            "block_size": integer(
                "tokens a block; several for a tree, from the widest level, each a multiple of "
                "the next",
                16,
                1,
                several=True,
            ),
            "blocks": tensor(
                "numbers of each token's blocks, from the widest level, instead of block_size",
                ("levels", "keys"),
                optional=True,
            ),
            "score": choice("what the scores are: q·k or -|q - k|²/2", "dot", "distance"),
        },
        causal=(False,),
        cross=False,
        mask="keys",
        cost="chunked, M nodes of b children: time O(M b² d), memory O(M b² + n d); parallel: "
        "time O(n³), memory O(n²)",
        laws={
            "test_single_tokens_or_one_block_give_softmax": (
                "Singleton blocks and one block are softmax; broken by a token that is not its "
                "own sibling."
            ),
            "test_no_tied_weights_are_closer_to_softmax": (
                "Of all tied weights these are closest to softmax, in a tree too; broken by a "
                "block's energy taken as the log of a mean, not the mean of logs."
            ),
            "test_rows_sum_to_one_and_siblings_are_tied": (
                "Rows sum to 1, and pairs of siblings share one weight; broken by a Z that "
                "forgets the sizes of blocks."
            ),
            "test_a_level_of_single_tokens_or_of_one_block_changes_nothing": (
                "A tree with one level worth is the one-level form; broken by a mass that is "
                "multiplied in twice."
            ),
            "test_hidden_tokens_are_as_if_they_were_not_there": (
                "Padding changes nothing; broken by means over hidden tokens."
            ),
        },
        symbols={
            "-ψ_{B→C}": "the mean score of two blocks",
            "-φ(A)": "l_A",
            "b": "children of a node",
            "M": "nodes",
        },
    )
)
