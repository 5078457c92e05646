"""Affine-scaled attention against its equation, and the running mean against its recurrence."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
BACKENDS = ["sdpa", "reference"]


def all_keys(sizes, generator):
    return {"normalizer": "all"}


def one_for_all(sizes, generator):
    gain = torch.rand(1, 1, 1, generator=generator, dtype=torch.float64)
    return {"gain": gain, "gain_average": torch.tensor([0.3], dtype=torch.float64)}


EXAMPLES = {
    "affine_scaled": [
        Example(label="visible"),
        Example(all_keys, lengths=(1, 2, 65), label="all"),
        Example(one_for_all, lengths=(1, 2, 65), label="shared"),
    ]
}


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def three(queries=5, keys=7):
    return drawn(2, 3, queries, 4), drawn(2, 3, keys, 4, seed=1), drawn(2, 3, keys, 2, seed=2)


def learned(queries=5):
    return {"gain": drawn(2, 3, queries, seed=5).sigmoid(), "gain_average": drawn(3).sigmoid()}


def a_mask(queries=5, keys=7):
    mask = torch.rand(2, 1, queries, keys, generator=torch.Generator().manual_seed(3)) > 0.4
    mask[1, 0, 2] = False
    return mask


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("normalizer", ["visible", "all"])
@pytest.mark.parametrize("masked", ["no", "keys", "rows"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(5, 7), (7, 5)])
def test_every_number_equals_a_loop_over_keys(backend, normalizer, masked, causal, queries, keys):
    # Catches a running sum that is off by one, and a share that hidden keys get.
    query, key, value = three(queries, keys)
    named, rows = learned(queries), a_mask(queries, keys)
    mask = {"no": None, "keys": rows[:, :, :1], "rows": rows}[masked]
    seen_by = torch.ones_like(rows) if mask is None else mask.expand_as(rows)
    read = attend(
        "affine_scaled",
        *(query, key, value),
        causal=causal,
        mask=mask,
        backend=backend,
        normalizer=normalizer,
        **named,
    )
    for b, h, i in [(0, 0, 0), (1, 2, 2), (0, 1, queries - 1), (1, 0, 3)]:
        seen = [
            j
            for j in range(keys)
            if (not causal or j - keys <= i - queries) and seen_by[b, 0, i, j]
        ]
        powers = {j: torch.exp(query[b, h, i] @ key[b, h, j] / 2) for j in seen}
        gain, average = named["gain"][b, h, i], named["gain_average"][h]
        count = keys if normalizer == "all" else len(seen)
        wanted = torch.zeros(2, dtype=torch.float64)
        for j in seen:
            share = gain * powers[j] / sum(powers.values()) + (average - gain) / count
            wanted += share * value[b, h, j]
        torch.testing.assert_close(read[b, h, i], wanted, **EXACT)


@pytest.mark.parametrize("masked", [False, True])
def test_rows_sum_to_the_average_over_the_visible_keys(masked):
    # Catches the full length under a causal mask, where early rows get less than the average.
    query, key, _ = three(7, 7)
    named, mask = learned(7), a_mask(7, 7) if masked else None
    average = named["gain_average"][:, None].expand(2, 3, 7).clone()
    if masked:
        average[1, :, 2] = 0
        average[~(a_mask(7, 7) & torch.ones(7, 7).tril().bool()).any(-1).expand(2, 3, 7)] = 0
    sums = weights("affine_scaled", query, key, causal=True, mask=mask, **named).sum(-1)
    torch.testing.assert_close(sums, average, **EXACT)
    if not masked:
        full = weights("affine_scaled", query, key, causal=True, normalizer="all", **named)
        part = torch.arange(1, 8, dtype=torch.float64) / 7
        wanted = named["gain"] + (named["gain_average"][:, None] - named["gain"]) * part
        torch.testing.assert_close(full.sum(-1), wanted, **EXACT)


def test_weights_are_negative_exactly_below_the_threshold():
    # Catches a clamp at zero.
    query, key, _ = three(40, 30)
    gain, average = torch.full((1, 1, 1), 0.9).double(), torch.full((1,), 0.2).double()
    found = weights("affine_scaled", query, key, gain=gain, gain_average=average)
    convex = weights("softmax", query, key)
    below = convex < (0.9 - 0.2) / (0.9 * 30)
    assert torch.equal(found < 0, below)
    assert 0 < below.sum() < below.numel()
    none = weights("affine_scaled", query, key, gain=gain, gain_average=gain[0, 0])
    assert (none > 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("normalizer", ["visible", "all"])
def test_a_gain_and_an_average_of_one_are_softmax(backend, normalizer):
    # Catches a share that is added twice.
    inputs, one = three(), torch.ones(1, 1, 1).double()
    ways = {"causal": True, "mask": a_mask(), "backend": backend}
    read = attend(
        "affine_scaled", *inputs, **ways, gain=one, gain_average=one[0, 0], normalizer=normalizer
    )
    torch.testing.assert_close(read, attend("softmax", *inputs, **ways), **EXACT)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gain_of_zero_reads_the_mean_of_the_visible_values(backend):
    # Catches a gain that silences the head.
    query, key, value = three(7, 7)
    zero, half = torch.zeros(1, 1, 1).double(), torch.full((1,), 0.5).double()
    read = attend(
        "affine_scaled",
        query,
        key,
        value,
        causal=True,
        backend=backend,
        gain=zero,
        gain_average=half,
    )
    for i in range(7):
        wanted = 0.5 * value[:, :, : i + 1].mean(dim=2)
        torch.testing.assert_close(read[:, :, i], wanted, **EXACT)


def block(**parameters):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MultiheadAttention(12, 3, 5, "affine_scaled", parameters).double()


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_the_running_mean_follows_its_recurrence_in_training_only(start):
    # Catches an update in evaluation, and a mean over the heads.
    made = block(start=start)
    tokens, queries = drawn(4, 9, 5), drawn(6, 1, 12)
    average = torch.full((3,), start, dtype=torch.float64)
    for step in range(5):
        asked = queries[step : step + 1].expand(2, 3, -1)
        read = made.project(tokens)
        torch.testing.assert_close(read.named["gain_average"], average, **EXACT)
        made(asked[:1], read)
        logits = asked[0, 0] @ made.learned.linear.weight.T
        average = 0.9 * average + 0.1 * (0.1 * logits + 0.5).clamp(0, 1)
    made.project(tokens)
    made.eval()
    for _ in range(2):
        made(queries[:1], made.project(tokens))
    made.train().project(tokens)
    torch.testing.assert_close(made.learned.average, average, **EXACT)


def test_training_goes_on_from_a_saved_state_as_if_it_had_not_stopped():
    # Catches the gains of the last step before a checkpoint, which count in the next one.
    made, other = block(), block()
    tokens, queries = drawn(4, 9, 5), drawn(6, 1, 12)
    for step in range(6):
        if step == 3:
            other.load_state_dict(made.state_dict())
        for each in (made, other) if step >= 3 else (made,):
            each(queries[step : step + 1], each.project(tokens))
    averages = [each.project(tokens).named["gain_average"] for each in (made, other)]
    torch.testing.assert_close(*averages, **EXACT)
    assert averages[0].min() > 0


def test_reads_that_are_computed_again_change_neither_the_mean_nor_the_gradient():
    # Catches a running mean that counts a query twice because the backward pass repeats it, or
    # an average that has moved on by then.
    plain = block(start=0.5)
    again = copy.deepcopy(plain)
    tokens, queries = drawn(4, 9, 5), drawn(2, 6, 12).requires_grad_()
    slopes = []
    for made, repeated in ((plain, False), (again, True)):
        for _ in range(3):
            # Two groups of images a step, as the decoder reads them, and two blocks of queries.
            total = torch.zeros((), dtype=torch.float64)
            for images in tokens.split(2):
                read = made.project(images)
                for part in queries[:1].split(3, dim=1):
                    again_later = {"use_reentrant": False}
                    out = (
                        checkpoint(made, part, read, **again_later)
                        if repeated
                        else made(part, read)
                    )
                    total = total + out.square().sum()
            leaves = [queries, *made.learned.parameters(), *made.output.parameters()]
            found = torch.autograd.grad(total, leaves)
        slopes.append(found)
        made.project(tokens)
    torch.testing.assert_close(plain.learned.average, again.learned.average, **EXACT)
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("nonlinearity", ["linear_clipping", "sigmoid"])
def test_the_block_learns_the_gain(nonlinearity):
    # Catches a gain that is not trained, out of 0..1, or of another function.
    made = block(nonlinearity=nonlinearity, start=0.5)
    tokens, queries, target = drawn(4, 9, 5), drawn(1, 6, 12), drawn(4, 6, 12, seed=3)
    logits = queries @ made.learned.linear.weight.T
    wanted = 1 / (1 + torch.exp(-logits)) if nonlinearity == "sigmoid" else 0.1 * logits + 0.5
    gain = made.eval().learned.of_queries(queries)["gain"]
    torch.testing.assert_close(gain, wanted.transpose(1, 2), **EXACT)
    loud = made.learned.of_queries(1e3 * queries)["gain"]
    assert loud.min() >= 0
    assert loud.max() <= 1
    made.train()
    optimiser = torch.optim.SGD(made.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        loss = (made(queries, made.project(tokens)) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        assert made.learned.linear.weight.grad.abs().max() > 0
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_a_fixed_gain_overrides_the_learned_one_and_bounds_are_named():
    # Catches parameters of a recipe that are silently ignored.
    made = block(gain=torch.ones(1, 1, 1).double(), gain_average=torch.ones(1).double())
    tokens, queries = drawn(4, 9, 5), drawn(1, 6, 12)
    sums = made.maps(queries, made.project(tokens)).sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), **EXACT)
    with pytest.raises(InputError, match=r"start=2\.0; allowed: a number at least 0 and at most 1"):
        block(start=2.0)
    with pytest.raises(InputError, match="needs gain"):
        attend("affine_scaled", *three())
