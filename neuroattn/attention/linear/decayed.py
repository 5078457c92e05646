"""The engine of linear attention whose memory decays by one number a head and token.

With a retention a_t in [0, 1] the memory is W_t = a_t W_{t−1} + k_t v_tᵀ and the read
y_t = s W_tᵀ q_t, which is the same as weighing the values with s (q_i · k_j) L_ij, where
L_ij = a_{j+1} ⋯ a_i. Products are taken as products, never as differences of logarithms, so that
a retention of exactly 0 is right forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from neuroattn.attention.linear.accumulate import started
from neuroattn.attention.registry import Request, State

#: ``engine(query, key, value, alpha, *, scale, causal, memory, chunk_size)`` to output and memory.
Engine = Callable[..., tuple[Tensor, Tensor]]

#: Up to this many tokens all pairs at once are faster than blocks of them.
SHORT = 128


class _Products(torch.autograd.Function):
    """Products of all segments of a sequence, with the gradient that survives zeros."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(alpha)
        return _segments(alpha)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (alpha,) = ctx.saved_tensors
        zero = alpha < torch.finfo(alpha.dtype).tiny
        filled = alpha.masked_fill(zero, 1.0)
        terms = slope * _segments(filled)
        count = F.pad(zero, (1, 0)).cumsum(-1)
        zeros = count[..., :, None] - count[..., None, :]
        # A factor appears in the products that reach over it and hold no zero; a factor that is
        # zero in those where it is the only one.
        found: Tensor = _reaching_over(terms.masked_fill(zeros != 0, 0.0)) / filled
        if zero.any():
            found = torch.where(zero, _reaching_over(terms.masked_fill(zeros != 1, 0.0)), found)
        return found


def _segments(alpha: Tensor) -> Tensor:
    factors = F.pad(alpha, (1, 0), value=1.0)[..., :, None]
    size = factors.shape[-2]
    below = torch.ones(size, size, dtype=torch.bool, device=alpha.device).tril(-1)
    return torch.where(below, factors, 1.0).cumprod(-2).tril()


def _reaching_over(terms: Tensor) -> Tensor:
    """Return for each t the sum of the terms from j < t to i ≥ t."""
    return terms.flip(-2).cumsum(-2).flip(-2).tril(-1).sum(-1)[..., 1:]


def products(alpha: Tensor) -> Tensor:
    """Return the products of all segments of a sequence of retentions.

    Parameters
    ----------
    alpha : Tensor
        (..., n), in [0, 1].

    Returns
    -------
    Tensor
        (..., n + 1, n + 1): entry (i, j) is the product of ``alpha[j]`` … ``alpha[i - 1]``, what
        is left after i tokens of what was there after j; zero for i < j.
    """
    found: Tensor = _Products.apply(alpha)  # type: ignore[no-untyped-call]
    return found


def per_token(given: float | Tensor, like: Tensor) -> Tensor:
    """Return a number or a tensor as (batch or 1, heads or 1, keys or 1).

    Half-precision reads keep their decays in float32.
    """
    dtype = torch.float32 if like.dtype.itemsize == 2 else like.dtype
    if isinstance(given, Tensor):
        return given.to(dtype)
    return torch.full((1, 1, 1), float(given), dtype=dtype, device=like.device)


def decay_matrix(alpha: Tensor, queries: int, keys: int, causal: bool) -> Tensor:
    """Return what is left of each key when each query reads it.

    Parameters
    ----------
    alpha : Tensor
        (batch or 1, heads or 1, keys or 1)
    queries, keys : int
        Numbers; a causal read is aligned to the end, another one comes after all keys.
    causal : bool
        Whether query i reads after the keys up to i.

    Returns
    -------
    Tensor
        (batch or 1, heads or 1, queries or 1, keys)
    """
    left = products(alpha.expand(-1, -1, keys))[..., 1:]
    if not causal:
        return left[..., -1:, :]
    rows = left[..., 1:, :]
    return F.pad(rows[..., max(0, keys - queries) :, :], (0, 0, max(0, queries - keys), 0))


def recurrent(
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
    """Read token by token; see :func:`chunked`."""
    state = empty(key, value) if memory is None else memory
    alpha, query, rows = alpha.expand(-1, -1, key.shape[2]), query * scale, []
    for token in range(key.shape[2]):
        write = key[:, :, token, :, None] * value[:, :, token, None]
        state = alpha[:, :, token, None, None] * state + write
        if causal:
            rows.append(query[:, :, token : token + 1] @ state)
    if not causal:
        return query @ state, state
    return (torch.cat(rows, dim=2) if rows else empty_read(query, value)), state


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
    """Read in blocks of tokens, as matrix products.

    Parameters
    ----------
    query, key, value : Tensor
        (batch, heads, tokens, dim or value_dim); as many queries as keys if ``causal``.
    alpha : Tensor
        Retention (batch or 1, heads or 1, keys or 1), in [0, 1].
    scale : float
        Factor on the query.
    causal : bool
        Whether query i reads after token i, or every query after all.
    memory : Tensor or None
        (batch, heads, dim, value_dim) after earlier tokens.
    chunk_size : int
        Tokens a block.

    Returns
    -------
    output, memory : Tensor
        (batch, heads, queries, value_dim) and (batch, heads, dim, value_dim).
    """
    state, keys, reads = empty(key, value) if memory is None else memory, key.shape[2], []
    query, whole = query * scale, keys // chunk_size * chunk_size
    for start, stop, size in ((0, whole, chunk_size), (whole, keys, keys - whole)):
        if start < stop:
            kept = alpha if alpha.shape[2] == 1 else alpha[:, :, start:stop]
            asked = query[:, :, start:stop] if causal else None
            keyed, valued = key[:, :, start:stop], value[:, :, start:stop]
            read, state = _blocks(asked, keyed, valued, kept, state, size)
            reads.append(read)
    if not causal:
        return query @ state, state
    return (torch.cat(reads, dim=2) if reads else empty_read(query, value)), state


def _blocks(
    query: Tensor | None, key: Tensor, value: Tensor, alpha: Tensor, state: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Read blocks of one size: pairs inside each, and what came before through the memory."""
    blocks = key.shape[2] // size
    key, value = key.unflatten(2, (blocks, size)), value.unflatten(2, (blocks, size))
    shared = alpha.shape[2] == 1
    left = products(
        alpha[:, :, None].expand(-1, -1, -1, size) if shared else alpha.unflatten(2, (-1, size))
    )
    written = (key * left[..., -1, 1:, None]).mT @ value
    kept = left[..., -1, 0, None, None].expand(-1, -1, blocks, -1, -1)
    before = []
    for block in range(blocks):
        before.append(state)
        state = kept[:, :, block] * state + written[:, :, block]
    if query is None:
        return value, state
    query = query.unflatten(2, (blocks, size))
    inside = ((query @ key.mT) * left[..., 1:, 1:]) @ value
    earlier = (query * left[..., 1:, :1]) @ torch.stack(before, dim=2)
    return (inside + earlier).flatten(2, 3), state


def by_triton(
    query: Tensor, key: Tensor, value: Tensor, alpha: Tensor, **given: Any
) -> tuple[Tensor, Tensor]:
    """Do what :func:`chunked` does in our Triton kernel, which is imported when it is needed."""
    from neuroattn.attention import triton_decayed

    return triton_decayed.chunked(query, key, value, alpha, **given)


def empty(key: Tensor, value: Tensor) -> Tensor:
    """Return the memory before any token; float32 for half-precision tokens."""
    dtype = torch.float32 if value.dtype.itemsize == 2 else value.dtype
    shape = (*key.shape[:2], key.shape[-1], value.shape[-1])
    return torch.zeros(shape, dtype=dtype, device=key.device)


def held(
    initial_state: State | None, key: Tensor, shapes: dict[str, tuple[int, ...]]
) -> dict[str, Tensor | None]:
    """Return the entries of a state by name, None where nothing was read before.

    Parameters
    ----------
    initial_state : dict of str to Tensor or None
        What an earlier call returned; half-precision keys have a state in float32.
    key : Tensor
        (batch, heads, keys, dim)
    shapes : dict of str to tuple of int
        Names of the entries and their axes after batch and heads.

    Raises
    ------
    InputError
        If an entry is missing or has another shape.
    """
    if initial_state is None:
        return dict.fromkeys(shapes)
    entries = started(initial_state, empty(key[..., :0], key), shapes)
    return dict(zip(shapes, entries, strict=True))


def empty_read(query: Tensor, value: Tensor) -> Tensor:
    """Return what no query reads."""
    return query.new_zeros((*query.shape[:2], 0, value.shape[-1]))


def hidden(written: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors (batch, heads, keys, any) with what is not written set to zero."""
    if written is None:
        return tensors
    return tuple(each.masked_fill(~written, 0.0) for each in tensors)


def long(request: Request) -> str:
    """Say why ``"auto"`` leaves all pairs at once for blocks."""
    return f"more than {SHORT} keys; blocks take linear time" if request.keys > SHORT else ""


def several(request: Request) -> str:
    """Say why ``"auto"`` leaves token by token for matrix products."""
    return "more than one token at a time" if request.keys > 1 else ""


def trained(request: Request) -> str:
    """Say why ``"auto"`` leaves our kernel where a gradient is asked for."""
    return "its backward pass is the reference's" if request.gradient else ""


def refuses_triton(request: Request) -> str:
    """Say why our kernel cannot serve a request, or ""."""
    if request.dtype == torch.float64:
        return "it accumulates in float32; float64 goes through the reference"
    if request.dim > 256:
        return f"it takes heads of at most 256 channels, not {request.dim}"
    return "it does not normalise scores" if request.parameters.get("normalize") else ""
