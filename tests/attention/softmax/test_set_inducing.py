"""The Set Transformer's attention against its blocks, written out with torch's layers."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from neuroattn.attention import MultiheadAttention, attend
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
DIM, HEADS = 12, 3


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def isab(sizes, generator):
    heads, dim = sizes["heads"], sizes["dim"]
    shapes = {
        "feedforward": (heads, dim, heads, dim),
        "feedforward_bias": (heads, dim),
        "inducing": (1, heads, 5, dim),
        "inner": (3, heads, dim, heads, dim),
        "inner_bias": (3, heads, dim),
    }
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) / 2
        for name, shape in shapes.items()
    }


def pma(sizes, generator):
    named = isab(sizes, generator)
    return {"pooling": "pma", **{name: named[name] for name in list(named)[:2]}}


EXAMPLES = {
    "set_inducing": [
        Example(isab, value_dim=4, heads_apart=False, label="isab"),
        Example(pma, value_dim=4, heads_apart=False, lengths=(1, 2, 65), label="pma"),
    ]
}


class MAB(nn.Module):
    """MAB(X, Y) with projections of X and of Y, as in the authors' code."""

    def __init__(self, query_width, key_width):
        super().__init__()
        self.to_query = nn.Linear(query_width, DIM)
        self.to_key, self.to_value = nn.Linear(key_width, DIM), nn.Linear(key_width, DIM)
        self.to_output = nn.Linear(DIM, DIM)

    def forward(self, x, y):
        query, key, value = self.to_query(x), self.to_key(y), self.to_value(y)
        read = []
        for head in range(HEADS):
            own = slice(head * DIM // HEADS, (head + 1) * DIM // HEADS)
            logits = query[..., own] @ key[..., own].mT / math.sqrt(DIM)
            read.append(query[..., own] + torch.softmax(logits, -1) @ value[..., own])
        joined = torch.cat(read, dim=-1)
        return joined + torch.relu(self.to_output(joined))


def block(token_dim=5, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = MultiheadAttention(DIM, HEADS, token_dim, "set_inducing", options).double()
    for number, parameter in enumerate(made.parameters()):
        parameter.data = drawn(*parameter.shape, seed=number + 10) / 3
    return made


def written_out(ours, token_dim):
    """Return the function that the block should be, from its weights."""
    outer = MAB(DIM, token_dim if ours.learned.points is None else DIM).double()
    pairs = [(outer.to_query, ours.query), (outer.to_output, ours.learned.feedforward)]
    if ours.learned.points is None:
        pairs += [(outer.to_key, ours.key), (outer.to_value, ours.value)]
        inner = None
    else:
        inner = MAB(DIM, token_dim).double()
        output, key, value = ours.learned.inner
        pairs += [
            (inner.to_query, ours.learned.point_query),
            (inner.to_key, ours.key),
            (inner.to_value, ours.value),
            (inner.to_output, output),
            (outer.to_key, key),
            (outer.to_value, value),
        ]
    for mine, theirs in pairs:
        mine.load_state_dict(theirs.state_dict())

    def run(queries, tokens):
        if inner is not None:
            points = ours.learned.points.expand(len(tokens), -1, -1)
            tokens = inner(points, tokens)
        return outer(queries.expand(len(tokens), -1, -1), tokens)

    return run


@pytest.mark.parametrize("pooling", ["isab", "pma"])
def test_the_block_equals_the_set_transformer_written_out(pooling):
    # Catches a scale of one head, a residual of the unprojected queries, heads that are not mixed
    # by the feed-forward layer, and weights that are transposed.
    ours = block(points=4, pooling=pooling)
    tokens, queries = drawn(3, 9, 5), drawn(1, 6, DIM, seed=1)
    theirs = written_out(ours, 5)
    found, wanted = ours(queries, ours.project(tokens)), theirs(queries, tokens)
    torch.testing.assert_close(found, wanted, **EXACT)
    own = block(DIM, points=4, pooling=pooling)
    x = drawn(3, 9, DIM, seed=2)
    torch.testing.assert_close(own(x, own.project(x)), written_out(own, DIM)(x, x), **EXACT)


def test_isab_is_equivariant_and_pma_invariant():
    # Catches inducing points that are bound to places.
    turned = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    own, x = block(DIM, points=4), drawn(2, 9, DIM)
    first, moved = (own(each, own.project(each)) for each in (x, x[:, turned]))
    torch.testing.assert_close(moved, first[:, turned], **EXACT)
    assert not torch.allclose(moved, first)
    pool, seeds = block(pooling="pma"), drawn(1, 3, DIM)
    tokens = drawn(2, 9, 5)
    first, moved = (pool(seeds, pool.project(each)) for each in (tokens, tokens[:, turned]))
    torch.testing.assert_close(moved, first, **EXACT)


def test_the_cost_grows_with_the_length_not_its_square():
    # Catches an attention of all pairs on the way.
    counts = []
    for length in (200, 400, 800):
        sizes = {"heads": 2, "dim": 4}
        named = isab(sizes, torch.Generator().manual_seed(0))
        three = [drawn(1, 2, length, 4, seed=seed) for seed in range(3)]
        with FlopCounterMode(display=False) as counter:
            attend("set_inducing", *three, backend="reference", **named)
        counts.append(counter.get_total_flops())
    assert counts[2] - counts[1] == 2 * (counts[1] - counts[0])
    assert counts[2] < 4.1 * counts[0]


@pytest.mark.parametrize("pooling", ["isab", "pma"])
@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_hidden_tokens_are_not_read_and_a_given_scale_counts_everywhere(pooling, backend):
    # Catches a mask that reaches one of both reads only, and a scale of one of them.
    named = isab({"heads": 2, "dim": 4}, torch.Generator().manual_seed(0))
    query, key, value = (drawn(2, 2, 7, 4, seed=seed) for seed in range(3))
    shown = torch.tensor([0, 2, 3, 6])
    mask = torch.zeros(1, 1, 1, 7, dtype=torch.bool)
    mask[..., shown] = True
    ways = {"pooling": pooling, "backend": backend, **named}
    found = attend("set_inducing", query, key, value, mask=mask, **ways)
    wanted = attend("set_inducing", query, key[:, :, shown], value[:, :, shown], **ways)
    torch.testing.assert_close(found, wanted, **EXACT)
    unseen = attend("set_inducing", query, key, value, mask=mask & False, **ways)
    assert (unseen == 0).all()
    factor = 0.3 * math.sqrt(8)
    louder = {**ways, "inducing": named["inducing"]}
    found = attend("set_inducing", query, key, value, scale=0.3, **louder)
    read = attend("set_inducing", query, factor * key, value, scale=8**-0.5, **louder)
    if pooling == "pma":
        torch.testing.assert_close(found, read, **EXACT)
    else:
        # Inner keys are made of the summary: their scale is that of the inner key projection.
        inner, bias = named["inner"].clone(), named["inner_bias"].clone()
        inner[1], bias[1] = factor * inner[1], factor * bias[1]
        louder |= {"inner": inner, "inner_bias": bias}
        read = attend("set_inducing", query, factor * key, value, **louder)
        torch.testing.assert_close(found, read, **EXACT)


@pytest.mark.parametrize("pooling", ["isab", "pma"])
def test_the_block_learns_points_and_layers(pooling):
    # Catches a layer that is made and not used, and points that are not trained.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {"points": 4, "pooling": pooling}
        made = MultiheadAttention(DIM, HEADS, 5, "set_inducing", options).double()
    tokens, queries, target = drawn(4, 9, 5), drawn(1, 6, DIM), drawn(4, 6, DIM, seed=3)
    optimiser = torch.optim.SGD(made.parameters(), lr=0.02)
    losses = []
    for _ in range(3):
        loss = (made(queries, made.project(tokens)) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        for name, parameter in made.named_parameters():
            if not name.startswith("key_position"):
                assert parameter.grad.abs().max() > 0, name
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[1] < losses[0]


def test_what_does_not_fit_is_refused_with_the_reason():
    # Catches a residual that is broadcast, and inducing points that are silently left out.
    named = isab({"heads": 2, "dim": 4}, torch.Generator().manual_seed(0))
    query, key, value = (drawn(1, 2, 7, 4, seed=seed) for seed in range(3))
    with pytest.raises(InputError, match="value_dim=3 must be dim=4"):
        attend("set_inducing", query, key, value[..., :3], **named)
    del named["inducing"]
    message = re.escape("pooling='isab' needs inducing, inner and inner_bias")
    with pytest.raises(InputError, match=message):
        attend("set_inducing", query, key, value, **named)
    with pytest.raises(InputError, match="no causal form"):
        attend("set_inducing", query, key, value, causal=True, **named)
