"""Local linear attention against weighted least squares, its definition and its paper's orders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from neuroattn.attention import attend, weights
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
FORMS = ["parallel", "chunked"]

EXAMPLES = {
    "local_linear": [
        Example(label="default", lengths=(1, 2, 63, 64, 65)),
        Example(lambda *_: {"ridge": 1.0, "chunk_size": 3}, label="small blocks", lengths=(4, 65)),
        # Rows with fewer than dim + 1 keys lose digits to the pseudo-inverse; one dimension has
        # only one such row.
        Example(lambda *_: {"ridge": 0}, dim=1, label="no ridge", lengths=(1, 2, 65)),
        Example(
            lambda *_: {"solver": "conjugate gradients", "iterations": 64, "tolerance": 1e-14},
            label="conjugate gradients",
            lengths=(1, 2, 65, 257),
        ),
    ]
}


def tensors(queries, keys, dim, value_dim=3, batch=2, heads=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(queries, dim), (keys, dim), (keys, value_dim)]
    return [
        torch.randn(batch, heads, *shape, generator=generator, dtype=torch.float64)
        for shape in shapes
    ]


def softmax_of(query, key, scale):
    """Return one query's softmax weights."""
    logits = np.array([scale * float(query @ each) for each in key])
    power = np.exp(logits - logits.max())
    return power / power.sum()


def intercept(query, key, value, share, ridge):
    """Fit b + G (k - q) with penalty ridge · Σ share · |G|² on G alone; return b."""
    design = np.concatenate([np.ones((len(key), 1)), key - query], axis=1)
    root = np.sqrt(share)[:, None]
    penalty = math.sqrt(ridge * share.sum()) * np.eye(key.shape[1] + 1)[1:]
    rows = np.concatenate([root * design, penalty])
    wanted = np.concatenate([root * value, np.zeros((key.shape[1], value.shape[1]))])
    return np.linalg.lstsq(rows, wanted, rcond=None)[0][0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ridge", [0.0, 0.01, 3.0])
@pytest.mark.parametrize("causal", [False, True])
def test_reads_the_intercept_of_a_weighted_ridge_regression(form, ridge, causal):
    # Catches a ridge that is not relative to the sum of weights, a shrunk intercept, and a
    # causal row that sees one key too many.
    query, key, value = tensors(9, 11, 2)
    mask = torch.rand(2, 1, 9, 11, generator=torch.Generator().manual_seed(3)) > 0.3
    mask[:, :, :, :3] = True
    mask[:, :, 5, 3:] = False
    read = attend(
        "local_linear",
        query,
        key,
        value,
        causal=causal,
        mask=mask,
        scale=0.4,
        ridge=ridge,
        form=form,
        chunk_size=4,
    )
    for b, h, q in np.ndindex(2, 2, 9):
        seen = mask[b, 0, q].numpy().copy()
        if causal:
            seen &= np.arange(11) <= q + 2
        k, v, own = (x.numpy() for x in (key[b, h], value[b, h], query[b, h, q]))
        k, v = k[seen], v[seen]
        # Unnormalised weights: the ridge is relative to their sum.
        share = 7.3 * softmax_of(own, k, 0.4)
        wanted = intercept(own, k, v, share, ridge)
        if ridge == 0 and seen.sum() < 3:
            continue
        np.testing.assert_allclose(read[b, h, q].numpy(), wanted, rtol=1e-8, atol=1e-10)


def by_definition(query, key, scale, ridge):
    """Return the paper's weights of one query, by differences to the query."""
    power = np.exp(scale * key @ query)
    away = key - query
    first = power @ away
    second = (away * power[:, None]).T @ away + ridge * power.sum() * np.eye(len(query))
    slope = np.linalg.solve(second, first)
    return power * (1 - away @ slope) / (power.sum() - first @ slope)


@pytest.mark.parametrize("ridge", [0.01, 10.0])
def test_equals_the_definition_by_differences_to_the_query(ridge):
    # Catches a denominator or a sign that is lost in the change from the query to the mean key.
    query, key, value = tensors(6, 12, 4)
    matrix = weights("local_linear", query, key, scale=0.5, ridge=ridge)
    chunked = attend("local_linear", query, key, value, scale=0.5, ridge=ridge, form="chunked")
    for b, h, q in np.ndindex(2, 2, 6):
        wanted = by_definition(query[b, h, q].numpy(), key[b, h].numpy(), 0.5, ridge)
        np.testing.assert_allclose(matrix[b, h, q].numpy(), wanted, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(
            chunked[b, h, q].numpy(), wanted @ value[b, h].numpy(), rtol=1e-9, atol=1e-11
        )


def test_weights_sum_to_one_and_meet_the_query_at_ridge_zero():
    # Catches a slope of the wrong sign: the mean key then lies on the other side of k̄.
    query, key, _ = tensors(7, 12, 4)
    for ridge in (0.0, 0.3):
        matrix = weights("local_linear", query, key, ridge=ridge)
        torch.testing.assert_close(matrix.sum(-1), torch.ones_like(matrix[..., 0]), **EXACT)
        met = torch.allclose(matrix @ key, query, rtol=1e-9, atol=1e-9)
        assert met == (ridge == 0)


@pytest.mark.parametrize("form", FORMS)
def test_affine_functions_are_read_exactly_where_softmax_errs(form):
    # Catches a correction that is only nearly the one of a plane.
    query, key, _ = tensors(7, 12, 4)
    plane = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = query @ plane + 1.5
    read = attend("local_linear", query, key, key @ plane + 1.5, ridge=0, form=form)
    torch.testing.assert_close(read, wanted, rtol=1e-9, atol=1e-9)
    softmax = attend("softmax", query, key, key @ plane + 1.5)
    assert (softmax - wanted).abs().max() > 0.5


@pytest.mark.parametrize("form", FORMS)
def test_a_large_ridge_is_softmax_and_scale_zero_is_least_squares(form):
    # Catches a scale of zero taken for the default, and a ridge that also shrinks the mean.
    query, key, value = tensors(7, 12, 4)
    read = attend("local_linear", query, key, value, ridge=1e9, form=form)
    softmax = attend("softmax", query, key, value)
    torch.testing.assert_close(read, softmax, rtol=0, atol=5e-9)
    read = attend("local_linear", query, key, value, ridge=0, scale=0.0, form=form)
    for b, h in np.ndindex(2, 2):
        rows = np.concatenate([np.ones((12, 1)), key[b, h].numpy()], axis=1)
        fitted = np.linalg.lstsq(rows, value[b, h].numpy(), rcond=None)[0]
        wanted = fitted[0] + query[b, h].numpy() @ fitted[1:]
        np.testing.assert_allclose(read[b, h].numpy(), wanted, rtol=1e-10, atol=1e-11)


def test_golden_weights_are_negative_beyond_the_keys():
    # Catches weights that are clamped or normalised a second time. The numbers are those of
    # three keys 0, ½, 1 and a query at 2.
    key = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)[None, None, :, None]
    query = torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64)
    golden = {
        0: (-0.7202, -0.5595, 2.2798),
        0.01: (-0.6504, -0.4903, 2.1407),
        1: (0.0123, 0.1676, 0.8201),
    }
    for ridge, wanted in golden.items():
        found = weights("local_linear", query, key, scale=1.0, ridge=ridge)[0, 0, 0]
        np.testing.assert_allclose(found.numpy(), wanted, atol=5e-5)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 1, 1000, 4, generator=generator, dtype=torch.float64)
    key = torch.randn(1000, 1, 12, 4, generator=generator, dtype=torch.float64)
    found = weights("local_linear", query.transpose(0, 2), key, scale=0.5, ridge=0.01)
    # 97.8 % of such queries have a negative weight; four standard errors.
    share = float((found < 0).any(-1).double().mean())
    assert abs(share - 0.978) < 4 * math.sqrt(0.978 * 0.022 / 1000)


@pytest.mark.parametrize("causal", [False, True])
def test_conjugate_gradients_find_the_direct_solution(causal):
    # Catches a product that forgets the mean of the keys, and a gradient through the stop.
    inputs = [x.requires_grad_() for x in tensors(33, 33, 16)]
    common = {"causal": causal, "form": "chunked", "ridge": 0.1}
    direct = attend("local_linear", *inputs, **common)
    wanted = torch.autograd.grad(direct.square().sum(), inputs)

    def by_iterations(iterations, tolerance):
        return attend(
            "local_linear",
            *inputs,
            **common,
            solver="conjugate gradients",
            iterations=iterations,
            tolerance=tolerance,
        )

    read = by_iterations(60, 1e-14)
    torch.testing.assert_close(read, direct, rtol=1e-10, atol=1e-11)
    found = torch.autograd.grad(read.square().sum(), inputs)
    for each, correct in zip(found, wanted, strict=True):
        torch.testing.assert_close(each, correct, rtol=1e-9, atol=1e-9)
    errors = [float((by_iterations(n, 0.0) - direct).detach().abs().max()) for n in (1, 3, 8)]
    assert errors[0] > errors[1] > errors[2]
    # The tolerance stops them: a loose one leaves an error, a tight one does not.
    loose = float((by_iterations(60, 1e-2) - direct).detach().abs().max())
    assert 1e-4 < loose < 0.1


def test_bias_at_a_boundary_is_of_second_order():
    # Catches a correction that is lost: softmax has bias h f'(0) √(2/π) at a boundary. The keys
    # are the quantiles of half a Gaussian kernel of width h, all of one weight.
    share = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    query = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    errors = []
    for h in (0.02, 0.01):
        place = (h * math.sqrt(2) * torch.erfinv(share))[None, None, :, None]
        value = 2 * place + 3 * place**2
        softmax = float(attend("softmax", query, place, value, scale=0.0))
        local = float(attend("local_linear", query, place, value, scale=0.0, ridge=0))
        errors.append((softmax, abs(local)))
    assert errors[1][0] / 0.01 == pytest.approx(1.5958, rel=0.02)
    orders = [math.log2(wide / narrow) for wide, narrow in zip(*errors, strict=True)]
    assert orders == pytest.approx([1.0, 2.0], abs=0.05)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_a_row_with_one_key_reads_its_value_and_one_with_none_zeros(form, ridge):
    # Catches zero divided by zero where a row's keys have no spread.
    query, key, value = (x.requires_grad_() for x in tensors(5, 5, 3))
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[2], mask[3] = False, False
    mask[3, 1] = True
    read = attend("local_linear", query, key, value, mask=mask, ridge=ridge, form=form)
    torch.testing.assert_close(read[:, :, 3], value[:, :, 1], **EXACT)
    assert (read[:, :, 2] == 0).all()
    for slope in torch.autograd.grad(read.sum(), (query, key, value)):
        assert torch.isfinite(slope).all()
    causal = attend("local_linear", query, key, value, causal=True, ridge=ridge, form=form)
    torch.testing.assert_close(causal[:, :, 0], value[:, :, 0], **EXACT)


@pytest.mark.parametrize("solver", ["direct", "conjugate gradients"])
def test_keys_far_from_zero_are_read_as_near_it(solver):
    # Catches moments that cancel: the read does not move when queries and keys move together,
    # except for the logits, which scale 0 takes out. What padding holds has no influence either.
    query, key, value = tensors(9, 30, 4)
    common = {"scale": 0.0, "form": "chunked", "solver": solver, "tolerance": 1e-13}
    mask = torch.ones(30, dtype=torch.bool)
    mask[-2:] = False
    near = attend("local_linear", query, key, value, mask=mask, **common)
    key[:, :, -2:] = 1e9
    far = attend("local_linear", query + 1e4, key + 1e4, value, mask=mask, **common)
    torch.testing.assert_close(far, near, rtol=1e-8, atol=1e-8)


def test_conjugate_gradients_need_a_ridge():
    # Catches iterations on singular systems, which diverge in silence.
    query, key, value = tensors(3, 3, 2)
    for form in FORMS:
        with pytest.raises(InputError, match=r"needs ridge above 0, 0 came.*solver='direct'"):
            attend(
                "local_linear",
                query,
                key,
                value,
                ridge=0,
                solver="conjugate gradients",
                form=form,
            )


def test_auto_takes_the_blocks_once_differences_would_be_many():
    # Catches the definition run on whole images, whose memory is queries x keys x dim.
    small, large = tensors(8, 8, 4), tensors(200, 200, 4)
    assert attend("local_linear", *small, explain=True)[1].form == "parallel"
    plan = attend("local_linear", *large, explain=True)[1]
    assert plan.form == "chunked"
    assert "160,000 differences" in plan.reason
