"""Softmax by blocks against the softmax as a whole; what it stores and what it leaves out."""

from __future__ import annotations

import math
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from neuroattn.attention import MultiheadAttention, attend
from neuroattn.attention.softmax.memory_efficient import chunked_softmax
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]

EXAMPLES = {
    "memory_efficient": [
        Example(label="default", lengths=(1, 2, 65)),
        Example(
            lambda *_: {"chunk_size": 64, "query_chunk_size": 63}, label="64", lengths=(63, 64, 65)
        ),
        Example(lambda *_: {"chunk_size": 3, "query_chunk_size": 2}, label="3", lengths=(2, 7)),
        Example(
            lambda *_: {"chunk_size": 100, "query_chunk_size": 128}, label="100", lengths=(257,)
        ),
    ]
}


def tensors(queries, keys, dim=3, value_dim=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(queries, dim), (keys, dim), (keys, value_dim)]
    return [
        torch.randn(2, 3, *shape, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
        for shape in shapes
    ]


def whole(query, key, value, scale, seen=None):
    """Return the softmax over the seen pairs, zeros where there are none."""
    logits = query @ key.mT * scale
    if seen is None:
        return logits.softmax(-1) @ value
    empty = ~seen.any(-1, keepdim=True)
    logits = logits.masked_fill(~(seen | empty), -torch.inf)
    return (logits.softmax(-1) * ~empty) @ value


def compare(found, wanted, inputs):
    torch.testing.assert_close(found, wanted, **EXACT)
    direction = torch.randn(
        wanted.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    for one, other in zip(
        torch.autograd.grad(found, inputs, direction),
        torch.autograd.grad(wanted, inputs, direction),
        strict=True,
    ):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("chunk_size", [1, 2, 7, 10, 64])
@pytest.mark.parametrize("query_chunk_size", [1, 4, 9, 64])
def test_chunks_of_any_size_give_the_softmax(chunk_size, query_chunk_size):
    # Law. Catches a sum that is not rescaled when the maximum rises, and a lost last block.
    inputs = tensors(9, 10)
    sizes = {"chunk_size": chunk_size, "query_chunk_size": query_chunk_size}
    compare(
        attend("memory_efficient", *inputs, scale=1.7, **sizes), whole(*inputs, 1.7), list(inputs)
    )


@pytest.mark.parametrize("shape", [(9, 10), (1, 10), (9, 1), (3, 9, 10), (2, 1, 1, 10), ()])
@pytest.mark.parametrize("causal", [False, True])
def test_masks_of_any_shape_are_cut_into_blocks(shape, causal):
    # Catches a shared axis that is cut, and a diagonal that is aligned to the start.
    inputs = tensors(9, 10)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(4)) > 0.4
    seen = mask.expand(2, 3, 9, 10)
    if causal:
        seen = seen & torch.ones(9, 10, dtype=torch.bool).tril(1)
    found = attend(
        "memory_efficient", *inputs, mask=mask, causal=causal, chunk_size=3, query_chunk_size=4
    )
    compare(found, whole(*inputs, 3**-0.5, seen), list(inputs))


@pytest.mark.parametrize(("queries", "keys"), [(2, 11), (11, 2), (7, 7)])
def test_causal_reads_are_aligned_to_the_end(queries, keys):
    # Catches blocks left out by the place of the query instead of that of its last key.
    inputs = tensors(queries, keys)
    seen = torch.ones(2, 3, queries, keys, dtype=torch.bool).tril(keys - queries)
    found = attend("memory_efficient", *inputs, causal=True, chunk_size=3, query_chunk_size=2)
    compare(found, whole(*inputs, 3**-0.5, seen), list(inputs))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_logits_of_a_thousand_are_exact(dtype):
    # Law. Catches e^1000, and a maximum that starts from zero: logits of -1000 would all vanish.
    kind = getattr(torch, dtype)
    query = torch.tensor([[[[1e3, 0], [-1e3, 0], [0, -1e3]]]], dtype=kind, requires_grad=True)
    key = [[1, 1], [-1, 1.001], [1, 1], [-1, 1.002], [0.999, 1.001]]
    key = torch.tensor([[key]], dtype=kind)
    value = torch.tensor([[[[1.0], [2.0], [3.0], [4.0], [5.0]]]], dtype=kind)
    less = math.exp(-1)
    first = (1 + 3 + 5 * less) / (2 + less)
    last = (1 + 3 + (2 + 5) * less + 4 * less**2) / (2 + 2 * less + less**2)
    for chunk_size in (1, 2, 5):
        read = attend("memory_efficient", query, key, value, scale=1.0, chunk_size=chunk_size)
        wanted = torch.tensor([first, 3.0, last], dtype=kind)
        torch.testing.assert_close(read.flatten(), wanted, rtol=1e-4, atol=0)
        (slope,) = torch.autograd.grad(read.sum(), query)
        assert torch.isfinite(slope).all()


def test_the_backward_pass_passes_gradcheck():
    # Catches a gradient of the maximum, and one of a row that sees nothing.
    inputs = [x[:1, :1].detach().requires_grad_() for x in tensors(5, 6)]
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[2] = False

    def read(*three):
        return chunked_softmax(
            *three, causal=True, mask=mask[None, None], chunk_size=2, query_chunk_size=3
        )

    assert torch.autograd.gradcheck(read, inputs)


@pytest.mark.parametrize("moving", [(0, 1, 2), (0,), (2,)])
def test_second_derivatives_are_right(moving):
    # Catches a gradient penalty that is silently zero, because the sums were saved as numbers.
    inputs = [x[:1, :1].detach() for x in tensors(3, 4)]
    leaves = [inputs[number].requires_grad_() for number in moving]

    def read(*leaves):
        three = list(inputs)
        for number, leaf in zip(moving, leaves, strict=True):
            three[number] = leaf
        return attend("memory_efficient", *three, causal=True, chunk_size=2, query_chunk_size=2)

    assert torch.autograd.gradgradcheck(read, leaves)


class Alive(TorchDispatchMode):
    """Follows how many numbers are stored, and how many the largest tensor has."""

    def __init__(self):
        super().__init__()
        self.sizes, self.largest, self.peak, self.products = {}, 0, 0, 0

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        result = operation(*arguments, **(keywords or {}))
        self.products += operation is torch.ops.aten.bmm.default
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, torch.Tensor):
                self._follow(each.untyped_storage())
        return result

    def _follow(self, storage):
        if storage.data_ptr() in self.sizes or not storage.nbytes():
            return
        place = storage.data_ptr()
        self.sizes[place] = storage.nbytes()
        self.largest = max(self.largest, storage.nbytes())
        self.peak = max(self.peak, sum(self.sizes.values()))
        weakref.finalize(storage, self.sizes.pop, place, None)


def stored(length, causal=False, gradient=True, mechanism="memory_efficient", **more):
    """Return what a forward and a backward pass store at most."""
    generator = torch.Generator().manual_seed(0)
    three = [
        torch.randn(1, 1, length, 8, generator=generator).requires_grad_(gradient) for _ in "qkv"
    ]
    with Alive() as alive:
        read = attend(mechanism, *three, causal=causal, **more)
        if gradient:
            read.sum().backward()
    return alive


@pytest.mark.parametrize("gradient", [False, True])
def test_peak_memory_grows_no_faster_than_the_length(gradient):
    # Law. Catches blocks that autograd keeps. Both passes from 1,024 to 4,096 tokens.
    lengths = (1024, 2048, 4096)
    sizes = {"chunk_size": 256, "query_chunk_size": 256}
    peaks = [stored(length, gradient=gradient, **sizes).peak for length in lengths]
    slope = math.log(peaks[-1] / peaks[0]) / math.log(lengths[-1] / lengths[0])
    assert slope <= 1.1
    assert peaks[0] > 4 * 1024 * 8  # the count sees at least the output
    parallel = [stored(length, gradient=gradient, form="parallel").peak for length in lengths[:2]]
    assert math.log2(parallel[1] / parallel[0]) > 1.8


def test_no_tensor_is_larger_than_a_block_or_the_inputs():
    # Catches a mask or an index over all pairs.
    alive = stored(2048, causal=True, chunk_size=64, query_chunk_size=128)
    assert alive.largest <= 4 * max(64 * 128, 2048 * 8)


def test_causal_blocks_that_nobody_sees_are_left_out():
    # Law. Catches blocks that are computed and then masked.
    sizes = {"chunk_size": 64, "query_chunk_size": 64}
    whole = stored(1024, **sizes).products
    half = stored(1024, causal=True, **sizes).products
    blocks = 1024 // 64
    assert whole == 7 * blocks**2
    assert half == 7 * blocks * (blocks + 1) // 2


def test_a_block_trains_through_it():
    # Catches a function that loses the graph of projections that are expanded over the batch.
    generator = torch.Generator().manual_seed(0)
    block = MultiheadAttention(
        8, 2, mechanism="memory_efficient", parameters={"chunk_size": 3, "query_chunk_size": 2}
    )
    plain = MultiheadAttention(8, 2)
    plain.load_state_dict(block.state_dict())
    queries = torch.randn(1, 4, 8, generator=generator)
    tokens = torch.randn(3, 5, 8, generator=generator)
    for each in (block, plain):
        each(queries, each.project(tokens)).square().sum().backward()
    for one, other in zip(block.parameters(), plain.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["chunk_size", "query_chunk_size"])
def test_blocks_of_no_keys_are_refused(name):
    # Catches a loop with a step of zero.
    with pytest.raises(InputError, match=f"{name}=0; allowed: an integer at least 1"):
        attend("memory_efficient", *tensors(3, 4), **{name: 0})
