"""Landmark attention against loops over blocks, and against softmax."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
FORMS = ["parallel", "chunked"]


def given(block_size, top=None, shared=False, **more):
    """Return parameters with a landmark key a block."""

    def parameters(sizes, generator):
        blocks = -(-sizes["keys"] // block_size)
        heads = 1 if shared else sizes["heads"]
        shape = (1 if shared else sizes["batch"], heads, blocks, sizes["dim"])
        keys = torch.randn(shape, generator=generator, dtype=torch.float64)
        size = {} if block_size == 64 else {"block_size": block_size}
        return {"landmark_key": keys, "top": top, **size, **more}

    return parameters


EXAMPLES = {
    "landmark": [
        Example(given(64), label="default", lengths=(1, 64, 129)),
        Example(given(4, top=2, shared=True), label="top", lengths=(1, 2, 3, 4, 5, 63, 65)),
        Example(
            lambda *_: {"block_size": 5, "landmarks": "mean", "top": 1},
            label="mean",
            lengths=(1, 9, 10, 11, 64),
        ),
        Example(
            lambda *_: {"block_size": 3, "landmarks": "log-sum-exp", "top": 3},
            label="log-sum-exp",
            lengths=(2, 65),
        ),
    ]
}


def tensors(queries, keys, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((queries, dim), (keys, dim), (keys, 3))
    return [torch.randn(2, 2, *each, generator=generator, dtype=torch.float64) for each in shapes]


def by_loops(query, key, value, size, landmark, causal=False, mask=None, top=None):
    """Weigh one query after the other.

    ``landmark(image, head, row, block, logits)`` gives the logit of a block from those of its
    tokens that are seen.
    """
    queries, keys = query.shape[2], key.shape[2]
    read = torch.zeros(*query.shape[:3], value.shape[-1], dtype=query.dtype)
    shift = keys - queries
    for b, h, row in torch.cartesian_prod(*map(torch.arange, query.shape[:3])).tolist():
        place = row + shift if causal or not shift else None
        seen = [
            k
            for k in range(keys)
            if (not causal or k <= place) and (mask is None or mask[b, h, row, k])
        ]
        logit = {
            k: float(query[b, h, row] @ key[b, h, k]) / math.sqrt(query.shape[-1]) for k in seen
        }
        outer, inside = {}, {}
        for block in range(-(-keys // size)):
            members = [k for k in seen if k // size == block]
            if place is not None and place // size == block:
                outer |= {("token", k): logit[k] for k in members}
            elif members:
                inside[block] = members
        marks = {c: landmark(b, h, row, c, [logit[k] for k in inside[c]]) for c in inside}
        opened = sorted(marks, key=marks.get, reverse=True)[:top]
        outer |= {("block", c): marks[c] for c in opened}
        highest = max(outer.values(), default=0.0)
        total = sum(math.exp(each - highest) for each in outer.values())
        for (kind, number), each in outer.items():
            share = math.exp(each - highest) / total
            members = [number] if kind == "token" else inside[number]
            powers = {k: math.exp(logit[k]) for k in members}
            for k in members:
                read[b, h, row] += share * powers[k] / sum(powers.values()) * value[b, h, k]
    return read


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(11, 11), (3, 10), (10, 4)])
@pytest.mark.parametrize("top", [None, 1, 2])
@pytest.mark.parametrize("landmarks", ["given", "mean", "log-sum-exp"])
def test_every_number_equals_a_loop_over_blocks(form, causal, queries, keys, top, landmarks):
    # Catches a landmark of the own block, a later block that is opened, and a wrong alignment.
    query, key, value = tensors(queries, keys)
    size, generator = 3, torch.Generator().manual_seed(4)
    blocks = -(-keys // size)
    marks = torch.randn(2, 2, blocks, 4, generator=generator, dtype=torch.float64)
    ways = {
        "given": lambda b, h, i, c, logits: float(query[b, h, i] @ marks[b, h, c]) / 2,
        "mean": lambda b, h, i, c, logits: sum(logits) / len(logits),
        "log-sum-exp": lambda b, h, i, c, logits: math.log(sum(map(math.exp, logits))),
    }
    mask = torch.ones(2, 1, 1, keys, dtype=torch.bool)
    mask[0, ..., :4] = False
    for hidden in (None, mask):
        whole = None if hidden is None else hidden.expand(2, 2, queries, keys)
        wanted = by_loops(query, key, value, size, ways[landmarks], causal, whole, top)
        found = attend(
            "landmark",
            query,
            key,
            value,
            causal=causal,
            mask=hidden,
            form=form,
            block_size=size,
            landmarks=landmarks,
            landmark_key=marks,
            top=top,
        )
        torch.testing.assert_close(found, wanted, **EXACT)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("block_size", [1, 4, 7, 64])
@pytest.mark.parametrize(("queries", "keys"), [(13, 13), (5, 13), (13, 5)])
def test_log_sum_exp_landmarks_give_softmax(form, causal, block_size, queries, keys):
    # Catches a softmax within the block that is not scaled by the landmark's probability.
    inputs = tensors(queries, keys)
    mask = torch.rand(2, 1, queries, keys, generator=torch.Generator().manual_seed(1)) > 0.3
    blocks = {"block_size": block_size, "landmarks": "log-sum-exp", "form": form}
    for hidden in (None, mask):
        ways = {"causal": causal, "mask": hidden, "scale": 1.3}
        found = attend("landmark", *inputs, **blocks, **ways)
        torch.testing.assert_close(found, attend("softmax", *inputs, **ways), **EXACT)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("landmarks", ["given", "mean"])
def test_opening_all_landmarks_equals_no_limit(causal, landmarks):
    # Catches a query's own block, or a later one, that takes one of the places.
    inputs = tensors(22, 22)
    marks = torch.randn(1, 2, 6, 4, generator=torch.Generator().manual_seed(4)).double()
    blocks = {"block_size": 4, "landmarks": landmarks, "landmark_key": marks, "causal": causal}
    wanted = attend("landmark", *inputs, **blocks)
    for form in FORMS:
        for top in (5, 6, 99):
            found = attend("landmark", *inputs, **blocks, top=top, form=form)
            torch.testing.assert_close(found, wanted, **EXACT)
    fewer = attend("landmark", *inputs, **blocks, top=2)
    assert not torch.allclose(fewer, wanted)


@pytest.mark.parametrize("causal", [False, True])
def test_the_weights_of_a_block_sum_to_its_landmarks_probability(causal):
    # Catches a row that does not sum to one, and a share of a landmark that is closed.
    query, key, _ = tensors(20, 20)
    found = weights("landmark", query, key, block_size=4, landmarks="mean", top=1, causal=causal)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 2, 20).double(), **EXACT)
    opened = (found.unflatten(-1, (5, 4)).sum(-1) > 0).sum(-1)
    rows = torch.arange(20)
    # The own block, and one other where there is one.
    assert torch.equal(opened[0, 0], 1 + ((rows >= 4).long() if causal else 1 + 0 * rows))


@pytest.mark.parametrize("causal", [False, True])
def test_auto_retrieves_when_few_blocks_are_opened(causal):
    # Catches all pairs being formed where a query opens two blocks.
    inputs = tensors(1024, 1024)
    ways = {"block_size": 16, "landmarks": "mean", "causal": causal, "explain": True}
    few, plan = attend("landmark", *inputs, top=2, **ways)
    assert plan.form == "chunked"
    assert attend("landmark", *inputs, **ways)[1].form == "parallel"
    plain, _ = attend("landmark", *inputs, top=2, form="parallel", **ways)
    torch.testing.assert_close(few, plain, **EXACT)


def test_landmarks_that_are_missing_or_too_few_are_named():
    # Catches a broadcast of one landmark to all blocks.
    inputs = tensors(8, 8)
    for form in FORMS:
        with pytest.raises(InputError, match="needs landmark_key"):
            attend("landmark", *inputs, block_size=4, top=1, form=form)
        with pytest.raises(InputError, match="has 3 blocks"):
            attend(
                "landmark",
                *inputs,
                block_size=2,
                top=1,
                form=form,
                landmark_key=torch.zeros(1, 1, 3, 4).double(),
            )


@pytest.mark.parametrize("landmarks", ["given", "mean"])
def test_a_block_learns_its_landmarks(landmarks):
    # Catches landmark keys that no gradient reaches, and a block size that only one side hears of.
    generator = torch.Generator().manual_seed(0)
    block = MultiheadAttention(
        8, 2, 6, mechanism="landmark", parameters={"block_size": 4, "landmarks": landmarks}
    )
    queries = torch.randn(2, 10, 8, generator=generator)
    tokens, target = torch.randn(2, 10, 6, generator=generator), queries.flip(1)
    projected = block.project(tokens)
    if landmarks == "given":
        pooled = torch.stack([tokens[:, 4:8].mean(1), tokens[:, 8:].mean(1)], dim=1)
        wanted = block.learned.key(pooled).reshape(2, 2, 2, 4).transpose(1, 2)
        torch.testing.assert_close(projected.named["landmark_key"][:, :, 1:], wanted)
    assert (block.learned is None) == (landmarks != "given")
    step = torch.optim.SGD(block.parameters(), lr=0.05)
    losses = []
    for _ in range(2):
        loss = (block(queries, block.project(tokens)) - target).square().mean()
        step.zero_grad()
        loss.backward()
        for name, each in block.named_parameters():
            if name.startswith("learned."):
                assert each.grad.abs().max() > 0, name
        step.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
