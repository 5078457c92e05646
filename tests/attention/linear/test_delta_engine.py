"""The gated recurrence's blocks against loops over numbers."""

from __future__ import annotations

import pytest
import torch

from neuroattn.attention.linear.delta_engine import (
    Gates,
    chunked,
    explicit,
    kernel,
    products,
    recurrent,
)
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def uniform(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def by_products(gate, start, stop):
    found = 1.0
    for each in gate[start:stop]:
        found *= float(each)
    return found


def test_products_are_those_of_a_loop_also_over_zeros():
    # Catches a product that counts its own place, and 0/0 behind a gate of zero.
    gate = torch.tensor([0.5, 0.0, 0.9, 1.0, 0.3], dtype=torch.float64)
    found = products(gate)
    for after in range(6):
        for before in range(6):
            wanted = by_products(gate, before, after) if after >= before else 0.0
            assert abs(float(found[after, before]) - wanted) < 1e-15


def test_products_of_zeros_have_the_true_gradient():
    # Catches the gradient of a logarithm at zero: infinite, or zero where it is clamped.
    gate = torch.tensor([0.5, 0.0, 0.9, 0.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(products(gate)[2, 0], gate)
    torch.testing.assert_close(slope, torch.tensor([0.0, 0.5, 0.0, 0.0], dtype=torch.float64))
    assert torch.autograd.gradcheck(products, (gate,))


def test_products_of_tiny_gates_do_not_overflow():
    # Catches a quotient of running products, which is 0/0 after some hundred places.
    gate = torch.full((300,), 1e-3, dtype=torch.float32, requires_grad=True)
    found = products(gate)
    assert float(found[300, 299].detach()) == pytest.approx(1e-3)
    (slope,) = torch.autograd.grad(found.sum(), gate)
    assert torch.isfinite(slope).all()


def test_the_kernel_of_a_momentum_is_a_double_sum():
    # Catches a change that enters the memory once only, or a token too late.
    retain, momentum = uniform(5), uniform(5, seed=2)
    zeros = torch.zeros(5, dtype=torch.float64)
    found = kernel(Gates(retain, zeros, zeros, momentum))
    for place in range(6):
        for change in range(5):
            wanted = sum(
                by_products(momentum, change + 1, entry) * by_products(retain, entry, place)
                for entry in range(change + 1, place + 1)
            )
            assert abs(float(found.of_changes[place, change]) - wanted) < 1e-14
        carried = sum(
            by_products(momentum, 0, entry) * by_products(retain, entry, place)
            for entry in range(1, place + 1)
        )
        assert abs(float(found.of_states[place, 1]) - carried) < 1e-14
    assert float(found.last_of_states[1, 0]) == 0.0
    assert abs(float(found.last_of_states[1, 1]) - by_products(momentum, 0, 5)) < 1e-14


def by_loop(key, value, gates, memory, moving, frozen_every=0):
    """Run one head with plain vectors; return the memory after every token."""
    seen, start = [], memory
    for token in range(len(key)):
        start = memory if frozen_every and token % frozen_every == 0 else start
        held = (start if frozen_every else memory).T @ key[token]
        change = gates.write[token] * value[token] - gates.erase[token] * held
        moving = gates.momentum[token] * moving + torch.outer(key[token], change)
        memory = gates.retain[token] * memory + moving
        seen.append(memory)
    return torch.stack(seen), moving, start


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("size", [1, 3, 4, 11, 50])
def test_blocks_with_momentum_equal_a_loop(size, frozen):
    # Catches padding that moves the memory, and a momentum that is lost between blocks.
    key, value, query = draw(11, 3), draw(11, 2, seed=3), draw(11, 3, seed=4)
    gates = Gates(*(uniform(11, seed=each) for each in (5, 6, 7, 8)))
    begun = draw(3, 2, seed=9), draw(3, 2, seed=10)
    seen, moving, start = by_loop(key, value, gates, *begun, min(size, 11) if frozen else 0)
    one = [each[None, None] for each in (query, key, value)]
    gates = Gates(*(each[None, None] for each in gates))
    states = tuple(each[None, None] for each in begun)
    ways = {"chunk_size": size, "frozen": frozen}
    found = chunked(*one, gates, states, causal=True, **ways)
    wanted = torch.einsum("td,tdv->tv", query, seen)
    torch.testing.assert_close(found.output[0, 0], wanted, **EXACT)
    torch.testing.assert_close(found.states[0][0, 0], seen[-1], **EXACT)
    torch.testing.assert_close(found.states[1][0, 0], moving, **EXACT)
    if frozen:
        torch.testing.assert_close(found.last_start[0][0, 0], start, **EXACT)
    last = chunked(*one, gates, states, causal=False, **ways)
    torch.testing.assert_close(last.output[0, 0], query @ seen[-1], **EXACT)


def test_erasing_and_writing_have_their_own_strengths():
    # Catches one strength used for both.
    key, value, query = draw(1, 1, 6, 3), draw(1, 1, 6, 2, seed=3), draw(1, 1, 6, 3, seed=4)
    gates = Gates(*(uniform(1, 1, 6, seed=each) for each in (5, 6, 7)))
    flat = Gates(*(each[0, 0] for each in gates[:3]), torch.zeros(6))
    empty = torch.zeros(3, 2, dtype=torch.float64)
    seen, _, _ = by_loop(key[0, 0], value[0, 0], flat, empty, empty)
    wanted = torch.einsum("td,tdv->tv", query[0, 0], seen)
    output, memory = recurrent(query, key, value, gates, empty[None, None], causal=True)
    torch.testing.assert_close(output[0, 0], wanted, **EXACT)
    torch.testing.assert_close(memory[0, 0], seen[-1], **EXACT)
    right = gates.write[..., None] * value
    whole = explicit(query, key, right, gates, causal=True)
    torch.testing.assert_close(whole[0, 0], wanted, **EXACT)


def test_no_tokens_leave_the_memory_as_it_is():
    # Catches a division by the number of blocks.
    memory = draw(1, 1, 3, 2)
    nothing = torch.zeros(1, 1, 0, 3, dtype=torch.float64)
    gates = Gates(*(torch.zeros(1, 1, 0, dtype=torch.float64) for _ in range(3)))
    query = draw(1, 1, 4, 3, seed=2)
    values = torch.zeros(1, 1, 0, 2, dtype=torch.float64)
    found = chunked(query, nothing, values, gates, (memory,), causal=False, chunk_size=64)
    torch.testing.assert_close(found.output, query @ memory, **EXACT)
    torch.testing.assert_close(found.states[0], memory, **EXACT)
