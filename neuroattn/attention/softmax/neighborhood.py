"""Neighborhood attention: every query sees a window of the keys around it, on a grid."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from neuroattn.attention.flex import flex_read
from neuroattn.attention.masks import masked_softmax
from neuroattn.attention.parameters import integer
from neuroattn.attention.registry import Mechanism, Request, Run, register
from neuroattn.attention.softmax.softmax import fused_softmax, softmax_attention, softmax_weights
from neuroattn.attention.softmax.windows import Axis, axes_of, keys_of, seen_by


def neighborhood_weights(
    query: Tensor,
    key: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    **windows: Any,
) -> Tensor:
    """Return the softmax over each query's window (batch, heads, queries, keys).

    Parameters
    ----------
    query, key, causal, mask, scale
        As in :func:`neuroattn.attention.attend`.
    **windows
        ``grid``, ``window``, ``dilation``, ``stride`` and ``causal_axes``, see
        :func:`neuroattn.attention.softmax.windows.axes_of`.

    References
    ----------
    Hassani et al. (2023), Neighborhood attention transformer, equations 2-4.
    """
    joined = _joined(query, causal, mask, windows)
    return softmax_weights(query, key, mask=joined, scale=scale)


def neighborhood_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    **windows: Any,
) -> Tensor:
    """Read the values with :func:`neighborhood_weights`."""
    joined = _joined(query, causal, mask, windows)
    return softmax_attention(query, key, value, mask=joined, scale=scale)


def fused_neighborhood(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    **windows: Any,
) -> Tensor:
    """Do what :func:`neighborhood_attention` does through ``scaled_dot_product_attention``."""
    joined = _joined(query, causal, mask, windows)
    return fused_softmax(query, key, value, mask=joined, scale=scale)


def gathered_neighborhood(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    **windows: Any,
) -> Tensor:
    """Do what :func:`neighborhood_attention` does, on each query's own keys only."""
    tokens = query.shape[-2]
    index, real = keys_of(_axes(tokens, causal, windows), query.device)
    if mask is not None:
        rows = torch.arange(tokens, device=query.device)[:, None]
        real = real & mask.expand(-1, -1, tokens, tokens)[:, :, rows, index]
    near = [x.index_select(2, index.flatten()).unflatten(2, index.shape) for x in (key, value)]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (near[0] @ (query * scale)[..., None])[..., 0]
    shares = masked_softmax(logits, real)
    read: Tensor = (shares[..., None, :] @ near[1])[..., 0, :]
    return read


def flex_neighborhood(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    **windows: Any,
) -> Tensor:
    """Do what :func:`neighborhood_attention` does through FlexAttention, tile by tile."""
    axes = _axes(query.shape[-2], causal, windows)
    bounds = [axis.bounds(query.device) for axis in axes]

    def visible(image: Tensor, head: Tensor, asked: Tensor, kept: Tensor) -> Tensor:
        near = asked == asked
        for axis, (residue, first, last) in zip(reversed(axes), reversed(bounds), strict=True):
            row, column = asked % axis.extent, kept % axis.extent
            asked, kept = asked // axis.extent, kept // axis.extent
            place = column // axis.dilation
            near = near & (residue[row] == residue[column])
            near = near & (first[row] <= place) & (place <= last[row])
        return near

    ways: dict[str, Any] = {"causal": False, "mask": mask, "scale": scale, "shared": True}
    return flex_read(query, key, value, visible=visible, **ways)


def _axes(tokens: int, causal: bool, windows: dict[str, Any]) -> tuple[Axis, ...]:
    return axes_of(tokens, causal, **windows)


def _joined(query: Tensor, causal: bool, mask: Tensor | None, windows: dict[str, Any]) -> Tensor:
    seen = seen_by(_axes(query.shape[-2], causal, windows), query.device)
    return seen[None, None] if mask is None else seen & mask


def _sparse(request: Request) -> str:
    """Tell why all pairs are too many: most of them are outside the windows."""
    windows = {name: request.parameters[name] for name in _PARAMETERS}
    size = math.prod(axis.window for axis in _axes(request.keys, request.causal, windows))
    if request.keys < 1024 or 8 * size > request.keys:
        return ""
    return f"windows hold {size} of {request.keys} keys"


def _on_cpu(request: Request) -> str:
    return "" if request.device == "cuda" else "it is fused on CUDA only"


_PARAMETERS = {
    "grid": integer(
        "tokens along each of one to three axes, in row-major order; one axis by default",
        None,
        1,
        several=True,
        optional=True,
    ),
    "window": integer("keys that a query sees, along each axis", 7, 1, several=True),
    "dilation": integer("step between the keys of a window, along each axis", 1, 1, several=True),
    "stride": integer("queries that share the window of one of them", 1, 1, several=True),
    "causal_axes": integer(
        "with causal, the axes along which a query sees nothing after itself; all by default",
        None,
        0,
        2,
        several=True,
        optional=True,
    ),
}

register(
    Mechanism(
        name="neighborhood",
        family="softmax",
        paper="Hassani, Walton, Li, Li & Shi (2023), Neighborhood attention transformer, "
        "equations 2-4, arXiv 2204.07143; Hassani & Shi (2022), Dilated neighborhood attention, "
        "arXiv 2209.15001; Hassani et al. (2025), Generalized neighborhood attention, "
        "arXiv 2504.16922 (stride)",
        summary="Softmax attention within a window around each query, on a grid of one to three "
        "axes.",
        formula=r"y_i = \sum_{j \in N(i)} \frac{e^{s\,q_i \cdot k_j}}"
        r"{\sum_{l \in N(i)} e^{s\,q_i \cdot k_l}} v_j, \quad N(i) = \prod_a \{c + \delta_a t : "
        r"f_a(i) \leq t < f_a(i) + w_a\},\; f_a = \mathrm{clamp}(\mathrm{leader}_a(i) - "
        r"\lfloor w_a / 2 \rfloor, 0, n_a - w_a)",
        runs=(
            Run("parallel", "sdpa", fused_neighborhood, half=True, avoids=_sparse),
            Run("parallel", "reference", neighborhood_attention, avoids=_sparse),
            Run("parallel", "flex", flex_neighborhood, half=True, avoids=_on_cpu, order=1.0),
            Run("chunked", "reference", gathered_neighborhood, order=1.0),
        ),
        weights=neighborhood_weights,
        parameters=_PARAMETERS,
        cross=False,
        cost="w keys in a window: gathered, time and memory O(n w d); flex, time O(n w d) and "
        "memory O(n); parallel, O(n² d) and O(n²)",
        laws={
            "test_a_window_of_the_whole_grid_is_softmax": (
                "w = n is softmax attention; broken by a window that is cut at the edges."
            ),
            "test_a_stride_of_the_window_is_block_diagonal": (
                "s = w attends within blocks of w; broken by a leader that is a group's first."
            ),
            "test_every_query_sees_exactly_w_keys": (
                "Each row has w keys, edges included; broken by padding instead of clamping."
            ),
            "test_causal_rows_count_up_to_the_window": (
                "Rows of a causal axis see 1, 2, ..., w, w, ... keys; broken by a window that is "
                "clamped to the start."
            ),
            "test_dilation_is_separate_attention_in_each_residue_class": (
                "Dilation d is d separate attentions; broken by clamping before the split."
            ),
            "test_grids_equal_loops_over_tokens": (
                "A grid's window is the product of its axes' windows; broken by swapped axes."
            ),
        },
        symbols={
            "kernel size": "window",
            "ρ_j(i)": "the j-th key of window i",
            "is_causal": "causal and causal_axes",
        },
    )
)
