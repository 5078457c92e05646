"""Moneta, Yaad and Memora against loops over numbers, and as the minimisers they claim to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from neuroattn.attention import MultiheadAttention, attend
from neuroattn.attention.linear.mirror import mirrored
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]


def gates(step=1.0, **more):
    """Return a retention and a write strength up to 0.3 ``step`` for every token."""

    def draw(sizes, generator):
        shape = (sizes["batch"], sizes["heads"], sizes["keys"])

        def uniform():
            return torch.rand(shape, generator=generator, dtype=torch.float64)

        return {"alpha": 0.5 + 0.5 * uniform(), "beta": step * (0.1 + 0.2 * uniform()), **more}

    return draw


def numbers(**more):
    return lambda *_: more


EXAMPLES = {
    "moneta": [
        Example(label="default"),
        Example(numbers(alpha=0.9, beta=0.05, error_norm=1.5, memory_norm=3.0), label="norms"),
        Example(gates(step=0.1, smooth=True), label="gates, smooth"),
        # A small accumulator over the square of its norm is a large memory, and the error grows
        # from there: the quoted map is not stable.
        Example(numbers(alpha=0.9, beta=0.02, mirror="quoted"), label="quoted", loud=0),
    ],
    "yaad": [
        Example(label="default"),
        Example(numbers(alpha=0.9, beta=0.3, threshold=2.0), label="numbers"),
        Example(gates(), label="gates"),
        Example(numbers(huber="quoted", alpha=0.8), label="quoted"),
        # Errors are bounded whatever the keys.
        Example(numbers(normalize_keys=False, alpha=0.5, beta=0.1), label="keys as they come"),
    ],
    "memora": [
        Example(label="default"),
        Example(numbers(alpha=0.9, beta=0.3), label="numbers"),
        Example(gates(normalize_keys=False), label="gates"),
    ],
}


def tensors(length, dim, value_dim=3, batch=2, heads=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, heads, length, size, generator=generator, dtype=torch.float64)
        for size in (dim, dim, value_dim)
    ]


def one_write(name, memory, k, v, alpha, beta, **more):
    """Return the next kept memory and the one that is read, from the equations, in numpy."""
    if name == "moneta":
        p, q = more["error_norm"], more["memory_norm"]
        e = image(memory, q).T @ k - v
        memory = alpha * memory - beta * p * np.outer(k, np.sign(e) * np.abs(e) ** (p - 1))
        return memory, image(memory, q)
    e = memory.T @ k - v
    if name == "yaad":
        size = np.linalg.norm(e)
        e = e if size <= more["threshold"] else more["threshold"] * e / size
        memory = alpha * memory - beta * np.outer(k, e)
        return memory, memory
    power = memory**alpha * np.exp(-beta * np.outer(k, e))
    memory = power / power.sum(0, keepdims=True)
    return memory, memory


def image(accumulator, q):
    """Return the W whose ∇ ½‖W‖_q² is the accumulator."""
    p = q / (q - 1)
    size = (np.abs(accumulator) ** p).sum() ** (1 / p)
    if size == 0:
        return accumulator
    return np.sign(accumulator) * np.abs(accumulator) ** (p - 1) / size ** (p - 2)


CASES = [
    ("moneta", {"error_norm": 3.0, "memory_norm": 4.0}),
    ("moneta", {"error_norm": 1.5, "memory_norm": 1.7}),
    ("yaad", {"threshold": 1.0}),
    ("yaad", {"threshold": 100.0}),
    ("memora", {}),
]


@pytest.mark.parametrize(("name", "more"), CASES)
@pytest.mark.parametrize("causal", [False, True])
def test_every_write_follows_its_equation(name, more, causal):
    # Catches an error that is measured after the decay, a read before the write, a hidden key
    # that is written, and one whose token does not decay.
    query, key, value = tensors(8, 4)
    generator = torch.Generator().manual_seed(1)
    alpha, beta = (torch.rand(2, 2, 8, generator=generator, dtype=torch.float64) for _ in "ab")
    mask = torch.ones(8, dtype=torch.bool)
    mask[3] = False
    read = attend(
        name,
        query,
        key,
        value,
        causal=causal,
        mask=mask,
        scale=0.7,
        alpha=alpha,
        beta=0.2 * beta,
        normalize_keys=False,
        **more,
    )
    for b, h in np.ndindex(2, 2):
        memory = np.full((4, 3), 0.25 if name == "memora" else 0.0)
        seen = []
        for t in range(8):
            k, v, a, step = (x[b, h, t].numpy() for x in (key, value, alpha, 0.2 * beta))
            step = step * float(mask[t])
            memory, shown = one_write(name, memory, k, v, a, step, **more)
            seen.append(shown)
        for t in range(8):
            wanted = 0.7 * query[b, h, t].numpy() @ seen[t if causal else 7]
            np.testing.assert_allclose(read[b, h, t].numpy(), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("q", [1.3, 2.0, 4.0])
def test_the_exact_mirror_map_inverts_the_gradient_of_the_retention(q):
    # Catches the exponent of q taken for that of its dual, which only rescales A.
    generator = torch.Generator().manual_seed(0)
    memory = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    memory[1, 2] = 0.0
    memory.requires_grad_()
    retention = memory.abs().pow(q).sum().pow(2 / q) / 2
    (accumulator,) = torch.autograd.grad(retention, memory)
    found = mirrored(accumulator, q, "exact")
    torch.testing.assert_close(found, memory.detach(), rtol=1e-12, atol=1e-14)
    quoted = mirrored(accumulator, q, "quoted")
    size = accumulator.abs().pow(q).sum().pow(1 / q)
    torch.testing.assert_close(quoted, accumulator / size ** (q - 2), **EXACT)
    assert torch.allclose(quoted, memory) == (q == 2)


def test_squares_make_moneta_the_delta_rule():
    # Catches a lost factor p: the gradient of ‖e‖² is twice that of the delta rule.
    query, key, value = tensors(9, 4)
    read = attend(
        "moneta", query, key, value, causal=True, error_norm=2.0, memory_norm=2.0, beta=0.3
    )
    delta = attend("delta", query, key, value, causal=True, beta=0.6)
    torch.testing.assert_close(read, delta, **EXACT)


def test_smooth_errors_are_close_to_sharp_ones():
    # Catches a smoothing of another power.
    query, key, value = tensors(6, 4)
    ways = {"causal": True, "beta": 0.05}
    sharp = attend("moneta", query, key, 5 * value, **ways)
    smooth = attend("moneta", query, key, 5 * value, smooth=True, **ways)
    assert 0 < float((smooth - sharp).abs().max()) < 0.02 * float(sharp.abs().max())


def test_an_infinite_threshold_makes_yaad_the_gated_delta_rule():
    # Catches a factor 2: the gradient is that of ½‖e‖².
    query, key, value = tensors(9, 4)
    generator = torch.Generator().manual_seed(1)
    gate = {
        name: torch.rand(2, 2, 9, generator=generator, dtype=torch.float64).requires_grad_()
        for name in ("alpha", "beta")
    }
    for huber in ("vector", "quoted"):
        read = attend(
            "yaad", query, key, value, causal=True, threshold=math.inf, huber=huber, **gate
        )
        gated = attend("gated_delta", query, key, value, causal=True, order="error first", **gate)
        torch.testing.assert_close(read, gated, **EXACT)
        slopes = torch.autograd.grad(read.square().sum(), list(gate.values()))
        wanted = torch.autograd.grad(gated.square().sum(), list(gate.values()))
        for pair in zip(slopes, wanted, strict=True):
            torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-10)


def written_memory(value, **ways):
    """Return the memory after one write of a value at the first unit key."""
    key = torch.zeros(1, 1, 1, 4, dtype=torch.float64)
    key[..., 0] = 1.0
    _, state = attend("yaad", key, key, value[None, None, None], return_state=True, **ways)
    return state["memory"][0, 0]


def test_the_vector_huber_is_continuous_and_the_quoted_one_jumps():
    # Catches the gradient of the sum of absolute errors taken for that of the error's length.
    for direction in (torch.ones(9, dtype=torch.float64) / 3, torch.eye(9, dtype=torch.float64)[0]):
        ends = [
            {
                huber: written_memory(size * direction, beta=1.0, threshold=2.0, huber=huber)
                for huber in ("vector", "quoted")
            }
            for size in (2 - 1e-9, 2 + 1e-9)
        ]
        smooth, jump = (float((ends[1][h] - ends[0][h]).norm()) for h in ("vector", "quoted"))
        assert smooth < 1e-8
        # From δ to δ √(number of channels with an error).
        spread = math.sqrt(int((direction != 0).sum()))
        assert jump == pytest.approx(2 * (spread - 1), abs=1e-8)


@pytest.mark.parametrize("size", [10.0, 1e30, 1e150])
def test_a_huge_value_moves_yaad_by_no_more_than_its_threshold(size):
    # Catches a threshold on every entry alone.
    value = size * torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    moved = written_memory(value, beta=0.4, threshold=2.0)
    assert float(moved.norm()) == pytest.approx(0.8, rel=1e-9)


def test_memora_minimises_its_objective_over_the_simplex():
    # Catches a softmax over the value channels, and a retention that is lost: with penalties η
    # on the distance to the old memory and a on the entropy, one write is the minimiser.
    generator = np.random.default_rng(0)
    key, value = generator.normal(size=4), generator.normal(size=2)
    eta, a = 0.7, 2.3
    key_tensor, value_tensor = (torch.from_numpy(x)[None, None, None] for x in (key, value))
    gate = {"alpha": a / (a + eta), "beta": a * eta / (a + eta), "normalize_keys": False}
    ways = {"return_state": True, **gate}
    _, state = attend("memora", key_tensor, key_tensor, value_tensor, **ways)
    old = state["log_memory"][0, 0].exp().numpy()
    _, state = attend("memora", key_tensor, key_tensor, value_tensor, initial_state=state, **ways)
    found = state["log_memory"][0, 0].exp().numpy()
    np.testing.assert_allclose(found.sum(0), 1.0, rtol=1e-12)
    gradient = np.outer(key, old.T @ key - value)

    def objective(logits, channel):
        w = np.exp(logits - logits.max())
        w = w / w.sum()
        fit = w @ gradient[:, channel]
        return fit + w @ np.log(w / old[:, channel]) / eta + w @ np.log(w) / a

    for channel in range(2):
        best = minimize(objective, np.zeros(4), args=(channel,), method="BFGS", tol=1e-12)
        w = np.exp(best.x - best.x.max())
        np.testing.assert_allclose(found[:, channel], w / w.sum(), atol=1e-6)
        # No neighbour on the simplex is lower.
        here = objective(np.log(found[:, channel]), channel)
        assert here <= best.fun + 1e-13
        for _ in range(100):
            near = np.log(found[:, channel]) + 1e-3 * generator.normal(size=4)
            assert objective(near, channel) >= here - 1e-14


def test_memora_stays_on_the_simplex_under_extreme_writes():
    # Catches a memory that is kept as such: once it underflows, its logarithm is lost for good.
    query, key, value = (x.requires_grad_() for x in tensors(9, 4))
    ways = {"causal": True, "normalize_keys": False, "beta": 50.0, "return_state": True}
    read, state = attend("memora", query, 100 * key, 100 * value, **ways)
    assert torch.isfinite(read).all()
    assert torch.isfinite(state["log_memory"]).all()
    torch.testing.assert_close(
        state["log_memory"].exp().sum(-2), torch.ones(2, 2, 3, dtype=torch.float64)
    )
    for slope in torch.autograd.grad(read.sum(), (query, key, value)):
        assert torch.isfinite(slope).all()
    # It can be written anew: a retention of zero forgets what had underflowed.
    fresh = {"causal": True, "alpha": 0.0, "beta": 0.5}
    after = attend("memora", query, key, value, initial_state=state, **fresh)
    assert (after[:, :, 1:].detach().abs() > 1e-6).any()
    alone = attend("memora", query, key, value, causal=True, alpha=0.0, beta=0.0)
    mean = query.mean(-1, keepdim=True).expand(-1, -1, -1, 3)
    torch.testing.assert_close(alone, mean, **EXACT)


def test_memora_reads_zeros_before_its_first_key_and_remembers_that_it_came():
    # Catches the uniform memory read as if it held something, and a state that forgets.
    query, key, value = tensors(5, 4)
    hidden = torch.zeros(5, dtype=torch.bool)
    shown = torch.tensor([False, False, True, False, True])
    read, state = attend("memora", query, key, value, causal=True, mask=shown, return_state=True)
    assert (read[:, :, :2] == 0).all()
    assert (read[:, :, 2:] != 0).all()
    more = attend("memora", query, key, value, causal=True, mask=hidden, initial_state=state)
    assert (more != 0).all()


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_the_order_of_the_tokens_matters(name):
    # Catches a write that ignores what the memory holds.
    query, key, value = tensors(6, 4)
    one = attend(name, query, key, value)
    other = attend(name, query, key.flip(2), value.flip(2))
    assert not torch.allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_a_block_learns_its_gates(name):
    # Catches gates that no gradient reaches.
    generator = torch.Generator().manual_seed(0)
    block = MultiheadAttention(8, 2, mechanism=name, causal=True)
    tokens, wanted = (torch.randn(3, 10, 8, generator=generator) for _ in "ab")
    optimiser = torch.optim.SGD(block.parameters(), lr=0.05)
    losses = []
    for _ in range(10):
        loss = (block(tokens, block.project(tokens)) - wanted).square().mean()
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        for label, parameter in block.named_parameters():
            # No position was given.
            if not label.startswith("key_position"):
                assert parameter.grad.abs().max() > 0, label
        optimiser.step()
    assert losses[-1] < losses[0]
