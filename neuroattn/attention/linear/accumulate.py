"""Sums over tokens that all of the linear family share: a memory that is written and read.

``summed`` keeps Σ_j f_j v_jᵀ, ``centred`` keeps Σ_j (f_j - mean f)(v_j - mean v)ᵀ; both token by
token (``chunk_size=None``) or as products of blocks of tokens. A causal query reads what is written
up to its own token, another reads the end.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from neuroattn.attention.registry import State
from neuroattn.errors import InputError

#: The least magnitude of a normaliser that may have either sign.
FLOOR = 1e-6


def started(
    initial_state: State | None, like: Tensor, shapes: dict[str, tuple[int, ...]]
) -> list[Tensor]:
    """Return the entries of a state, zeros where there is none yet.

    Parameters
    ----------
    initial_state : dict of str to Tensor or None
        What an earlier call returned.
    like : Tensor
        (batch, heads, ...), of the dtype and on the device that are wanted.
    shapes : dict of str to tuple of int
        Names of the entries and their axes after batch and heads.

    Raises
    ------
    InputError
        If an entry is missing or has another shape.
    """
    wanted = {name: (*like.shape[:2], *shape) for name, shape in shapes.items()}
    if initial_state is None:
        return [like.new_zeros(shape) for shape in wanted.values()]
    found = {name: tuple(each.shape) for name, each in initial_state.items()}
    if any(found.get(name) != shape for name, shape in wanted.items()):
        raise InputError(f"initial_state has {found}; needed are {wanted}, as return_state gives.")
    return [initial_state[name].to(like) for name in wanted]


def summed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    memory: Tensor,
    *,
    causal: bool,
    chunk_size: int | None,
) -> tuple[Tensor, Tensor]:
    """Read the growing sum of key valueᵀ.

    Parameters
    ----------
    query, key, value : Tensor
        (batch, heads, queries, features), (batch, heads, keys, features), (batch, heads, keys,
        width); as many queries as keys if causal.
    memory : Tensor
        (batch, heads, features, width), the sum over earlier tokens.
    causal : bool
        Whether query i reads the sum up to key i, or all of it.
    chunk_size : int or None
        Tokens in a block; None for a loop over tokens.

    Returns
    -------
    output, memory : Tensor
        (batch, heads, queries, width) and the sum over all tokens.
    """
    if chunk_size is None:
        reads = [value[:, :, :0]]
        for token in range(key.shape[2]):
            memory = memory + key[:, :, token, :, None] * value[:, :, token, None, :]
            if causal:
                reads.append(query[:, :, token, None] @ memory)
        return (torch.cat(reads, dim=2) if causal else query @ memory), memory
    if not causal:
        memory = memory + key.transpose(-1, -2) @ value
        return query @ memory, memory
    length = key.shape[2]
    query, key, value = (blocks(each, chunk_size) for each in (query, key, value))
    written = key.transpose(-1, -2) @ value
    before = memory[:, :, None] + _earlier(written)
    local = (query @ key.transpose(-1, -2)).tril() @ value
    output = (local + query @ before).flatten(2, 3)[:, :, :length]
    return output, memory + written.sum(dim=2)


def blocks(tokens: Tensor, chunk_size: int) -> Tensor:
    """Return tokens (batch, heads, tokens, ...) as (batch, heads, blocks, size, width).

    The last block is filled with zeros; fewer tokens than a block make one block of their own.
    """
    length = tokens.shape[2]
    size = max(1, min(chunk_size, length))
    padded = F.pad(tokens, (0, 0, 0, -length % size))
    return padded.reshape(*tokens.shape[:2], -(-length // size), size, tokens.shape[-1])


def _earlier(each: Tensor) -> Tensor:
    """Return the sum over the blocks (axis 2) before each."""
    return F.pad(each.cumsum(dim=2), (0,) * (2 * each.ndim - 6) + (1, 0))[:, :, :-1]


class Centred(NamedTuple):
    """What each query reads of a centred memory.

    Attributes
    ----------
    read : Tensor
        (batch, heads, queries, width), query · Σ (key - mean)(value - mean)ᵀ.
    key_mean, value_mean, number : Tensor
        (batch, heads, queries or 1, features, width or 1) over the keys that the query sees.
    """

    read: Tensor
    key_mean: Tensor
    value_mean: Tensor
    number: Tensor


def centred_shapes(features: int, width: int) -> dict[str, tuple[int, ...]]:
    """Return the names and the shapes of a centred memory's state."""
    return {
        "memory": (features, width),
        "key_mean": (features,),
        "value_mean": (width,),
        "count": (1,),
    }


def centred(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seen: Tensor | None,
    initial_state: State | None,
    *,
    causal: bool,
    chunk_size: int | None,
    around: bool,
) -> tuple[Centred, State]:
    """Read the growing covariance of keys and values (times the number of tokens).

    Parameters
    ----------
    query, key, value, causal, chunk_size
        As in :func:`summed`; what is not written is 0 in ``key`` and ``value``.
    seen : Tensor of bool or None
        (batch or 1, heads or 1, keys, 1), which keys are written.
    initial_state : dict of str to Tensor or None
        ``memory`` (features, width), ``key_mean``, ``value_mean`` and ``count`` of earlier tokens.
    around : bool
        Whether the mean of the keys is subtracted from the query, too.

    References
    ----------
    Welford (1962), Note on a method for calculating corrected sums of squares and products;
    Chan, Golub & LeVeque (1983), Algorithms for computing the sample variance, for the blocks.
    """
    shapes = centred_shapes(key.shape[-1], value.shape[-1])
    state = started(initial_state, value, shapes)
    weight = value.new_ones(*value.shape[:3], 1)
    if seen is not None:
        weight = weight * seen
    if chunk_size is None:
        found, state = _centred_by_tokens(query, key, value, weight, state, causal, around)
    elif causal:
        found, state = _centred_by_blocks(query, key, value, weight, state, chunk_size, around)
    else:
        state = _joined(state, key, value, weight)
        found = _read_end(query, state, around)
    return found, dict(zip(shapes, state, strict=True))


def _read_end(query: Tensor, state: list[Tensor], around: bool) -> Centred:
    memory, *rest = state
    key_mean, value_mean, count = (each[:, :, None] for each in rest)
    return Centred((query - key_mean if around else query) @ memory, key_mean, value_mean, count)


def _centred_by_tokens(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor,
    state: list[Tensor],
    causal: bool,
    around: bool,
) -> tuple[Centred, list[Tensor]]:
    memory, key_mean, value_mean, count = state
    reads = []
    for token in range(key.shape[2]):
        here = weight[:, :, token]
        count = count + here
        step = here / count.clamp(min=1)
        apart = key[:, :, token] - key_mean
        key_mean = key_mean + step * apart
        value_mean = value_mean + step * (value[:, :, token] - value_mean)
        rest = here * (value[:, :, token] - value_mean)
        memory = memory + apart[..., :, None] * rest[..., None, :]
        state = [memory, key_mean, value_mean, count]
        if causal:
            reads.append(_read_end(query[:, :, token, None], state, around))
    if not causal or not reads:
        return _read_end(query, state, around), state
    return Centred(*(torch.cat(each, dim=2) for each in zip(*reads, strict=True))), state


def _centred_by_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor,
    state: list[Tensor],
    chunk_size: int,
    around: bool,
) -> tuple[Centred, list[Tensor]]:
    memory, key_mean, value_mean, count = state
    length = key.shape[2]
    query, key, value, weight = (blocks(x, chunk_size) for x in (query, key, value, weight))
    # Numbers and means before each block; a block with none before it takes its first token as
    # the origin, because raw products of numbers far from 0 would cancel badly.
    before = (count[:, :, None] + _earlier(weight.sum(3)))[:, :, :, None]
    origins = []
    for mean, each in ((key_mean, key), (value_mean, value)):
        sums = (count * mean)[:, :, None] + _earlier((weight * each).sum(3))
        earlier = sums[:, :, :, None] / before.clamp(min=1)
        origins.append(torch.where(before > 0, earlier, each[:, :, :, :1].detach()))
    apart, rest = (weight * (x - at) for x, at in zip((key, value), origins, strict=True))
    counts = before + weight.cumsum(3)
    divisor = counts.clamp(min=1)
    key_sum, value_sum = apart.cumsum(3), rest.cumsum(3)
    means = [at + total / divisor for at, total in zip(origins, (key_sum, value_sum), strict=True)]
    if around:
        query = query - means[0]
    ends = [each[:, :, :, -1] for each in (key_sum, value_sum, divisor)]
    written = apart.transpose(-1, -2) @ rest
    written = written - ends[0][..., :, None] * (ends[1] / ends[2])[..., None, :]
    read = query @ (memory[:, :, None] + _earlier(written))
    read = read + (query @ apart.transpose(-1, -2)).tril() @ rest
    read = read - (query * key_sum).sum(-1, keepdim=True) * value_sum / divisor
    tokens = [x.flatten(2, 3)[:, :, :length] for x in (read, *means, counts)]
    if not length:
        return Centred(*tokens), state
    last = [each[:, :, -1] for each in tokens[1:]]
    return Centred(*tokens), [memory + written.sum(2), *last]


def _joined(state: list[Tensor], key: Tensor, value: Tensor, weight: Tensor) -> list[Tensor]:
    """Return the state after all tokens at once."""
    memory, key_mean, value_mean, count = state
    new = weight.sum(2)
    own = [(weight * x).sum(2) / new.clamp(min=1) for x in (key, value)]
    apart, rest = (weight * (x - at[:, :, None]) for x, at in zip((key, value), own, strict=True))
    total = count + new
    share = new / total.clamp(min=1)
    moved = [at - mean for at, mean in zip(own, (key_mean, value_mean), strict=True)]
    between = moved[0][..., :, None] * (moved[1] * share * count)[..., None, :]
    memory = memory + apart.transpose(-1, -2) @ rest + between
    return [memory, key_mean + share * moved[0], value_mean + share * moved[1], total]


def divided(read: Tensor, normalizer: Tensor, positive: bool) -> Tensor:
    """Return read / normalizer where that is sound.

    Parameters
    ----------
    read, normalizer : Tensor
        (..., width) and (..., 1).
    positive : bool
        Whether the normaliser is never negative: it is then 0 only where nothing was read, which
        gives 0. Otherwise its magnitude is at least 1e-6, with its own sign.
    """
    if positive:
        tiny = torch.finfo(normalizer.dtype).tiny
        return read / torch.where(normalizer < tiny, 1.0, normalizer)
    least = torch.where(normalizer < 0, -FLOOR, FLOOR)
    return read / torch.where(normalizer.abs() < FLOOR, least, normalizer)


def read_features(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seen: Tensor | None,
    initial_state: State | None,
    *,
    causal: bool,
    chunk_size: int | None,
    normalize: bool,
    positive: bool,
    center: bool = False,
) -> tuple[Tensor, State]:
    """Read linear attention from the features of queries and keys.

    Parameters
    ----------
    query, key, value, causal, chunk_size
        As in :func:`summed`.
    seen : Tensor of bool or None
        (batch or 1, heads or 1, keys, 1), which keys are written.
    initial_state : dict of str to Tensor or None
        As it is returned.
    normalize, center : bool
        As parameters of ``linear``.
    positive : bool
        As in :func:`divided`.

    Returns
    -------
    output : Tensor
        (batch, heads, queries, width)
    state : dict of str to Tensor
        ``memory`` (batch, heads, features, width) and ``normalizer`` (batch, heads, features); if
        centred, instead of the latter ``key_mean``, ``value_mean`` and ``count``.
    """
    if seen is not None:
        key, value = key.masked_fill(~seen, 0.0), value.masked_fill(~seen, 0.0)
    if center:
        found, state = centred(
            query,
            key,
            value,
            seen,
            initial_state,
            causal=causal,
            chunk_size=chunk_size,
            around=False,
        )
        if not normalize:
            return found.read, state
        total = (query * found.key_mean).sum(-1, keepdim=True) * found.number
        return divided(found.read, total, positive), state
    memory, normalizer = started(
        initial_state,
        value,
        {"memory": (key.shape[-1], value.shape[-1]), "normalizer": (key.shape[-1],)},
    )
    # The normaliser is one more value, 1 for each key.
    value = F.pad(value, (0, 1), value=1.0)
    memory = torch.cat([memory, normalizer[..., None]], dim=-1)
    output, memory = summed(query, key, value, memory, causal=causal, chunk_size=chunk_size)
    read, total = output[..., :-1], output[..., -1:]
    state = {"memory": memory[..., :-1], "normalizer": memory[..., -1]}
    return (divided(read, total, positive) if normalize else read), state


def feature_weights(
    query: Tensor,
    key: Tensor,
    seen: Tensor | None,
    *,
    normalize: bool,
    positive: bool,
    center: bool = False,
) -> Tensor:
    """Return the explicit weights (batch, heads, queries, keys) of :func:`read_features`.

    ``seen`` is the joined mask of :func:`neuroattn.attention.masks.allowed`.
    """
    products = query @ key.transpose(-1, -2)
    if seen is not None:
        products = products.masked_fill(~seen, 0.0)
    total = products.sum(-1, keepdim=True)
    if center:
        counts = visible(seen, products)
        products = products - total / counts.clamp(min=1)
        products = products if seen is None else products.masked_fill(~seen, 0.0)
    return divided(products, total, positive) if normalize else products


def visible(seen: Tensor | None, products: Tensor) -> Tensor:
    """Return how many keys each query sees (batch, heads, queries, 1)."""
    every = torch.ones_like(products)
    return (every if seen is None else every * seen).sum(-1, keepdim=True)
