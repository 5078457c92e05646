"""Attention without some projections against softmax attention with identities in their place."""

from __future__ import annotations

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
DIM, HEADS = 12, 3
NAMES = ["optimised", "economical", "super"]


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def small(sizes, generator):
    shape = (sizes["keys"], sizes["keys"])
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    return {"alignment": noise / sizes["keys"] ** 0.5}


EXAMPLES = {
    "optimised": [Example()],
    "economical": [Example()],
    # An alignment that is drawn without regard to its size has outputs that grow with the length.
    "super": [Example(small)],
}


def block(mechanism, heads=HEADS, dim=DIM, **more):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MultiheadAttention(dim, heads, mechanism=mechanism, **more).double()


def copied(mechanism, causal, heads, **parameters):
    """Return a block and its softmax twin with identities for what the block does not project."""
    ours = block(mechanism, heads, causal=causal, parameters=parameters)
    twin = block("softmax", heads, causal=causal)
    with torch.no_grad():
        for name in ("query", "key", "value", "output", "key_position"):
            theirs, mine = getattr(twin, name), getattr(ours, name)
            if mine is not None:
                theirs.load_state_dict(mine.state_dict())
                continue
            theirs.weight.copy_(torch.eye(DIM))
            theirs.bias.zero_()
    return ours, twin


@pytest.mark.parametrize("mechanism", NAMES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [1, 3])
def test_softmax_with_identities_for_the_dropped_projections_is_the_same(mechanism, causal, heads):
    # Catches heads that read the whole token or another slice, a position code in the values, and
    # an alignment that does not start as the identity.
    ours, twin = copied(mechanism, causal, heads)
    tokens, queries, position = drawn(2, 9, DIM), drawn(1, 5, DIM, seed=1), drawn(9, DIM, seed=2)
    mine, theirs = ours.project(tokens, position), twin.project(tokens, position)
    torch.testing.assert_close(ours(queries, mine), twin(queries, theirs), **EXACT)
    torch.testing.assert_close(ours.maps(queries, mine), twin.maps(queries, theirs), **EXACT)


@pytest.mark.parametrize(
    ("mechanism", "count"),
    [
        ("softmax", 4 * DIM**2),
        ("optimised", 3 * DIM**2),
        ("economical", 2 * DIM**2),
        ("super", 2 * DIM**2 + 7**2),
    ],
)
def test_the_number_of_weights_is_as_published(mechanism, count):
    # Catches a projection that is kept and not used, and an alignment for each head.
    made = block(mechanism, parameters={"length": 7} if mechanism == "super" else {})
    matrices = {
        name: parameter
        for name, parameter in made.named_parameters()
        if parameter.ndim == 2 and not name.startswith("key_position")
    }
    assert sum(matrix.numel() for matrix in matrices.values()) == count


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_an_identity_as_alignment_is_economical(causal, backend):
    # Catches a triangle without its diagonal.
    inputs = drawn(2, 3, 5, 4), drawn(2, 3, 7, 4, seed=1), drawn(2, 3, 7, 2, seed=2)
    mask = drawn(2, 1, 1, 7, seed=3) > -0.5
    ways = {"causal": causal, "mask": mask, "backend": backend}
    read = attend("super", *inputs, **ways, alignment=torch.eye(7).double())
    torch.testing.assert_close(read, attend("economical", *inputs, **ways), **EXACT)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_every_number_of_super_equals_loops_over_keys(causal, masked, backend):
    # Catches a transposed alignment, one that is not cut in a causal read, and a hidden value
    # that reaches a query through another key.
    query, key, value = drawn(2, 3, 5, 4), drawn(2, 3, 7, 4, seed=1), drawn(2, 3, 7, 2, seed=2)
    alignment, mask = drawn(7, 7, seed=3), drawn(2, 1, 1, 7, seed=5) > -0.5
    read = attend(
        "super",
        *(query, key, value),
        causal=causal,
        mask=mask if masked else None,
        backend=backend,
        alignment=alignment,
    )
    matrix = weights(
        "super", query, key, causal=causal, mask=mask if masked else None, alignment=alignment
    )
    for b, h, i in [(0, 0, 0), (1, 2, 4), (0, 1, 2)]:
        shown = [j for j in range(7) if not masked or mask[b, 0, 0, j]]
        seen = [j for j in shown if not causal or j <= i + 2]
        powers = {j: torch.exp(query[b, h, i] @ key[b, h, j] / 2) for j in seen}
        wanted = torch.zeros(2, dtype=torch.float64)
        row = torch.zeros(7, dtype=torch.float64)
        for j in seen:
            for other in shown:
                if not causal or other <= j:
                    row[other] += powers[j] / sum(powers.values()) * alignment[j, other]
        wanted = sum(row[other] * value[b, h, other] for other in range(7))
        torch.testing.assert_close(read[b, h, i], wanted, **EXACT)
        torch.testing.assert_close(matrix[b, h, i], row, **EXACT)


def test_the_block_learns_the_alignment_and_takes_shorter_sequences():
    # Catches an alignment that is not trained, and rows of the wrong end for fewer tokens.
    made = block("super", parameters={"length": 9})
    tokens, queries, target = drawn(4, 9, DIM), drawn(1, 5, DIM), drawn(4, 5, DIM, seed=3)
    optimiser = torch.optim.SGD(made.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        loss = (made(queries, made.project(tokens)) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        assert made.learned.alignment.grad.abs().min() > 0
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[1] < losses[0]
    short = made.project(tokens[:, :4])
    torch.testing.assert_close(
        short.named["alignment"], made.learned.alignment[:4, :4], rtol=0, atol=0
    )
    with pytest.raises(InputError, match="length=9, and 10 tokens came; set length=10"):
        made.project(drawn(1, 10, DIM))


@pytest.mark.parametrize("mechanism", NAMES)
def test_tokens_of_another_width_are_refused(mechanism):
    # Catches slices of tokens that do not fit the heads.
    with pytest.raises(InputError, match="slices of the tokens: dim=12 must be"):
        block(mechanism, token_dim=8)
