"""Oja's memory against the rule, subspaces of known covariance, and the delta rule."""

from __future__ import annotations

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
FORMS = ["chunked", "recurrent"]


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def strengths(sizes):
    return drawn(sizes["batch"], sizes["heads"], sizes["keys"], seed=9).sigmoid()


EXAMPLES = {
    "oja": [
        Example(label="default"),
        Example(
            lambda s, g: {
                "beta": strengths(s),
                "memory": drawn(s["heads"], s["dim"], s["value_dim"], seed=3),
                "chunk_size": 16,
            },
            lengths=(1, 15, 16, 17, 65),
            label="tensors",
        ),
        Example(
            lambda s, g: {"beta": 0.05, "normalize": False}, lengths=(2, 65), label="not-normalised"
        ),
        Example(lambda s, g: {"target": "output"}, lengths=(2, 65), label="output"),
        # With keys 100 times as loud a step of beta ‖k‖² = 2,000 diverges by its definition.
        Example(
            lambda s, g: {"target": "output", "normalize": False, "beta": 0.02},
            value_dim=2,
            lengths=(2, 9),
            loud=0,
            label="output-raw",
        ),
    ]
}


def tensors(queries, keys, dim=3, value_dim=2):
    return (
        drawn(2, 2, queries, dim),
        drawn(2, 2, keys, dim, seed=1),
        drawn(2, 2, keys, value_dim, seed=2),
    )


def by_loops(query, key, value, causal, beta, target, normalize, start):
    """Write W += η (y kᵀ - y yᵀ W), number by number, and read W q."""
    outer, inner = value.shape[-1], key.shape[-1]
    read = torch.zeros(*query.shape[:3], outer, dtype=torch.float64)
    for b in range(2):
        for h in range(2):
            rows = [[float(start[b, h, c, r]) for c in range(inner)] for r in range(outer)]
            for t in range(key.shape[2]):
                k = key[b, h, t].tolist()
                y = value[b, h, t].tolist()
                if target == "output":
                    y = [sum(rows[r][c] * k[c] for c in range(inner)) for r in range(outer)]
                size = sum(x * x for x in (y if target == "value" else k))
                rate = float(beta[b, h, t])
                rate = rate / (1 + rate * size) if normalize else rate
                back = [sum(y[r] * rows[r][c] for r in range(outer)) for c in range(inner)]
                rows = [
                    [rows[r][c] + rate * y[r] * (k[c] - back[c]) for c in range(inner)]
                    for r in range(outer)
                ]
                if causal:
                    read[b, h, t] = torch.tensor(rows, dtype=torch.float64) @ query[b, h, t]
            if not causal:
                read[b, h] = query[b, h] @ torch.tensor(rows, dtype=torch.float64).T
    return read


@pytest.mark.parametrize("target", ["value", "output"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_all_forms_equal_the_rule_by_loops(target, normalize, causal):
    # Catches the memory after the write in its decay, and a step of the wrong loudness.
    query, key, value = tensors(8, 8)
    beta = strengths({"batch": 2, "heads": 2, "keys": 8}) / 4
    zeros, memory = torch.zeros(2, 2, 3, 2, dtype=torch.float64), drawn(2, 2, 3, 2, seed=4)
    default = zeros if target == "value" else torch.eye(3, 2, dtype=torch.float64).expand_as(zeros)
    for start in (None, memory):
        used = default if start is None else start
        wanted = by_loops(query, key, value, causal, beta, target, normalize, used)
        for form in FORMS:
            read = attend(
                "oja",
                query,
                key,
                value,
                causal=causal,
                form=form,
                beta=beta,
                target=target,
                normalize=normalize,
                memory=start,
                chunk_size=3,
            )
            torch.testing.assert_close(read, wanted, **EXACT)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_target_output_finds_an_orthonormal_basis_of_the_leading_subspace(normalize):
    # Catches y kᵀ without decay, and a decay of each row on its own: of keys with variances 4, 2,
    # .3, .2, .1 in turned axes two outputs find the first two.
    axes = torch.linalg.qr(drawn(5, 5, seed=6)).Q
    spread = torch.tensor([4.0, 2.0, 0.3, 0.2, 0.1], dtype=torch.float64).sqrt()
    key = (drawn(1, 1, 4000, 5, seed=7) * spread) @ axes.T
    value = torch.zeros(1, 1, 4000, 2, dtype=torch.float64)
    _, state = attend(
        "oja",
        key[:, :, :1],
        key,
        value,
        beta=0.005,
        target="output",
        normalize=normalize,
        return_state=True,
    )
    basis = state["memory"][0, 0]
    torch.testing.assert_close(
        basis.T @ basis, torch.eye(2, dtype=torch.float64), atol=0.03, rtol=0
    )
    leading = axes[:, :2] @ axes[:, :2].T
    torch.testing.assert_close(basis @ basis.T, leading, atol=0.08, rtol=0)


def test_the_target_value_tends_to_the_regression_of_keys_on_values():
    # Catches a decay along keys: W tends to E[vvᵀ]⁻¹ E[vkᵀ].
    value = drawn(1, 1, 20_000, 2, seed=1) @ torch.tensor([[1.0, 0.6], [0.0, 0.5]]).double()
    truth = drawn(3, 2, seed=2)
    key = value @ truth.T + 0.1 * drawn(1, 1, 20_000, 3, seed=3)
    _, state = attend("oja", key[:, :, :1], key, value, beta=0.01, return_state=True)
    torch.testing.assert_close(state["memory"][0, 0], truth, atol=0.05, rtol=0)


@pytest.mark.parametrize("target", ["value", "output"])
def test_the_memory_stays_bounded_where_that_of_linear_grows(target):
    # Catches a decay of the wrong sign.
    query, key, value = tensors(1, 3000)
    _, state = attend("oja", query, key, value, beta=0.5, target=target, return_state=True)
    _, linear = attend(
        "linear",
        query,
        key + 0.5 * value[..., :1],
        value,
        feature_map="identity",
        normalize=False,
        return_state=True,
    )
    assert state["memory"].norm(dim=(-2, -1)).max() < 5
    assert linear["memory"].norm(dim=(-2, -1)).min() > 500


def test_a_loud_memory_is_bounded_by_the_normalised_step_only():
    # Catches a normalisation that is left out: values of length 100 and beta = .1.
    query, key, value = tensors(1, 50)
    loud = {
        normalize: attend("oja", query, key, 100 * value, normalize=normalize)
        for normalize in (True, False)
    }
    assert loud[True].abs().max() < 10
    assert not loud[False].abs().max() < 1e10


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("normalize", [False, True])
def test_a_small_beta_gives_linear_attention(form, normalize):
    # Catches a write of y where the value is asked for: o/β tends to the un-normalised read.
    query, key, value = tensors(9, 9)
    wanted = attend(
        "linear", query, key, value, causal=True, feature_map="identity", normalize=False
    )
    errors = []
    for beta in (1e-3, 1e-4):
        read = attend(
            "oja", query, key, value, causal=True, beta=beta, form=form, normalize=normalize
        )
        errors.append(float((read / beta - wanted).abs().max()))
    assert errors[1] < 0.02
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)


def test_it_is_the_delta_rule_with_keys_and_values_exchanged():
    # Catches an error that is not the key's: Mᵀ is a delta rule that learns keys from values.
    query, key, value = tensors(1, 40)
    beta = 0.1
    _, state = attend(
        "oja", query, key, value, beta=beta, normalize=False, return_state=True, chunk_size=16
    )
    learned = torch.zeros(2, 2, 3, 2, dtype=torch.float64)
    for t in range(40):
        error = key[:, :, t] - (learned @ value[:, :, t, :, None])[..., 0]
        learned = learned + beta * error[..., :, None] * value[:, :, t, None, :]
    torch.testing.assert_close(state["memory"], learned, **EXACT)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("target", ["value", "output"])
def test_the_start_is_read_from_the_first_key_on(form, target):
    # Catches a start that a query reads before anything was written.
    query, key, value = tensors(6, 6)
    mask = torch.tensor([False, False, True, False, True, True])[None, None, None]
    memory = drawn(2, 3, 2, seed=8)
    ways = {"causal": True, "form": form, "target": target, "memory": memory, "beta": 0.0}
    read = attend("oja", query, key, value, mask=mask, **ways)
    assert (read[:, :, :2] == 0).all()
    torch.testing.assert_close(read[:, :, 2:], query[:, :, 2:] @ memory, **EXACT)


def test_a_block_learns_through_it():
    # Catches a step that is detached.
    generator = torch.Generator().manual_seed(0)
    block = MultiheadAttention(8, 2, mechanism="oja", parameters={"beta": 0.3}, causal=True)
    tokens, wanted = torch.randn(2, 3, 10, 8, generator=generator)
    optimiser = torch.optim.SGD(block.parameters(), lr=0.1)
    losses = []
    for _ in range(4):
        loss = (block(tokens, block.project(tokens)) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert (block.value.weight.grad != 0).any()
    assert (block.key.weight.grad != 0).any()
