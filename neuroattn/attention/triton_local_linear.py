"""Our Triton kernel of local linear attention, after the blockwise solver of its paper's code.

One program reads a block of queries of one head, in float32, and holds nothing of queries x keys:
it streams the keys once for the softmax and its mean key, once for every iteration of conjugate
gradients, and once more with the values. It is the forward pass; the backward pass is that of
:func:`neuroattn.attention.regression.local_linear.chunked_local_linear`. This module is imported
when the kernel runs: Triton decides on import whether it is interpreted.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuroattn.attention.regression.local_linear import centre_of, chunked_local_linear


@triton.jit
def _load(pointer, row, channel, rows, width):  # type: ignore[no-untyped-def]
    inside = (row[:, None] < rows) & (channel[None, :] < width)
    tile = tl.load(pointer + row[:, None] * width + channel[None, :], mask=inside, other=0.0)
    return tile.to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _keys_and_logits(  # type: ignore[no-untyped-def]
    q, middle, key, mask, row, column, channel, queries, keys, dim, by_query, by_key,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    k = _load(key, column, channel, keys, dim) - middle[None, :]
    seen = (row[:, None] < queries) & (column[None, :] < keys)
    if CAUSAL:
        seen = seen & (column[None, :] <= row[:, None] + keys - queries)
    if MASKED:
        place = mask + row[:, None].to(tl.int64) * by_query + column[None, :] * by_key
        seen = seen & (tl.load(place, mask=seen, other=0) != 0)
    logits = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    return k, tl.where(seen, logits, float("-inf"))


@triton.jit  # type: ignore[untyped-decorator]
def _softmax(  # type: ignore[no-untyped-def]
    q, middle, key, mask, row, block, d, queries, keys, dim, by_query, by_key, reach,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    top = tl.full([row.shape[0]], float("-inf"), tl.float32)
    total = tl.zeros([row.shape[0]], tl.float32)
    mean = tl.zeros([row.shape[0], d.shape[0]], tl.float32)
    for start in range(0, reach, block.shape[0]):
        k, logits = _keys_and_logits(
            q, middle, key, mask, row, start + block, d, queries, keys, dim, by_query, by_key,
            CAUSAL, MASKED, PRECISION,
        )  # fmt: skip
        higher = tl.maximum(top, tl.max(logits, axis=1))
        # A row that has seen nothing yet has no largest logit.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        power = tl.exp(logits - base[:, None])
        fade = tl.exp(top - base)
        total = total * fade + tl.sum(power, axis=1)
        mean = mean * fade[:, None] + tl.dot(power, k, input_precision=PRECISION)
        top = higher
    unit = 1 / tl.where(total > 0, total, 1.0)
    return tl.where(total > 0, top, 0.0), unit, mean * unit[:, None], total > 0


@triton.jit  # type: ignore[untyped-decorator]
def _solve(  # type: ignore[no-untyped-def]
    wanted, base, unit, mean, ridge, iterations, enough,
    q, middle, key, mask, row, block, d, queries, keys, dim, by_query, by_key, reach,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    slope = tl.zeros_like(wanted)
    residual, direction = wanted, wanted
    square = tl.sum(wanted * wanted, axis=1)
    small = enough * square
    count = 0
    while (count < iterations) & (tl.max(square - small, axis=0) > 0):
        product = ridge * direction
        ahead = tl.sum(direction * mean, axis=1)
        drift = tl.zeros_like(square)
        for start in range(0, reach, block.shape[0]):
            k, logits = _keys_and_logits(
                q, middle, key, mask, row, start + block, d, queries, keys, dim, by_query, by_key,
                CAUSAL, MASKED, PRECISION,
            )  # fmt: skip
            along = tl.dot(direction, tl.trans(k), input_precision=PRECISION) - ahead[:, None]
            along = tl.exp(logits - base[:, None]) * unit[:, None] * along
            drift += tl.sum(along, axis=1)
            product += tl.dot(along, k, input_precision=PRECISION)
        # Nothing but the rounding of ``along``, times the mean's distance from the centre.
        product -= drift[:, None] * mean
        curvature = tl.sum(direction * product, axis=1)
        # A row that is done has no direction left; it rests.
        step = tl.where(curvature > 0, square / tl.where(curvature > 0, curvature, 1.0), 0.0)
        slope += step[:, None] * direction
        residual -= step[:, None] * product
        before = square
        square = tl.sum(residual * residual, axis=1)
        kept = tl.where(before > 0, square / tl.where(before > 0, before, 1.0), 0.0)
        direction = residual + kept[:, None] * direction
        count += 1
    return slope


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    query, key, value, centre, mask, read,
    scale, ridge, iterations, enough, queries, keys, dim, width, heads,
    by_batch, by_head, by_query, by_key,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    DIM: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0).to(tl.int64)
    query, read = query + head * queries * dim, read + head * queries * width
    key, value = key + head * keys * dim, value + head * keys * width
    mask = mask + (head // heads) * by_batch + (head % heads) * by_head
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    block, d = tl.arange(0, COLUMNS), tl.arange(0, DIM)
    reach = keys
    if CAUSAL:
        reach = tl.minimum(keys, (tl.program_id(1) + 1) * ROWS + keys - queries)
    # The read depends on differences of keys alone; far from zero their moments would cancel.
    middle = tl.load(centre + head * dim + d, mask=d < dim, other=0.0)
    asked = _load(query, row, d, queries, dim)
    q = asked * scale
    base, unit, mean, some = _softmax(
        q, middle, key, mask, row, block, d, queries, keys, dim, by_query, by_key, reach,
        CAUSAL, MASKED, PRECISION,
    )  # fmt: skip
    wanted = tl.where(some[:, None], mean - (asked - middle[None, :]), 0.0)
    slope = _solve(
        wanted, base, unit, mean, ridge, iterations, enough,
        q, middle, key, mask, row, block, d, queries, keys, dim, by_query, by_key, reach,
        CAUSAL, MASKED, PRECISION,
    )  # fmt: skip
    ahead = tl.sum(slope * mean, axis=1)
    for first in range(0, width, WIDTH):
        v = first + tl.arange(0, WIDTH)
        found = tl.zeros([ROWS, WIDTH], tl.float32)
        for start in range(0, reach, COLUMNS):
            k, logits = _keys_and_logits(
                q, middle, key, mask, row, start + block, d, queries, keys, dim, by_query, by_key,
                CAUSAL, MASKED, PRECISION,
            )  # fmt: skip
            share = tl.exp(logits - base[:, None]) * unit[:, None]
            along = tl.dot(slope, tl.trans(k), input_precision=PRECISION) - ahead[:, None]
            u = _load(value, start + block, v, keys, width)
            found += tl.dot(share * (1 - along), u, input_precision=PRECISION)
        inside = (row[:, None] < queries) & (v[None, :] < width)
        place = read + row[:, None] * width + v[None, :]
        tl.store(place, found.to(read.dtype.element_ty), mask=inside)


def _forward(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, given: dict[str, Any]
) -> Tensor:
    batch, heads, queries, dim = query.shape
    keys, width = value.shape[-2:]
    centre = centre_of(key.float(), mask).contiguous()
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    read = query.new_empty((batch, heads, queries, width))
    if read.numel() == 0:
        return read
    seen, steps = query, [0, 0, 0, 0]
    if mask is not None:
        seen = mask.view(torch.uint8).expand(batch, heads, queries, keys)
        steps = list(seen.stride())
    scale = dim**-0.5 if given["scale"] is None else given["scale"]
    # Without rounding as many iterations as channels are enough; it costs some more.
    iterations = given["iterations"]
    if given["solver"] == "direct":
        iterations = max(iterations, 2 * dim)
    size = 64 if dim <= 64 else 32
    grid = (batch * heads, triton.cdiv(queries, size))
    with torch.cuda.device_of(query):
        _kernel[grid](
            *(query, key, value, centre, seen, read, float(scale), float(given["ridge"])),
            *(iterations, float(given["tolerance"]) ** 2),
            *(queries, keys, dim, width, heads, *steps),
            CAUSAL=given["causal"],
            MASKED=mask is not None,
            ROWS=size,
            COLUMNS=size,
            DIM=max(16, triton.next_power_of_2(dim)),
            WIDTH=max(16, min(64, triton.next_power_of_2(width))),
            # TF32 would lose digits that the systems need; three products of it keep them.
            PRECISION="ieee" if query.dtype == torch.float32 else "tf32x3",
        )
    return read


class _LocalLinear(torch.autograd.Function):
    """The kernel forward, the reference backward."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        given: dict[str, Any],
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.mask, ctx.given = mask, given
        return _forward(query, key, value, mask, given)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        leaves = [each.detach().float().requires_grad_() for each in saved]
        with torch.enable_grad():
            read = chunked_local_linear(*leaves, mask=ctx.mask, **ctx.given)
        found = torch.autograd.grad(read, leaves, slope.float())
        return (*(each.to(like) for each, like in zip(found, saved, strict=True)), None, None)


def local_linear(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, **given: Any
) -> Tensor:
    """Do what :func:`neuroattn.attention.regression.local_linear.chunked_local_linear` does.

    Tensors are float32 or half. The slope is found by conjugate gradients whatever the solver;
    for the direct one by at least twice as many iterations as channels. The kernel's blocks have
    64 queries (32 for more than 64 channels); ``chunk_size`` is that of the backward pass.
    """
    read: Tensor = _LocalLinear.apply(query, key, value, mask, given)  # type: ignore[no-untyped-call]
    return read
