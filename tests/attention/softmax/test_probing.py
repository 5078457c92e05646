"""Efficient probing against multi-head cross-attention with identities as key projections."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]

# The default scale depends on the number of heads.
EXAMPLES = {"probing": [Example(heads_apart=False)]}


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def block(dim=12, heads=3, token_dim=8):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MultiheadAttention(dim, heads, token_dim, "probing").double()


def cross_attention(probes, tokens, key_projections, value_projection, value_bias):
    """Return the concatenated reads (batch, value channels) of one probe a head."""
    heads, width = probes.shape
    values = tokens @ value_projection.T + value_bias
    size = values.shape[-1] // heads
    read = []
    for head in range(heads):
        keys = tokens @ key_projections[head].T
        logits = keys @ probes[head] / math.sqrt(width / heads)
        shares = torch.softmax(logits, dim=-1)
        read.append((shares[..., None] * values[..., head * size : (head + 1) * size]).sum(1))
    return torch.cat(read, dim=-1)


def test_it_equals_cross_attention_with_identities_as_key_projections():
    # Catches keys that are cut into slices, and a scale of 1/sqrt(dim).
    made, tokens, queries = block(), drawn(2, 9, 8), drawn(1, 4, 12, seed=1)
    found = made(queries, made.project(tokens))
    identities = torch.eye(8, dtype=torch.float64).expand(3, 8, 8)
    for row in range(4):
        probes = made.query(queries[0, row]).view(3, 8)
        read = cross_attention(probes, tokens, identities, made.value.weight, made.value.bias)
        torch.testing.assert_close(found[:, row], made.output(read), **EXACT)
    other = cross_attention(probes, tokens, drawn(3, 8, 8), made.value.weight, made.value.bias)
    assert not torch.allclose(found[:, 3], made.output(other))


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_a_head_reads_its_own_block_of_value_channels(backend):
    # Catches heads that are summed, and a scale that is not that of the whole tokens.
    probes, tokens, values = drawn(1, 3, 1, 8), drawn(2, 9, 8, seed=1), drawn(2, 9, 6, seed=2)
    keys = tokens[:, None].expand(-1, 3, -1, -1)
    blocks = values.unflatten(-1, (3, 2)).transpose(1, 2)
    read = attend("probing", probes.expand(2, -1, -1, -1), keys, blocks, backend=backend)
    for head in range(3):
        shares = torch.softmax(tokens @ probes[0, head, 0] / math.sqrt(8 / 3), dim=-1)
        own = (shares[..., None] * values[..., 2 * head : 2 * head + 2]).sum(1)
        torch.testing.assert_close(read[:, head, 0], own, **EXACT)


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_a_given_scale_replaces_the_default(backend):
    # Catches a scale that multiplies the default, or a scale of zero that is taken for none.
    query, key, value = drawn(2, 3, 4, 8), drawn(2, 3, 9, 8, seed=1), drawn(2, 3, 9, 2, seed=2)
    for scale in (0.0, 0.4):
        found = attend("probing", query, key, value, scale=scale, backend=backend)
        wanted = attend("softmax", query, key, value, scale=scale)
        torch.testing.assert_close(found, wanted, **EXACT)


def test_the_block_has_no_key_projection():
    # Catches a key projection that is kept and not used, and a position code that is left out.
    made, tokens, position = block(), drawn(2, 9, 8), drawn(9, 12, seed=3)
    shapes = {name: tuple(p.shape) for name, p in made.named_parameters() if p.ndim == 2}
    assert shapes == {
        "output.weight": (12, 12),
        "query.weight": (24, 12),
        "key_position.weight": (8, 12),
        "value.weight": (12, 8),
    }
    read = made.project(tokens, position)
    placed = tokens + position @ made.key_position.weight.T
    for head in range(3):
        torch.testing.assert_close(read.key[:, head], placed, **EXACT)
    queries, target = drawn(1, 4, 12), drawn(2, 4, 12, seed=4)
    optimiser = torch.optim.SGD(made.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        loss = (made(queries, made.project(tokens, position)) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad.abs().max() > 0 for p in made.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[1] < losses[0]
