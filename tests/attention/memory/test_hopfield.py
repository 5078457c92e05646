"""The iterated Hopfield read against loops, its energy and its capacity."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention import attend, weights
from neuroattn.attention.memory.hopfield import energy
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXAMPLES = {
    "hopfield": [
        Example(label="one-step"),
        Example(lambda *_: {"steps": 3}, lengths=(1, 2, 9, 65), label="three-steps"),
        Example(lambda *_: {"steps": 20, "tolerance": 0.05}, lengths=(1, 9, 65), label="tolerance"),
    ]
}
BACKENDS = ("reference", "sdpa")


def tensors(queries, keys, dim, value_dim=None, batch=2, heads=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(queries, dim), (keys, dim), (keys, value_dim or dim)]
    return [
        torch.randn(batch, heads, *size, generator=generator, dtype=torch.float64) for size in sizes
    ]


def mean(state, keys, contents, scale):
    """Return the softmax mean of the contents at a state, key by key."""
    powers = [math.exp(scale * float(state @ key)) for key in keys]
    return sum(power * each for power, each in zip(powers, contents, strict=True)) / sum(powers)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("scale", [None, 1.3])
def test_outputs_equal_a_loop_over_queries_and_steps(backend, causal, steps, scale):
    # Catches a read one step early or late, and moves of a causal query to later keys.
    query, key, value = tensors(4, 6, 3, value_dim=5)
    found = attend(
        "hopfield", query, key, value, causal=causal, steps=steps, scale=scale, backend=backend
    )
    factor = 3**-0.5 if scale is None else scale
    for b in range(2):
        for h in range(2):
            for i in range(4):
                seen = i + 3 if causal else 6
                keys, state = key[b, h, :seen], query[b, h, i]
                for _ in range(steps - 1):
                    state = mean(state, keys, keys, factor)
                wanted = mean(state, keys, value[b, h, :seen], factor)
                torch.testing.assert_close(found[b, h, i], wanted, **TOLERANCE["float64"])


@pytest.mark.parametrize("causal", [False, True])
def test_one_step_is_softmax_attention(causal):
    # Catches a move too many before the read.
    inputs = tensors(5, 7, 4)
    common = {"causal": causal, "mask": torch.arange(7) != 3, "scale": 0.7}
    found = attend("hopfield", *inputs, **common)
    torch.testing.assert_close(found, attend("softmax", *inputs, **common), rtol=0, atol=0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [0.3, 2.0, 20.0])
def test_the_energy_never_rises(causal, scale):
    # Catches another scale in the moves than in the read, and a move past the mean.
    query, key, _ = tensors(6, 8, 5, seed=3)
    common = {"causal": causal, "mask": torch.arange(8) != 1, "scale": scale}
    levels = []
    for steps in range(1, 9):
        # Values that are the keys make the output the next state.
        state = attend("hopfield", query, key, key, steps=steps, **common)
        levels.append(energy(state, key, **common))
    levels = torch.stack([energy(query, key, **common), *levels])
    assert (levels[1:] <= levels[:-1] + 1e-12).all()
    assert (levels[0] - levels[-1] > 1e-3).all()
    assert (levels >= -1e-12).all()


def test_the_energy_is_the_papers():
    # Catches a log-sum-exp that is not divided by the scale, or a constant left out.
    query, key, _ = tensors(2, 3, 4, batch=1, heads=1)
    state, keys = query[0, 0, 1], key[0, 0]
    logs = math.log(sum(math.exp(0.7 * float(state @ each)) for each in keys)) / 0.7
    longest = max(float(each @ each) for each in keys)
    wanted = -logs + math.log(3) / 0.7 + float(state @ state) / 2 + longest / 2
    assert energy(query, key, scale=0.7)[0, 0, 1].item() == pytest.approx(wanted, rel=1e-12)


def test_stored_patterns_are_retrieved_from_noise():
    # Catches moves that start from the query anew: then more steps do not help.
    generator = torch.Generator().manual_seed(1)
    key = torch.randn(1, 1, 200, 64, generator=generator, dtype=torch.float64)
    key = key / key.norm(dim=-1, keepdim=True)
    noise = torch.randn(1, 1, 200, 64, generator=generator, dtype=torch.float64) / 8
    errors = [
        (attend("hopfield", key + 1.2 * noise, key, key, scale=12.0, steps=steps) - key)
        .norm(dim=-1)
        .mean()
        .item()
        for steps in (1, 2, 8)
    ]
    # What is left is the pull of the other patterns on the fixed point itself.
    assert errors[0] > 5 * errors[1]
    assert errors[2] < errors[1] < 0.01


@pytest.mark.parametrize(("scale", "wanted"), [(8.0, 0.21584), (32.0, 1.0)])
def test_the_target_weight_follows_the_exponential_capacity(scale, wanted):
    # Catches a scale that is divided by sqrt(dim) as well: that reads all patterns alike.
    generator = torch.Generator().manual_seed(0)
    key = torch.randn(1, 1, 4096, 32, generator=generator)
    key = key / key.norm(dim=-1, keepdim=True)
    share = weights("hopfield", key[:, :, :512], key, scale=scale)[0, 0]
    found = share.diagonal().double().mean().item()
    # E exp(β c) of a coordinate c of the sphere, by its series in β².
    series = total = 1.0
    for order in range(1, 200):
        series *= scale**2 / (4 * order * (32 / 2 + order - 1))
        total += series
    formula = 1 / (1 + 4095 * math.exp(-scale) * total)
    assert formula == pytest.approx(wanted, abs=5e-5)
    assert found == pytest.approx(formula, rel=0.02)


def test_a_tolerance_stops_each_query_on_its_own():
    # Catches one slow query that keeps the others moving, and a stop before the last move.
    query, key, value = tensors(6, 9, 4, seed=5)
    common = {"scale": 1.5, "steps": 60}
    found = attend("hopfield", query, key, value, tolerance=0.02, **common)
    for i in range(6):
        alone = attend("hopfield", query[:, :, [i]], key, value, tolerance=0.02, **common)
        torch.testing.assert_close(alone, found[:, :, [i]], **TOLERANCE["float64"])
    wanted = torch.zeros_like(found)
    moves = []
    for b in range(2):
        for h in range(2):
            for i in range(6):
                state, move, count = query[b, h, i], 1.0, 0
                while move > 0.02:
                    after = mean(state, key[b, h], key[b, h], 1.5)
                    move, state, count = float((after - state).norm()), after, count + 1
                wanted[b, h, i] = mean(state, key[b, h], value[b, h], 1.5)
                moves.append(count)
    torch.testing.assert_close(found, wanted, **TOLERANCE["float64"])
    assert len(set(moves)) > 2
    exact = attend("hopfield", query, key, value, **common)
    assert not torch.allclose(exact, found)
    torch.testing.assert_close(exact, found, rtol=0, atol=0.5)


def test_a_query_that_has_stopped_does_not_start_again():
    # Catches a stop that is asked anew each step: beside a saddle moves are short, then long.
    key = torch.tensor([[2.0], [-2.0]], dtype=torch.float64)[None, None]
    query = torch.tensor([[5e-3], [1.0]], dtype=torch.float64)[None, None]
    given = {"scale": 1.0, "steps": 40, "tolerance": 0.02}
    found = attend("hopfield", query, key, key, **given)
    alone = attend("hopfield", query[:, :, :1], key, key, **given)
    torch.testing.assert_close(found[:, :, :1], alone, rtol=1e-12, atol=0)
    assert 0 < found[0, 0, 0, 0] < 0.1
    assert found[0, 0, 1, 0] > 1.9


def test_more_steps_differ_and_weights_are_those_of_the_last():
    # Catches a parameter that is checked and never used.
    query, key, value = tensors(3, 5, 4)
    one, four = (attend("hopfield", query, key, value, steps=steps) for steps in (1, 4))
    assert not torch.allclose(one, four)
    found = weights("hopfield", query, key, steps=4)
    torch.testing.assert_close(found @ value, four, **TOLERANCE["float64"])
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 2, 3).double())
