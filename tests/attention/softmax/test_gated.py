"""Gated attention against loops over channels, and its gate inside the block."""

from __future__ import annotations

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend, get, weights
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]


def by_channel(sizes, generator):
    shape = [sizes[axis] for axis in ("batch", "heads", "queries", "value_dim")]
    return {"gate": torch.randn(shape, generator=generator, dtype=torch.float64)}


def shared_by_queries(sizes, generator):
    shape = (1, sizes["heads"], 1, 1)
    return {"gate": torch.randn(shape, generator=generator, dtype=torch.float64)}


LENGTHS = (1, 2, 65)
EXAMPLES = {
    "gated": [Example(label="head"), Example(shared_by_queries, lengths=LENGTHS, label="shared")]
}
ELEMENT = Example(by_channel, lengths=LENGTHS, label="element")


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def block(*sizes, **more):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MultiheadAttention(*sizes, **more).double()


def three(queries=5, keys=7, dim=4, value_dim=3):
    return drawn(2, 3, queries, dim), drawn(2, 3, keys, dim, seed=1), drawn(2, 3, keys, value_dim)


@pytest.mark.parametrize(
    "rule",
    [
        "test_all_forms_and_backends_agree_in_outputs_and_every_gradient",
        "test_the_reference_passes_gradcheck",
        "test_a_later_token_never_reaches_an_earlier_query",
        "test_hidden_keys_have_no_influence_and_a_row_without_keys_reads_zeros",
        "test_half_precision_errs_no_more_than_twice_the_standard_implementation",
        "test_loud_inputs_give_no_nan",
        "test_images_and_heads_are_read_apart",
    ],
)
def test_gates_by_channel_keep_the_contract_but_for_the_matrix_that_they_lack(rule):
    # Catches a gate by channel that only one backend applies.
    from tests.attention import test_contract

    getattr(test_contract, rule)("gated", ELEMENT)


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
@pytest.mark.parametrize("width", [1, 3])
def test_a_wide_open_gate_is_softmax_and_a_closed_one_reads_nothing(backend, width):
    # Catches a gate on the logits, or on the weights before they are normalised.
    inputs = three()
    plain = attend("softmax", *inputs, causal=True)
    for logit, share in ((100.0, 1.0), (0.0, 0.5), (-100.0, 0.0)):
        gate = torch.full((1, 3, 5, width), logit, dtype=torch.float64)
        read = attend("gated", *inputs, causal=True, backend=backend, gate=gate)
        torch.testing.assert_close(read, share * plain, **EXACT)


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
@pytest.mark.parametrize("width", [1, 3])
def test_the_gate_is_applied_to_each_channel_of_the_read(backend, width):
    # Catches a gate on the values, by key, and channels in another order.
    query, key, value = three()
    gate = drawn(2, 3, 5, width, seed=4)
    read = attend("gated", query, key, value, gate=gate, scale=0.7, backend=backend)
    for place in [(0, 0, 0), (1, 2, 4), (0, 1, 3)]:
        logits = 0.7 * key[place[:2]] @ query[place]
        shares = logits.exp() / logits.exp().sum()
        for channel in range(3):
            opened = 1 / (1 + torch.exp(-gate[place][channel % width]))
            wanted = opened * (shares * value[place[:2]][:, channel]).sum()
            torch.testing.assert_close(read[place][channel], wanted, **EXACT)


def test_the_gate_lifts_the_rank_of_value_times_output():
    # Catches a gate that does not depend on the query: what one head writes stays in two
    # directions of the output, however it is weighted, until each query has its own gates.
    plain = block(8, 1, mechanism="softmax")
    gated = block(8, 1, mechanism="gated", parameters={"granularity": "element"})
    tokens, queries = drawn(1, 9, 8), 3 * drawn(1, 40, 8, seed=2)
    with torch.no_grad():
        for each in (plain, gated):
            each.value.weight[2:] = 0
            each.value.weight[2:4] = each.value.weight[:2]
            each.output.weight[:] = torch.eye(8, dtype=torch.float64)
        ranks = [
            int(torch.linalg.matrix_rank(b(queries, b.project(tokens))[0])) for b in (plain, gated)
        ]
    assert ranks == [2, 4]


def test_weights_by_head_sum_to_the_gate_and_by_channel_do_not_exist():
    # Catches maps that leave out the gate, and one map for channels that have their own.
    query, key, _ = three()
    gate = drawn(2, 3, 5, 1, seed=4)
    found = weights("gated", query, key, gate=gate)
    torch.testing.assert_close(found.sum(-1, keepdim=True), gate.sigmoid(), **EXACT)
    with pytest.raises(InputError, match="granularity='head'"):
        weights("gated", query, key, gate=drawn(2, 3, 5, 4))


def test_the_gate_is_required_and_its_shape_checked():
    # Catches a gate that is broadcast over the wrong axis.
    with pytest.raises(InputError, match=r"gated' needs gate.*MultiheadAttention learns it"):
        attend("gated", *three())
    with pytest.raises(InputError, match="gate is a tensor of shape"):
        attend("gated", *three(), gate=drawn(2, 3, 5, 2))


@pytest.mark.parametrize(("granularity", "width"), [("head", 1), ("element", 4)])
def test_the_block_learns_a_gate_of_its_queries(granularity, width):
    # Catches a gate that is computed from the tokens, cut into heads along the wrong axis, or not
    # trained.
    made = block(12, 3, 5, mechanism="gated", parameters={"granularity": granularity})
    tokens, queries, target = drawn(4, 9, 5), drawn(1, 6, 12), drawn(4, 6, 12, seed=3)
    gate = made.learned.of_queries(queries)["gate"]
    assert gate.shape == (1, 3, 6, width)
    row = width
    linear = made.learned.linear
    logit = linear.weight[row] @ queries[0, 4] + linear.bias[row]
    torch.testing.assert_close(gate[0, 1, 4, 0], logit, **EXACT)
    optimiser = torch.optim.SGD(made.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        loss = (made(queries, made.project(tokens)) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad.abs().max() > 0 for p in made.learned.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[1] < losses[0]
    assert get("gated").options["granularity"].choices == ("head", "element")
