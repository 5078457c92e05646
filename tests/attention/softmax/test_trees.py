"""Trees of blocks against paths written by hand."""

from __future__ import annotations

import pytest
import torch

from neuroattn.attention.softmax.trees import families_of, levels_of
from neuroattn.errors import InputError

CPU = torch.device("cpu")


def test_sizes_cut_tokens_into_nested_blocks_whose_last_is_shorter():
    # Catches sizes read from the finest level, and a short block that is dropped.
    levels = [level.tolist() for level in levels_of(7, (4, 2), None, CPU)]
    assert levels == [[0] * 7, [0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2, 3], list(range(7))]


def test_numbers_of_blocks_count_only_within_wider_blocks():
    # Catches blocks of one number in two parents that are taken for one block.
    blocks = torch.tensor([[5, 2, 5, 2, 2], [0, 0, 1, 1, 0]])
    levels = [level.tolist() for level in levels_of(5, 1, blocks, CPU)]
    assert levels == [[0] * 5, [1, 0, 1, 0, 0], [2, 0, 3, 1, 0], list(range(5))]


@pytest.mark.parametrize(
    "tree",
    [
        (1, torch.tensor([[5, 2, 5, 2, 2, 9, 5, 5, 2], [0, 0, 1, 1, 0, 0, 0, 1, 1]])),
        ((6, 2), None),
        (20, None),
        (1, None),
    ],
)
def test_families_hold_every_child_once(tree):
    # Catches padding that is taken for the child of number 0.
    levels = levels_of(9, *tree, CPU)
    for family, wide, fine in zip(families_of(levels), levels, levels[1:], strict=False):
        children = torch.arange(int(fine.max()) + 1)
        assert sorted(family.members[family.real].tolist()) == children.tolist()
        assert torch.equal(family.parent[fine], wide)
        assert torch.equal(family.members.flatten()[family.slot], children)
        rows = torch.arange(len(family.members))[:, None].expand_as(family.members)
        assert torch.equal(family.parent[family.members[family.real]], rows[family.real])


def test_blocks_that_are_no_numbers_are_refused():
    # Catches a mask given for blocks, and sizes that cut through one another.
    for blocks in (torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.bool)):
        with pytest.raises(InputError, match="needed are integers"):
            levels_of(4, 1, blocks, CPU)
    with pytest.raises(InputError, match=r"block_size=\(6, 4\) does not nest"):
        levels_of(12, [6, 4], None, CPU)
