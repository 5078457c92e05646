"""What a mechanism's parameter may be: a number, a name, a switch or a named tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuroattn.errors import InputError
from neuroattn.names import check_name

#: Axes that may have size 1 instead of their own, and are then shared.
SHARED = ("batch", "heads", "queries", "keys")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a mechanism: its meaning, its default and what is allowed.

    Attributes
    ----------
    kind : {"number", "integer", "choice", "switch", "tensor"}
        What it is; a number with ``axes`` may also be a tensor.
    sentence : str
        What it does.
    default : object
        Its value when it is not given.
    low, high : float or None
        Bounds of numbers; the values of tensors are not checked, because that would wait for the
        device.
    exclude : str
        The bounds that are not allowed themselves: ``""``, ``"low"``, ``"high"`` or ``"both"``.
    choices : tuple of str
        Names that are allowed (for a number: instead of a number).
    axes : tuple of tuples
        Shapes that a tensor may have, as names of axes (``batch``, ``heads``, ``queries``,
        ``keys``, ``dim``, ``value_dim``; any other name is a free size that parameters share)
        or sizes.
    optional, several : bool
        Whether None is allowed, and whether a tuple of integers is.
    required : bool
        Whether it has no default: what a block learns.
    """

    kind: str
    sentence: str
    default: Any = None
    low: float | None = None
    high: float | None = None
    exclude: str = ""
    choices: tuple[str, ...] = ()
    axes: tuple[tuple[str | int, ...], ...] = ()
    optional: bool = False
    several: bool = False
    required: bool = False

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        parts = []
        if self.kind in ("number", "integer"):
            noun = "an integer" if self.kind == "integer" else "a number"
            parts.append(" ".join(filter(None, (noun, self._bounds()))))
            if self.several:
                parts.append("a tuple of them")
        if self.kind == "switch":
            parts.append("true or false")
        if self.choices:
            parts.append("one of " + ", ".join(self.choices))
        parts += ["a tensor (" + ", ".join(map(str, shape)) + ")" for shape in self.axes]
        if self.optional:
            parts.append("nothing")
        return ", or ".join(parts)

    def _bounds(self) -> str:
        open_low, open_high = (self.exclude in (side, "both") for side in ("low", "high"))
        words = []
        if self.low is not None:
            words.append(("above" if open_low else "at least") + f" {self.low:g}")
        if self.high is not None:
            words.append(("below" if open_high else "at most") + f" {self.high:g}")
        return " and ".join(words)

    def check(self, owner: str, name: str, value: Any, sizes: dict[str, int]) -> None:
        """Raise :class:`InputError` unless ``value`` is allowed.

        Parameters
        ----------
        owner, name : str
            Mechanism and parameter, for the message.
        value : object
            What came.
        sizes : dict
            Sizes of the axes; free axes are added when first seen.
        """
        if value is None and self.optional:
            return
        if isinstance(value, Tensor):
            self._check_tensor(owner, name, value, sizes)
        elif isinstance(value, str) and self.choices:
            check_name(f"{owner}'s {name}", value, self.choices)
        elif not self._is_plain(value):
            raise InputError(f"{owner}'s {name}={value!r}; allowed: {self.allowed}.")

    def _is_plain(self, value: Any) -> bool:
        if self.kind == "switch":
            return isinstance(value, bool)
        if self.several and isinstance(value, list | tuple):
            return bool(value) and all(self._is_number(each) for each in value)
        return self._is_number(value)

    def _is_number(self, value: Any) -> bool:
        kinds = {"integer": (int,), "number": (int, float)}.get(self.kind, ())
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        if isinstance(value, float) and math.isnan(value):
            return False
        open_low, open_high = (self.exclude in (side, "both") for side in ("low", "high"))
        above = self.low is None or value > self.low or (value == self.low and not open_low)
        below = self.high is None or value < self.high or (value == self.high and not open_high)
        return above and below

    def _check_tensor(self, owner: str, name: str, value: Tensor, sizes: dict[str, int]) -> None:
        if value.dtype == torch.bool or value.is_complex():
            raise InputError(
                f"{owner}'s {name} is a tensor of {value.dtype}, allowed are numbers: "
                f"{self.allowed}. What may be seen is said by `mask`."
            )
        for shape in self.axes:
            found = dict(sizes)
            if len(shape) == value.ndim and all(
                _axis_fits(axis, size, found) for axis, size in zip(shape, value.shape, strict=True)
            ):
                sizes.update(found)
                return
        known = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
        raise InputError(
            f"{owner}'s {name} is a tensor of shape {tuple(value.shape)}; allowed: "
            f"{self.allowed}, with {known}."
        )


def _axis_fits(axis: str | int, size: int, sizes: dict[str, int]) -> bool:
    if isinstance(axis, int):
        return size == axis
    return (size == 1 and axis in SHARED) or sizes.setdefault(axis, size) == size


def number(
    sentence: str,
    default: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    exclude: str = "",
    choices: tuple[str, ...] = (),
    axes: tuple[tuple[str | int, ...], ...] = (),
    optional: bool = False,
) -> Parameter:
    """Return a parameter that is a number; with ``axes`` also a tensor of one of these shapes."""
    return Parameter("number", sentence, default, low, high, exclude, choices, axes, optional)


def integer(
    sentence: str,
    default: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    several: bool = False,
    optional: bool = False,
) -> Parameter:
    """Return a parameter that is an integer, or with ``several`` a tuple of integers."""
    return Parameter("integer", sentence, default, low, high, optional=optional, several=several)


def choice(sentence: str, default: str, *choices: str) -> Parameter:
    """Return a parameter that is one of some names."""
    return Parameter("choice", sentence, default, choices=(default, *choices))


def switch(sentence: str, default: bool) -> Parameter:
    """Return a parameter that is true or false."""
    return Parameter("switch", sentence, default)


def tensor(
    sentence: str,
    *axes: tuple[str | int, ...],
    low: float | None = None,
    high: float | None = None,
    optional: bool = False,
) -> Parameter:
    """Return a named tensor of one of these shapes; required unless ``optional``.

    ``low`` and ``high`` say which values make sense.
    """
    return Parameter(
        "tensor", sentence, None, low, high, axes=axes, optional=optional, required=not optional
    )
