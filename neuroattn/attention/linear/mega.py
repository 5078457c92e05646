"""Mega: queries and keys from a damped moving average of the tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from math import nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroattn.attention.learned import Learned
from neuroattn.attention.linear.ema import Average, by_convolution, by_recurrence
from neuroattn.attention.masks import allowed, masked_softmax, written
from neuroattn.attention.parameters import choice, integer, switch, tensor
from neuroattn.attention.registry import Mechanism, Request, Run, register
from neuroattn.errors import InputError

#: Where the laplace function meets relu² in value and slope: its mean and its spread.
MEET, SPREAD = math.sqrt(0.5), math.sqrt(0.25 / math.pi)

#: The named tensors of :class:`Average`.
AVERAGE = ("gain", "damping", "spread", "readout")


def laplace(logits: Tensor) -> Tensor:
    """Return a bounded stand-in for relu², equal to it in value and slope at sqrt(1/2).

    References
    ----------
    Ma et al. (2022), equation 16; arXiv 2209.10655.
    """
    return 0.5 * (1 + torch.erf((logits - MEET) / (SPREAD * math.sqrt(2))))


def matching(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    scale: float | None,
    function: str,
    bias: Tensor | None = None,
) -> Tensor:
    """Return the weights (batch, heads, queries, keys) of one block of queries and keys.

    Parameters
    ----------
    query, key : Tensor
        What is compared, after the average.
    causal, mask, scale
        As in :func:`neuroattn.attention.attend`.
    function : {"softmax", "laplace", "relu2"}
        From logits to weights; all but softmax divide the logits by the number of keys seen.
    bias : Tensor, optional
        Added to the logits.
    """
    seen = allowed(query.shape[-2], key.shape[-2], causal, mask, query.device)
    if function == "softmax":
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        logits = (query * scale) @ key.transpose(-1, -2)
        return masked_softmax(logits if bias is None else logits + bias, seen)
    logits = (query if scale is None else query * scale) @ key.transpose(-1, -2)
    if seen is None:
        logits = logits / key.shape[-2]
    else:
        count = seen.expand(*seen.shape[:-1], key.shape[-2]).sum(-1, keepdim=True)
        logits = logits / count.clamp(min=1)
    logits = logits if bias is None else logits + bias
    found = laplace(logits) if function == "laplace" else logits.relu().square()
    return found if seen is None else found.masked_fill(~seen, 0.0)


def compared(
    query: Tensor,
    key: Tensor,
    *,
    mask: Tensor | None,
    averages: Callable[..., Tensor],
    smooth_queries: bool,
    bidirectional: bool,
    named: dict[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Return the queries and keys that are compared, (batch, heads, tokens, shared)."""
    average = Average(*(named[name] for name in AVERAGE))
    hidden = average.gain.shape[-1]
    if bidirectional and hidden % 2:
        raise InputError(
            f"mega's bidirectional needs an even number of hidden units; gain has {hidden}."
        )

    def smooth(tokens: Tensor, kept: Tensor | None) -> Tensor:
        written_tokens = tokens if kept is None else tokens.masked_fill(~kept, 0.0)
        ends = (0, hidden // 2, hidden) if bidirectional else (0, hidden)
        moved = named["skip"][:, None] * tokens
        for number, (first, last) in enumerate(pairwise(ends)):
            part = average.part(first, last)
            moved = moved + averages(written_tokens, part, backward=number == 1)
        return F.silu(moved)

    def shared(tokens: Tensor) -> Tensor:
        return F.silu(
            tokens @ named["shared_weight"].transpose(-1, -2) + named["shared_bias"][:, None]
        )

    kept = written(mask, key)
    if smooth_queries:
        query = smooth(query, kept if query.shape[-2] == key.shape[-2] else None)
    query = shared(query) * named["query_scale"][:, None] + named["query_shift"][:, None]
    key = shared(smooth(key, kept)) * named["key_scale"][:, None] + named["key_shift"][:, None]
    return query, key


def _blocks(queries: int, keys: int, length: int | None) -> Iterator[tuple[slice, slice]]:
    """Yield the queries and the keys of each block; query i is token i + keys - queries."""
    if length is None:
        yield slice(0, queries), slice(0, keys)
        return
    early = queries - keys
    for start in range(0, keys, length):
        stop = min(start + length, keys)
        if stop + early > 0:
            yield slice(max(0, start + early), stop + early), slice(start, stop)


def _part(each: Tensor | None, rows: slice, columns: slice) -> Tensor | None:
    if each is None:
        return None
    each = each if each.shape[-2] == 1 else each[..., rows, :]
    return each if each.shape[-1] == 1 else each[..., columns]


def _weighed(
    query: Tensor,
    key: Tensor,
    averages: Callable[..., Tensor],
    *,
    causal: bool,
    mask: Tensor | None,
    scale: float | None,
    function: str,
    bias: Tensor | None,
    block: int | None,
    smooth_queries: bool,
    bidirectional: bool,
    **named: Tensor,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the queries, the keys and the weights of each block."""
    query, key = compared(
        query,
        key,
        mask=mask,
        averages=averages,
        smooth_queries=smooth_queries,
        bidirectional=bidirectional,
        named=named,
    )
    for rows, columns in _blocks(query.shape[2], key.shape[2], block):
        yield (
            rows,
            columns,
            matching(
                query[:, :, rows],
                key[:, :, columns],
                causal=causal,
                mask=_part(mask, rows, columns),
                scale=scale,
                function=function,
                bias=_part(bias, rows, columns),
            ),
        )


def mega_weights(query: Tensor, key: Tensor, **given: Any) -> Tensor:
    """Return the explicit weights (batch, heads, queries, keys).

    Parameters
    ----------
    query, key : Tensor
        The tokens themselves, (batch, heads, queries, dim) and (batch, heads, keys, dim).
    **given
        As in :func:`neuroattn.attention.attend`, all parameters of ``mega``.
    """
    whole = query.new_zeros(*query.shape[:3], key.shape[2])
    for rows, columns, found in _weighed(query, key, by_convolution, **given):
        whole[:, :, rows, columns] = found
    return whole


def _reading(averages: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Tensor:
        parts: list[Tensor] = []
        for rows, columns, found in _weighed(query, key, averages, **given):
            if not parts:  # queries before the first block see nothing
                parts.append(value.new_zeros(*value.shape[:2], rows.start, value.shape[-1]))
            parts.append(found @ value[:, :, columns])
        if not parts:
            return value.new_zeros(*query.shape[:3], value.shape[-1])
        return torch.cat(parts, dim=2)

    return run


def _refuses(request: Request) -> str:
    if request.parameters["bidirectional"] and request.causal:
        return "an average that also runs backward is not causal; set bidirectional=False"
    return ""


class Mega(Learned):
    """What Mega learns of one block: the average, the shared projection, its two readings.

    Parameters
    ----------
    dim, heads, token_dim : int
        As in :class:`neuroattn.attention.MultiheadAttention`.
    hidden : int
        Hidden units of a channel's average; twice as many with ``bidirectional``.
    shared : int, optional
        Width of the shared projection; that of a head by default.
    bidirectional : bool
        Whether half of the hidden units run backward.

    References
    ----------
    Ma et al. (2022), section 3 and the initialisation of their code; arXiv 2209.10655.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        token_dim: int,
        hidden: int = 16,
        shared: int | None = None,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        width = dim // heads
        shared = width if shared is None else shared
        directions = 2 if bidirectional else 1
        size = (heads, width, directions * hidden)
        # Signs alternate between the hidden units, which starts steadier.
        signs = 1.0 - 2.0 * (torch.arange(hidden) % 2)
        self.gain = nn.Parameter(0.2 * torch.randn(size))
        self.damping = nn.Parameter(0.2 * torch.randn(size))
        self.spread = nn.Parameter(signs.repeat(directions) + 0.02 * torch.randn(size))
        self.readout = nn.Parameter(torch.randn(size))
        self.readout_scale = hidden**-0.5
        self.skip = nn.Parameter(torch.randn(heads, width))
        self.shared_weight = nn.Parameter(0.02 * torch.randn(heads, shared, width))
        self.shared_bias = nn.Parameter(torch.zeros(heads, shared))
        self.query_scale = nn.Parameter(0.02 * torch.randn(heads, shared))
        self.key_scale = nn.Parameter(0.02 * torch.randn(heads, shared))
        self.query_shift = nn.Parameter(torch.zeros(heads, shared))
        self.key_shift = nn.Parameter(torch.zeros(heads, shared))

    def of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return the named tensors; they are the same for all tokens."""
        named: dict[str, Tensor] = dict(self.named_parameters())
        named["gain"] = self.gain.sigmoid()
        named["damping"] = self.damping.sigmoid()
        named["readout"] = self.readout_scale * self.readout
        return named


_CHANNELS = ("heads", "dim", "hidden")
_SHARED = ("heads", "shared")

register(
    Mechanism(
        name="mega",
        family="linear",
        paper="Ma et al. (2022), Mega: moving average equipped gated attention, equations 5 to 16; "
        "arXiv 2209.10655",
        summary="Queries and keys are two readings of one projection of the tokens' damped moving "
        "average. It takes the tokens themselves as queries and keys; SiLU on the values, reset "
        "and update gates, residual and norm are left to the layer.",
        formula=r"h_t = \alpha \odot \beta x_t + (1 - \alpha \odot \delta) \odot h_{t-1},\quad "
        r"z_t = \operatorname{silu}(W \operatorname{silu}(\eta^\top h_t + \omega \odot x_t) + b),"
        r"\quad y_i = \sum_j f\left((\kappa_q \odot z_i + \mu_q) \cdot (\kappa_k \odot z_j + \mu_k)"
        r"\right) v_j",
        runs=(
            Run("parallel", "reference", _reading(by_convolution), refuses=_refuses),
            Run("recurrent", "reference", _reading(by_recurrence), refuses=_refuses, order=nan),
        ),
        weights=mega_weights,
        parameters={
            "gain": tensor("α, how much of a token is taken in", _CHANNELS, low=0, high=1),
            "damping": tensor("δ, the share of it that is forgotten", _CHANNELS, low=0, high=1),
            "spread": tensor("β, from a channel to its hidden units", _CHANNELS),
            "readout": tensor("η, from the hidden units back", _CHANNELS),
            "skip": tensor("ω, of the token beside its average", ("heads", "dim")),
            "shared_weight": tensor("W of the shared projection", ("heads", "shared", "dim")),
            "shared_bias": tensor("its bias", _SHARED),
            "query_scale": tensor("κ of queries", _SHARED),
            "query_shift": tensor("μ of queries", _SHARED),
            "key_scale": tensor("κ of keys", _SHARED),
            "key_shift": tensor("μ of keys", _SHARED),
            "function": choice(
                "from logits to weights; laplace and relu2 divide logits by the keys seen",
                "softmax",
                "laplace",
                "relu2",
            ),
            "bias": tensor(
                "added to the logits", ("batch", "heads", "queries", "keys"), optional=True
            ),
            "smooth_queries": switch(
                "whether queries are tokens of a sequence, to be averaged as keys are; with as "
                "many queries as keys a hidden token enters neither average",
                True,
            ),
            "bidirectional": switch(
                "whether the last half of the hidden units runs from the end; not causal", False
            ),
            "block": integer(
                "attend within blocks of so many tokens only (Mega-chunk), query i being token "
                "i + keys - queries; nothing for all keys",
                None,
                1,
                optional=True,
            ),
        },
        queries_apart=False,
        mask="keys",
        scale="1/sqrt(shared) for softmax; else 1, and logits are divided by the keys seen",
        cost="time O(n log n d + m n d), memory O(m n + n d hidden); with block c time O(n c d)",
        laws={
            "test_convolution_equals_the_recurrence": (
                "Both forms of the average agree; broken by a kernel that starts at lag 1, or by "
                "a transform that wraps around."
            ),
            "test_a_constant_is_amplified_by_one_over_the_damping": (
                "Gain at frequency 0 is 1/δ; broken by (1 - α) δ in place of 1 - α δ."
            ),
            "test_laplace_meets_relu_squared_in_value_and_slope": (
                "At sqrt(1/2) laplace is 1/2 with slope sqrt(2); broken by its standard "
                "deviation taken for its variance."
            ),
            "test_blocks_are_attention_inside_each_block": (
                "Mega-chunk is attention on the blocks apart after one average over all; broken "
                "by an average that restarts."
            ),
            "test_outputs_equal_a_loop_over_tokens": (
                "Equals the equations token by token; broken by values that are averaged too."
            ),
        },
        symbols={
            "α": "gain",
            "δ": "damping",
            "β": "spread",
            "η (γ in the code)": "readout",
            "ω": "skip",
            "κ, μ (γ, β of the code)": "query_scale, query_shift, key_scale, key_shift",
            "h": "hidden",
            "c": "block",
        },
        module=Mega,
        options={
            "hidden": integer("hidden units of a channel's average", 16, 1),
            "shared": integer(
                "width of the shared projection; a head's if nothing", None, 1, optional=True
            ),
            "bidirectional": switch("whether half of the hidden units run backward", False),
        },
        projections=("value", "output"),
    )
)
