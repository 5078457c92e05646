"""Windows on a grid: which keys a query of neighborhood attention sees, axis by axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuroattn.errors import InputError


@dataclass(frozen=True)
class Axis:
    """The window along one axis of a grid.

    Attributes
    ----------
    extent : int
        Tokens along the axis.
    window, dilation, stride : int
        Keys in a window, the step between them, and the queries that share one window.
    causal : bool
        Whether a query sees nothing after itself.
    """

    extent: int
    window: int
    dilation: int
    stride: int
    causal: bool

    def bounds(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return residue class, first and last place of each query's window (extent).

        Places count the tokens of one residue class modulo the dilation.
        """
        position = torch.arange(self.extent, device=device)
        residue, place = position % self.dilation, position // self.dilation
        length = (self.extent - residue + self.dilation - 1) // self.dilation
        group = place // self.stride * self.stride
        if self.causal:
            leader = torch.minimum(group + self.stride - 1, length - 1)
            return residue, (leader - self.window + 1).clamp(min=0), place
        leader = torch.minimum(group + self.stride // 2, length - 1)
        # Clamped at both edges, so that every query sees as many keys as any other.
        first = torch.minimum((leader - self.window // 2).clamp(min=0), length - self.window)
        return residue, first, first + self.window - 1

    def table(self, device: torch.device) -> Tensor:
        """Return which coordinate sees which (extent, extent)."""
        residue, first, last = (each[:, None] for each in self.bounds(device))
        place = torch.arange(self.extent, device=device) // self.dilation
        return (residue == residue.mT) & (first <= place) & (place <= last)

    def gathered(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return each coordinate's keys (extent, window), and which of them are real."""
        residue, first, last = (each[:, None] for each in self.bounds(device))
        place = first + torch.arange(self.window, device=device)
        return torch.minimum(place, last) * self.dilation + residue, place <= last


def axes_of(
    tokens: int,
    causal: bool,
    grid: Sequence[int] | int | None,
    window: Sequence[int] | int,
    dilation: Sequence[int] | int,
    stride: Sequence[int] | int,
    causal_axes: Sequence[int] | int | None,
) -> tuple[Axis, ...]:
    """Return the windows along each axis, checked.

    Raises
    ------
    InputError
        If the grid has more than three axes or another number of tokens, a tuple is not as long
        as the grid, a window does not fit its axis, a stride exceeds its window, or a causal
        axis does not exist.
    """
    extents = (tokens,) if grid is None else _tuple(grid)
    if len(extents) > 3 or math.prod(extents) != tokens:
        raise InputError(
            f"neighborhood's grid={extents} holds {math.prod(extents)} tokens; needed are one to "
            f"three axes whose product is the number of tokens, {tokens}."
        )
    each = {"window": window, "dilation": dilation, "stride": stride}
    windows, steps, groups = (_per_axis(name, value, len(extents)) for name, value in each.items())
    ordered = _causal(causal_axes, len(extents))
    axes = tuple(
        Axis(*sizes, causal and number in ordered)
        for number, sizes in enumerate(zip(extents, windows, steps, groups, strict=True))
    )
    for number, axis in enumerate(axes):
        fitting = axis.extent // axis.dilation
        if axis.window > fitting:
            raise InputError(
                f"neighborhood's window={axis.window} with dilation={axis.dilation} does not fit "
                f"axis {number} of {axis.extent} tokens; at most {fitting} does."
            )
        if axis.stride > axis.window:
            raise InputError(
                f"neighborhood's stride={axis.stride} on axis {number} exceeds window="
                f"{axis.window}; a query would see nothing near itself."
            )
    return axes


def seen_by(axes: tuple[Axis, ...], device: torch.device) -> Tensor:
    """Return which query sees which key (queries, keys), tokens in row-major order."""
    seen = torch.ones(1, 1, dtype=torch.bool, device=device)
    for axis in axes:
        size = len(seen) * axis.extent
        seen = seen[:, None, :, None] & axis.table(device)[None, :, None, :]
        seen = seen.reshape(size, size)
    return seen


def keys_of(axes: tuple[Axis, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the keys of each query's window (queries, window), and which of them are real."""
    index = torch.zeros(1, 1, dtype=torch.long, device=device)
    real = torch.ones(1, 1, dtype=torch.bool, device=device)
    for axis in axes:
        inner, exists = axis.gathered(device)
        shape = (len(index) * axis.extent, -1)
        index = (index[:, None, :, None] * axis.extent + inner[None, :, None, :]).reshape(shape)
        real = (real[:, None, :, None] & exists[None, :, None, :]).reshape(shape)
    return index, real


def _tuple(value: Sequence[int] | int) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def _per_axis(name: str, value: Sequence[int] | int, count: int) -> tuple[int, ...]:
    sizes = (value,) * count if isinstance(value, int) else tuple(value)
    if len(sizes) != count:
        raise InputError(
            f"neighborhood's {name}={sizes} has {len(sizes)} entries for a grid of {count} axes; "
            "needed is one integer, or one an axis."
        )
    return sizes


def _causal(causal_axes: Sequence[int] | int | None, count: int) -> tuple[int, ...]:
    named = tuple(range(count)) if causal_axes is None else _tuple(causal_axes)
    if not set(named) <= set(range(count)):
        raise InputError(
            f"neighborhood's causal_axes={named} names an axis that is not there; the grid has "
            f"axes 0 to {count - 1}."
        )
    return named
