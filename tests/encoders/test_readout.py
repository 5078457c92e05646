"""The gathered readout against mask-and-sum over all queries, the spatial one against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuroattn.encoders.queries import QueryMap
from neuroattn.encoders.readout import GatheredReadout, SpatialReadout
from tests.tolerances import TOLERANCE

DIM, BATCH = 5, 3


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def memberships(lists: list[list[int]]) -> QueryMap:
    """Make a map from the voxels of each query."""
    query = np.repeat(np.arange(len(lists)), [len(voxels) for voxels in lists])
    voxel = np.array([v for voxels in lists for v in voxels], np.int64)
    return QueryMap(tuple(f"q{i}" for i in range(len(lists))), voxel, query.astype(np.int64))


def some_memberships(voxels: int, queries: int, most: int, seed: int) -> QueryMap:
    """Give each voxel one to ``most`` queries, in arbitrary order of voxels over queries."""
    draw = np.random.default_rng(seed)
    lists: list[list[int]] = [[] for _ in range(queries)]
    for voxel in range(voxels):
        for query in draw.permutation(queries)[: draw.integers(1, most + 1)]:
            lists[query].append(voxel)
    return memberships(lists)


def readout(queries: QueryMap, mixed: bool = True) -> GatheredReadout:
    with torch.random.fork_rng(devices=[]):
        made = GatheredReadout(queries, DIM).double()
    made.weight.data, made.bias.data = drawn(made.voxels, DIM, seed=1), drawn(made.voxels, seed=2)
    if made.mixing is not None and mixed:
        made.mixing.data = 3 * drawn(len(made.mixing), seed=3)
    return made


def shares(made: GatheredReadout, queries: QueryMap) -> torch.Tensor:
    """Return the mixing weights as a dense table (query, voxel), one softmax a voxel."""
    logits = torch.full((len(queries.names), made.voxels), -torch.inf, dtype=torch.float64)
    if made.mixing is None:
        logits[queries.query, queries.voxel] = 0.0
        return logits.softmax(0)
    owner, extra = made.owner.tolist(), made.voxels
    for q, v in zip(queries.query, queries.voxel, strict=True):
        if owner[v] == q:
            logits[q, v] = made.mixing[made.row[v]]
        else:
            logits[q, v] = made.mixing[extra]
            extra += 1
    return logits.softmax(0)


def dense(made: GatheredReadout, queries: QueryMap, tokens: torch.Tensor) -> torch.Tensor:
    """Let every voxel read every query, then mask and sum: the published design."""
    weight = made.weight[made.row]
    every = torch.einsum("bqd,vd->bqv", tokens, weight)
    return (every * shares(made, queries)).sum(1) + made.bias


CASES = {
    "one each": memberships([[0], [1], [2], [3]]),
    "one each, turned": memberships([[2], [0], [3], [1]]),
    "one query": memberships([[0, 1, 2, 3]]),
    "scattered": memberships([[1, 6, 3], [0, 5], [4, 2]]),
    "a query that nobody reads": memberships([[1, 2], [], [0]]),
    "a query that nobody owns": memberships([[0, 1, 2], [1], [0, 2]]),
    "up to three": some_memberships(23, 7, 3, seed=0),
    "up to three, more voxels": some_memberships(65, 5, 3, seed=1),
}


@pytest.mark.parametrize("case", CASES)
def test_it_equals_mask_and_sum_over_all_queries(case):
    # Catches a voxel that reads another's weight row, bias or query, forward or backward.
    queries = CASES[case]
    made, tokens = readout(queries), drawn(BATCH, len(queries.names), DIM).requires_grad_()
    found, expected = made(tokens), dense(made, queries, tokens)
    assert found.shape == (BATCH, made.voxels)
    torch.testing.assert_close(found, expected, **TOLERANCE["float64"])
    direction = drawn(*found.shape, seed=9)
    inputs = [tokens, *made.parameters()]
    mine = torch.autograd.grad((found * direction).sum(), inputs)
    theirs = torch.autograd.grad((expected * direction).sum(), inputs)
    for own, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(own, other, **TOLERANCE["float64"])


def test_before_training_a_voxel_takes_the_mean_of_its_queries():
    # Catches the sum of the published readout, which doubles a voxel in two ROIs.
    queries = memberships([[0, 1], [1], [1]])
    made, tokens = readout(queries, mixed=False), drawn(BATCH, 3, DIM)
    weight = made.weight[made.row]
    torch.testing.assert_close(
        made(tokens)[:, 1], tokens.mean(1) @ weight[1] + made.bias[1], **TOLERANCE["float64"]
    )
    torch.testing.assert_close(
        made(tokens)[:, 0], tokens[:, 0] @ weight[0] + made.bias[0], **TOLERANCE["float64"]
    )


def test_mixing_weights_sum_to_one_even_when_their_logits_are_huge():
    # Catches an exponential that overflows.
    queries = some_memberships(11, 4, 3, seed=2)
    made = readout(queries)
    assert made.mixing is not None
    made.mixing.data *= 1e4
    same = drawn(BATCH, 1, DIM).expand(-1, 4, -1)
    found = made(same)
    expected = same[:, 0] @ made.weight[made.row].T + made.bias
    torch.testing.assert_close(found, expected, **TOLERANCE["float64"])


def test_without_overlaps_nothing_is_mixed():
    # Catches parameters that no gradient reaches.
    made = readout(CASES["scattered"])
    assert made.mixing is None
    assert {name for name, _ in made.named_parameters()} == {"weight", "bias"}
    assert made.owner.tolist() == [1, 0, 2, 0, 2, 1, 0]


def test_no_tensor_grows_with_queries_times_voxels():
    # Catches the dense readout: (batch, queries, voxels) held for the backward pass.
    queries = some_memberships(400, 40, 2, seed=3)
    made, kept = readout(queries), []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.numel()) or x, lambda x: x
    ):
        made(drawn(BATCH, 40, DIM).requires_grad_())
    assert max(kept) <= max(BATCH * 400 * 2, 2 * 400 * DIM)


def test_voxel_queries_keep_nothing_beyond_tokens_and_weights():
    # Catches a table (voxels, voxels).
    made, kept = readout(memberships([[v] for v in range(300)])), []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.numel()) or x, lambda x: x
    ):
        made(drawn(BATCH, 300, DIM).requires_grad_())
    assert max(kept) <= BATCH * 300 * DIM


def test_the_spatial_readout_equals_loops():
    # Catches a map over the wrong axis, or one that depends on the image.
    with torch.random.fork_rng(devices=[]):
        made = SpatialReadout(voxels=4, grid=(7, 1), channels=3).double()
    for number, parameter in enumerate(made.parameters()):
        parameter.data = drawn(*parameter.shape, seed=number)
    tokens = drawn(2, 7, 3, seed=8)
    found = made(tokens)
    for image in range(2):
        for voxel in range(4):
            total = made.logits[voxel].exp().sum()
            expected = made.bias[voxel].clone()
            for token in range(7):
                share = made.logits[voxel, token].exp() / total
                expected = expected + share * (made.weight[voxel] @ tokens[image, token])
            torch.testing.assert_close(found[image, voxel], expected, **TOLERANCE["float64"])
    torch.testing.assert_close(made.maps().sum(1), torch.ones(4).double(), **TOLERANCE["float64"])


def test_a_spatial_readout_starts_flat_and_silent():
    # Catches first weights that push a map to a wrong place before they are learned.
    made = SpatialReadout(3, (4, 2), 2)
    torch.testing.assert_close(made.maps(), torch.full((3, 8), 1 / 8))
    made(torch.ones(1, 8, 2)).sum().backward()
    assert (made.logits.grad == 0).all()
    assert (made.weight.grad != 0).all()


def test_the_smoothness_penalty_is_the_squared_laplacian_of_the_logits() -> None:
    # Catches rows taken for columns, a wrapped or zero-padded edge, and a sum over voxels.
    made = SpatialReadout(2, (3, 4), 2).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        made.logits.copy_(torch.randn(2, 12, generator=generator))
    total = 0.0
    for plane in made.logits.detach().reshape(2, 3, 4).tolist():
        for row in range(3):
            for column in range(4):
                steps = ((-1, 0), (1, 0), (0, -1), (0, 1))
                around = [(row + down, column + right) for down, right in steps]
                inside = [(min(max(r, 0), 2), min(max(c, 0), 3)) for r, c in around]
                total += (sum(plane[r][c] for r, c in inside) - 4 * plane[row][column]) ** 2
    expected = SpatialReadout.smoothness * total / 2
    assert float(made.penalty().detach()) == pytest.approx(
        expected, rel=TOLERANCE["float64"]["rtol"]
    )


def test_a_flat_map_has_no_penalty() -> None:
    # Catches an edge that counts as a step.
    made = SpatialReadout(2, (3, 4), 2)
    with torch.no_grad():
        made.logits.fill_(1.7)
    assert float(made.penalty().detach()) == 0.0
