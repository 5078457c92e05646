"""Relu and sigmoid attention against loops over every weight."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.errors import UnknownNameError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
NAMES = ["relu_attention", "sigmoid_attention"]

EXAMPLES = {
    "relu_attention": [
        Example(label="default"),
        Example(lambda *_: {"activation": "relu_squared", "exponent": 0.5}, label="squared"),
        Example(lambda *_: {"normalize": "keys"}, label="keys"),
        Example(lambda *_: {"normalize": "none"}, label="none"),
    ],
    "sigmoid_attention": [
        Example(label="default"),
        Example(lambda *_: {"normalize": "keys"}, label="keys"),
        Example(lambda *_: {"normalize": "none"}, label="none"),
        Example(lambda *_: {"bias": -2.0}, label="number"),
        Example(
            lambda sizes, generator: {
                "bias": torch.randn(
                    1, sizes["heads"], sizes["queries"], 1, generator=generator, dtype=torch.float64
                )
            },
            label="tensor",
        ),
    ],
}


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def tensors(queries, keys, dim=3, value_dim=4):
    return (
        normal(2, 3, queries, dim),
        normal(2, 3, keys, dim, seed=1),
        normal(2, 3, keys, value_dim),
    )


def by_loops(query, key, weigh, causal, mask, normalize):
    """Return ``weigh(logit, n)`` of each pair by itself, n as ``normalize`` counts."""
    batch, heads, queries, dim = query.shape
    keys = key.shape[2]
    matrix = torch.zeros(batch, heads, queries, keys, dtype=torch.float64)
    for b, h, q in torch.cartesian_prod(*map(torch.arange, (batch, heads, queries))).tolist():
        seen = [
            k
            for k in range(keys)
            if (mask is None or mask[b, h, q, k]) and (not causal or k <= q + keys - queries)
        ]
        count = {"visible": len(seen), "keys": keys, "none": 1}[normalize]
        for k in seen:
            logit = float(query[b, h, q] @ key[b, h, k]) / math.sqrt(dim)
            matrix[b, h, q, k] = weigh(logit, count)
    return matrix


CASES = [
    pytest.param(sizes, causal, masked, normalize, id=f"{sizes}-{causal}-{masked}-{normalize}")
    for sizes in ((1, 1), (3, 5), (5, 3))
    for causal in (False, True)
    for masked in (False, True)
    for normalize in ("visible", "keys", "none")
]


@pytest.mark.parametrize(("sizes", "causal", "masked", "normalize"), CASES)
@pytest.mark.parametrize("activation", ["relu", "relu_squared"])
@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.0])
def test_relu_weights_equal_a_loop(sizes, causal, masked, normalize, activation, exponent):
    # Law. Catches a count of all keys where some are hidden, and an exponent on the logit.
    inputs = tensors(*sizes)
    mask = normal(2, 3, *sizes, seed=4) > 0 if masked else None
    power = 2 if activation == "relu_squared" else 1
    matrix = by_loops(
        *inputs[:2],
        lambda logit, n: max(0.0, logit) ** power / n**exponent,
        causal,
        mask,
        normalize,
    )
    ways = {"causal": causal, "mask": mask, "activation": activation, "normalize": normalize}
    read = attend("relu_attention", *inputs, exponent=exponent, **ways)
    torch.testing.assert_close(read, matrix @ inputs[2], **EXACT)
    found = weights("relu_attention", *inputs[:2], exponent=exponent, **ways)
    torch.testing.assert_close(found, matrix, **EXACT)


@pytest.mark.parametrize(("sizes", "causal", "masked", "normalize"), CASES)
@pytest.mark.parametrize("bias", [None, -1.5, "tensor"])
def test_sigmoid_weights_equal_a_loop(sizes, causal, masked, normalize, bias):
    # Law. Catches a count of all keys where some are hidden, and a given bias that is added to
    # the default.
    inputs = tensors(*sizes)
    mask = normal(2, 3, *sizes, seed=4) > 0 if masked else None
    given = torch.tensor([[[[0.7]]]], dtype=torch.float64) if bias == "tensor" else bias
    number = 0.7 if bias == "tensor" else bias
    matrix = by_loops(
        *inputs[:2],
        lambda logit, n: 1 / (1 + math.exp(-logit - (-math.log(n) if number is None else number))),
        causal,
        mask,
        normalize,
    )
    ways = {"causal": causal, "mask": mask, "bias": given, "normalize": normalize}
    torch.testing.assert_close(
        attend("sigmoid_attention", *inputs, **ways), matrix @ inputs[2], **EXACT
    )
    torch.testing.assert_close(weights("sigmoid_attention", *inputs[:2], **ways), matrix, **EXACT)
    single = attend("sigmoid_attention", *[x.float() for x in inputs], **ways)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), matrix @ inputs[2], **TOLERANCE["float32"])


@pytest.mark.parametrize("mask_shape", [(1, 6), (4, 1), (1, 1)])
@pytest.mark.parametrize("name", NAMES)
def test_shared_axes_of_a_mask_are_counted_whole(name, mask_shape):
    # Catches a count of 1 for a mask whose keys are given once for all.
    inputs = tensors(4, 6)
    mask = torch.ones(mask_shape, dtype=torch.bool)
    torch.testing.assert_close(attend(name, *inputs, mask=mask), attend(name, *inputs), **EXACT)


@pytest.mark.parametrize(("activation", "factor"), [("relu", 2.0), ("relu_squared", 4.0)])
def test_the_degree_in_the_logits_is_one_or_two(activation, factor):
    # Law. Catches a normaliser over the row's weights, which would take the scale out.
    inputs = tensors(4, 6)
    once, twice = (
        attend("relu_attention", *inputs, scale=scale, activation=activation)
        for scale in (0.4, 0.8)
    )
    torch.testing.assert_close(twice, factor * once, **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_weights_do_not_compete(name):
    # Law. Catches a softmax or a row sum: one key that moves leaves the other weights alone.
    query, key, _ = tensors(4, 6)
    before = weights(name, query, key)
    key[:, :, 2] *= 5
    after = weights(name, query, key)
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(after[..., others], before[..., others], rtol=0, atol=0)
    assert not torch.allclose(after[..., 2], before[..., 2])


@pytest.mark.parametrize("causal", [False, True])
def test_equal_logits_of_zero_sum_to_nearly_one(causal):
    # Law. Weights of logits of zero are 1/(n + 1); catches a bias of the wrong sign or base.
    query, key, _ = tensors(7, 7)
    matrix = weights("sigmoid_attention", query, key, scale=0.0, causal=causal)
    count = torch.arange(1, 8) if causal else torch.full((7,), 7)
    wanted = (count.double() / (count + 1)).expand(2, 3, 7)
    torch.testing.assert_close(matrix.sum(-1), wanted, **EXACT)


def test_rare_sigmoids_are_unnormalised_softmax():
    # Law. With a low bias σ(s + b) is e^(s + b); normalised, the softmax.
    query, key, _ = tensors(4, 6)
    matrix = weights("sigmoid_attention", query, key, scale=1.0, bias=-40.0)
    torch.testing.assert_close(matrix, (query @ key.mT - 40).exp(), rtol=1e-8, atol=0)
    normalised = matrix / matrix.sum(-1, keepdim=True)
    torch.testing.assert_close(
        normalised, weights("softmax", query, key, scale=1.0), rtol=1e-8, atol=0
    )


def test_relu_of_equal_positive_logits_is_the_mean():
    # Catches a normaliser other than the number of keys the query sees.
    value = normal(1, 1, 5, 3)
    ones = torch.ones(1, 1, 5, 1, dtype=torch.float64)
    read = attend("relu_attention", ones, ones, value, scale=1.0, causal=True)
    wanted = value.cumsum(2) / torch.arange(1, 6)[:, None]
    torch.testing.assert_close(read, wanted, **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_a_block_trains_through_it(name):
    # Catches a weight that passes nothing back.
    generator = torch.Generator().manual_seed(0)
    block = MultiheadAttention(8, 2, mechanism=name, causal=False)
    queries, tokens = (torch.randn(2, n, 8, generator=generator) for n in (3, 5))
    target = torch.randn(2, 3, 8, generator=generator)

    def loss():
        return (block(queries, block.project(tokens)) - target).square().mean()

    before = loss()
    before.backward()
    with torch.no_grad():
        for each in (block.query.weight, block.key.weight, block.value.weight):
            assert (each.grad != 0).any()
            each -= 0.05 * each.grad
    assert loss() < before


@pytest.mark.parametrize(
    ("name", "parameter"), [("relu_attention", "activation"), ("sigmoid_attention", "normalize")]
)
def test_an_unknown_choice_is_answered_with_those_that_exist(name, parameter):
    # Catches a choice that is taken silently for its default.
    with pytest.raises(UnknownNameError, match=rf"{parameter}='softplus' is unknown.*Allowed"):
        attend(name, *tensors(2, 3), **{parameter: "softplus"})
