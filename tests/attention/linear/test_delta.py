"""The delta rule, gated and implicit, against loops, closed forms and conditioning phenomena."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
FORMS = ["recurrent", "chunked", "parallel"]


def gate(sizes, generator, low=0.0, high=1.0):
    """Draw one number a token."""
    shape = sizes["batch"], sizes["heads"], sizes["keys"]
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def with_zeros(sizes, generator):
    """Draw gates of which some are exactly zero and some exactly one."""
    drawn = gate(sizes, generator)
    return torch.where(drawn < 0.2, 0.0, torch.where(drawn > 0.8, 1.0, drawn))


SHORT = (1, 15, 16, 17, 65)
EXAMPLES = {
    "delta": [
        Example(label="default"),
        Example(lambda s, g: {"beta": 0.6, "chunk_size": 16}, lengths=SHORT, label="number"),
        Example(lambda s, g: {"beta": gate(s, g)}, lengths=(2, 64, 65), label="tensor"),
        # Raw keys of length 400 and a step above 2 / length² diverge by definition.
        Example(
            lambda s, g: {"beta": gate(s, g, 0, 0.4), "normalize_keys": False},
            lengths=(1, 9, 65),
            loud=0,
            label="raw",
        ),
    ],
    "gated_delta": [
        Example(label="default", lengths=(1, 2, 9)),
        Example(lambda s, g: {"beta": gate(s, g), "alpha": gate(s, g)}, label="tensor"),
        Example(
            lambda s, g: {"beta": 0.5, "alpha": 0.9, "order": "error first", "chunk_size": 16},
            lengths=SHORT,
            label="error-first",
        ),
        Example(
            lambda s, g: {"beta": gate(s, g), "alpha": with_zeros(s, g), "order": "error first"},
            lengths=(2, 65),
            label="zeros",
        ),
    ],
    "longhorn": [
        Example(label="default"),
        Example(lambda s, g: {"beta": gate(s, g, 0, 3)}, lengths=(2, 64, 65), label="tensor"),
        Example(lambda s, g: {"beta": 0.5, "chunk_size": 16}, lengths=SHORT, label="number"),
    ],
}


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def three(tokens=7, dim=3, value_dim=2, seed=0):
    """Draw query, key and value of one head."""
    widths = (dim, dim, value_dim)
    return [draw(1, 1, tokens, width, seed=seed + n) for n, width in enumerate(widths)]


def by_loops(query, key, value, beta, alpha=1.0, order="decay first", causal=True, scale=1.0):
    """Follow the published equations, in the papers' layout (value_dim, dim)."""
    query, key, value = query[0, 0], key[0, 0], value[0, 0]
    memory = torch.zeros(value.shape[1], key.shape[1], dtype=torch.float64)
    identity, seen = torch.eye(key.shape[1], dtype=torch.float64), []
    for t in range(len(key)):
        b, a = (each[t] if torch.is_tensor(each) else each for each in (beta, alpha))
        square = torch.outer(key[t], key[t])
        if order == "error first":
            memory = memory @ (a * identity - b * square)
        else:
            memory = (memory * a) @ (identity - b * square)
        memory = memory + b * torch.outer(value[t], key[t])
        seen.append(memory)
    held = seen if causal else [memory] * len(query)
    return torch.stack([m @ (scale * q) for m, q in zip(held, query, strict=True)])[None, None]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("order", ["decay first", "error first"])
def test_every_number_equals_a_loop_over_the_published_equation(form, causal, order):
    # Catches a transposed memory, a read before the write, and gates of the wrong token.
    query, key, value = three()
    beta, alpha = draw(7, seed=8).sigmoid(), draw(7, seed=9).sigmoid()
    ways = {"causal": causal, "form": form, "normalize_keys": False, "scale": 0.7}
    gates = {"beta": beta[None, None], "alpha": alpha[None, None], "order": order}
    found = attend("gated_delta", query, key, value, **ways, **gates)
    wanted = by_loops(query, key, value, beta, alpha, order, causal, 0.7)
    torch.testing.assert_close(found, wanted, **EXACT)
    plain = attend("delta", query, key, value, beta=0.4, **ways)
    torch.testing.assert_close(plain, by_loops(query, key, value, 0.4, causal=causal, scale=0.7))
    unit = attend("delta", query, key, value, beta=0.4, **(ways | {"normalize_keys": True}))
    wanted = by_loops(query, key / key.norm(dim=-1, keepdim=True), value, 0.4, 1.0, "", causal, 0.7)
    torch.testing.assert_close(unit, wanted, **EXACT)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
def test_longhorn_equals_a_loop_with_its_step(form, causal):
    # Catches a step from the keys' length instead of its square.
    query, key, value = three(seed=3)
    step = torch.tensor([1.5 / (1 + 1.5 * float(k @ k)) for k in key[0, 0]], dtype=torch.float64)
    found = attend("longhorn", query, key, value, beta=1.5, causal=causal, form=form)
    torch.testing.assert_close(found, by_loops(query, key, value, step, causal=causal), **EXACT)


@pytest.mark.parametrize("causal", [False, True])
def test_orthonormal_keys_make_it_linear_attention(causal):
    # Catches an erasing with another token's key.
    query, _, value = three(tokens=6, dim=6)
    key = torch.linalg.qr(draw(6, 6, seed=4)).Q[None, None]
    products = query @ key.transpose(-1, -2)
    linear = (products.tril() if causal else products) @ value
    found = attend("delta", query, key, value, causal=causal)
    torch.testing.assert_close(found, linear, **EXACT)


def test_the_newest_association_is_exact():
    # Catches a correction without erasing: the read would hold the crosstalk of all items.
    _, key, value = three(tokens=40, dim=4, seed=5)
    key = F.normalize(key, dim=-1)
    read = attend("delta", key, key, value, causal=True)
    torch.testing.assert_close(read, value, **EXACT)
    hebb = (key @ key.transpose(-1, -2)).tril() @ value
    assert (hebb - value).abs().max() > 1


def trials(*phases):
    """Return stimuli (1, 1, trials, 3) and outcomes of (stimulus, outcome, repeats)."""
    key = torch.tensor([k for k, _, n in phases for _ in range(n)], dtype=torch.float64)
    value = torch.tensor([[v] for _, v, n in phases for _ in range(n)], dtype=torch.float64)
    return key[None, None], value[None, None]


A, B, X, AB, AX = (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1)


@pytest.mark.parametrize("form", FORMS)
def test_conditioning_phenomena_have_their_closed_forms(form):
    # Catches Hebbian writing: it blocks nothing, inhibits nothing and grows without bound.
    def strengths(*phases, step=0.3):
        key, value = trials(*phases)
        test = torch.eye(3, dtype=torch.float64)[None, None]
        ways = {"form": form, "normalize_keys": False}
        return attend("delta", test, key, value, beta=step, **ways)[0, 0, :, 0].tolist()

    def near(wanted):
        return pytest.approx(wanted, abs=1e-6)

    assert strengths((A, 1, 5))[0] == near(1 - 0.7**5)  # acquisition
    assert strengths((A, 1, 100), (A, 0, 7))[0] == near(0.082354)  # extinction
    assert strengths((A, 1, 100), (AB, 1, 100))[1] == near(0)  # blocking
    assert strengths((A, 1, 5), (AB, 1, 100))[1] == near(0.084035)  # partial blocking
    salient = (0.4, 0.2, 0)
    shared = strengths((salient, 1, 400))  # overshadowing
    assert [shared[0] * 0.4, shared[1] * 0.2] == near([0.8, 0.2])
    assert strengths(*[(A, 1, 1), (AX, 0, 1)] * 200)[2] == near(-1)  # conditioned inhibition
    over = strengths((A, 1, 100), (B, 1, 100), (AB, 1, 100))
    assert over[:2] == near([0.5, 0.5])  # overexpectation
    three_together = ((1, 1, 1), 1, 100)
    assert abs(strengths(three_together, step=0.66)[0]) < 1  # 0.66 * 3 < 2
    assert abs(strengths(three_together, step=0.68)[0]) > 10


def expected_errors(items, dim):
    """Return the mean error of the stored items, the oldest's, and the memory's squared norm."""
    norm, errors = 0.0, []
    for _ in range(items):
        old = norm
        errors = [
            (
                a - 2 / dim * (a + b) + (old + 2 * (a + 2 * b + 1)) / (dim * (dim + 2)) + 1 / dim,
                b - (b + 1) / dim,
            )
            for a, b in errors
        ]
        errors.append((0.0, 0.0))
        norm = (1 - 1 / dim) * norm + 1
    return sum(a for a, _ in errors) / items, errors[0][0], norm


def test_mean_interference_of_random_unit_keys():
    # Catches reading before writing; and that one pass removes all interference, or none.
    items = dim = 32
    mean, oldest, norm = expected_errors(items, dim)
    assert (round(mean, 5), round(oldest, 5), round(norm, 4)) == (0.59577, 1.02969, 20.4142)
    key = F.normalize(draw(2500, 1, items, dim, seed=6), dim=-1)
    value = draw(2500, 1, items, 8, seed=7) / math.sqrt(8)
    read, state = attend("delta", key, key, value, return_state=True)
    errors = (read - value).square().sum(dim=-1)[:, 0]
    norms = state["memory"].square().sum(dim=(-1, -2))[:, 0]
    for found, wanted in ((errors.mean(dim=1), mean), (errors[:, 0], oldest), (norms, norm)):
        assert abs(found.mean() - wanted) < 4 * found.std() / math.sqrt(len(found))
    assert errors[:, -1].max() < 1e-24
    assert abs(errors.mean() - (items - 1) / dim) > 0.3  # Hebb's error


@pytest.mark.parametrize("form", FORMS)
def test_two_keys_contract_as_kaczmarz_sweeps(form):
    # Catches a memory that forgets between blocks; the error of the old item is closed.
    cosine, sweeps = 0.8, 6
    pair = torch.tensor([[1, 0], [cosine, math.sqrt(1 - cosine**2)]], dtype=torch.float64)
    values = draw(2, 3, seed=8)
    key, value = pair.repeat(sweeps, 1)[None, None], values.repeat(sweeps, 1)[None, None]
    chunk = {"chunk_size": 5, "form": form}
    read = attend("delta", pair[None, None], key, value, **chunk)[0, 0]
    wanted = -(cosine ** (2 * sweeps - 1)) * (cosine * values[0] - values[1])
    torch.testing.assert_close(read[0] - values[0], wanted, **EXACT)
    torch.testing.assert_close(read[1], values[1], **EXACT)


def test_cyclic_repeats_reach_the_pseudo_inverse():
    # Catches a correction in the wrong direction, which would not converge.
    key, value = F.normalize(draw(16, 32, seed=9), dim=-1), draw(16, 3, seed=10)
    repeated = [each.repeat(100, 1)[None, None] for each in (key, value)]
    query = draw(1, 1, 5, 32, seed=11)
    wanted = query @ (torch.linalg.pinv(key) @ value)
    torch.testing.assert_close(attend("delta", query, *repeated), wanted, rtol=1e-8, atol=1e-8)


def test_the_order_of_the_tokens_matters():
    # Catches a sum over all tokens in which none corrects another.
    query, key, value = three()
    turned = [each.flip(2) for each in (key, value)]
    for name in ("delta", "gated_delta", "longhorn"):
        before, after = attend(name, query, key, value), attend(name, query, *turned)
        assert (before - after).abs().max() > 0.1


@pytest.mark.parametrize("order", ["decay first", "error first"])
def test_full_retention_makes_it_the_delta_rule(order):
    # Catches a gate on the value.
    inputs = three(tokens=70)
    beta = draw(1, 1, 70, seed=9).sigmoid()
    found = attend("gated_delta", *inputs, causal=True, beta=beta, alpha=1.0, order=order)
    wanted = attend("delta", *inputs, causal=True, beta=beta)
    torch.testing.assert_close(found, wanted, **EXACT)
    faded = attend("gated_delta", *inputs, causal=True, beta=beta, alpha=0.9, order=order)
    assert (faded - wanted).abs().max() > 0.01


@pytest.mark.parametrize("form", FORMS)
def test_the_two_orders_coincide_under_a_change_of_variables(form):
    # Catches either order taken for the other.
    query, key, value = three(tokens=20)
    beta = draw(1, 1, 20, seed=9).sigmoid()
    alpha = 0.3 + 0.7 * draw(1, 1, 20, seed=10).sigmoid()
    ways = {"causal": True, "form": form, "alpha": alpha}
    apart = attend("gated_delta", query, key, value, beta=beta, order="error first", **ways)
    other = attend("gated_delta", query, key, alpha[..., None] * value, beta=beta / alpha, **ways)
    torch.testing.assert_close(apart, other, **EXACT)
    same = attend("gated_delta", query, key, value, beta=beta, order="decay first", **ways)
    assert (same - apart).abs().max() > 0.01


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", ["decay first", "error first"])
def test_retention_of_zero_forgets_and_keeps_its_gradient(form, order):
    # Catches NaN from log 0 or 0/0, and a gradient that is lost with it.
    query, key, value = three(tokens=9)
    alpha = torch.full((1, 1, 9), 0.9, dtype=torch.float64)
    alpha[..., 4] = 0.0
    alpha.requires_grad_()
    ways = {"causal": True, "form": form, "order": order, "alpha": alpha, "normalize_keys": False}
    read = attend("gated_delta", query, key, value, beta=0.2, **ways)
    (slope,) = torch.autograd.grad(read.sum(), alpha)
    step = 1e-6
    with torch.no_grad():
        higher = ways | {"alpha": alpha + step * (alpha == 0)}
        moved = attend("gated_delta", query, key, value, beta=0.2, **higher).sum()
    assert float(slope[0, 0, 4]) == pytest.approx(
        float((moved - read.detach().sum()) / step), rel=1e-4
    )
    assert abs(float(slope[0, 0, 4])) > 1e-3
    if order == "decay first":
        late = [each[:, :, 4:] for each in (query, key, value)]
        alone = attend("gated_delta", *late, beta=0.2, **(ways | {"alpha": alpha[..., 4:]}))
        torch.testing.assert_close(read[:, :, 4:], alone, **EXACT)


def test_the_residual_shrinks_by_the_implicit_step():
    # Catches an explicit step, which overshoots for a long key.
    _, key, value = three(tokens=12, seed=6)
    key = 10 * key
    beta = draw(1, 1, 12, seed=9).exp()
    _, state = attend(
        "longhorn", key, key[:, :, :11], value[:, :, :11], beta=beta[..., :11], return_state=True
    )
    last = key[:, :, 11:]
    before = value[:, :, 11:] - last @ state["memory"]
    after = value[:, :, 11:] - attend("longhorn", last, key, value, beta=beta)
    shrunk = before / (1 + beta[..., 11:, None] * last.square().sum())
    torch.testing.assert_close(after, shrunk, rtol=1e-8, atol=1e-10)


def test_the_implicit_step_minimises_its_objective():
    # Catches a factor 2 between the loss and the distance.
    _, key, value = three(tokens=6, seed=6)
    _, old = attend("longhorn", key, key[:, :, :5], value[:, :, :5], beta=0.7, return_state=True)
    _, new = attend("longhorn", key, key, value, beta=0.7, return_state=True)
    moved = new["memory"].requires_grad_()
    error = value[:, :, 5] - (key[:, :, 5, None] @ moved)[:, :, 0]
    objective = (moved - old["memory"]).square().sum() / 2 + 0.7 * error.square().sum() / 2
    (slope,) = torch.autograd.grad(objective, moved)
    assert slope.abs().max() < 1e-12


def test_a_hidden_key_is_not_written_while_retention_goes_on():
    # Catches a hidden token that stops the clock.
    query, key, value = three(tokens=6)
    mask = torch.tensor([True, True, False, True, False, True]).reshape(1, 1, 1, 6)
    beta = torch.where(mask[:, :, 0], 0.5, 0.0).double()
    for form in FORMS:
        ways = {"causal": True, "form": form, "alpha": 0.8}
        hidden = attend("gated_delta", query, key, value, beta=0.5, mask=mask, **ways)
        wanted = attend("gated_delta", query, key, value, beta=beta, **ways)
        torch.testing.assert_close(hidden, wanted, **EXACT)
        matrix = weights("gated_delta", query, key, beta=0.5, mask=mask, causal=True, alpha=0.8)
        assert (matrix[..., [2, 4]] == 0).all()


def test_short_sequences_run_token_by_token_and_long_ones_in_blocks():
    # Catches a preference that is the wrong way round.
    for tokens, form in ((1, "recurrent"), (64, "chunked")):
        _, plan = attend("delta", *three(tokens=tokens), causal=True, explain=True)
        assert plan.form == form


@pytest.mark.parametrize("name", ["delta", "gated_delta", "longhorn"])
def test_learned_gates_are_in_range_and_learn(name):
    # Catches gates on the wrong axis, and a parameter that no gradient reaches.
    generator = torch.Generator().manual_seed(0)
    block = MultiheadAttention(8, 2, token_dim=6, mechanism=name).double()
    tokens = torch.randn(3, 20, 6, generator=generator, dtype=torch.float64)
    queries = torch.randn(3, 4, 8, generator=generator, dtype=torch.float64)
    target = torch.randn(3, 4, 8, generator=generator, dtype=torch.float64)
    named = block.learned.of_tokens(tokens)
    for each in named.values():
        assert each.shape == (3, 2, 20)
        assert ((each > 0) & (each <= 1)).all()
    if name == "gated_delta":
        assert named["alpha"].min() > 0.1  # a new gate forgets slowly
        still = block.learned.of_tokens(torch.zeros_like(tokens))["alpha"][0, :, 0].tolist()
        assert still == pytest.approx([math.exp(-0.1), math.exp(-16 * 0.001)], rel=1e-5)

    def loss():
        return (block(queries, block.project(tokens)) - target).square().mean()

    before = loss()
    before.backward()
    for label, parameter in block.named_parameters():
        if "key_position" not in label:
            assert parameter.grad.abs().max() > 0, label
    with torch.no_grad():
        for parameter in block.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    assert loss() < before


def test_a_given_strength_replaces_the_learned_one():
    # Catches a learned gate that overrides what the recipe says.
    block = MultiheadAttention(4, 1, mechanism="delta", parameters={"beta": 0.0}).double()
    tokens = draw(1, 5, 4)
    read = block(draw(1, 2, 4, seed=2), block.project(tokens))
    torch.testing.assert_close(read, block.output.bias.expand(1, 2, 4))


def test_a_wrong_gate_is_answered_with_what_is_allowed():
    # Catches a retention above one, and an order that is silently the default.
    inputs = three()
    with pytest.raises(InputError, match=r"alpha=1\.2; allowed: a number at least 0 and at most 1"):
        attend("gated_delta", *inputs, alpha=1.2)
    with pytest.raises(InputError, match="error first"):
        attend("gated_delta", *inputs, order="error last")
    with pytest.raises(InputError, match=r"beta is a tensor of shape \(1, 1, 5\)"):
        attend("delta", *inputs, beta=torch.ones(1, 1, 5))
