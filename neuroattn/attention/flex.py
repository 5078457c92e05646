"""Softmax over scores and masks that are written as functions, by torch's FlexAttention.

On CUDA the functions are compiled into one fused kernel, and blocks of keys that no query sees are
skipped. On the CPU they run unfused and forward only, which is enough to test them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neuroattn.errors import InputError

#: ``score(score, image, head, query, key)`` to the score of one pair, after the scale.
Score = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
#: ``visible(image, head, query, key)`` to whether one pair may be read.
Visible = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

#: Kernels that torch may build for one process; its own limit of 8 is fewer than our mechanisms.
KERNELS_AT_MOST = 128
#: Smallest width of a head that the CUDA kernels take.
LEAST_WIDTH = 16


def flex_read(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    score: Score | None = None,
    visible: Visible | None = None,
    shared: bool = False,
) -> Tensor:
    """Read with the softmax over the scores of the visible pairs; a row without any gives zeros.

    Parameters
    ----------
    query, key, value : Tensor
        (batch, heads, queries, dim), (batch, heads, keys, dim), (batch, heads, keys, value_dim).
    causal : bool
        Whether the last query sees the last key, and those before it one key fewer each.
    mask : Tensor of bool, optional
        (batch or 1, heads or 1, queries or 1, keys or 1), True where attention is allowed.
    scale : float, optional
        Factor on the products, 1/sqrt(dim) by default.
    score : callable, optional
        From a scaled product and its indices, tensors without dimensions, to the logit; -inf hides
        the pair. Tensors that it closes over are read by index, see :func:`entry`.
    visible : callable, optional
        From the indices to whether the pair may be read, joined with ``causal`` and ``mask``.
    shared : bool
        Promises that ``visible`` is the same for all images and heads, so that its blocks are
        found once.

    Returns
    -------
    Tensor
        (batch, heads, queries, value_dim), dtype of the query.

    Raises
    ------
    InputError
        If a gradient is asked for on the CPU.

    References
    ----------
    Dong et al. (2024), Flex Attention: a programming model for generating optimized attention
    kernels; arXiv 2412.05496.
    """
    joined = _joined(causal, mask, visible, key.shape[-2] - query.shape[-2])
    apart = visible is not None and not shared
    images, heads = query.shape[:2] if apart else (1, 1) if mask is None else mask.shape[:2]
    ways: dict[str, Any] = {"score_mod": score}
    ways["scale"] = query.shape[-1] ** -0.5 if scale is None else scale
    if query.device.type == "cuda":
        sizes = (images, heads, query.shape[-2], key.shape[-2])
        return _fused(query, key, value, joined, sizes, ways)
    if torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value)):
        raise InputError(
            f"backend='flex' has no backward pass on {query.device.type!r}; detach query, key and "
            "value, call it under torch.no_grad(), or take backend='reference'."
        )
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if joined is not None:
        sizes = (images, heads, query.shape[-2], key.shape[-2])
        ways["block_mask"] = create_block_mask(joined, *sizes, device=query.device)
    with warnings.catch_warnings():
        # It recommends compiling, which takes longer here than a test that reads once.
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        read: Tensor = flex_attention(query.detach(), key.detach(), value.detach(), **ways)
    return read


def entry(tensor: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return the function from indices to a number of ``tensor``, whose axes may have size 1.

    Parameters
    ----------
    tensor : Tensor
        (batch or 1, heads or 1, queries or 1, keys or 1)
    """
    sizes = tuple(tensor.shape)

    def at(image: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        indices = (image, head, query, key)
        # An axis of size 1 is not expanded: its gradient would be as large as all pairs.
        return tensor[tuple(i if n > 1 else i * 0 for i, n in zip(indices, sizes, strict=True))]

    return at


def _joined(
    causal: bool, mask: Tensor | None, visible: Visible | None, shift: int
) -> Visible | None:
    """Return what is visible after all, or None if everything is."""
    parts: list[Visible] = []
    if causal:
        parts.append(lambda image, head, query, key: key <= query + shift)
    if mask is not None:
        parts.append(entry(mask))
    if visible is not None:
        parts.append(visible)
    if not parts:
        return None

    def joined(image: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = parts[0](image, head, query, key)
        for part in parts[1:]:
            seen = seen & part(image, head, query, key)
        return seen

    return joined


@cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    return torch.compile(flex_attention), torch.compile(create_block_mask)


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    joined: Visible | None,
    sizes: tuple[int, int, int, int],
    ways: dict[str, Any],
) -> Tensor:
    import torch._dynamo.config as settings

    read, blocks = _compiled()
    width = value.shape[-1]
    query, key, value = (
        F.pad(each, (0, max(0, LEAST_WIDTH - each.shape[-1]))) for each in (query, key, value)
    )
    with settings.patch(recompile_limit=KERNELS_AT_MOST):
        if joined is not None:
            ways = {**ways, "block_mask": blocks(joined, *sizes, device=query.device)}
        output: Tensor = read(query, key, value, **ways)
    return output[..., :width]
