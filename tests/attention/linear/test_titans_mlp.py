"""The two-layer memory against autograd, its linear limit, and what it must learn."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from neuroattn.attention import MultiheadAttention, attend
from neuroattn.attention.linear.titans_mlp import Layers, recall, slopes
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.attention.linear.test_delta import draw, gate, three
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]


def small_gates(sizes, generator):
    # Two layers are learned stably by small steps only: the loss is not convex.
    gates = {name: gate(sizes, generator) for name in ("alpha", "momentum")}
    return {**gates, "beta": gate(sizes, generator, 0, 0.1)}


EXAMPLES = {
    "titans_mlp": [
        Example(label="default"),
        Example(small_gates, label="tensor"),
        Example(
            lambda s, g: {"beta": 0.5, "alpha": 0.9, "momentum": 0.6, "memory": "residual"},
            value_dim=4,
            label="residual",
        ),
    ]
}


def layers(dim=3, hidden=5, value_dim=2, seed=20):
    """Draw the weights of one head."""
    return draw(dim, hidden, seed=seed), draw(hidden, value_dim, seed=seed + 1)


def answer(first, second, asked, memory):
    """Answer as the definition says, with torch's own modules."""
    out = F.gelu(asked @ first) @ second
    return asked + F.layer_norm(out, out.shape[-1:]) if memory == "residual" else out


@pytest.mark.parametrize("memory", ["plain", "residual"])
def test_written_out_slopes_equal_autograd(memory):
    # Catches a dropped term of the layer norm's gradient, or of gelu's slope.
    width = 3 if memory == "residual" else 2
    drawn = [each.requires_grad_() for each in layers(value_dim=width)]
    key, value = draw(1, 3, seed=1), draw(1, width, seed=2)
    loss = (answer(*drawn, key, memory) - value).square().sum() / 2
    wanted = torch.autograd.grad(loss, drawn)
    given = Layers(*(each.detach()[None, None] for each in drawn))
    found = slopes(given, key[None, None], value[None, None], memory)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one[0, 0], other, **EXACT)
    torch.testing.assert_close(
        recall(given, key[None, None], memory)[0, 0],
        answer(*drawn, key, memory).detach(),
        **EXACT,
    )


@pytest.mark.parametrize("memory", ["plain", "residual"])
@pytest.mark.parametrize("causal", [False, True])
def test_every_read_equals_the_papers_equations_by_autograd(memory, causal):
    # Catches forgetting taken for retention, a factor 2 in the step, a read before the write.
    width = 3 if memory == "residual" else 2
    query, key, value = three(tokens=6, value_dim=width)
    theta, alpha, eta = (draw(6, seed=n).sigmoid() / 2 for n in (7, 8, 9))
    weights, reads = list(layers(value_dim=width)), []
    surprise = [torch.zeros_like(each) for each in weights]
    for t in range(6):
        moved = [each.detach().requires_grad_() for each in weights]
        error = answer(*moved, key[0, 0, t : t + 1], memory) - value[0, 0, t]
        found = torch.autograd.grad(error.square().sum(), moved)
        surprise = [eta[t] * s - theta[t] * g for s, g in zip(surprise, found, strict=True)]
        weights = [(1 - alpha[t]) * w + s for w, s in zip(weights, surprise, strict=True)]
        reads.append(answer(*weights, 0.7 * query[0, 0, t : t + 1], memory))
    wanted = torch.cat(reads) if causal else answer(*weights, 0.7 * query[0, 0], memory)
    first, second = layers(value_dim=width)
    gates = {"beta": 2 * theta, "alpha": 1 - alpha, "momentum": eta}
    read = attend(
        "titans_mlp",
        query,
        key,
        value,
        causal=causal,
        scale=0.7,
        first=first[None],
        second=second[None],
        memory=memory,
        normalize_keys=False,
        **{name: each[None, None] for name, each in gates.items()},
    )
    torch.testing.assert_close(read[0, 0], wanted, **EXACT)


def test_a_memory_that_stays_linear_is_the_linear_titans():
    # Catches momentum on the weights instead of the step. With a tiny second layer and tiny
    # values the first layer hardly moves, and the second learns from hidden units that are fixed.
    query, key, value = three(tokens=8)
    first, _ = layers(hidden=6)
    tiny = 1e-7
    gates = {"beta": 0.2, "momentum": 0.5}
    second = torch.zeros(1, 6, 2, dtype=torch.float64)
    ways = {"first": first[None], "second": second, "normalize_keys": False, "causal": True}
    found = attend("titans_mlp", query, key, tiny * value, **ways, **gates) / tiny
    asked, hidden = F.gelu(query @ first), F.gelu(key @ first)
    linear = {"causal": True, "normalize_keys": False, "form": "recurrent"}
    wanted = attend("titans", asked, hidden, value, **linear, **gates)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("memory", ["plain", "residual"])
def test_repeating_a_pair_teaches_it(memory):
    # Catches a step uphill.
    key, first = draw(1, 1, 1, 3, seed=1), draw(1, 3, 6, seed=2)
    second, target = draw(1, 6, 3, seed=3), draw(1, 1, 1, 3, seed=4)
    # What a residual memory can answer lies at a fixed distance from the key.
    offset = F.layer_norm(target, (3,))
    target = F.normalize(key, dim=-1) + offset if memory == "residual" else target
    many = [each.expand(1, 1, 400, 3) for each in (key, target)]
    read = attend(
        "titans_mlp",
        F.normalize(many[0], dim=-1),
        *many,
        causal=True,
        first=first,
        second=second,
        beta=0.1,
        momentum=0.5,
        memory=memory,
    )
    error = (read - target).square().sum(dim=-1)[0, 0]
    assert error[-1] < 1e-8 < 1e-3 < error[0]


def test_the_first_weights_are_not_read_before_a_key_is_written():
    # Catches a memory that answers with its initialisation when all keys are hidden, or forgets
    # after a split that something was written.
    query, key, value = three(tokens=4)
    first, second = (each[None] for each in layers())
    ways = {"causal": True, "first": first, "second": second}
    mask = torch.tensor([False, True, False, False]).reshape(1, 1, 1, 4)
    read, state = attend("titans_mlp", query, key, value, mask=mask, return_state=True, **ways)
    assert (read[:, :, 0] == 0).all()
    assert (read[:, :, 1:] != 0).all()
    none = torch.zeros(1, 1, 1, 4, dtype=torch.bool)
    later = attend("titans_mlp", query, key, value, mask=none, initial_state=state, **ways)
    assert (later != 0).all()


def test_a_residual_memory_needs_values_as_wide_as_keys():
    # Catches a broadcast that adds a key to a value of width one.
    first, second = (each[None] for each in layers(value_dim=1))
    with pytest.raises(InputError, match="value_dim = dim"):
        attend("titans_mlp", *three(value_dim=1), first=first, second=second, memory="residual")


@pytest.mark.parametrize("memory", ["plain", "residual"])
def test_the_first_weights_and_gates_learn(memory):
    # Catches a slope that is detached from the weights before the first token.
    generator = torch.Generator().manual_seed(0)
    parameters = {"memory": memory, "expansion": 2}
    block = MultiheadAttention(8, 2, 6, "titans_mlp", parameters).double()
    assert block.learned.first.shape == (2, 4, 8)
    tokens = torch.randn(3, 10, 6, generator=generator, dtype=torch.float64)
    queries, target = torch.randn(2, 3, 4, 8, generator=generator, dtype=torch.float64)
    assert block.learned.of_tokens(tokens)["beta"].mean() < 0.3
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
