"""Titans with a linear memory against loops, the closed form of a chunk, and the heavy ball."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.attention.linear.test_delta import draw, gate, three, with_zeros
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
FORMS = ["recurrent", "chunked", "parallel"]


def gates_of_tokens(sizes, generator):
    return {name: gate(sizes, generator) for name in ("beta", "alpha", "momentum")}


EXAMPLES = {
    "titans": [
        Example(label="default", lengths=(1, 2, 9)),
        Example(gates_of_tokens, lengths=(2, 63, 64, 65, 257), label="tensor"),
        Example(
            lambda s, g: {"beta": 0.5, "alpha": 0.9, "momentum": 0.6, "chunk_size": 16},
            lengths=(1, 15, 16, 17, 65),
            label="number",
        ),
        Example(
            lambda s, g: {"alpha": with_zeros(s, g), "momentum": with_zeros(s, g)},
            lengths=(2, 65),
            label="zeros",
        ),
        Example(
            lambda s, g: {
                **gates_of_tokens(s, g),
                "beta": gate(s, g, 0, 0.2),
                "gradient": "chunk start",
                "chunk_size": 8,
            },
            lengths=(1, 7, 8, 9, 65),
            label="chunk-start",
        ),
        # A raw key of length 400 diverges at any step worth taking.
        Example(
            lambda s, g: {"beta": 0.1, "momentum": 0.3, "normalize_keys": False},
            lengths=(2, 9),
            loud=0,
            label="raw",
        ),
    ]
}


def gradient_of(memory, key, value):
    """Return the gradient of the paper's loss |M k - v|² (value_dim, dim) by autograd."""
    moved = memory.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad((moved @ key - value).square().sum(), moved)
    return slope


def by_paper(key, value, theta, alpha, eta, memory=None, surprise=None, block=0):
    """Follow the paper's equations in its own symbols; return all memories and the surprise."""
    empty = torch.zeros(value.shape[1], key.shape[1], dtype=torch.float64)
    memory = empty if memory is None else memory
    surprise = empty if surprise is None else surprise
    seen, start = [], memory
    for t in range(len(key)):
        start = memory if not block or t % block == 0 else start
        slope = gradient_of(start, key[t], value[t])
        surprise = eta[t] * surprise - theta[t] * slope
        memory = (1 - alpha[t]) * memory + surprise
        seen.append(memory)
    return seen, surprise


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("gradient", "size"), [("each token", 4), ("chunk start", 4)])
@pytest.mark.parametrize("causal", [False, True])
def test_every_read_equals_the_papers_equations(form, gradient, size, causal):
    # Catches a factor 2 in the step, forgetting taken for retention, and a read before the write.
    query, key, value = three(tokens=11)
    theta, alpha, eta = (draw(11, seed=n).sigmoid() for n in (7, 8, 9))
    theta = theta / 5
    block = size if gradient == "chunk start" else 1
    seen, _ = by_paper(key[0, 0], value[0, 0], theta, alpha, eta, block=block)
    ours = {"beta": 2 * theta, "alpha": 1 - alpha, "momentum": eta}
    ours = {name: each[None, None] for name, each in ours.items()}
    ways = {"form": form, "gradient": gradient, "chunk_size": size, "normalize_keys": False}
    found = attend("titans", query, key, value, causal=causal, scale=0.7, **ways, **ours)
    held = seen if causal else [seen[-1]] * 11
    wanted = torch.stack([m @ (0.7 * q) for m, q in zip(held, query[0, 0], strict=True)])
    torch.testing.assert_close(found[0, 0], wanted, **EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_without_momentum_and_forgetting_half_a_step_is_the_delta_rule(form):
    # Catches the factor 2 of the gradient: a whole step at θ = 1 would overshoot.
    query, key, value = three(tokens=20)
    unit = F.normalize(key, dim=-1)
    half, zero = torch.full((20,), 0.5), torch.zeros(20)
    seen, _ = by_paper(unit[0, 0], value[0, 0], half, zero, zero)
    found = attend("titans", query, key, value, causal=True, form=form, beta=1.0)
    delta = attend("delta", query, key, value, causal=True, beta=1.0)
    torch.testing.assert_close(found, delta, **EXACT)
    torch.testing.assert_close(found[0, 0, -1], seen[-1] @ query[0, 0, -1], **EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_without_momentum_it_is_the_gated_delta_rule_with_the_error_first(form):
    # Catches an error that is taken after the decay.
    inputs = three(tokens=20)
    gates = {"beta": draw(1, 1, 20, seed=8).sigmoid(), "alpha": draw(1, 1, 20, seed=9).sigmoid()}
    found = attend("titans", *inputs, causal=True, form=form, momentum=0.0, **gates)
    wanted = attend("gated_delta", *inputs, causal=True, order="error first", **gates)
    torch.testing.assert_close(found, wanted, **EXACT)
    other = attend("gated_delta", *inputs, causal=True, order="decay first", **gates)
    assert (found - other).abs().max() > 0.01


@pytest.mark.parametrize(
    ("theta", "radius"), [(0.3, math.sqrt(0.8)), (1.79, math.sqrt(0.8)), (1.81, 1.0776)]
)
@pytest.mark.parametrize("form", ["recurrent", "chunked"])
def test_heavy_ball_is_stable_up_to_one_plus_momentum(form, theta, radius):
    # Catches momentum on the memory instead of the step, and a step that is off by 2.
    momentum, tokens = 0.8, 300
    key = torch.tensor([0.6, 0.8], dtype=torch.float64).expand(1, 1, tokens, 2)
    value = torch.ones(1, 1, tokens, 1, dtype=torch.float64)
    gates = {"beta": 2 * theta, "momentum": momentum}
    error = attend("titans", key, key, value, causal=True, form=form, **gates)[0, 0, :, 0] - 1
    # The error obeys a recursion of two terms: find it, and the radius of its companion matrix.
    pairs = torch.stack([error[1:40], error[:39]], dim=1)
    now, before = torch.linalg.lstsq(pairs, error[2:41, None]).solution[:, 0].tolist()
    assert [now, before] == pytest.approx([1 + momentum - 2 * theta, -momentum], abs=1e-8)
    companion = torch.tensor([[now, before], [1, 0]], dtype=torch.float64)
    assert float(torch.linalg.eigvals(companion).abs().max()) == pytest.approx(radius, abs=1e-4)
    assert error[-1].abs() < 1e-10 if theta < 1 + momentum else error[-1].abs() > 1e6


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
def test_chunk_start_has_its_closed_form(form):
    # Catches an initial momentum that is dropped, and products that are off by one token.
    tokens, dim, value_dim = 7, 3, 2
    _, key, value = three(tokens)
    theta, alpha, eta = (draw(tokens, seed=n).sigmoid() for n in (7, 8, 9))
    first, surprise = draw(value_dim, dim, seed=10), draw(value_dim, dim, seed=11)

    def retained(after, until):
        return math.prod(1 - float(a) for a in alpha[after:until])

    def carried(after, until):
        return math.prod(float(e) for e in eta[after:until])

    wanted = retained(0, tokens) * first
    for i in range(1, tokens + 1):
        wanted = wanted + retained(i, tokens) * carried(0, i) * surprise
    for j in range(1, tokens + 1):
        factor = sum(retained(i, tokens) * carried(j, i) for i in range(j, tokens + 1))
        slope = gradient_of(first, key[0, 0, j - 1], value[0, 0, j - 1])
        wanted = wanted - float(theta[j - 1]) * factor * slope
    gates = {"beta": 2 * theta, "alpha": 1 - alpha, "momentum": eta}
    gates = {name: each[None, None] for name, each in gates.items()}
    memory = first.T[None, None]
    begun = {"memory": memory, "momentum": surprise.T[None, None], "start": memory}
    begun["place"] = torch.zeros((), dtype=torch.float64)
    ways = {"form": form, "gradient": "chunk start", "normalize_keys": False}
    _, state = attend(
        "titans", key, key, value, initial_state=begun, return_state=True, **ways, **gates
    )
    torch.testing.assert_close(state["memory"][0, 0].T, wanted, **EXACT)


def test_gradients_at_the_chunk_start_are_another_mechanism():
    # Catches either taken for the other.
    inputs = three(tokens=20)
    gates = {"beta": 0.3, "alpha": 0.9, "momentum": 0.5, "causal": True}
    exact = attend("titans", *inputs, **gates)
    for form in FORMS:
        ways = {"gradient": "chunk start", "form": form}
        ones = attend("titans", *inputs, chunk_size=1, **ways, **gates)
        torch.testing.assert_close(ones, exact, **EXACT)
        fours = attend("titans", *inputs, chunk_size=4, **ways, **gates)
        assert (fours - exact).abs().max() > 0.01


def test_the_chunk_size_changes_nothing_when_every_token_has_its_gradient():
    # Catches an approximation under the name of the exact form.
    inputs = three(tokens=20)
    gates = {"beta": 0.3, "alpha": 0.9, "momentum": 0.5, "causal": True, "form": "chunked"}
    first, *others = (attend("titans", *inputs, chunk_size=n, **gates) for n in (1, 3, 20, 64))
    for each in others:
        torch.testing.assert_close(each, first, **EXACT)


@pytest.mark.parametrize("pieces", [(3, 2, 9), (1, 1, 12), (4, 4, 6), (7, 7)])
def test_pieces_inside_of_a_chunk_keep_its_start(pieces):
    # Catches a state without the place in the block, in three or more pieces of it.
    query, key, value = three(tokens=14)
    ways = {"gradient": "chunk start", "chunk_size": 8, "beta": 0.3, "momentum": 0.5}
    whole = attend("titans", query, key, value, causal=True, **ways)
    for form in ("recurrent", "chunked"):
        state, reads, start = None, [], 0
        for count in pieces:
            part = [each[:, :, start : start + count] for each in (query, key, value)]
            read, state = attend(
                "titans",
                *part,
                causal=True,
                form=form,
                initial_state=state,
                return_state=True,
                **ways,
            )
            reads.append(read)
            start += count
        torch.testing.assert_close(torch.cat(reads, dim=2), whole, **EXACT)
        assert float(state["place"]) == 6


@pytest.mark.parametrize("cut", [3, 8, 13])
@pytest.mark.parametrize("gradient", ["each token", "chunk start"])
def test_the_state_of_one_form_is_read_by_the_other(cut, gradient):
    # Catches a state that only its own form can continue.
    inputs = three(tokens=20)
    ways = {"gradient": gradient, "chunk_size": 8, "beta": 0.3, "momentum": 0.5, "causal": True}
    whole = attend("titans", *inputs, **ways)
    first, second = [x[:, :, :cut] for x in inputs], [x[:, :, cut:] for x in inputs]
    for one, other in (("recurrent", "chunked"), ("chunked", "recurrent")):
        _, state = attend("titans", *first, form=one, return_state=True, **ways)
        rest = attend("titans", *second, form=other, initial_state=state, **ways)
        torch.testing.assert_close(rest, whole[:, :, cut:], **EXACT)


def test_momentum_goes_on_at_a_hidden_key():
    # Catches a hidden token that stops the clock of the momentum.
    query, key, value = three(tokens=6)
    mask = torch.tensor([True, True, False, False, True, False]).reshape(1, 1, 1, 6)
    gates = {"alpha": 0.9, "momentum": 0.5, "causal": True}
    for form in FORMS:
        hidden = attend("titans", query, key, value, beta=0.5, mask=mask, form=form, **gates)
        beta = torch.where(mask[:, :, 0], 0.5, 0.0).double()
        wanted = attend("titans", query, key, value, beta=beta, form=form, **gates)
        torch.testing.assert_close(hidden, wanted, **EXACT)
    assert (weights("titans", query, key, mask=mask, **gates)[..., [2, 3, 5]] == 0).all()


def test_learned_gates_learn():
    # Catches a gate that no gradient reaches.
    generator = torch.Generator().manual_seed(0)
    block = MultiheadAttention(8, 2, token_dim=6, mechanism="titans").double()
    tokens = torch.randn(3, 20, 6, generator=generator, dtype=torch.float64)
    queries, target = torch.randn(2, 3, 4, 8, generator=generator, dtype=torch.float64)
    named = block.learned.of_tokens(tokens)
    assert set(named) == {"beta", "alpha", "momentum"}
    assert all(each.shape == (3, 2, 20) for each in named.values())
    losses = []
    for _ in range(2):
        loss = (block(queries, block.project(tokens)) - target).square().mean()
        losses.append(float(loss.detach()))
        block.zero_grad()
        loss.backward()
        with torch.no_grad():
            for label, parameter in block.named_parameters():
                if "key_position" not in label:
                    assert parameter.grad.abs().max() > 0, label
                    parameter -= 0.01 * parameter.grad
    assert losses[1] < losses[0]


def test_a_momentum_above_one_and_an_unknown_gradient_are_refused():
    # Catches ranges that are written and not checked.
    with pytest.raises(InputError, match=r"momentum=1\.5"):
        attend("titans", *three(), momentum=1.5)
    with pytest.raises(InputError, match="chunk start"):
        attend("titans", *three(), gradient="start")
