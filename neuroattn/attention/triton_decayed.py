"""Our Triton kernel of linear attention whose memory decays by one number a head and token.

One program reads one head and a slice of the value channels, block of tokens after block, with
the memory on chip, in float32. It is the forward pass; the backward pass computes the blocks once
more with :func:`neuroattn.attention.linear.decayed.chunked` and torch's gradients. This module is
imported when the kernel runs: Triton decides on import whether it is interpreted.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuroattn.attention.linear import decayed


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    query, key, value, alpha, before, read, after,
    scale, tokens, dim, width,
    READS: tl.constexpr, BLOCK: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0).to(tl.int64)
    d, v = tl.arange(0, DIM), tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    here = head * dim * width + d[:, None] * width + v[None, :]
    inside = (d[:, None] < dim) & (v[None, :] < width)
    memory = tl.load(before + here, mask=inside, other=0.0)
    row = tl.arange(0, BLOCK)
    for start in range(0, tokens, BLOCK):
        token = head * tokens + start + row
        real = start + row < tokens
        keyed = real[:, None] & (d[None, :] < dim)
        valued = real[:, None] & (v[None, :] < width)
        a = tl.load(alpha + token, mask=real, other=1.0)
        k = tl.load(key + token[:, None] * dim + d[None, :], mask=keyed, other=0.0)
        u = tl.load(value + token[:, None] * width + v[None, :], mask=valued, other=0.0)
        k, u = k.to(tl.float32), u.to(tl.float32)
        # Entry (i, j): what is left after token i of what token j wrote.
        later = row[:, None] > row[None, :]
        left = tl.cumprod(tl.where(later, a[:, None], 1.0), axis=0)
        left = tl.where(row[:, None] >= row[None, :], left, 0.0)
        from_start = tl.cumprod(a, axis=0)
        if READS:
            q = tl.load(query + token[:, None] * dim + d[None, :], mask=keyed, other=0.0)
            q = q.to(tl.float32) * scale
            pairs = tl.dot(q, tl.trans(k), input_precision=PRECISION) * left
            found = tl.dot(pairs, u, input_precision=PRECISION)
            found += tl.dot(q * from_start[:, None], memory, input_precision=PRECISION)
            place = read + token[:, None] * width + v[None, :]
            tl.store(place, found.to(read.dtype.element_ty), mask=valued)
        last = row == BLOCK - 1
        to_end = tl.sum(tl.where(last[:, None], left, 0.0), axis=0)
        kept = tl.sum(tl.where(last, from_start, 0.0), axis=0)
        fresh = tl.dot(tl.trans(k * to_end[:, None]), u, input_precision=PRECISION)
        memory = memory * kept + fresh
    tl.store(after + here, memory, mask=inside)


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    alpha: Tensor,
    memory: Tensor,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    batch, heads, tokens, dim = key.shape
    width = value.shape[-1]
    query, key, value, alpha, memory = (
        each.contiguous()
        for each in (query, key, value, alpha.expand(batch, heads, tokens), memory)
    )
    read = torch.empty_like(value) if causal else value
    after = torch.empty_like(memory)
    slices = max(16, min(64, triton.next_power_of_2(width)))
    grid = (batch * heads, triton.cdiv(width, slices))
    with torch.cuda.device_of(query):
        _kernel[grid](
            *(query, key, value, alpha, memory, read, after, scale, tokens, dim, width),
            READS=causal,
            BLOCK=64 if dim <= 64 else 32,
            DIM=max(16, triton.next_power_of_2(dim)),
            WIDTH=slices,
            # TF32 holds all digits of the half types.
            PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
        )
    return read, after


class _Decayed(torch.autograd.Function):
    """The kernel forward, the reference backward."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        alpha: Tensor,
        memory: Tensor,
        scale: float,
        causal: bool,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(query, key, value, alpha, memory)
        ctx.given = {"scale": scale, "causal": causal, "chunk_size": chunk_size}
        read, after = _forward(query, key, value, alpha, memory, scale, causal)
        return (read if causal else read.new_empty(0)), after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, slope_of_memory: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        leaves = [each.detach().float().requires_grad_() for each in saved]
        with torch.enable_grad():
            *tensors, memory = leaves
            read, after = decayed.chunked(*tensors, memory=memory, **ctx.given)
        outputs, slopes = [after], [slope_of_memory]
        if ctx.given["causal"]:
            outputs, slopes = [read, after], [slope.float(), slope_of_memory]
        found = torch.autograd.grad(outputs, leaves, slopes, allow_unused=True)
        returned = [
            None if each is None else each.to(like) for each, like in zip(found, saved, strict=True)
        ]
        return (*returned, None, None, None)


def _apply(*given: Any) -> tuple[Tensor, Tensor]:
    read, after = _Decayed.apply(*given)  # type: ignore[no-untyped-call]
    return read, after


def chunked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    alpha: Tensor,
    *,
    scale: float,
    causal: bool,
    memory: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """Do what :func:`neuroattn.attention.linear.decayed.chunked` does.

    Tensors are float32 or half, retentions and memory float32. The kernel's blocks have 64 tokens
    (32 for more than 64 channels); ``chunk_size`` is that of the backward pass.
    """
    before = decayed.empty(key, value) if memory is None else memory
    tensors = key, value, alpha.float(), before.float()
    if causal:
        return _apply(query, *tensors, scale, True, chunk_size)
    _, after = _apply(key, *tensors, scale, False, chunk_size)
    return (scale * query.float() @ after).to(query.dtype), after
