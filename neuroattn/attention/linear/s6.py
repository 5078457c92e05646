"""The diagonal selective state space of Mamba: a decay for every entry of the memory."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from neuroattn.attention.learned import Learned
from neuroattn.attention.linear import decayed
from neuroattn.attention.linear.accumulate import started
from neuroattn.attention.linear.ssd import STEPS, softplus_inverse, spread
from neuroattn.attention.masks import written
from neuroattn.attention.parameters import integer, number
from neuroattn.attention.registry import Mechanism, Run, State, register


def _full(given: Any, like: Tensor, *shape: int) -> Tensor:
    """Return a number or a tensor in the dtype of ``like``, with all sizes."""
    if not isinstance(given, Tensor):
        given = torch.full((1,) * len(shape), float(given), dtype=like.dtype, device=like.device)
    found: Tensor = given.to(like.dtype).expand(shape)
    return found


def _inputs(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float | None,
    state: State | None,
    step: Any,
    rate: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return query, key, gated value, steps, rates and memory."""
    batch, heads, keys, dim = key.shape
    width = value.shape[-1]
    steps = _full(step, value, batch, heads, keys, width)
    rates = _full(rate, value, heads, dim, width)
    key, value = decayed.hidden(written(mask, key), key, value)
    (memory,) = started(state, value, {"memory": (dim, width)})
    query = query if scale is None else query * scale
    return query, key, steps * value, steps, rates, memory


def s6_recurrent(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    scale: float | None,
    initial_state: State | None,
    step: Any,
    rate: Any,
    chunk_size: int,
) -> tuple[Tensor, State]:
    """Read token by token."""
    query, key, gated, steps, rates, memory = _inputs(
        query, key, value, mask, scale, initial_state, step, rate
    )
    rows = []
    for token in range(key.shape[2]):
        kept = (-steps[:, :, token, None] * rates).exp()
        memory = kept * memory + key[:, :, token, :, None] * gated[:, :, token, None]
        if causal:
            rows.append(query[:, :, token : token + 1] @ memory)
    if not causal:
        return query @ memory, {"memory": memory}
    read = torch.cat(rows, dim=2) if rows else decayed.empty_read(query, value)
    return read, {"memory": memory}


def s6_chunked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    scale: float | None,
    initial_state: State | None,
    step: Any,
    rate: Any,
    chunk_size: int,
) -> tuple[Tensor, State]:
    """Read in blocks of tokens, whose memories are found by doubling.

    The memories of one block are held at a time, also on the way back, where they are computed
    once more.
    """
    query, key, gated, steps, rates, memory = _inputs(
        query, key, value, mask, scale, initial_state, step, rate
    )
    reads = []
    for start in range(0, key.shape[2], chunk_size):
        here = slice(start, start + chunk_size)
        asked = query[:, :, here] if causal else query[:, :, :0]
        tensors = asked, key[:, :, here], gated[:, :, here], steps[:, :, here], rates, memory
        read, memory = checkpoint(_block, *tensors, use_reentrant=False, preserve_rng_state=False)
        reads.append(read)
    if not causal:
        return query @ memory, {"memory": memory}
    read = torch.cat(reads, dim=2) if reads else decayed.empty_read(query, value)
    return read, {"memory": memory}


def _block(
    query: Tensor, key: Tensor, gated: Tensor, steps: Tensor, rates: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """Read one block: combine each token with the 1, 2, 4, … tokens before it."""
    kept = (-steps[:, :, :, None] * rates[:, None]).exp()
    states = key[..., None] * gated[:, :, :, None]
    reach = 1
    while reach < key.shape[2]:
        earlier = F.pad(states[:, :, :-reach], (0, 0, 0, 0, reach, 0))
        states = states + kept * earlier
        kept = kept * F.pad(kept[:, :, :-reach], (0, 0, 0, 0, reach, 0), value=1.0)
        reach *= 2
    states = states + kept * memory[:, :, None]
    read = torch.einsum("bhtd,bhtdv->bhtv", query, states[:, :, : query.shape[2]])
    return read, states[:, :, -1]


class SelectiveChannels(Learned):
    """Steps Δ_t = softplus(up(down(token))) a value channel, and rates A a memory entry.

    Parameters
    ----------
    dim : int
        Width of queries and output.
    heads : int
        Number of heads.
    token_dim : int
        Channels of the tokens.
    rank : int
        Channels between ``down`` and ``up``; 0 stands for a sixteenth of ``token_dim``, rounded
        up. Rates begin as 1, 2, … over the key channels.

    References
    ----------
    Gu & Dao (2023), Mamba: linear-time sequence modeling with selective state spaces, section
    3.6; arXiv 2312.00752. Gu et al. (2022), On the parameterization and initialization of
    diagonal state space models, S4D-Real; arXiv 2206.11893.
    """

    def __init__(self, dim: int, heads: int, token_dim: int, rank: int = 0) -> None:
        super().__init__()
        self.heads, width = heads, dim // heads
        rank = rank or math.ceil(token_dim / 16)
        self.down = nn.Linear(token_dim, rank, bias=False)
        self.up = nn.Linear(rank, dim)
        with torch.no_grad():
            self.up.bias.copy_(softplus_inverse(spread(*STEPS, dim)))
        first = torch.arange(1, width + 1, dtype=torch.float32)
        self.log_rate = nn.Parameter(first.log()[:, None].repeat(heads, 1, width))

    def of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return ``step`` (batch, heads, tokens, value_dim), ``rate`` (heads, dim, value_dim)."""
        step = F.softplus(self.up(self.down(tokens)))
        split = step.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return {"step": split, "rate": self.log_rate.exp()}


register(
    Mechanism(
        name="s6",
        family="linear",
        paper="Gu & Dao (2023), Mamba: linear-time sequence modeling with selective state spaces, "
        "algorithm 2; arXiv 2312.00752",
        summary="A state space whose every memory entry decays at a rate of its own, by a step "
        "that each token sets for each value channel; without the skip D u.",
        formula=r"M_t = e^{-\Delta_t A} \circ M_{t-1} + k_t (\Delta_t \circ v_t)^\top, \quad "
        r"y_t = s\, M_t^\top q_t",
        runs=(
            Run("recurrent", "reference", s6_recurrent, stateful=True, avoids=decayed.several),
            Run("chunked", "reference", s6_chunked, stateful=True),
        ),
        parameters={
            "step": number(
                "how far each token moves each value channel: its decay and its input gate",
                1.0,
                0,
                axes=(("batch", "heads", "keys", "value_dim"),),
            ),
            "rate": number(
                "how fast each memory entry decays a unit of step",
                1.0,
                0,
                axes=(("heads", "dim", "value_dim"),),
            ),
            "chunk_size": integer("tokens whose memories are held at a time", 64, 1),
        },
        mask="keys",
        scale="1",
        cost="time O(n d² log chunk_size), memory O(chunk_size d²) and n/chunk_size states of d²",
        laws={
            "test_every_form_equals_loops_over_entries": (
                "Entry (d, v) decays by exp(−Δ_v A_dv); broken by a step of the key channel."
            ),
            "test_one_step_and_one_rate_a_head_are_ssd": (
                "Equal Δ and A give `ssd` with α = e^(−ΔA), β = Δ; broken by a write without Δ."
            ),
            "test_a_softplus_step_decays_by_a_reversed_sigmoid": (
                "exp(−a softplus(x)) = σ(−x)^a; broken by σ(x)^a."
            ),
        },
        symbols={
            "C, B, u": "query, key, value",
            "Δ": "step",
            "−A": "rate",
            "h": "memory (dim, value_dim)",
            "N": "dim",
        },
        module=SelectiveChannels,
        options={
            "rank": integer("channels on the way to the steps; 0: a sixteenth of the tokens'", 0, 0)
        },
    )
)
