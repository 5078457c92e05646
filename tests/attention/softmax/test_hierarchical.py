"""Hierarchical attention against softmax, loops, and searches for tied weights that are closer."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.attention.softmax.trees import levels_of
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
FORMS = ["parallel", "chunked"]


def halves(sizes, generator):
    """Return irregular nested blocks that ascend."""
    place = torch.arange(sizes["keys"])
    return {"blocks": torch.stack([(place >= 5).long() + (place >= 40), place**2 // 17])}


EXAMPLES = {
    "hierarchical": [
        Example(label="default", lengths=(1, 2, 15, 16, 17, 65)),
        Example(lambda *_: {"block_size": (12, 4, 2)}, label="tree", lengths=(1, 3, 4, 13, 63)),
        Example(
            lambda *_: {"block_size": (3,), "score": "distance"}, label="distance", lengths=(2, 64)
        ),
        Example(halves, label="blocks", lengths=(1, 6, 41, 65)),
    ]
}
TREES = {
    "one level": {"block_size": 3},
    "tree": {"block_size": (6, 2)},
    "deep": {"block_size": (8, 4, 2)},
    "irregular": {
        "blocks": torch.tensor([[0, 0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 1, 2, 3, 4, 4]])
    },
    "scattered": {
        "blocks": torch.tensor([[5, 2, 5, 2, 2, 9, 5, 5, 2], [0, 0, 1, 1, 0, 0, 0, 1, 1]])
    },
}


def tensors(tokens=9, dim=3, batch=2, heads=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, heads, tokens, width, generator=generator, dtype=torch.float64)
        for width in (dim, dim, 2)
    ]


def classes(tree, tokens=9):
    """Return, for each pair of tokens, the pair of siblings that ties it (below, leaf pairs)."""
    levels = levels_of(tokens, tree.get("block_size", 1), tree.get("blocks"), torch.device("cpu"))
    paths = torch.stack(levels, 1).tolist()
    tied = {}
    for i, j in itertools.product(range(tokens), repeat=2):
        split = next(
            (n for n, (a, b) in enumerate(zip(paths[i], paths[j], strict=True)) if a != b), None
        )
        tied[i, j] = (i, i) if split is None else (split, paths[i][split], paths[j][split])
    return tied


def divergence(matrix, softmax):
    """Return the sum over rows of KL(matrix | softmax)."""
    return torch.xlogy(matrix, matrix / softmax).sum((-2, -1))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tree", [1, (1, 1), 9, 50, (20, 10), (9, 1), (50, 1, 1)])
def test_single_tokens_or_one_block_give_softmax(form, tree):
    # Catches a token that is not counted among its own siblings.
    inputs = tensors()
    found = attend("hierarchical", *inputs, block_size=tree, form=form, scale=1.1)
    wanted = attend("softmax", *inputs, scale=1.1)
    torch.testing.assert_close(found, wanted, **EXACT)


def test_one_level_equals_its_closed_form_in_loops():
    # Catches a mean of exponentials for the exponential of a mean, and a block without its size.
    query, key, _ = tensors()
    groups = [[0, 1, 2], [3, 4, 5, 6], [7], [8]]
    row = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 3])
    scores = query[1, 0] @ key[1, 0].T / math.sqrt(3)
    wanted = torch.zeros(9, 9, dtype=torch.float64)
    for own in groups:
        inside = sum(float(scores[i, own].exp().sum().log()) for i in own) / len(own)
        mean = {
            n: float(scores[own][:, other].mean()) for n, other in enumerate(groups) if other != own
        }
        total = math.exp(inside) + sum(len(groups[n]) * math.exp(s) for n, s in mean.items())
        for i in own:
            for j in own:
                within = float(scores[i, j].exp() / scores[i, own].exp().sum())
                wanted[i, j] = math.exp(inside) / total * within
            for n, s in mean.items():
                wanted[i, groups[n]] = math.exp(s) / total
    found = weights("hierarchical", query, key, blocks=row[None])
    torch.testing.assert_close(found[1, 0], wanted, **EXACT)


@pytest.mark.parametrize("name", TREES)
def test_rows_sum_to_one_and_siblings_are_tied(name):
    # Catches a normaliser that forgets how many tokens a block has.
    query, key, _ = tensors()
    found = weights("hierarchical", query, key, **TREES[name])
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 2, 9).double(), **EXACT)
    assert (found > 0).all()
    first = {}
    for (i, j), pair in classes(TREES[name]).items():
        a, b = first.setdefault(pair, (i, j))
        torch.testing.assert_close(found[..., i, j], found[..., a, b], **EXACT)


def directions(tied, tokens=9):
    """Return a basis of the changes that keep pairs tied and rows at their sums."""
    names = sorted(set(tied.values()), key=str)
    sums = torch.zeros(tokens, len(names), dtype=torch.float64)
    for (i, _), pair in tied.items():
        sums[i, names.index(pair)] += 1
    _, sizes, axes = torch.linalg.svd(sums)
    free = axes[int((sizes > 1e-9).sum()) :]
    changes = torch.zeros(len(free), tokens, tokens, dtype=torch.float64)
    for (i, j), pair in tied.items():
        changes[:, i, j] = free[:, names.index(pair)]
    return changes


@pytest.mark.parametrize("name", TREES)
def test_no_tied_weights_are_closer_to_softmax(name):
    # Catches a block's energy that is the log of a mean instead of the mean of logs, or a tree
    # whose levels are each normalised as if they were alone.
    query, key, _ = tensors(batch=1, heads=1)
    softmax = weights("softmax", query, key)[0, 0]
    found = weights("hierarchical", query, key, **TREES[name])[0, 0]
    least = divergence(found, softmax)
    changes = directions(classes(TREES[name]))
    # At the least of a convex function no feasible direction has a slope.
    slope = (found / softmax).log() + 1
    slopes = (changes * slope).sum((-2, -1))
    assert slopes.abs().max() < 1e-12
    generator = torch.Generator().manual_seed(3)
    for size in (1e-3, 1e-2, 0.1):
        mixed = torch.randn(1000, len(changes), generator=generator, dtype=torch.float64)
        tried = found + size * torch.einsum("tc,cij->tij", mixed, changes)
        feasible = tried[(tried >= 0).all((-2, -1))]
        assert size > 1e-3 or len(feasible) > 500
        assert (divergence(feasible, softmax) > least).all()


@pytest.mark.parametrize("name", ["tree", "irregular"])
def test_a_search_from_afar_ends_at_the_closed_form(name):
    # Catches a closed form that is optimal only among the weights of its own kind.
    query, key, _ = tensors(batch=1, heads=1)
    softmax = weights("softmax", query, key)[0, 0]
    tied = classes(TREES[name])
    names = sorted(set(tied.values()), key=str)
    index = torch.tensor([names.index(tied[i, j]) for i in range(9) for j in range(9)])
    changes = directions(tied)
    start = weights("hierarchical", 0 * query, key, **TREES[name])[0, 0]
    moved = torch.zeros(len(changes), dtype=torch.float64)
    for _ in range(50):
        matrix = start + torch.einsum("c,cij->ij", moved, changes)
        slope = (changes * ((matrix / softmax).log() + 1)).sum((-2, -1))
        curve = torch.einsum("cij,dij,ij->cd", changes, changes, 1 / matrix)
        newton = torch.linalg.solve(curve, -slope)
        change = torch.einsum("c,cij->ij", newton, changes)
        # Newton's step, cut so that no weight turns negative.
        reach = (-matrix / change)[change < 0].min() if (change < 0).any() else torch.ones(())
        moved = moved + min(1.0, 0.9 * float(reach)) * newton
    matrix = start + torch.einsum("c,cij->ij", moved, changes)
    assert len(index.unique()) == len(names)
    found = weights("hierarchical", query, key, **TREES[name])[0, 0]
    torch.testing.assert_close(found, matrix, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(start, matrix, atol=1e-2)


@pytest.mark.parametrize("form", FORMS)
def test_a_level_of_single_tokens_or_of_one_block_changes_nothing(form):
    # Catches a mass that is multiplied in at a level with nothing to share.
    inputs = tensors()
    ways = {"form": form}
    wanted = attend("hierarchical", *inputs, block_size=3, **ways)
    for sizes in ((9, 3), (3, 1), (3, 3), (30, 3, 3, 1)):
        found = attend("hierarchical", *inputs, block_size=sizes, **ways)
        torch.testing.assert_close(found, wanted, **EXACT)
    rows = torch.arange(9)[None] // 3 * 7
    torch.testing.assert_close(
        attend("hierarchical", *inputs, blocks=rows, **ways), wanted, **EXACT
    )


@pytest.mark.parametrize("form", FORMS)
def test_scattered_blocks_equal_sorted_ones(form):
    # Catches children that are read in another order than they were gathered in.
    inputs = tensors()
    blocks = TREES["scattered"]["blocks"]
    order = (blocks[0] * 10 + blocks[1]).argsort(stable=True)
    found = attend("hierarchical", *inputs, blocks=blocks, form=form)
    ordered = [x[:, :, order] for x in inputs]
    wanted = attend("hierarchical", *ordered, blocks=blocks[:, order], form=form)
    torch.testing.assert_close(found[:, :, order], wanted, **EXACT)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["one level", "deep", "irregular"])
def test_hidden_tokens_are_as_if_they_were_not_there(form, name):
    # Catches means over hidden queries or keys, and sizes that count them.
    inputs = tensors()
    kept = torch.tensor([0, 1, 3, 4, 7])
    mask = torch.zeros(1, 1, 1, 9, dtype=torch.bool)
    mask[..., kept] = True
    levels = levels_of(
        9,
        TREES[name].get("block_size", 1),
        TREES[name].get("blocks"),
        torch.device("cpu"),
    )
    blocks = torch.stack(levels[1:-1])[:, kept]
    found = attend("hierarchical", *inputs, mask=mask, form=form, **TREES[name])
    alone = [x[:, :, kept] for x in inputs]
    wanted = attend("hierarchical", *alone, blocks=blocks, form=form)
    torch.testing.assert_close(found[:, :, kept], wanted, **EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_distance_scores_equal_the_squared_distances_of_pairs(form):
    # Catches the mean of distances taken for the distance of means: they differ by the spread.
    query, key, value = tensors()
    far = -0.3 * torch.cdist(query, key).square() / 2
    groups = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    read = torch.zeros_like(value)
    for own in groups:
        mean = {n: far[:, :, own][..., other].mean((-2, -1)) for n, other in enumerate(groups)}
        inside = far[:, :, own][..., own].logsumexp(-1).mean(-1)
        total = inside.exp()
        for n, other in enumerate(groups):
            total = total + (len(other) * mean[n].exp() if other != own else 0)
        for i in own:
            shares = far[:, :, i, own].softmax(-1)[..., None]
            read[:, :, i] = (inside.exp() / total)[..., None] * (shares * value[:, :, own]).sum(2)
            for n, other in enumerate(groups):
                if other != own:
                    share = (mean[n].exp() / total)[..., None]
                    read[:, :, i] += share * value[:, :, other].sum(2)
    named = {"block_size": 3, "score": "distance", "scale": 0.3, "form": form}
    torch.testing.assert_close(attend("hierarchical", query, key, value, **named), read, **EXACT)


def test_auto_pools_long_sequences():
    # Catches n² pairs where blocks of them would do.
    inputs = tensors(300, dim=2)
    pooled, plan = attend("hierarchical", *inputs, block_size=(60, 6), explain=True)
    assert plan.form == "chunked"
    whole = attend("hierarchical", *inputs, block_size=(60, 6), form="parallel")
    torch.testing.assert_close(pooled, whole, **EXACT)
    assert attend("hierarchical", *tensors(), explain=True)[1].form == "parallel"


WRONG = [
    ({"block_size": (6, 4)}, "does not nest"),
    ({"block_size": (3, 6)}, "does not nest"),
    ({"blocks": torch.zeros(1, 9)}, "needed are integers"),
    ({"causal": True}, "no causal form"),
    ({"blocks": torch.zeros(1, 8, dtype=torch.long)}, "levels, keys"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
@pytest.mark.parametrize("form", FORMS)
def test_trees_that_do_not_nest_are_refused(given, message, form):
    # Catches blocks that are silently cut by wider ones.
    with pytest.raises(InputError, match=message):
        attend("hierarchical", *tensors(), form=form, **given)


def test_a_block_takes_a_tree_from_yaml_and_trains():
    # Catches sizes that only a tuple fits.
    generator = torch.Generator().manual_seed(0)
    block = MultiheadAttention(8, 2, mechanism="hierarchical", parameters={"block_size": [8, 4]})
    tokens = torch.randn(2, 20, 8, generator=generator)
    step = torch.optim.SGD(block.parameters(), lr=0.05)
    losses = []
    for _ in range(2):
        loss = (block(tokens, block.project(tokens)) - tokens.flip(2)).square().mean()
        step.zero_grad()
        loss.backward()
        assert block.query.weight.grad.abs().max() > 0
        step.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
