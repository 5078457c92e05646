"""Softmax with one more term in its denominator, against loops and the log-sum-exp."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
BACKENDS = ["reference", "sdpa"]


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


EXAMPLES = {
    "softmax_one": [Example()],
    "sink": [
        Example(label="zero", lengths=(1, 64, 65)),
        Example(lambda *_: {"sink_logit": -1.5}, label="number", value_dim=9, lengths=(2, 63)),
        Example(
            lambda sizes, generator: {
                "sink_logit": torch.randn(
                    1, sizes["heads"], 1, 1, generator=generator, dtype=torch.float64
                )
            },
            label="head",
        ),
        Example(
            lambda sizes, generator: {
                "sink_logit": torch.randn(
                    sizes["batch"],
                    sizes["heads"],
                    sizes["queries"],
                    1,
                    generator=generator,
                    dtype=torch.float64,
                )
            },
            label="query",
            lengths=(1, 2, 65),
        ),
    ],
}


def tensors(queries, keys, dim=3, value_dim=4):
    return (
        normal(2, 3, queries, dim),
        normal(2, 3, keys, dim, seed=1),
        normal(2, 3, keys, value_dim),
    )


def by_loops(query, key, value, sink, scale, causal=False, mask=None):
    """Weigh one value after the other; ``sink`` is one logit a head."""
    read = torch.zeros(*query.shape[:-1], value.shape[-1], dtype=torch.float64)
    shift = key.shape[2] - query.shape[2]
    for b, h, q in torch.cartesian_prod(*map(torch.arange, query.shape[:3])).tolist():
        total, summed = math.exp(sink[h]), torch.zeros(value.shape[-1], dtype=torch.float64)
        for k in range(key.shape[2]):
            hidden = (causal and k > q + shift) or (mask is not None and not mask[b, h, q, k])
            power = 0.0 if hidden else math.exp(scale * float(query[b, h, q] @ key[b, h, k]))
            total += power
            summed += power * value[b, h, k]
        read[b, h, q] = summed / total
    return read


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (4, 4), (2, 5), (5, 2)])
@pytest.mark.parametrize("masked", [False, True])
def test_every_number_equals_a_loop_over_keys(backend, causal, queries, keys, masked):
    # Catches a sink that shifts the causal diagonal or is hidden by the mask of the keys.
    inputs = tensors(queries, keys)
    mask = normal(2, 3, queries, keys, seed=3) > -0.3 if masked else None
    sink = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    ways = {"causal": causal, "mask": mask, "scale": 0.7, "backend": backend}
    read = attend("sink", *inputs, sink_logit=sink.reshape(1, 3, 1, 1), **ways)
    wanted = by_loops(*inputs, sink.tolist(), 0.7, causal, mask)
    torch.testing.assert_close(read, wanted, **EXACT)
    one = attend("softmax_one", *inputs, **ways)
    wanted = by_loops(*inputs, [0.0, 0.0, 0.0], 0.7, causal, mask)
    torch.testing.assert_close(one, wanted, **EXACT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(4, 1), (1, 5), (1, 1)])
@pytest.mark.parametrize("causal", [False, True])
def test_masks_whose_axes_have_size_one_leave_the_sink_visible(backend, shape, causal):
    # Catches a sink column that is broadcast with the keys it stands beside.
    inputs = tensors(4, 5)
    mask = torch.zeros(1, 1, *shape, dtype=torch.bool)
    mask[..., 0] = True
    read = attend("softmax_one", *inputs, mask=mask, causal=causal, backend=backend, scale=0.7)
    whole = mask.expand(2, 3, 4, 5)
    wanted = by_loops(*inputs, [0.0] * 3, 0.7, causal=causal, mask=whole)
    torch.testing.assert_close(read, wanted, **EXACT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("causal", [False, True])
def test_it_is_softmax_gated_by_the_log_sum_exp(backend, causal):
    # Law: softmax_one = σ(LSE) · softmax, and with a sink σ(LSE - sink) · softmax.
    query, key, value = tensors(6, 6)
    logits = query @ key.mT * 0.8
    if causal:
        logits = logits.masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    ways = {"causal": causal, "scale": 0.8, "backend": backend}
    softmax = logits.softmax(-1) @ value
    total = logits.logsumexp(-1, keepdim=True)
    one = attend("softmax_one", query, key, value, **ways)
    torch.testing.assert_close(one, torch.sigmoid(total) * softmax, **EXACT)
    sink = normal(2, 3, 6, 1, seed=4)
    read = attend("sink", query, key, value, sink_logit=sink, **ways)
    torch.testing.assert_close(read, torch.sigmoid(total - sink) * softmax, **EXACT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_logits_of_a_thousand_are_exact(backend, dtype):
    # Catches overflow of e^1000, and a 1 that is lost or kept whatever the maximum is.
    kind = getattr(torch, dtype)
    query = torch.tensor([[[[1000.0], [-1000.0], [0.0]]]], dtype=kind, requires_grad=True)
    key = torch.tensor([[[[1.0], [0.99]]]], dtype=kind)
    value = torch.tensor([[[[3.0], [5.0]]]], dtype=kind)
    read = attend("softmax_one", query, key, value, scale=1.0, backend=backend)
    beside = math.exp(-10)
    wanted = [(3 + 5 * beside) / (1 + beside), 0.0, 8 / 3]
    torch.testing.assert_close(
        read.flatten(), torch.tensor(wanted, dtype=kind), rtol=1e-5, atol=1e-12
    )
    (slope,) = torch.autograd.grad(read.sum(), query)
    assert torch.isfinite(slope).all()
    for sink, first in ((1000.0, (3 + 5 * beside) / (2 + beside)), (1e6, 0.0), (-1e6, wanted[0])):
        found = attend("sink", query, key, value, sink_logit=sink, scale=1.0, backend=backend)
        assert torch.isfinite(found).all()
        assert found[0, 0, 0, 0].item() == pytest.approx(first, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("causal", [False, True])
def test_the_sink_leads_from_softmax_to_softmax_one_to_nothing(backend, causal):
    # Law: -inf is softmax, 0 softmax_one, 1000 and inf nothing; with a mask and a temperature.
    inputs = tensors(5, 7)
    mask = normal(5, 7, seed=2) > -0.5
    mask[3] = False
    ways = {"causal": causal, "mask": mask, "scale": 0.3, "backend": backend}
    for low in (-1000.0, torch.full((1, 3, 1, 1), -torch.inf, dtype=torch.float64)):
        read = attend("sink", *inputs, sink_logit=low, **ways)
        torch.testing.assert_close(read, attend("softmax", *inputs, **ways), **EXACT)
    read = attend("sink", *inputs, sink_logit=0.0, **ways)
    torch.testing.assert_close(read, attend("softmax_one", *inputs, **ways), **EXACT)
    assert (attend("sink", *inputs, sink_logit=1000.0, **ways).abs() < 1e-300).all()
    assert (attend("sink", *inputs, sink_logit=math.inf, **ways) == 0).all()
    half = [each.half() for each in inputs]
    assert (attend("sink", *half, sink_logit=1e6, **ways) == 0).all()


def test_the_matrix_sums_to_less_than_one_by_what_the_sink_takes():
    # Catches the sink's own column left in the matrix.
    query, key, _ = tensors(4, 6)
    matrix = weights("sink", query, key, sink_logit=0.5)
    assert matrix.shape == (2, 3, 4, 6)
    powers = (query @ key.mT / math.sqrt(3)).exp().sum(-1)
    torch.testing.assert_close(matrix.sum(-1), powers / (powers + math.exp(0.5)), **EXACT)


def test_half_precision_keeps_a_fused_kernel_and_its_scale():
    # Catches a kernel that is lost because values are narrower than keys, and a scale applied to
    # the sink.
    query, key, value = (x.half() for x in tensors(64, 64, 32, 32))
    read = attend("sink", query, key, value, sink_logit=1.25, backend="sdpa", causal=True)
    assert read.dtype == torch.float16
    exact = attend(
        "sink", query.double(), key.double(), value.double(), sink_logit=1.25, causal=True
    )
    torch.testing.assert_close(read.double(), exact, **TOLERANCE["float16"])


def test_a_block_learns_one_sink_a_head():
    # Catches a sink that is not a parameter, is shared by heads, or never reaches the mechanism.
    generator = torch.Generator().manual_seed(0)
    block = MultiheadAttention(8, 2, mechanism="sink")
    sink = block.learned.sink_logit
    assert sink.shape == (1, 2, 1, 1)
    assert (sink == 0).all()
    queries, tokens = (torch.randn(2, n, 8, generator=generator) for n in (3, 5))
    target = torch.randn(2, 3, 8, generator=generator)

    def loss():
        return (block(queries, block.project(tokens)) - target).square().mean()

    before = loss()
    before.backward()
    assert all((each.grad != 0).any() for each in block.parameters() if each.grad is not None)
    assert sink.grad.shape == sink.shape
    assert (sink.grad != 0).all()
    with torch.no_grad():
        sink -= 0.1 * sink.grad
    assert loss() < before
    fixed = MultiheadAttention(8, 2, mechanism="sink", parameters={"sink_logit": 1e3})
    read = fixed(queries, fixed.project(tokens))
    torch.testing.assert_close(read, fixed.output.bias.expand_as(read))


def test_a_sink_of_a_wrong_shape_is_refused():
    # Catches a sink a key, which would be a bias.
    with pytest.raises(InputError, match=r"sink_logit is a tensor of shape \(1, 3, 1, 6\)"):
        attend("sink", *tensors(4, 6), sink_logit=torch.zeros(1, 3, 1, 6))
