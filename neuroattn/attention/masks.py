"""Masks: True where attention is allowed; causal reads are aligned to the end."""

from __future__ import annotations

import torch
from torch import Tensor


def allowed(
    queries: int, keys: int, causal: bool, mask: Tensor | None, device: torch.device
) -> Tensor | None:
    """Join a causal request and a mask into one mask, or None where everything is allowed.

    The last query sees the last key, whatever their numbers. (Torch's ``is_causal`` lets the
    first query see the first key, which differs when there are more keys than queries.)
    """
    if not causal:
        return mask
    shift = keys - queries
    lower = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(shift)
    return lower if mask is None else lower & mask


def masked_softmax(logits: Tensor, seen: Tensor | None) -> Tensor:
    """Return the softmax over the allowed entries of the last axis; zeros where none is."""
    if seen is None:
        return logits.softmax(dim=-1)
    logits = logits.masked_fill(~seen, float("-inf"))
    empty = ~seen.any(dim=-1, keepdim=True)
    return logits.masked_fill(empty, 0.0).softmax(dim=-1).masked_fill(empty, 0.0)


def written(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Return which keys are written (batch or 1, heads or 1, keys, 1), from a mask of keys.

    Parameters
    ----------
    mask : Tensor of bool or None
        (batch or 1, heads or 1, 1, keys or 1)
    like : Tensor
        The keys (batch, heads, keys, dim).
    """
    if mask is None:
        return None
    return mask.expand(-1, -1, 1, like.shape[-2]).transpose(-1, -2)
