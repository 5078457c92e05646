"""Exact softmax attention by blocks, whose memory does not grow with the product of lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from neuroattn.attention.parameters import integer
from neuroattn.attention.registry import Mechanism, Run, register
from neuroattn.attention.softmax.softmax import softmax_attention, softmax_weights


@dataclass(frozen=True)
class _Plan:
    """Which blocks there are, and what each sees."""

    queries: int
    keys: int
    causal: bool
    mask: Tensor | None
    chunk_size: int
    query_chunk_size: int

    def rows(self) -> Iterator[slice]:
        """Yield the blocks of queries."""
        for start in range(0, self.queries, self.query_chunk_size):
            yield slice(start, min(start + self.query_chunk_size, self.queries))

    def columns(self, rows: slice) -> Iterator[slice]:
        """Yield the blocks of keys that some query of ``rows`` sees."""
        stop = self.keys
        if self.causal:
            stop = min(stop, rows.stop + self.keys - self.queries)
        for start in range(0, stop, self.chunk_size):
            yield slice(start, min(start + self.chunk_size, stop))

    def logits(self, query: Tensor, key: Tensor, rows: slice, columns: slice) -> Tensor:
        """Return the logits of one block, -inf where a pair may not be read."""
        logits = query @ key[..., columns, :].transpose(-1, -2)
        shift = self.keys - self.queries
        if self.causal and columns.stop - 1 > rows.start + shift:
            last = torch.arange(rows.start, rows.stop, device=query.device) + shift
            place = torch.arange(columns.start, columns.stop, device=query.device)
            logits.masked_fill_(place > last[:, None], float("-inf"))
        if self.mask is not None:
            part = self.mask if self.mask.shape[-2] == 1 else self.mask[..., rows, :]
            part = part if part.shape[-1] == 1 else part[..., columns]
            logits.masked_fill_(~part, float("-inf"))
        return logits


class _Chunked(torch.autograd.Function):
    """Softmax attention that keeps one number a query for the backward pass."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor, scale: float, plan: _Plan
    ) -> Tensor:
        output = value.new_zeros(*query.shape[:-1], value.shape[-1])
        total = query.new_zeros(*query.shape[:-1], 1)
        for rows in plan.rows():
            read, total[..., rows, :] = _read(query[..., rows, :] * scale, key, value, rows, plan)
            output[..., rows, :] = read
        ctx.save_for_backward(query, key, value, output, total)
        ctx.scale, ctx.plan = scale, plan  # type: ignore[attr-defined]
        return output

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, total = ctx.saved_tensors
        scale, plan = ctx.scale, ctx.plan
        if torch.is_grad_enabled():
            # A second derivative is wanted, which the saved sums would cut off.
            return _differentiable((query, key, value), slope, ctx.needs_input_grad, scale, plan)
        of_query = query.new_zeros(query.shape)
        of_key, of_value = key.new_zeros(key.shape), value.new_zeros(value.shape)
        for rows in plan.rows():
            asked, passed = query[..., rows, :] * scale, slope[..., rows, :]
            # What every weight of a row loses because the weights sum to one.
            shared = (passed * output[..., rows, :]).sum(dim=-1, keepdim=True)
            for columns in plan.columns(rows):
                logits = plan.logits(asked, key, rows, columns)
                weights = logits.sub_(total[..., rows, :]).exp_()
                of_value[..., columns, :] += weights.transpose(-1, -2) @ passed
                of_logits = passed @ value[..., columns, :].transpose(-1, -2)
                of_logits.sub_(shared).mul_(weights)
                of_query[..., rows, :] += of_logits @ key[..., columns, :]
                of_key[..., columns, :] += of_logits.transpose(-1, -2) @ asked
        return of_query.mul_(scale), of_key, of_value, None, None


def _differentiable(
    inputs: tuple[Tensor, ...],
    slope: Tensor,
    needed: tuple[bool, ...],
    scale: float,
    plan: _Plan,
) -> tuple[Tensor | None, ...]:
    """Return the gradients with a graph of their own, by the softmax as a whole."""
    read = softmax_attention(*inputs, causal=plan.causal, mask=plan.mask, scale=scale)
    leaves = [each for each, wanted in zip(inputs, needed, strict=False) if wanted]
    found = iter(torch.autograd.grad(read, leaves, slope, create_graph=True))
    return *(next(found) if wanted else None for wanted in needed[:3]), None, None


def _read(
    asked: Tensor, key: Tensor, value: Tensor, rows: slice, plan: _Plan
) -> tuple[Tensor, Tensor]:
    """Return the read of a block of scaled queries, and their log-sum-exp (0 for empty rows)."""
    peak = asked.new_full((*asked.shape[:-1], 1), float("-inf"))
    weight = asked.new_zeros(peak.shape)
    read = value.new_zeros(*asked.shape[:-1], value.shape[-1])
    for columns in plan.columns(rows):
        logits = plan.logits(asked, key, rows, columns)
        higher = torch.maximum(peak, logits.amax(dim=-1, keepdim=True))
        # Rows that have seen nothing yet stay at zero instead of -inf less -inf.
        reached = higher.masked_fill(higher == float("-inf"), 0.0)
        kept = (peak - reached).exp_()
        powers = logits.sub_(reached).exp_()
        weight = weight * kept + powers.sum(dim=-1, keepdim=True)
        read = read.mul_(kept) + powers @ value[..., columns, :]
        peak = higher
    empty = weight == 0
    total = (peak + weight.log()).masked_fill_(empty, 0.0)
    return read / weight.masked_fill_(empty, 1.0), total


def chunked_softmax(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    chunk_size: int = 512,
    query_chunk_size: int = 512,
) -> Tensor:
    """Return softmax attention, never more than one block of logits at a time.

    Each block of queries meets the keys block by block with the running maximum m of its logits,
    Σ e^(s - m) and Σ e^(s - m) v, rescaled when m rises. The backward pass computes the blocks
    again from the log-sum-exp; only a second derivative takes the softmax as a whole. Blocks that
    a causal read hides are left out.

    Parameters
    ----------
    query, key, value, causal, mask, scale
        As in :func:`neuroattn.attention.attend`.
    chunk_size, query_chunk_size : int
        Keys and queries of a block.

    References
    ----------
    Rabe & Staats (2021), Self-attention does not need O(n²) memory; arXiv 2112.05682. The backward
    pass is that of Dao et al. (2022), FlashAttention, appendix B.2; arXiv 2205.14135.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    sizes = (query.shape[-2], key.shape[-2])
    plan = _Plan(*sizes, causal, mask, chunk_size, query_chunk_size)
    read: Tensor = _Chunked.apply(query, key, value, scale, plan)  # type: ignore[no-untyped-call]
    return read


def _whole(*tensors: Tensor, chunk_size: int, query_chunk_size: int, **given: Any) -> Tensor:
    return softmax_attention(*tensors, **given)


def _weights(*tensors: Tensor, chunk_size: int, query_chunk_size: int, **given: Any) -> Tensor:
    return softmax_weights(*tensors, **given)


register(
    Mechanism(
        name="memory_efficient",
        family="softmax",
        paper="Rabe & Staats (2021), Self-attention does not need O(n²) memory, section 2; "
        "arXiv 2112.05682",
        summary="Softmax attention, exact, block by block, in memory linear in the length.",
        formula=r"y_i = \frac{\sum_c e^{m_{ic} - m_i} \sum_{j \in c} "
        r"e^{s\,q_i \cdot k_j - m_{ic}} v_j}{\sum_c e^{m_{ic} - m_i} \sum_{j \in c} "
        r"e^{s\,q_i \cdot k_j - m_{ic}}}, \quad m_{ic} = \max_{j \in c} s\,q_i \cdot k_j, "
        r"\quad m_i = \max_c m_{ic}",
        runs=(
            Run("chunked", "reference", chunked_softmax),
            Run("parallel", "reference", _whole),
        ),
        weights=_weights,
        parameters={
            "chunk_size": integer("keys in a block", 512, 1),
            "query_chunk_size": integer("queries in a block", 512, 1),
        },
        cost="time O(m n d), memory O((m + n) d + chunk_size · query_chunk_size), "
        "forward and backward",
        laws={
            "test_chunks_of_any_size_give_the_softmax": (
                "Equals softmax attention whatever the blocks; broken by a running sum that is "
                "not rescaled when the maximum rises."
            ),
            "test_logits_of_a_thousand_are_exact": (
                "Exact at logits of ±1000; broken by exponentials without the maximum."
            ),
            "test_peak_memory_grows_no_faster_than_the_length": (
                "Peak memory of both passes has a log-log slope of at most 1.1; broken by blocks "
                "that autograd keeps."
            ),
            "test_causal_blocks_that_nobody_sees_are_left_out": (
                "A causal read computes about half of the blocks; broken by masking them instead."
            ),
        },
        symbols={"q, k, v": "query, key, value", "s*": "Σ e^(s - m)", "v*": "Σ e^(s - m) v"},
    )
)
