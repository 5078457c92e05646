"""The scalar state space against its recurrence, its matrix and attention with a normaliser."""

from __future__ import annotations

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.attention.linear.ssd import SelectiveDecay, softplus_inverse, spread
from neuroattn.errors import InputError
from tests.attention.contract import Example, close, gradients
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
FORMS = ["recurrent", "parallel", "chunked"]


def uniform(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def a_token(sizes, generator):
    shape = sizes["batch"], sizes["heads"], sizes["keys"]
    alpha = torch.rand(shape, generator=generator, dtype=torch.float64)
    return {"alpha": alpha, "beta": torch.randn(shape, generator=generator, dtype=torch.float64)}


def forgetting(sizes, generator):
    given = a_token(sizes, generator)
    given["alpha"][..., ::3] = 0.0
    return {**given, "chunk_size": 4}


def shared(sizes, generator):
    alpha = torch.rand(1, 1, sizes["keys"], generator=generator, dtype=torch.float64)
    return {"alpha": alpha, "beta": 0.3, "chunk_size": 7}


EXAMPLES = {
    "ssd": [
        Example(lengths=(1, 9, 65), label="default"),
        Example(lambda *_: {"alpha": 0.9, "beta": 0.5}, lengths=(2, 65), label="numbers"),
        Example(a_token, label="tensors"),
        Example(forgetting, lengths=(1, 3, 4, 5, 13), label="zeros"),
        Example(shared, lengths=(1, 6, 7, 8, 15), label="shared"),
    ]
}


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def inputs(length=6):
    return [drawn(2, 2, length, d, seed=s) for s, d in enumerate((4, 4, 5))]


@pytest.mark.parametrize("form", FORMS)
def test_the_recurrence_equals_the_masked_matrix(form):
    # Catches a product that begins at j instead of j + 1, and a gate on the wrong axis.
    query, key, value = inputs()
    alpha, beta = uniform(2, 2, 6), drawn(2, 2, 6, seed=8)
    wanted = torch.zeros_like(value)
    for b in range(2):
        for h in range(2):
            lower = torch.zeros(6, 6, dtype=torch.float64)
            for i in range(6):
                for j in range(i + 1):
                    lower[i, j] = alpha[b, h, j + 1 : i + 1].prod()
            matrix = lower * (query[b, h] @ key[b, h].T)
            wanted[b, h] = matrix @ (beta[b, h, :, None] * value[b, h])
    found = attend("ssd", query, key, value, causal=True, alpha=alpha, beta=beta, form=form)
    close(found, wanted, EXACT, form)
    last = attend("ssd", query[:, :, -1:], key, value, alpha=alpha, beta=beta, form=form)
    close(last, wanted[:, :, -1:], EXACT, "read after all tokens")


@pytest.mark.parametrize("form", FORMS)
def test_a_retention_of_one_is_linear_attention(form):
    # Catches a gate that also decays, and a scale of 1/√d.
    query, key, value = inputs()
    wanted = (query @ key.mT).tril() @ value
    found = attend("ssd", query, key, value, causal=True, form=form)
    close(found, wanted, EXACT, form)
    close(attend("ssd", query, key, value, form=form), query @ (key.mT @ value), EXACT, "all")


@pytest.mark.parametrize("form", FORMS)
def test_a_constant_retention_is_retention(form):
    # Catches a retention that is applied before the read only.
    tensors = inputs(9)
    for causal in (False, True):
        wanted = attend("retention", *tensors, causal=causal, decay=0.8, scale=1.0)
        found = attend("ssd", *tensors, causal=causal, alpha=0.8, form=form)
        close(found, wanted, EXACT, form)
        spelled = attend(
            "ssd", *tensors, causal=causal, alpha=torch.full((1, 1, 9), 0.8, dtype=torch.float64)
        )
        close(spelled, wanted, EXACT, "tensor")


def test_it_is_normalised_attention_with_a_growing_normaliser():
    # Catches η of the token before: with η_i = ∏ 1/a_j and ψ_j = Δ_j η_j b_j, Σ φψv/η is the read.
    query, key, value = inputs()
    step, rate = uniform(2, 2, 6) + 0.1, 0.7
    alpha = torch.exp(-step * rate)
    eta = (1 / alpha).cumprod(-1)
    psi = (step * eta)[..., None] * key
    wanted = (query @ psi.mT).tril() @ value / eta[..., None]
    found = attend("ssd", query, key, value, causal=True, alpha=alpha, beta=step)
    close(found, wanted, EXACT, "normalised attention")


@pytest.mark.parametrize("form", FORMS)
def test_a_retention_of_zero_forgets_with_the_right_gradient(form):
    # Catches logarithms of decays: NaN, or a gradient of zero where a gate should open.
    query, key, value = inputs()
    alpha = uniform(2, 2, 6)
    alpha[:, :, 3] = 0.0
    alpha.requires_grad_()
    found = attend("ssd", query, key, value, causal=True, alpha=alpha, form=form, chunk_size=4)
    fresh = attend("ssd", *(x[:, :, 3:] for x in (query, key, value)), causal=True, form=form,
                   alpha=alpha[:, :, 3:].detach())  # fmt: skip
    close(found[:, :, 3:], fresh, EXACT, "after forgetting")
    (slope,) = gradients(found, [alpha])
    step = 1e-6
    moved = alpha.detach().clone()
    moved[0, 1, 3] += step
    direction = drawn_direction(found)
    other = attend("ssd", query, key, value, causal=True, alpha=moved, form=form)
    measured = ((other - found.detach()) * direction).sum() / step
    assert abs(measured) > 0.05
    assert float(slope[0, 1, 3]) == pytest.approx(float(measured), rel=1e-7)


def drawn_direction(like):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64)


def test_what_the_block_learns_are_steps_and_rates():
    # Catches alpha and beta that come from different steps, and heads that begin alike.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learned = SelectiveDecay(8, 4, 6).double()
    tokens = drawn(2, 5, 6)
    named = learned.of_tokens(tokens)
    begin = torch.logspace(-3, -1, 4, dtype=torch.float64)
    torch.testing.assert_close(named["beta"], begin[:, None].expand(2, 4, 5), rtol=1e-5, atol=0)
    rates = torch.tensor([16.0 ** (h / 3) for h in range(4)], dtype=torch.float64)
    wanted = torch.exp(-begin * rates)[:, None].expand(2, 4, 5)
    torch.testing.assert_close(named["alpha"], wanted, rtol=1e-5, atol=0)
    learned.step.weight.data = drawn(4, 6, seed=2)
    named = learned.of_tokens(tokens)
    step = torch.log1p(torch.exp(tokens @ learned.step.weight.T + learned.step.bias))
    torch.testing.assert_close(named["beta"], step.transpose(1, 2), **EXACT)
    decay = torch.exp(-step.transpose(1, 2) * learned.log_rate.exp()[:, None])
    torch.testing.assert_close(named["alpha"], decay, **EXACT)
    for name, each in named.items():
        (slope,) = torch.autograd.grad(each.sum(), learned.step.bias, retain_graph=True)
        assert (slope != 0).all(), name
    assert float(spread(4.0, 9.0, 1)) == pytest.approx(6.0, rel=1e-6)
    values = torch.tensor([1e-8, 0.1, 30.0], dtype=torch.float64)
    back = torch.nn.functional.softplus(softplus_inverse(values))
    torch.testing.assert_close(back, values, rtol=1e-7, atol=0)


def test_training_a_block_lowers_its_loss_through_every_parameter():
    # Catches a learned gate that is detached from the read.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = MultiheadAttention(8, 2, mechanism="ssd", causal=True)
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


def test_a_number_in_the_recipe_replaces_what_is_learned():
    # Catches a setting that the module overrides.
    block = MultiheadAttention(8, 2, mechanism="ssd", parameters={"alpha": 0.0, "beta": 1.0})
    tokens = drawn(1, 3, 8).float()
    read = block.project(tokens)
    matrix = block.maps(tokens, read)
    assert (matrix[..., :2] == 0).all()
    assert (matrix[..., 2] != 0).all()


def test_gates_of_another_shape_are_refused():
    # Catches gates (batch, keys, heads) that broadcast when the sizes happen to agree.
    with pytest.raises(InputError, match=r"ssd's alpha.*\(batch, heads, keys\)"):
        attend("ssd", *inputs(), alpha=torch.ones(2, 6, 2))
    with pytest.raises(InputError, match=r"ssd's alpha=1\.5"):
        weights("ssd", *inputs()[:2], alpha=1.5)
