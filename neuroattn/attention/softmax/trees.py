"""Trees over tokens: nested blocks, as levels of block numbers from the widest to the finest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from neuroattn.errors import InputError


class Family(NamedTuple):
    """The children of all nodes of one level, padded to the largest family.

    Attributes
    ----------
    members : Tensor
        Number of each child (nodes, children).
    real : Tensor
        Which of them exist (nodes, children).
    parent : Tensor
        Each child's parent (nodes of the finer level).
    slot : Tensor
        Each child's place in the flattened ``members`` (nodes of the finer level).
    """

    members: Tensor
    real: Tensor
    parent: Tensor
    slot: Tensor


def levels_of(
    tokens: int,
    block_size: Sequence[int] | int,
    blocks: Tensor | None,
    device: torch.device,
) -> list[Tensor]:
    """Return each token's node (tokens) at every level, from the root to the tokens themselves.

    Parameters
    ----------
    tokens : int
        Their number.
    block_size : int or several
        Tokens a block at each level, from the widest; the last block may be shorter.
    blocks : Tensor of integers, optional
        (levels, tokens), from the widest level; stands for ``block_size``. Tokens that share the
        numbers of one level and all wider ones are one block.
    device : torch.device
        Where the nodes are made.

    Raises
    ------
    InputError
        If a size is not a multiple of the next, or the blocks are not integers.
    """
    inner: list[Tensor] = []
    if blocks is None:
        sizes = (block_size,) if isinstance(block_size, int) else tuple(block_size)
        if any(wide % narrow for wide, narrow in pairwise(sizes)):
            raise InputError(
                f"hierarchical's block_size={sizes} does not nest; needed is each a multiple of "
                "the next."
            )
        inner = [torch.arange(tokens, device=device) // size for size in sizes]
    else:
        if blocks.is_floating_point() or blocks.dtype == torch.bool:
            raise InputError(f"hierarchical's blocks are {blocks.dtype}; needed are integers.")
        wider = torch.zeros(tokens, dtype=torch.long, device=device)
        for row in blocks.to(device):
            pairs = torch.stack([wider, row.expand(tokens)])
            wider = torch.unique(pairs, dim=1, return_inverse=True)[1]
            inner.append(wider)
    order = torch.arange(tokens, device=device)
    return [torch.zeros_like(order), *inner, order]


def families_of(levels: list[Tensor]) -> list[Family]:
    """Return who the children of each level's nodes are, from the root."""
    return [_family(*pair) for pair in pairwise(levels)]


def _family(wide: Tensor, fine: Tensor) -> Family:
    nodes, children = (int(each.max()) + 1 for each in (wide, fine))
    parent = wide.new_zeros(children).scatter(0, fine, wide)
    order = parent.argsort(stable=True)
    counts = parent.bincount(minlength=nodes)
    largest = int(counts.max())
    kin = parent[order]
    rank = torch.arange(children, device=wide.device) - (counts.cumsum(0) - counts)[kin]
    place = kin * largest + rank
    members = wide.new_zeros(nodes * largest).scatter(0, place, order)
    real = torch.zeros_like(members, dtype=torch.bool).index_fill(0, place, True)
    slot = torch.zeros_like(parent).scatter(0, order, place)
    return Family(members.reshape(nodes, -1), real.reshape(nodes, -1), parent, slot)
