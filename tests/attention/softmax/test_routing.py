"""Routing attention against loops over clusters, and against softmax."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.attention.softmax.routing import Centroids
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
FORMS = ["parallel", "chunked"]

EXAMPLES = {
    "routing": [
        Example(label="default", lengths=(1, 5, 6, 7, 65, 257)),
        Example(lambda *_: {"window": 3}, label="narrow", lengths=(2, 3, 4, 64)),
        Example(
            lambda sizes, generator: {
                "centroids": torch.randn(1, 2, sizes["dim"], generator=generator).double(),
                "window": 40,
            },
            label="wide",
            lengths=(39, 63),
        ),
    ]
}


def tensors(queries, keys, dim=4, clusters=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 2, queries, dim), (2, 2, keys, dim), (2, 2, keys, 3), (2, clusters, dim)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def nearest(tokens, centre, window, allowed):
    """Return the tokens of one cluster, by their angle to its centre."""
    cosine = {
        i: float(tokens[i] @ centre / tokens[i].norm() / centre.norm())
        for i in range(len(tokens))
        if allowed[i]
    }
    return sorted(cosine, key=cosine.get, reverse=True)[:window]


def by_loops(query, key, value, centroids, window, mask):
    """Attend within one cluster after the other."""
    read = torch.zeros(*query.shape[:3], value.shape[-1], dtype=query.dtype)
    images, heads, queries, dim = query.shape
    for b, h in torch.cartesian_prod(torch.arange(images), torch.arange(heads)).tolist():
        reads = [[] for _ in range(queries)]
        for centre in centroids[h]:
            asked = nearest(query[b, h], centre, window, [True] * queries)
            kept = nearest(key[b, h], centre, window, mask[b, h].any(0))
            for i in asked:
                seen = [j for j in kept if mask[b, h, i, j]]
                power = [
                    math.exp(float(query[b, h, i] @ key[b, h, j]) / math.sqrt(dim)) for j in seen
                ]
                shares = [each / sum(power) for each in power]
                if seen:
                    reads[i].append(
                        sum(s * value[b, h, j] for s, j in zip(shares, seen, strict=True))
                    )
        for i, several in enumerate(reads):
            if several:
                read[b, h, i] = sum(several) / len(several)
    return read


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("queries", "keys"), [(11, 11), (4, 13), (13, 4)])
@pytest.mark.parametrize("window", [1, 3, 6])
@pytest.mark.parametrize("hidden", ["nothing", "keys", "pairs"])
def test_every_number_equals_a_loop_over_clusters(form, queries, keys, window, hidden):
    # Catches clusters by distance or by unnormalised products, queries that go where keys go, and
    # a mean that counts clusters in which nothing was seen.
    *inputs, centroids = tensors(queries, keys)
    rows = {"nothing": 0, "keys": 1, "pairs": queries}[hidden]
    generator = torch.Generator().manual_seed(2)
    mask = torch.rand(2, 1, rows, keys, generator=generator) > 0.4 if rows else None
    whole = torch.ones(1, 1, 1, 1, dtype=torch.bool) if mask is None else mask
    wanted = by_loops(*inputs, centroids, window, whole.expand(2, 2, queries, keys))
    named = {"centroids": centroids, "window": window, "form": form}
    found = attend("routing", *inputs, mask=mask, **named)
    torch.testing.assert_close(found, wanted, **EXACT)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("queries", "keys"), [(9, 9), (3, 9)])
def test_one_cluster_of_all_tokens_is_softmax(form, queries, keys):
    # Catches unit queries or keys in the logits: their length matters in all but membership.
    *inputs, centroids = tensors(queries, keys, clusters=1)
    mask = torch.rand(2, 1, queries, keys, generator=torch.Generator().manual_seed(1)) > 0.3
    for ways in ({}, {"mask": mask}, {"scale": 2.0}):
        wanted = attend("softmax", *inputs, **ways)
        for window in (None, 9, 20):
            found = attend(
                "routing", *inputs, centroids=centroids, window=window, form=form, **ways
            )
            torch.testing.assert_close(found, wanted, **EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_identical_tokens_are_weighed_alike(form):
    # Catches a cosine or an order that enters the logits.
    query, key, value, centroids = tensors(10, 10)
    key = key[:, :, :1].expand(-1, -1, 10, -1)
    named = {"centroids": centroids, "window": 10}
    found = attend("routing", query, key, value, form=form, **named)
    torch.testing.assert_close(found, value.mean(2, keepdim=True).expand_as(found), **EXACT)
    few = weights("routing", query, key, centroids=centroids[:, :1], window=4)
    assert ((few == 0) | ((few - 0.25).abs() < 1e-12)).all()
    assert (few.sum(-1).round(decimals=9).sum(-1) == 4).all()


@pytest.mark.parametrize("form", FORMS)
def test_shuffled_tokens_give_shuffled_reads(form):
    # Catches a place in the sequence that decides about a cluster.
    query, key, value, centroids = tensors(12, 12)
    named = {"centroids": centroids, "window": 4, "form": form}
    before = attend("routing", query, key, value, **named)
    rows, columns = (
        torch.randperm(12, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)
    )
    shuffled = (query[:, :, rows], key[:, :, columns], value[:, :, columns])
    torch.testing.assert_close(attend("routing", *shuffled, **named), before[:, :, rows], **EXACT)
    reordered = {**named, "centroids": 3 * centroids.flip(1)}
    torch.testing.assert_close(attend("routing", query, key, value, **reordered), before, **EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_a_query_of_no_cluster_reads_zeros_and_of_several_their_mean(form):
    # Catches a sum over clusters, and a division by no cluster at all.
    query = torch.tensor([[1.0, 0.1], [0.2, 1.0], [-1.0, -1.0], [1.0, 1.0]]).double()
    key = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1], [0.1, 3.0]]).double()
    value = torch.tensor([[1.0], [2.0], [4.0], [8.0]]).double()
    centroids = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]).double()
    inputs = [x[None, None] for x in (query, key, value)]
    read = attend("routing", *inputs, centroids=centroids, window=2, form=form)[0, 0, :, 0]
    first = attend("softmax", *(x[:, :, [0, 2]] if n else x for n, x in enumerate(inputs)))
    second = attend("softmax", *(x[:, :, [1, 3]] if n else x for n, x in enumerate(inputs)))
    one, two = first[0, 0, :, 0], second[0, 0, :, 0]
    wanted = torch.stack([one[0], two[1], torch.zeros(()).double(), (one[3] + two[3]) / 2])
    torch.testing.assert_close(read, wanted, **EXACT)


def test_the_default_window_holds_each_token_once_on_average():
    # Catches a window that leaves some tokens without any cluster when numbers do not divide.
    query, key, _, centroids = tensors(10, 14)
    found = weights("routing", query, key, centroids=centroids[:, :1])
    assert (found > 0).all()
    reads = weights("routing", query, key, centroids=centroids) > 0
    # Three clusters of four queries and five keys.
    assert ((reads.sum(-1) % 5 == 0) | (reads.sum(-1) > 5)).all()
    assert (reads.any(-1).sum(-1) >= 4).all()


def test_an_update_moves_centroids_to_the_mean_direction_of_their_tokens():
    # Catches averages that mix heads, weigh long tokens more, or forget the centroid itself.
    learned = Centroids(8, 2, 5, clusters=3, momentum=0.9, seed=1)
    query, key, _, _ = (x.float() for x in tensors(20, 30))
    before = learned.centroids.clone()
    torch.testing.assert_close(before.norm(dim=-1), torch.ones(2, 3))
    learned.observe(query, key)
    for head in range(2):
        tokens = torch.cat([query[:, head], key[:, head]], dim=1).reshape(-1, 4)
        tokens = tokens / tokens.norm(dim=-1, keepdim=True)
        nearest_one = [(before[head] @ token).argmax().item() for token in tokens]
        for number in range(3):
            kin = [t for t, n in zip(tokens, nearest_one, strict=True) if n == number]
            mean = F.normalize(torch.stack(kin).sum(0), dim=0)
            wanted = 0.9 * before[head, number] + 0.1 * mean
            torch.testing.assert_close(learned.centroids[head, number], wanted)


def test_a_centroid_without_tokens_stays_and_many_updates_converge():
    # Catches a dead centroid that shrinks to zero, and an update that goes the wrong way.
    learned = Centroids(2, 1, 5, clusters=3, momentum=0.5, seed=0)
    learned.centroids.copy_(torch.tensor([[[1.0, 0.2], [0.2, 1.0], [-1.0, -1.0]]]))
    query = torch.tensor([[[[3.0, 0.0], [0.0, 0.1]]]])
    for _ in range(40):
        learned.observe(query, query)
    wanted = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]])
    torch.testing.assert_close(learned.centroids, wanted)


@pytest.mark.parametrize("tokens", [40, 200])
def test_a_block_holds_its_centroids_and_trains(tokens):
    # Catches centroids that are not saved with the block, and an update that breaks the graph.
    generator = torch.Generator().manual_seed(0)
    block = MultiheadAttention(8, 2, 6, mechanism="routing", parameters={"clusters": 4})
    assert block.state_dict()["learned.centroids"].shape == (2, 4, 4)
    assert block.learned.momentum == 0.999
    queries = torch.randn(2, 30, 8, generator=generator)
    keys, target = torch.randn(2, tokens, 6, generator=generator), queries.flip(1)
    step = torch.optim.SGD(block.parameters(), lr=0.1)
    before = block.learned.centroids.clone()
    losses = []
    # Tokens change cluster while it learns, so that a single step may lose a little.
    for _ in range(60):
        projected = block.project(keys)
        loss = (block(queries, projected) - target).square().mean()
        block.learned.observe(projected.key, projected.key)
        step.zero_grad()
        loss.backward()
        assert all(
            each.grad.isfinite().all() for each in block.parameters() if each.grad is not None
        )
        assert block.key.weight.grad.abs().max() > 0
        step.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert not torch.equal(block.learned.centroids, before)


def test_training_moves_the_centroids_and_evaluation_does_not():
    # Catches averages that nobody updates, or that move while a model is scored.
    with torch.random.fork_rng(devices=[]):
        block = MultiheadAttention(8, 2, mechanism="routing", parameters={"clusters": 3})
    tokens = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(0))
    start = block.learned.centroids.clone()
    block.eval()(tokens, block.project(tokens))
    assert torch.equal(block.learned.centroids, start)
    block.train()(tokens, block.project(tokens))
    assert not torch.equal(block.learned.centroids, start)
