"""Mesa against scikit-learn's ridge regression and recursive least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from neuroattn.attention import MultiheadAttention, attend, weights
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
FORMS = ["parallel", "chunked", "recurrent"]


def gates(sizes, generator):
    """Return a retention and a weight for every token."""

    def uniform(low):
        shape = (sizes["batch"], sizes["heads"], sizes["keys"])
        return low + (1 - low) * torch.rand(shape, generator=generator, dtype=torch.float64)

    return {"alpha": uniform(0.3), "beta": uniform(0.0), "ridge": 0.5}


def weighted(sizes, generator):
    """Return a weight for every token, shared by the images."""
    shape = (1, sizes["heads"], sizes["keys"])
    return {"beta": 0.1 + torch.rand(shape, generator=generator, dtype=torch.float64)}


EXAMPLES = {
    "mesa": [
        Example(label="default"),
        Example(lambda *_: {"alpha": 0.9, "beta": 0.5}, label="numbers", lengths=(1, 65)),
        Example(gates, label="gates", lengths=(1, 2, 63, 64, 65)),
        Example(weighted, label="weights", lengths=(2, 65)),
        Example(lambda *_: {"chunk_size": 3, "ridge": 0.1}, label="small blocks", lengths=(4, 9)),
    ]
}


def tensors(queries, keys, dim, value_dim=3, batch=2, heads=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(queries, dim), (keys, dim), (keys, value_dim)]
    return [
        torch.randn(batch, heads, *shape, generator=generator, dtype=torch.float64)
        for shape in shapes
    ]


def fitted(query, key, value, ridge, share=None):
    """Return what scikit-learn's ridge regression predicts at a query."""
    model = Ridge(alpha=ridge, fit_intercept=False, solver="cholesky")
    return model.fit(key, value, sample_weight=share).predict(query[None])[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("ridge", [0.01, 2.0])
def test_reads_ridge_regression_without_intercept(form, causal, ridge):
    # Catches an intercept, a ridge divided by the number of tokens, and a query that misses its
    # own token.
    query, key, value = tensors(9, 9, 3)
    read = attend("mesa", query, key, value, ridge=ridge, causal=causal, form=form, chunk_size=4)
    for b, h, q in np.ndindex(2, 2, 9):
        seen = q + 1 if causal else 9
        parts = (query[b, h, q], key[b, h, :seen], value[b, h, :seen])
        wanted = fitted(*(x.numpy() for x in parts), ridge)
        np.testing.assert_allclose(read[b, h, q].numpy(), wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_retention_and_write_strength_weigh_the_regression(form):
    # Catches a ridge that is forgotten with the tokens, and a token that its own alpha decays.
    query, key, value = tensors(7, 7, 3)
    generator = torch.Generator().manual_seed(1)
    alpha, beta = (torch.rand(2, 2, 7, generator=generator, dtype=torch.float64) for _ in "ab")
    mask = torch.ones(7, dtype=torch.bool)
    mask[2] = False
    read = attend(
        "mesa",
        query,
        key,
        value,
        ridge=0.3,
        alpha=alpha,
        beta=beta,
        mask=mask,
        causal=True,
        form=form,
        chunk_size=3,
    )
    for b, h, q in np.ndindex(2, 2, 7):
        share = np.array(
            [
                float(beta[b, h, j] * alpha[b, h, j + 1 : q + 1].prod()) * (j != 2)
                for j in range(q + 1)
            ]
        )
        parts = (query[b, h, q], key[b, h, : q + 1], value[b, h, : q + 1])
        wanted = fitted(*(x.numpy() for x in parts), 0.3, share)
        np.testing.assert_allclose(read[b, h, q].numpy(), wanted, rtol=1e-9, atol=1e-10)


def test_recursive_least_squares_never_solve_and_agree(monkeypatch):
    # Catches a gain without its denominator, and a recurrent form that solves a system a token.
    query, key, value = tensors(65, 65, 4)
    ways = {"causal": True, "ridge": 0.05, "beta": 0.7}
    wanted = attend("mesa", query, key, value, form="parallel", **ways)

    def refuse(*_):
        raise AssertionError("a system was solved")

    monkeypatch.setattr(torch.linalg, "solve", refuse)
    read = attend("mesa", query, key, value, form="recurrent", **ways)
    torch.testing.assert_close(read, wanted, **EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_a_large_ridge_is_linear_attention(form):
    # Catches a ridge that also shrinks the values, and a normaliser.
    query, key, value = tensors(9, 9, 3)
    read = 1e8 * attend("mesa", query, key, value, ridge=1e8, causal=True, form=form)
    wanted = (query @ key.mT).tril() @ value
    torch.testing.assert_close(read, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_the_newest_token_alone_is_read_when_nothing_is_retained(form):
    # Catches quotients of products of alphas, which have no value at zero.
    query, key, value = tensors(9, 9, 3)
    alpha = torch.zeros(1, 2, 9, dtype=torch.float64, requires_grad=True)
    read = attend(
        "mesa", query, key, value, alpha=alpha, ridge=0.5, causal=True, form=form, chunk_size=4
    )
    inner = (query * key).sum(-1, keepdim=True) / (key.square().sum(-1, keepdim=True) + 0.5)
    torch.testing.assert_close(read.detach(), inner * value, **EXACT)
    (slope,) = torch.autograd.grad(read.sum(), alpha)
    step = 1e-6
    with torch.no_grad():
        moved = alpha.clone()
        moved[0, 1, 5] = step
        more = attend("mesa", query, key, value, alpha=moved, ridge=0.5, causal=True)
    assert float(slope[0, 1, 5]) == pytest.approx(
        float((more - read.detach()).sum()) / step, rel=1e-3
    )


def test_a_scale_multiplies_the_read_and_weights_follow():
    # Catches a scale that also enters the Gram matrix.
    query, key, value = tensors(5, 7, 3)
    plain = attend("mesa", query, key, value)
    for form in FORMS:
        scaled = attend("mesa", query, key, value, scale=0.5, form=form)
        torch.testing.assert_close(scaled, 0.5 * plain, **EXACT)
        assert (attend("mesa", query, key, value, scale=0.0, form=form) == 0).all()
    torch.testing.assert_close(weights("mesa", query, key, scale=0.5) @ value, 0.5 * plain, **EXACT)


def test_the_order_of_the_tokens_matters_only_when_some_are_forgotten():
    # Catches a forgetting that ignores the order, and an order where nothing is forgotten.
    query, key, value = tensors(5, 7, 3)
    for alpha in (1.0, 0.5):
        one = attend("mesa", query, key, value, alpha=alpha)
        other = attend("mesa", query, key.flip(2), value.flip(2), alpha=alpha)
        assert torch.allclose(one, other, atol=1e-12) == (alpha == 1)


def test_a_ridge_may_differ_between_the_parts_of_a_sequence():
    # Catches a state that holds an inverse of another ridge.
    query, key, value = tensors(8, 8, 3)
    first, second = ([x[:, :, s] for x in (query, key, value)] for s in (slice(5), slice(5, 8)))
    for form in ("chunked", "recurrent"):
        _, state = attend("mesa", *first, causal=True, ridge=3.0, form=form, return_state=True)
        read = attend("mesa", *second, causal=True, ridge=0.2, form=form, initial_state=state)
        whole = attend("mesa", query, key, value, causal=True, ridge=0.2, form="parallel")
        torch.testing.assert_close(read, whole[:, :, 5:], **EXACT)


def test_a_block_learns_retention_and_write_strength():
    # Catches gates that no gradient reaches.
    generator = torch.Generator().manual_seed(0)
    block = MultiheadAttention(8, 2, mechanism="mesa", parameters={"ridge": 0.5}, causal=True)
    tokens, wanted = (torch.randn(3, 10, 8, generator=generator) for _ in "ab")
    optimiser = torch.optim.SGD(block.parameters(), lr=0.05)
    losses = []
    for _ in range(10):
        loss = (block(tokens, block.project(tokens)) - wanted).square().mean()
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        for name, parameter in block.named_parameters():
            # No position was given.
            if not name.startswith("key_position"):
                assert parameter.grad.abs().max() > 0, name
        optimiser.step()
    assert losses[-1] < losses[0]
