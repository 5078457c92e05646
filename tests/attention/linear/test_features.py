"""Feature maps against their definitions, number by number."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from neuroattn.attention import attend
from neuroattn.attention.linear.features import (
    FEATURE_MAPS,
    elu,
    exp_pair,
    features,
    never_negative,
    scale_of,
    softmax_pair,
    taylor,
)
from neuroattn.errors import InputError
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]


def drawn(*shape, seed=0):
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).requires_grad_()


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_products_of_taylor_features_are_the_polynomial_of_the_product(order, dim):
    # Catches a missing 1/m!, and monomials that are counted once instead of with multiplicity.
    query, key = drawn(7, dim), drawn(7, dim, seed=1)
    product = (query * key).sum(-1)
    wanted = sum(product**power / math.factorial(power) for power in range(order + 1))
    mapped = taylor(query, order)
    assert mapped.shape == (7, math.comb(dim + order, order))
    found = (mapped * taylor(key, order)).sum(-1)
    torch.testing.assert_close(found, wanted, **EXACT)
    for pair in zip(
        torch.autograd.grad(found.sum(), (query, key)),
        torch.autograd.grad(wanted.sum(), (query, key)),
        strict=True,
    ):
        torch.testing.assert_close(*pair, **EXACT)


def test_taylor_features_are_all_monomials_once():
    # Catches full tensor powers, which have many more features for the same product.
    x = torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64)
    wanted = []
    for powers in itertools.product(range(4), repeat=3):
        if sum(powers) <= 3:
            factor = math.prod(math.factorial(power) for power in powers)
            monomial = math.prod(c**p for c, p in zip((2, 3, 5), powers, strict=True))
            wanted.append(monomial / math.sqrt(factor))
    assert sorted(taylor(x, 3).tolist()) == pytest.approx(sorted(wanted))


def test_a_taylor_map_of_too_many_features_is_refused_with_their_number():
    # Catches a state that fills the memory before anyone hears why.
    with pytest.raises(InputError, match=r"order=8 has 76904685 features at dim=32; at most 65536"):
        attend("linear", *[torch.zeros(1, 1, 2, 32)] * 3, feature_map="taylor", order=8)


def test_elu_keeps_what_the_sum_would_round_to_zero():
    # Catches F.elu(x) + 1, which is 0 in float32 below -17.
    x = torch.tensor([-60.0, -17.5, -1.0, 0.0, 2.0], requires_grad=True)
    wanted = torch.tensor([math.exp(-60), math.exp(-17.5), math.exp(-1), 1.0, 3.0])
    torch.testing.assert_close(elu(x), wanted, rtol=1e-5, atol=0)
    (slope,) = torch.autograd.grad(elu(x).sum(), x)
    wanted = torch.tensor([math.exp(-60), math.exp(-17.5), math.exp(-1), 1.0, 1.0])
    torch.testing.assert_close(slope, wanted, rtol=1e-5, atol=0)
    loud = torch.tensor([1e30, -1e30], requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(elu(loud).sum(), loud)[0]).all()


def test_the_maps_are_what_their_names_say():
    # Catches names that are exchanged.
    x = drawn(3, 4).detach()
    wanted = {
        "identity": x,
        "relu": x.clamp(min=0),
        "sigmoid": 1 / (1 + (-x).exp()),
        "softmax": x.exp() / x.exp().sum(-1, keepdim=True),
        "elu": torch.where(x > 0, x + 1, x.exp()),
    }
    assert {*wanted, "taylor"} == set(FEATURE_MAPS)
    for name, mapped in wanted.items():
        torch.testing.assert_close(features(x, name, 2), mapped, **EXACT)


def test_the_pairs_stand_beside_their_negative_and_never_underflow():
    # Catches a half without the minus sign, and features of loud tokens that are exactly 0.
    x = drawn(5, 3).detach()
    power = x.exp()
    wanted = torch.cat(
        [power / power.sum(-1, keepdim=True), (1 / power) / (1 / power).sum(-1, keepdim=True)], -1
    )
    torch.testing.assert_close(softmax_pair(x), wanted, **EXACT)
    high, low = x.max(-1, keepdim=True).values, x.min(-1, keepdim=True).values
    wanted = torch.cat([power / high.exp(), low.exp() / power], -1)
    torch.testing.assert_close(exp_pair(x), wanted, **EXACT)
    for pair in (softmax_pair, exp_pair):
        assert pair(1e4 * x).min() == 1e-12


@pytest.mark.parametrize("name", FEATURE_MAPS)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_maps_that_are_said_to_be_never_negative_are_not(name, order):
    # Catches a map whose normaliser is divided by without care.
    query, key = 2 * drawn(60, 3).detach(), 2 * drawn(60, 3, seed=1).detach()
    products = features(query, name, order) @ features(key, name, order).T
    assert bool((products >= 0).all()) == never_negative(name, order)


def test_only_taylor_has_the_scale_of_softmax():
    # Catches a scale of 0 that is taken for none.
    assert scale_of("taylor", 16, None) == 0.25
    assert scale_of("elu", 16, None) == 1.0
    assert scale_of("taylor", 16, 0.0) == 0.0
