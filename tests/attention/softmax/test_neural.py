"""Neural attention against networks on concatenated pairs, and against the dot product."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from neuroattn.attention import MultiheadAttention, attend, weights
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
FORMS = ["parallel", "chunked"]


def one_network(sizes, generator):
    shapes = {
        "first": (1, 2, sizes["dim"], 8),
        "first_bias": (1, 8),
        "second": (1, 8, 3),
        "second_bias": (1, 3),
        "third": (1, 3),
    }
    named = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) / 2
        for name, shape in shapes.items()
    }
    return {**named, "chunk_size": 3}


EXAMPLES = {
    "neural": [
        Example(lengths=(1, 2, 63, 64, 65), label="heads"),
        Example(one_network, lengths=(2, 3, 4, 7), label="shared"),
    ]
}


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def three(queries=5, keys=7, dim=4):
    return drawn(2, 3, queries, dim), drawn(2, 3, keys, dim, seed=1), drawn(2, 3, keys, 2, seed=2)


def network(heads, dim=4, hidden=6, narrow=3):
    return {
        "first": drawn(heads, 2, dim, hidden, seed=3),
        "first_bias": drawn(heads, hidden, seed=4),
        "second": drawn(heads, hidden, narrow, seed=5),
        "second_bias": drawn(heads, narrow, seed=6),
        "third": drawn(heads, narrow, seed=7),
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("causal", [False, True])
def test_every_number_equals_a_network_on_concatenated_pairs(form, heads, scale, causal):
    # Catches [k; q] instead of [q; k], a network of another head, and a default scale that is
    # not 1.
    (query, key, value), named = three(), network(heads)
    mask = drawn(2, 1, 5, 7, seed=9) > -0.7
    read = attend(
        "neural",
        *(query, key, value),
        causal=causal,
        mask=mask,
        scale=scale,
        form=form,
        chunk_size=2,
        **named,
    )
    for b, h, i in [(0, 0, 0), (1, 2, 4), (0, 1, 3)]:
        layers = nn.Sequential(
            nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 1)
        ).double()
        own = {name: tensor[h % heads] for name, tensor in named.items()}
        layers[0].weight.data = own["first"].flatten(0, 1).T
        layers[0].bias.data = own["first_bias"]
        layers[2].weight.data, layers[2].bias.data = own["second"].T, own["second_bias"]
        layers[4].weight.data = own["third"][None]
        seen = [j for j in range(7) if mask[b, 0, i, j] and (not causal or j <= i + 2)]
        pairs = torch.stack([torch.cat([query[b, h, i], key[b, h, j]]) for j in seen])
        scores = layers(pairs)[:, 0].detach() * (1 if scale is None else scale)
        wanted = scores.softmax(dim=0) @ value[b, h, seen]
        torch.testing.assert_close(read[b, h, i], wanted, **EXACT)


def multiplier(dim, knots, reach):
    """Return a network whose score approximates q·k = Σ ((q+k)² - (q-k)²)/4.

    Each square is the piecewise linear function through its values at ``knots`` points on either
    side of 0, a sum of kinks.
    """
    step = reach / knots
    sums, kinks, slopes = [], [], []
    for channel, sign, side in itertools.product(range(dim), (1, -1), (1, -1)):
        for number in range(knots):
            weight = torch.zeros(2, dim, dtype=torch.float64)
            weight[0, channel], weight[1, channel] = side, side * sign
            sums.append(weight)
            kinks.append(-number * step)
            slopes.append((sign, step if number == 0 else 2 * step))
    second = torch.zeros(1, len(sums), 2, dtype=torch.float64)
    for unit, (sign, slope) in enumerate(slopes):
        second[0, unit, 0 if sign == 1 else 1] = slope
    return {
        "first": torch.stack(sums, dim=-1)[None],
        "first_bias": torch.tensor([kinks], dtype=torch.float64),
        "second": second,
        "second_bias": torch.zeros(1, 2, dtype=torch.float64),
        "third": torch.tensor([[0.25, -0.25]], dtype=torch.float64),
    }


def test_a_network_that_multiplies_tends_to_softmax_as_it_grows():
    # Catches a layer that is skipped, and a scale of 1/sqrt(dim) on the scores.
    inputs = [x.clamp(-2, 2) for x in three(9, 8, dim=3)]
    wanted = attend("softmax", *inputs, scale=1.0)
    errors = []
    for knots in (4, 8, 16, 32, 64):
        read = attend("neural", *inputs, **multiplier(3, knots, reach=4.0))
        errors.append(float((read - wanted).abs().max()))
    rates = [before / after for before, after in itertools.pairwise(errors[1:])]
    assert errors[-1] < 2e-3
    assert all(2.5 < rate < 6 for rate in rates), errors


@pytest.mark.parametrize("form", FORMS)
def test_tokens_in_another_order_read_in_that_order(form):
    # Catches pairs that are folded back in another order.
    (query, key, value), named = three(7, 7), network(3)
    turned = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    ways = {"form": form, "chunk_size": 3, **named}
    first = attend("neural", query, key, value, **ways)
    moved = (x[:, :, turned] for x in (query, key, value))
    torch.testing.assert_close(attend("neural", *moved, **ways), first[:, :, turned], **EXACT)


def test_long_reads_are_chunked_by_default_and_keep_no_pairs_for_the_backward_pass():
    # Catches memory that grows with queries times keys in training.
    named, kept = network(1), []
    for queries, form in ((64, "parallel"), (65, "chunked")):
        inputs = three(queries, 40)
        _, plan = attend("neural", *inputs, explain=True, **named)
        assert plan.form == form
    query, key, value = (x.requires_grad_() for x in three(128, 40))
    for form in FORMS:
        sizes = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            attend("neural", query, key, value, form=form, chunk_size=16, **named)
        kept.append(max(sizes))
    assert kept[0] >= 2 * 3 * 128 * 40 * 6
    assert kept[1] <= 2 * 3 * 128 * 4


def test_the_explicit_weights_sum_to_one():
    # Catches a softmax over the queries.
    matrix = weights("neural", *three()[:2], **network(3))
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 3, 5).double(), **EXACT)


@pytest.mark.parametrize("per_head", [True, False])
def test_the_block_learns_the_network(per_head):
    # Catches a layer that no gradient reaches, and widths that are not those asked for.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {"width": 10, "per_head": per_head, "chunk_size": 4}
        block = MultiheadAttention(12, 3, 5, "neural", options).double()
    each = 3 if per_head else 1
    shapes = {name: tuple(p.shape) for name, p in block.learned.named_parameters()}
    assert shapes == {
        "first": (each, 2, 4, 10),
        "first_bias": (each, 10),
        "second": (each, 10, 5),
        "second_bias": (each, 5),
        "third": (each, 5),
    }
    tokens, queries, target = drawn(4, 9, 5), drawn(1, 6, 12), drawn(4, 6, 12, seed=3)
    optimiser = torch.optim.SGD(block.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        loss = (block(queries, block.project(tokens)) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad.abs().max() > 0 for p in block.learned.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[1] < losses[0]
