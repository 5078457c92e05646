"""The engine of decayed reads: products of segments, blocks, and a retention of exactly zero."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention.linear import decayed
from neuroattn.attention.registry import Request
from tests.attention.contract import close
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def retentions(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def by_multiplying(alpha):
    """Multiply each segment's factors one after the other."""
    size = alpha.shape[-1]
    rows = []
    for i in range(size + 1):
        row = []
        for j in range(size + 1):
            product = torch.ones(alpha.shape[:-1], dtype=alpha.dtype) * (i >= j)
            for t in range(j, i):
                product = product * alpha[..., t]
            row.append(product)
        rows.append(torch.stack(row, dim=-1))
    return torch.stack(rows, dim=-2)


@pytest.mark.parametrize("zeros", [(), (0,), (2,), (1, 3), (2, 3), (0, 1, 2, 3, 4)])
def test_products_and_their_gradient_equal_multiplication_also_at_zeros(zeros):
    # Catches logarithms of zero, a segment that is off by one, and 0/0 in the gradient.
    alpha = retentions(2, 5)
    alpha[0, list(zeros)] = 0.0
    alpha[1, 1] = 1e-200
    ours, theirs = alpha.clone().requires_grad_(), alpha.clone().requires_grad_()
    found, wanted = decayed.products(ours), by_multiplying(theirs)
    close(found, wanted, EXACT, "products")
    direction = drawn(*found.shape)
    slopes = [
        torch.autograd.grad((x * direction).sum(), y)[0]
        for x, y in ((found, ours), (wanted, theirs))
    ]
    close(*slopes, EXACT, "gradient")


def test_long_and_extreme_products_stay_finite():
    # Catches overflow where a product of decays is divided out.
    alpha = torch.full((1, 700), 1e-3, dtype=torch.float64, requires_grad=True)
    found = decayed.products(alpha)
    assert torch.isfinite(found).all()
    assert found[0, 700, 0] == 0
    assert found[0, 700, 698].item() == pytest.approx(1e-6)
    (slope,) = torch.autograd.grad(found[0].diagonal(-1).sum(), alpha)
    close(slope, torch.ones_like(slope), EXACT, "gradient of the single factors")


def by_loop(query, key, value, alpha, causal, memory):
    """Keep the memory, one number after the other."""
    batch, heads, keys, dim = key.shape
    rows = torch.zeros(*query.shape[:3], value.shape[-1], dtype=torch.float64)
    last = torch.zeros(batch, heads, dim, value.shape[-1], dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            state = memory[b, h].clone()
            for t in range(keys):
                state = float(alpha[b, h, t]) * state + torch.outer(key[b, h, t], value[b, h, t])
                if causal:
                    rows[b, h, t] = state.T @ query[b, h, t]
            last[b, h] = state
            if not causal:
                rows[b, h] = query[b, h] @ state
    return rows, last


@pytest.mark.parametrize("engine", [decayed.recurrent, decayed.chunked])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("length", "chunk_size"), [(1, 3), (3, 3), (4, 3), (8, 3), (7, 64)])
def test_both_engines_equal_a_loop_with_a_memory_to_begin_with(engine, causal, length, chunk_size):
    # Catches a memory that is not decayed by the first token, and a lost last block.
    query, key, value = drawn(2, 3, length, 4), drawn(2, 3, length, 4, seed=2), None
    value, memory = drawn(2, 3, length, 5, seed=3), drawn(2, 3, 4, 5, seed=4)
    alpha = retentions(2, 3, length)
    alpha[0, 1, length // 2] = 0.0
    ways = {"scale": 0.7, "causal": causal, "chunk_size": chunk_size}
    found, last = engine(query, key, value, alpha, memory=memory, **ways)
    wanted, state = by_loop(0.7 * query, key, value, alpha, causal, memory)
    close(found, wanted, EXACT, "read")
    close(last, state, EXACT, "memory")
    shared, _ = engine(query, key, value, alpha[:1, :, :1], memory=None, **ways)
    spread = alpha[:1, :, :1].expand(2, 3, length)
    wanted, _ = by_loop(0.7 * query, key, value, spread, causal, 0 * memory)
    close(shared, wanted, EXACT, "one number a head")


@pytest.mark.parametrize("engine", [decayed.recurrent, decayed.chunked])
def test_no_tokens_leave_the_memory_as_it_is(engine):
    # Catches a loop that expects a first token.
    none, memory = drawn(1, 1, 0, 2), drawn(1, 1, 2, 2)
    alpha = torch.ones(1, 1, 1, dtype=torch.float64)
    for causal in (False, True):
        ways = {"scale": 1.0, "causal": causal, "memory": memory, "chunk_size": 4}
        read, last = engine(none, none, none, alpha, **ways)
        assert read.shape == (1, 1, 0, 2)
        assert torch.equal(last, memory)


@pytest.mark.parametrize(("queries", "keys"), [(4, 4), (2, 5), (5, 2), (1, 1)])
def test_the_decay_matrix_is_aligned_to_the_end(queries, keys):
    # Catches alignment to the start, and the decay of a query's own token.
    alpha = torch.full((1, 1, 1), 0.5, dtype=torch.float64)
    left = decayed.decay_matrix(alpha, queries, keys, True)
    assert left.shape == (1, 1, queries, keys)
    for i in range(queries):
        for j in range(keys):
            lag = (i + keys - queries) - j
            assert float(left[0, 0, i, j]) == (0.5**lag if lag >= 0 else 0.0)
    after = decayed.decay_matrix(alpha, queries, keys, False)
    assert after.flatten().tolist() == [0.5 ** (keys - 1 - j) for j in range(keys)]


def test_blocks_are_faster_than_tokens_and_small_in_memory():
    # Catches blocks that are read token by token, or a matrix of all pairs.
    tensors = [drawn(1, 1, 4096, 8, seed=seed).requires_grad_() for seed in range(3)]
    alpha = retentions(1, 1, 4096)
    ways = {"scale": 1.0, "causal": True, "memory": None, "chunk_size": 64}
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: saved.append(x.numel()) or x, lambda x: x
    ):
        decayed.chunked(*tensors, alpha, **ways)
    assert max(saved) <= 65 * 65 * 64
    # One product of matrices a block would be a thousand nodes; tokens would be more.
    assert len(saved) < 4096 // 64 * 4 + 40


def request(**changes):
    usual = dict.fromkeys(("queries", "keys", "dim", "value_dim"), 16)
    flags = dict.fromkeys(("causal", "masked", "gradient", "state"), False)
    given = {"device": "cuda", "dtype": torch.bfloat16, **usual, **flags, "parameters": {}}
    return Request(**{**given, **changes})


def test_what_auto_avoids_and_kernels_refuse_is_said():
    # Catches a kernel that is taken where it is wrong or slow, and a loop over tokens by default.
    assert decayed.long(request()) == ""
    assert "128" in decayed.long(request(keys=129))
    assert decayed.several(request(keys=1)) == ""
    assert "token" in decayed.several(request())
    assert "backward" in decayed.trained(request(gradient=True))
    assert decayed.trained(request()) == ""
    assert "float64" in decayed.refuses_triton(request(dtype=torch.float64))
    assert "256" in decayed.refuses_triton(request(dim=257))
    assert "normalise" in decayed.refuses_triton(request(parameters={"normalize": True}))
    assert decayed.refuses_triton(request(parameters={"normalize": False})) == ""


def test_numbers_and_tensors_become_retentions_a_token():
    # Catches decays in half precision: 31/32 a token is 1 in bfloat16 after three digits.
    half = torch.zeros(1, 1, 1, 1, dtype=torch.bfloat16)
    made = decayed.per_token(31 / 32 - 1e-5, half)
    assert made.dtype == torch.float32
    assert math.isclose(float(made), 31 / 32 - 1e-5, rel_tol=1e-6)
    assert decayed.per_token(torch.ones(2, 1, 3), half.double()).dtype == torch.float64
