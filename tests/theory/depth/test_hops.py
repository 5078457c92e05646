"""How far a stack of layers follows associations."""

from __future__ import annotations

import pytest
import torch

from neuroattn.errors import InputError
from neuroattn.theory.depth import reachable_hops
from neuroattn.theory.depth.hops import followed, orders
from neuroattn.theory.lab import Lab


def test_the_distance_doubles_with_every_layer_or_adds_one():
    # Catches 2^L.
    assert [reachable_hops(n) for n in (1, 2, 3)] == [1, 3, 7]
    assert [reachable_hops(n, doubling=False) for n in (1, 2, 3)] == [1, 2, 3]
    with pytest.raises(InputError, match="layers=0"):
        reachable_hops(0)


def test_every_drawn_order_is_one_cycle():
    # Catches permutations with short cycles, where two steps lead back to the start.
    following = orders(Lab("tests.cycles"), 50, 7)
    start = torch.zeros(50, dtype=torch.long)
    seen = torch.stack([followed(following, start, n) for n in range(7)], 1)
    assert (seen.sort(1).values == torch.arange(7)).all()
    assert (followed(following, start, 7) == start).all()
