"""The delta rule's recurrence with gates and momentum: token by token, in blocks, and whole.

One recurrence serves all mechanisms that correct what the memory holds of a key:

    change_t = write_t v_t - erase_t k_t @ memory_{t-1}
    memory_t = retain_t memory_{t-1} + outer(k_t, change_t)

and with momentum memory_t = retain_t memory_{t-1} + s_t, s_t = momentum_t s_{t-1} +
outer(k_t, change_t). The memory is (dim, value_dim), read as ``query @ memory``. Within a block
every change depends linearly on the earlier ones, so that one triangular solve yields them all
(the UT transform of the WY representation).

References
----------
Yang, Wang, Zhang, Shen & Kim (2024), Parallelizing linear transformers with the delta rule over
sequence length, sections 3.1-3.3; arXiv 2406.06484.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from neuroattn.attention.masks import written
from neuroattn.attention.parameters import Parameter, integer
from neuroattn.attention.registry import Request

#: Up to here one token after the other is no slower than a block.
FEW = 8

CHUNK_SIZE: Parameter = integer("tokens a block of the chunked form", 64, 1)


class Gates(NamedTuple):
    """What a recurrence does at every token, each (batch or 1, heads or 1, tokens).

    Attributes
    ----------
    retain : Tensor
        Factor on the memory.
    erase, write : Tensor
        Factors on what the memory holds of the key, and on the value.
    momentum : Tensor or None
        Factor on the running sum of changes; without it a change enters the memory directly.
    """

    retain: Tensor
    erase: Tensor
    write: Tensor
    momentum: Tensor | None = None

    def part(self, start: int, stop: int | None = None) -> Gates:
        """Return the gates of the tokens from start to stop."""
        retain, erase, write = (
            each[..., start:stop] for each in (self.retain, self.erase, self.write)
        )
        momentum = None if self.momentum is None else self.momentum[..., start:stop]
        return Gates(retain, erase, write, momentum)


def per_token(value: float | Tensor, key: Tensor) -> Tensor:
    """Return a number or tensor as (batch or 1, heads or 1, tokens)."""
    if isinstance(value, Tensor):
        return value.to(key.dtype).expand(-1, -1, key.shape[-2])
    return key.new_full((1, 1, key.shape[-2]), value)


def strength(value: float | Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Return a write strength (batch or 1, heads or 1, tokens), zero at hidden keys."""
    seen = written(mask, key)
    found = per_token(value, key)
    return found if seen is None else found * seen[..., 0]


def unit(key: Tensor, normalize: bool) -> Tensor:
    """Return the keys, divided by their length if asked for."""
    return key if not normalize else F.normalize(key, dim=-1)


def products(gate: Tensor) -> Tensor:
    """Return what is left at every place of what was there at an earlier one.

    Entry (t, j) is the product of the gates j+1 to t, one for t = j and zero for t < j. It is
    multiplied up place by place: a quotient of running products, or the exponential of a
    difference of their logarithms, has no value or no gradient where a gate is zero.

    Parameters
    ----------
    gate : Tensor
        (..., tokens)

    Returns
    -------
    Tensor
        (..., tokens + 1, tokens + 1); place 0 is before the first token.
    """
    places = gate.shape[-1] + 1
    later = torch.ones(places, places, dtype=torch.bool, device=gate.device).tril(-1)
    column = F.pad(gate, (1, 0), value=1.0)[..., None]
    found: Tensor = torch.where(later, column, 1.0).cumprod(dim=-2).tril()
    return found


class Kernel(NamedTuple):
    """How the memory within a block depends on the states before it and on its changes.

    Attributes
    ----------
    of_states : Tensor
        (..., tokens + 1, states): the memory at every place of the states at place 0.
    of_changes : Tensor
        (..., tokens + 1, tokens)
    last_of_states : Tensor
        (..., states, states): the states after the last token of those at place 0.
    last_of_changes : Tensor
        (..., states, tokens)
    """

    of_states: Tensor
    of_changes: Tensor
    last_of_states: Tensor
    last_of_changes: Tensor


def kernel(gates: Gates, real: Tensor | float = 1.0) -> Kernel:
    """Return a block's kernel; the states are the memory and, if there is one, the momentum.

    Parameters
    ----------
    gates : Gates
        Of the block.
    real : Tensor or float
        (..., tokens), zero for tokens that only fill the block.
    """
    if gates.momentum is None:
        kept = products(gates.retain)
        return Kernel(kept[..., :1], kept[..., 1:], kept[..., -1:, :1], kept[..., -1:, 1:])
    retain, momentum = torch.broadcast_tensors(gates.retain, gates.momentum)
    kept, carried = products(retain), products(momentum)
    # A change stays in the momentum, and enters the memory anew at every token.
    entered = kept[..., 1:] * (real[..., None, :] if isinstance(real, Tensor) else real)
    both = entered @ carried[..., 1:, :]
    last = torch.stack([both[..., -1, :], carried[..., -1, :]], dim=-2)
    of_memory = torch.stack([kept[..., -1, 0], torch.zeros_like(kept[..., -1, 0])], dim=-1)
    return Kernel(
        torch.stack([kept[..., 0], both[..., 0]], dim=-1),
        both[..., 1:],
        torch.stack([of_memory, last[..., 0]], dim=-1),
        last[..., 1:],
    )


def _spread(factors: Tensor, vectors: Tensor) -> Tensor:
    """Return (..., tokens, states · dim) from (..., tokens, states) and (..., tokens, dim)."""
    return (factors[..., None] * vectors[..., None, :]).flatten(-2)


def _solved(earlier: Tensor, right: Tensor) -> Tensor:
    """Return X of (I + earlier) X = right; what ``earlier`` has above its diagonal is ignored."""
    # Transposed, because LAPACK reads columns: it saves copies and takes half the time.
    found: Tensor = torch.linalg.solve_triangular(
        earlier.mT, right.mT, upper=True, left=False, unitriangular=True
    )
    return found.transpose(-1, -2)


def _passed(passed: Tensor, held: Tensor) -> Tensor:
    """Return the states (n, states · dim, value_dim) mixed by (n, states, states)."""
    states = passed.shape[-1]
    if states == 1:
        return passed * held
    stacked = held.unflatten(-2, (states, -1)).flatten(-2)
    mixed: Tensor = (passed @ stacked).reshape(held.shape)
    return mixed


class Chunked(NamedTuple):
    """Output, states after the last token, and states where the last block began."""

    output: Tensor
    states: tuple[Tensor, ...]
    last_start: tuple[Tensor, ...]


def _steps(
    query: Tensor | None,
    key: Tensor,
    value: Tensor,
    gates: Gates,
    size: int,
    states: int,
    frozen: bool,
) -> list[Tensor]:
    """Return what the blocks need of one another, (batch or 1, heads or 1, blocks, ...).

    That is: the changes from an empty memory and their dependence on the states before, how they
    enter the states and what of these is passed on, and, if there is a query, its read of the
    states and of the changes.
    """
    count = max(1, -(-key.shape[-2] // size))
    fill = count * size - key.shape[-2]

    def vectors(each: Tensor) -> Tensor:
        padded = F.pad(each, (0, 0, 0, fill)) if fill else each
        blocks: Tensor = padded.unflatten(-2, (count, size))
        return blocks

    def scalars(each: Tensor, neutral: float) -> Tensor:
        blocks: Tensor = F.pad(each, (0, fill), value=neutral).unflatten(-1, (count, size))
        return blocks

    key, value = vectors(key), vectors(value)
    erase, write = (scalars(each, 0.0)[..., None] for each in (gates.erase, gates.write))
    momentum = None if gates.momentum is None else scalars(gates.momentum, 1.0)
    real = scalars(torch.ones_like(gates.retain), 0.0)
    block = kernel(Gates(scalars(gates.retain, 1.0), erase, write, momentum), real)
    before = block.of_states[..., :1, :] if frozen else block.of_states[..., :-1, :]
    own, of_states = write * value, _spread(erase * before, key)
    if not frozen:
        earlier = erase * block.of_changes[..., :-1, :] * (key @ key.transpose(-1, -2))
        own, of_states = _solved(earlier, own), _solved(earlier, of_states)
    into = _spread(block.last_of_changes.transpose(-1, -2), key).transpose(-1, -2)
    steps = [own, of_states, into, block.last_of_states]
    if query is not None:
        asked = vectors(query)
        of_changes = asked @ key.transpose(-1, -2) * block.of_changes[..., 1:, :]
        steps += [_spread(block.of_states[..., 1:, :], asked), of_changes]
    return steps


def chunked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gates: Gates,
    states: tuple[Tensor, ...],
    *,
    causal: bool,
    chunk_size: int,
    frozen: bool = False,
) -> Chunked:
    """Run the recurrence in blocks, as matrix products.

    Parameters
    ----------
    query, key, value : Tensor
        (batch, heads, queries, dim), (batch, heads, tokens, dim), (batch, heads, tokens,
        value_dim); as many queries as tokens if ``causal``.
    gates : Gates
        Of all tokens.
    states : tuple of Tensor
        The memory before the first token (batch, heads, dim, value_dim) and, where the gates
        have one, the momentum.
    causal : bool
        Whether query t reads the memory after token t, or all read the last one.
    chunk_size : int
        Tokens a block.
    frozen : bool
        Whether all tokens of a block erase what the memory held at the block's start.
    """
    tokens, dim = key.shape[-2:]
    size = max(1, min(chunk_size, tokens))
    asked = query if causal else None
    steps = _steps(asked, key, value, gates, size, len(states), frozen)
    shape = value.shape[:2]
    held = start = torch.cat(states, dim=-2).flatten(0, 1)
    reads = []
    blocks = (each.expand(*shape, *each.shape[2:]).flatten(0, 1).unbind(1) for each in steps)
    for fresh, held_of, entering, passed, *read in zip(*blocks, strict=True):
        start = held
        change = torch.baddbmm(fresh, held_of, held, alpha=-1)
        if read:
            reads.append(torch.baddbmm(read[0] @ held, read[1], change))
        held = torch.baddbmm(_passed(passed, held), entering, change)
    held, start = (each.unflatten(0, shape) for each in (held, start))
    if causal:
        output = torch.cat(reads, dim=-2).unflatten(0, shape)[:, :, :tokens]
    else:
        output = query @ held[..., :dim, :]
    return Chunked(output, held.split(dim, dim=-2), start.split(dim, dim=-2))


def recurrent(
    query: Tensor, key: Tensor, value: Tensor, gates: Gates, memory: Tensor, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """Run the recurrence without momentum token by token; return output and last memory."""
    retain, erase, write = (x[..., None, None] for x in (gates.retain, gates.erase, gates.write))
    reads = []
    for token in range(key.shape[-2]):
        now = key[:, :, token, None]
        change = write[:, :, token] * value[:, :, token, None] - erase[:, :, token] * (now @ memory)
        memory = retain[:, :, token] * memory + now.transpose(-1, -2) * change
        if causal:
            reads.append(query[:, :, token, None] @ memory)
    if not causal:
        return query @ memory, memory
    empty = value.new_zeros(*value.shape[:2], 0, value.shape[-1])
    return torch.cat([empty, *reads], dim=-2), memory


def explicit(
    query: Tensor, key: Tensor, right: Tensor, gates: Gates, *, causal: bool, block: int = 1
) -> Tensor:
    """Return the read from an empty memory as one matrix product over all tokens.

    Parameters
    ----------
    query, key : Tensor
        (batch, heads, queries, dim), (batch, heads, tokens, dim)
    right : Tensor
        (batch, heads, tokens, columns): the values times their write strength, or the strengths
        on a diagonal, which gives the weights.
    gates : Gates
        Of all tokens.
    causal : bool
        Whether the last query reads the last memory, the one before it the memory before, ...
    block : int
        Every token erases what the memory held before its block of so many tokens.
    """
    queries, tokens = query.shape[-2], key.shape[-2]
    whole = kernel(gates)
    place = torch.arange(tokens, device=key.device)
    before = whole.of_changes.index_select(-2, place - place % block)
    earlier = gates.erase[..., None] * before * (key @ key.transpose(-1, -2))
    changes = _solved(earlier, right)
    asked = torch.arange(queries, device=key.device) + tokens - queries + 1
    asked = asked.clamp(min=0) if causal else torch.full_like(asked, tokens)
    after = whole.of_changes.index_select(-2, asked)
    return (query @ key.transpose(-1, -2) * after) @ changes


def diagonal(write: Tensor, key: Tensor) -> Tensor:
    """Return the write strengths on a diagonal (batch, heads, tokens, tokens)."""
    return torch.diag_embed(write.expand(*key.shape[:2], -1))


def few_tokens(request: Request) -> str:
    """Leave longer sequences to the form in blocks."""
    return f"more than {FEW} keys" if request.keys > FEW else ""


def scaled(query: Tensor, scale: float | None) -> Tensor:
    """Return the query times its scale, one by default."""
    return query if scale is None else query * scale
