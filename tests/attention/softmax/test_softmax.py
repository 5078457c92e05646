"""Softmax attention against loops over every number, and against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from neuroattn.attention import attend, weights
from tests.tolerances import TOLERANCE

BACKENDS = ["reference", "sdpa"]
SIZES = [(1, 1, 1), (2, 3, 5), (63, 65, 1), (65, 63, 7), (1, 65, 64)]


def tensors(queries, keys, dim, value_dim=None, batch=2, heads=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(queries, dim), (keys, dim), (keys, value_dim or dim)]
    return [
        torch.randn(batch, heads, *shape, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
        for shape in shapes
    ]


def random_mask(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.4


def by_loops(query, key, value, mask=None, scale=None):
    """Weigh one value after the other."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    batch, heads, queries, _ = query.shape
    read = torch.zeros(batch, heads, queries, value.shape[-1], dtype=query.dtype)
    for b in range(batch):
        for h in range(heads):
            for q in range(queries):
                seen = [k for k in range(key.shape[2]) if mask is None or mask[b, h, q, k]]
                logits = [float(query[b, h, q] @ key[b, h, k]) * scale for k in seen]
                highest = max(logits, default=0.0)
                powers = [math.exp(logit - highest) for logit in logits]
                for k, power in zip(seen, powers, strict=True):
                    read[b, h, q] += power / sum(powers) * value[b, h, k]
    return read


def gradients(read, inputs):
    direction = torch.randn(read.shape, generator=torch.Generator().manual_seed(5))
    return torch.autograd.grad((read * direction.to(read.dtype)).sum(), inputs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("queries", "keys", "dim"), [(1, 1, 1), (2, 3, 5), (3, 65, 2)])
@pytest.mark.parametrize("scale", [None, 0.3, 0.0])
def test_every_number_equals_a_loop_over_keys(backend, queries, keys, dim, scale):
    # Catches a wrong scale (also one of zero, taken for none), axis or head order.
    inputs = tensors(queries, keys, dim, value_dim=dim + 1)
    expected = by_loops(*[x.detach() for x in inputs], scale=scale)
    read = attend("softmax", *inputs, scale=scale, backend=backend)
    torch.testing.assert_close(read.detach(), expected, **TOLERANCE["float64"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_true_in_a_mask_allows(backend):
    # Catches the opposite convention, in which True hides.
    inputs = [x.detach() for x in tensors(4, 5, 3)]
    mask = random_mask(2, 3, 4, 5)
    mask[1, 2, 3] = False
    read = attend("softmax", *inputs, mask=mask, backend=backend)
    torch.testing.assert_close(read, by_loops(*inputs, mask=mask), **TOLERANCE["float64"])


@pytest.mark.parametrize(("queries", "keys", "dim"), SIZES)
@pytest.mark.parametrize("masked", [False, True])
def test_outputs_and_gradients_equal_torch_on_both_backends(queries, keys, dim, masked):
    # Catches a backend that is right forward and wrong backward, at sizes off any tile.
    inputs = tensors(queries, keys, dim)
    mask = random_mask(1, 1, queries, keys) if masked else None
    if masked:
        mask[..., 0] = True
    expected = F.scaled_dot_product_attention(*inputs, attn_mask=mask)
    wanted = gradients(expected, inputs)
    for backend in (*BACKENDS, "auto"):
        read = attend("softmax", *inputs, mask=mask, backend=backend)
        torch.testing.assert_close(read, expected, **TOLERANCE["float64"])
        for found, correct in zip(gradients(read, inputs), wanted, strict=True):
            torch.testing.assert_close(found, correct, **TOLERANCE["float64"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_a_row_that_may_see_nothing_reads_zeros_with_finite_gradients(backend, dtype):
    # Catches NaN from a softmax over nothing, which one padded image spreads to all weights.
    inputs = tensors(5, 7, 4, dtype=dtype)
    mask = random_mask(5, 7)
    mask[0], mask[3] = False, False
    mask[1] = True
    read = attend("softmax", *inputs, mask=mask, backend=backend)
    assert read.dtype == dtype
    assert (read[:, :, [0, 3]] == 0).all()
    assert (read[:, :, 1] != 0).all()
    query, key, value = gradients(read, inputs)
    assert (query[:, :, [0, 3]] == 0).all()
    # What an empty row passes back is nothing: the others' gradients are theirs alone.
    kept = [1, 2, 4]
    alone = attend("softmax", inputs[0][:, :, kept], *inputs[1:], mask=mask[kept], backend=backend)
    direction = torch.randn(read.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    wanted = torch.autograd.grad((alone * direction[:, :, kept]).sum(), inputs)
    tolerance = TOLERANCE[str(dtype).removeprefix("torch.")]
    for found, correct in zip((query, key, value), wanted, strict=True):
        torch.testing.assert_close(found, correct, **tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(), (7,), (5, 1), (1, 7), (3, 5, 7), (2, 1, 1, 7)])
def test_masks_broadcast_from_fewer_dimensions(backend, shape):
    # Catches a backend that needs all four dimensions.
    inputs = [x.detach() for x in tensors(5, 7, 4)]
    mask = random_mask(*shape, seed=3)
    whole = mask.expand(2, 3, 5, 7)
    read = attend("softmax", *inputs, mask=mask, backend=backend)
    torch.testing.assert_close(read, by_loops(*inputs, mask=whole), **TOLERANCE["float64"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("queries", "keys"), [(4, 4), (2, 5), (5, 2)])
def test_causal_attention_is_aligned_to_the_end(backend, queries, keys):
    # Catches torch's is_causal, which aligns to the start when lengths differ.
    inputs = [x.detach() for x in tensors(queries, keys, 3)]
    mask = torch.zeros(2, 3, queries, keys, dtype=torch.bool)
    for q in range(queries):
        for k in range(keys):
            mask[:, :, q, k] = k <= q + keys - queries
    read = attend("softmax", *inputs, causal=True, backend=backend)
    torch.testing.assert_close(read, by_loops(*inputs, mask=mask), **TOLERANCE["float64"])
    torchs = F.scaled_dot_product_attention(*inputs, is_causal=True)
    assert torch.allclose(read, torchs) == (queries == keys)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_later_key_never_reaches_an_earlier_query(backend):
    # Catches a mask that is transposed.
    query, key, value = (x.detach() for x in tensors(5, 5, 3))
    before = attend("softmax", query, key, value, causal=True, backend=backend)
    key[:, :, 3], value[:, :, 3] = 9.0, -9.0
    after = attend("softmax", query, key, value, causal=True, backend=backend)
    torch.testing.assert_close(after[:, :, :3], before[:, :, :3], rtol=0, atol=0)
    assert not torch.allclose(after[:, :, 3:], before[:, :, 3:])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_lower_precision_stays_within_its_tolerance_of_float64(dtype, backend):
    # Catches an accumulation in half precision, and logits that overflow before the scale.
    inputs = [x.detach() for x in tensors(63, 65, 64)]
    exact = attend("softmax", *inputs, backend="reference")
    low = [x.to(getattr(torch, dtype)) for x in inputs]
    read = attend("softmax", *low, backend=backend)
    assert read.dtype == low[0].dtype
    torch.testing.assert_close(read.double(), exact, **TOLERANCE[dtype])
    loud = [100 * low[0], 100 * low[1], low[2]]
    assert torch.isfinite(attend("softmax", *loud, backend=backend)).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_explicit_weights_sum_to_one_and_read_what_attend_reads(causal, masked):
    # Catches maps in a report that are not those the network used.
    inputs = [x.detach() for x in tensors(6, 9, 4, value_dim=3)]
    mask = random_mask(2, 1, 6, 9) if masked else None
    if masked:
        mask[0, 0, 2] = False
    matrix = weights("softmax", *inputs[:2], causal=causal, mask=mask, scale=0.7)
    assert matrix.shape == (2, 3, 6, 9)
    assert (matrix >= 0).all()
    sums = matrix.sum(-1)
    empty = torch.zeros(2, 3, 6, dtype=torch.bool)
    if masked:
        empty[0, :, 2] = True
    torch.testing.assert_close(sums, (~empty).double(), **TOLERANCE["float64"])
    for backend in BACKENDS:
        read = attend("softmax", *inputs, causal=causal, mask=mask, scale=0.7, backend=backend)
        torch.testing.assert_close(matrix @ inputs[2], read, **TOLERANCE["float64"])


@pytest.mark.parametrize("causal", [False, True])
def test_the_reference_passes_gradcheck(causal):
    # Catches a detached or in-place step on the way.
    inputs = tensors(3, 4, 2, batch=1, heads=2)
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[1] = False

    def read(query, key, value):
        return attend(
            "softmax", query, key, value, causal=causal, mask=mask, scale=0.9, backend="reference"
        )

    assert torch.autograd.gradcheck(read, inputs)
