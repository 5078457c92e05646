"""Efficient attention against a loop over channels and positions."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention import attend, weights
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
EXAMPLES = {"efficient": [Example(label="default"), Example(dim=1, value_dim=1, label="one")]}


def tensors(queries, keys, dim, value_dim=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (queries, dim), (keys, dim), (keys, value_dim)
    return [torch.randn(2, 2, *shape, generator=generator, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("scale", [None, 0.3, 0.0])
@pytest.mark.parametrize("masked", [False, True])
def test_every_number_equals_a_loop(scale, masked):
    # Catches softmaxes that are exchanged, and a hidden key that still counts.
    query, key, value = tensors(4, 6, 3)
    mask = torch.ones(1, 1, 1, 6, dtype=torch.bool)
    if masked:
        mask[..., [0, 4]] = False
    read = attend("efficient", query, key, value, scale=scale, mask=mask)
    factor = 1.0 if scale is None else scale
    kept = [token for token in range(6) if mask[0, 0, 0, token]]
    for b, h, i in [(0, 0, 0), (1, 0, 2), (1, 1, 3)]:
        asked = [math.exp(factor * float(x)) for x in query[b, h, i]]
        wanted = torch.zeros(3, dtype=torch.float64)
        for channel in range(3):
            told = {j: math.exp(float(key[b, h, j, channel])) for j in kept}
            for j, power in told.items():
                share = asked[channel] / sum(asked) * power / sum(told.values())
                wanted += share * value[b, h, j]
        torch.testing.assert_close(read[b, h, i], wanted, **EXACT)


def test_the_implicit_matrix_is_a_mixture_of_low_rank():
    # Catches a softmax over the wrong axis: rows would not sum to 1.
    query, key, value = tensors(20, 30, 4)
    matrix = weights("efficient", query, key)
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 2, 20, dtype=torch.float64), **EXACT)
    assert torch.linalg.matrix_rank(matrix).max() == 4
    torch.testing.assert_close(matrix @ value, attend("efficient", query, key, value), **EXACT)


def test_one_channel_averages_all_values_alike_for_every_query():
    # Catches a softmax over queries.
    query, key, value = tensors(5, 7, 1)
    read = attend("efficient", query, key, value)
    wanted = (key.softmax(2) * value).sum(2, keepdim=True).expand_as(read)
    torch.testing.assert_close(read, wanted, **EXACT)


def test_a_causal_read_is_refused():
    # Catches a softmax over later positions in a causal read.
    with pytest.raises(InputError, match="no causal form"):
        attend("efficient", *tensors(4, 4, 2), causal=True)
