"""The diagonal state space against loops over entries, `ssd` and the reversed sigmoid."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend
from neuroattn.attention.linear.s6 import SelectiveChannels
from neuroattn.errors import InputError
from tests.attention.contract import Example, close, gradients
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
FORMS = ["recurrent", "chunked"]


def positive(*shape, generator):
    return 0.05 + torch.rand(shape, generator=generator, dtype=torch.float64)


def tensors(sizes, generator):
    b, h, n, d, v = (sizes[axis] for axis in ("batch", "heads", "keys", "dim", "value_dim"))
    step = positive(b, h, n, v, generator=generator)
    return {"step": step, "rate": positive(h, d, v, generator=generator)}


def small(sizes, generator):
    return {**tensors(sizes, generator), "chunk_size": 5}


def shared(sizes, generator):
    return {"step": positive(1, 1, 1, sizes["value_dim"], generator=generator), "rate": 0.2}


EXAMPLES = {
    "s6": [
        Example(lengths=(1, 65), label="default"),
        Example(lambda *_: {"step": 0.3, "rate": 0.5}, lengths=(2, 9), label="numbers"),
        Example(tensors, dim=3, value_dim=4, lengths=(2, 63, 64, 65, 257), label="tensors"),
        Example(small, dim=2, value_dim=3, lengths=(1, 4, 5, 6, 11), label="small blocks"),
        Example(shared, dim=2, value_dim=3, lengths=(7,), label="shared"),
    ]
}


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def inputs(length=7):
    return [drawn(2, 2, length, d, seed=s) for s, d in enumerate((3, 3, 4))]


def given(length=7):
    sizes = {"batch": 2, "heads": 2, "keys": length, "dim": 3, "value_dim": 4}
    return tensors(sizes, torch.Generator().manual_seed(9))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk_size", [1, 3, 64])
def test_every_form_equals_loops_over_entries(form, chunk_size):
    # Catches a step taken from the key channel, a write without its step, a token that is decayed
    # before it is read, and a hidden token that stops the decay.
    query, key, value = inputs()
    named, seen = given(), [True, True, False, True, True, False, True]
    wanted, last = torch.zeros_like(value), torch.zeros(2, 2, 3, 4, dtype=torch.float64)
    for b in range(2):
        for h in range(2):
            for v in range(4):
                memory = [0.0, 0.0, 0.0]
                for t in range(7):
                    step = named["step"][b, h, t, v].item()
                    for d in range(3):
                        memory[d] *= math.exp(-step * named["rate"][h, d, v].item())
                        if seen[t]:
                            memory[d] += step * key[b, h, t, d].item() * value[b, h, t, v].item()
                    wanted[b, h, t, v] = sum(query[b, h, t, d].item() * memory[d] for d in range(3))
                last[b, h, :, v] = torch.tensor(memory, dtype=torch.float64)
    ways = {"mask": torch.tensor(seen), "form": form, "chunk_size": chunk_size, **named}
    found, state = attend("s6", query, key, value, causal=True, return_state=True, **ways)
    close(found, wanted, EXACT, form)
    close(state["memory"], last, EXACT, "memory")
    close(attend("s6", query, key, value, **ways), query @ last, EXACT, "read after all tokens")
    doubled = attend("s6", query, key, value, causal=True, scale=2.0, **ways)
    close(doubled, 2 * wanted, EXACT, "scale")


@pytest.mark.parametrize("form", FORMS)
def test_one_step_and_one_rate_a_head_are_ssd(form):
    # Catches a memory that is written without the step.
    step = given()["step"][..., 0]
    rate = torch.tensor([0.4, 1.7], dtype=torch.float64)
    for causal in (False, True):
        found = attend(
            "s6",
            *inputs(),
            causal=causal,
            form=form,
            step=step[..., None].expand(-1, -1, -1, 4),
            rate=rate[:, None, None].expand(-1, 3, 4),
        )
        alpha = torch.exp(-step * rate[:, None])
        wanted = attend("ssd", *inputs(), causal=causal, alpha=alpha, beta=step)
        close(found, wanted, EXACT, form)


@pytest.mark.parametrize("rate", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("form", FORMS)
def test_a_softplus_step_decays_by_a_reversed_sigmoid(form, rate):
    # Catches σ(x)^a: the first of two tokens is left exp(−a softplus(x)) = σ(−x)^a of itself.
    x = torch.linspace(-6, 6, 13, dtype=torch.float64)
    step = torch.nn.functional.softplus(x)
    one = torch.ones(1, 1, 2, 1, dtype=torch.float64)
    value = torch.zeros(1, 1, 2, 13, dtype=torch.float64)
    value[:, :, 0] = 1 / step
    steps = step.expand(1, 1, 2, 13)
    read = attend("s6", one, one, value, causal=True, step=steps, rate=rate, form=form)
    close(read[0, 0, 0], torch.ones_like(x), EXACT, "just written")
    close(read[0, 0, 1], torch.sigmoid(-x) ** rate, EXACT, "one token later")


def test_no_step_leaves_the_memory_and_huge_steps_clear_it():
    # Catches 0 · ∞ where the decay underflows, forward or backward.
    query, key, value = inputs()
    named = given()
    for form in FORMS:
        memory = {"memory": drawn(2, 2, 3, 4, seed=5)}
        ways = {"form": form, "causal": True, "initial_state": memory, "return_state": True}
        still, state = attend("s6", query, key, value, step=0.0, **ways)
        close(state["memory"], memory["memory"], EXACT, "kept")
        close(still, query @ memory["memory"], EXACT, "read")
        step = torch.full_like(named["step"], 1e4).requires_grad_()
        found, state = attend("s6", query, key, value, step=step, **ways)
        outer = 1e4 * key[..., None] * value[..., None, :]
        close(state["memory"], outer[:, :, -1], EXACT, "cleared")
        (slope,) = gradients(found, [step])
        assert torch.isfinite(slope).all()
        assert (slope != 0).any()


def test_blocks_hold_the_memories_of_one_block_at_a_time():
    # Catches a backward pass that keeps (tokens, dim, value_dim) of every token.
    query, key, value = (drawn(1, 1, 640, 4, seed=seed).requires_grad_() for seed in range(3))
    held = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: held.append(x.numel()) or x, lambda x: x
    ):
        attend("s6", query, key, value, causal=True, form="chunked", chunk_size=64)
    assert 0 < sum(held) < 640 * 4 * 4 * 3


def test_what_the_block_learns_are_steps_a_channel_and_rates_an_entry():
    # Catches channels that are dealt to the wrong head, and rates along the wrong axis.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learned = SelectiveChannels(8, 2, 20).double()
    assert learned.down.weight.shape == (2, 20)
    assert SelectiveChannels(8, 2, 20, rank=5).down.weight.shape == (5, 20)
    tokens = drawn(3, 5, 20)
    named = learned.of_tokens(tokens)
    step = torch.log1p(torch.exp(tokens @ learned.down.weight.T @ learned.up.weight.T
                                 + learned.up.bias))  # fmt: skip
    assert named["step"].shape == (3, 2, 5, 4)
    for head in range(2):
        torch.testing.assert_close(
            named["step"][:, head], step[..., 4 * head : 4 * head + 4], **EXACT
        )
    begin = torch.nn.functional.softplus(learned.up.bias)
    wanted = torch.logspace(-3, -1, 8, dtype=torch.float64)
    torch.testing.assert_close(begin, wanted, rtol=1e-5, atol=0)
    rates = torch.arange(1, 5, dtype=torch.float64)[None, :, None].expand(2, 4, 4)
    torch.testing.assert_close(named["rate"], rates, rtol=1e-6, atol=0)


def test_training_a_block_lowers_its_loss_through_every_parameter():
    # Catches a learned step that is detached by the recomputation of a block.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = MultiheadAttention(8, 2, mechanism="s6", parameters={"chunk_size": 3}, causal=True)
    tokens, wanted = drawn(4, 7, 8).float(), drawn(4, 7, 8, seed=3).float()
    optimiser = torch.optim.Adam(block.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = (block(tokens, block.project(tokens)) - wanted).square().mean()
        loss.backward()
        losses.append(loss.item())
        optimiser.step()
    assert losses[-1] < 0.95 * losses[0]
    for name, parameter in block.named_parameters():
        if name != "key_position.weight":
            assert (parameter.grad != 0).any(), name


def test_steps_and_rates_out_of_range_are_refused():
    # Catches a memory that grows, and steps for key channels.
    with pytest.raises(InputError, match="s6's step=-1"):
        attend("s6", *inputs(), step=-1.0)
    with pytest.raises(InputError, match="s6's step is a tensor"):
        attend("s6", *inputs(), step=torch.ones(2, 2, 7, 3))
    with pytest.raises(InputError, match="s6's rate is a tensor"):
        attend("s6", *inputs(), rate=torch.ones(2, 4, 3))
