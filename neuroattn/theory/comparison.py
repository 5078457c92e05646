"""What was predicted beside what was measured, and how far apart they may be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Comparison:
    """A prediction and a measurement, entry by entry.

    Attributes
    ----------
    name : str
        What is compared.
    predicted, measured : array
        Of one shape.
    error : array
        How far apart they are, in the measure that ``tolerance`` bounds; of the same shape.
    tolerance : array
        The largest error that passes; of the same shape.
    expected : float
        The error that a right implementation makes, typically; 0 where none is made.
    reason : str
        Why the tolerance is what it is.
    z : array or None
        The error in standard errors, with its sign, where it is statistical.
    spread : array or None
        Standard error of the measurement.
    axes : mapping of str to array
        Name of an axis, with its unit, to its coordinates; empty unless a curve is measured.
    relation : {"=", "<=", ">="}
        Of the measured to the predicted.
    """

    name: str
    predicted: Array
    measured: Array
    error: Array
    tolerance: Array
    expected: float
    reason: str
    z: Array | None = None
    spread: Array | None = None
    axes: Mapping[str, Array] = field(default_factory=dict)
    relation: str = "="

    @property
    def passed(self) -> bool:
        """Whether there are entries, and every one is within a finite tolerance."""
        bounded = np.isfinite(self.error) & np.isfinite(self.tolerance)
        return bool(self.error.size and np.all((self.error <= self.tolerance) & bounded))

    @property
    def defined(self) -> bool:
        """Whether there are entries, and every error and tolerance is a number."""
        undefined = np.isnan(self.error) | np.isnan(self.tolerance)
        return bool(self.error.size) and not bool(np.any(undefined))

    @property
    def worst(self) -> int:
        """Flat index of the entry that is nearest to failing, or fails most."""
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(self.error == 0, 0.0, self.error / self.tolerance)
        bounded = np.isfinite(self.error) & np.isfinite(self.tolerance)
        return int(np.argmax(np.where(bounded, share, np.inf)))

    @property
    def strain(self) -> float:
        """Error over tolerance at the worst entry: above 1 it fails."""
        if not self.error.size:
            return float("inf")
        error, tolerance = self.at_worst("error"), self.at_worst("tolerance")
        if not np.isfinite(error) or not np.isfinite(tolerance):
            return float("inf")
        return 0.0 if error == 0 else float(error / tolerance) if tolerance else float("inf")

    @property
    def where(self) -> str:
        """Where on the axes the worst entry is, such as ``"n = 8"``; "" without axes."""
        if not self.axes or not self.error.size:
            return ""
        place = np.unravel_index(self.worst, self.error.shape)
        named = zip(self.axes.items(), place, strict=True)
        return ", ".join(f"{name} = {each[index]:g}" for (name, each), index in named)

    def at_worst(self, what: str) -> float:
        """Return one of the arrays at the worst entry; not a number if there is none."""
        if not self.error.size:
            return float("nan")
        return float(np.ravel(getattr(self, what))[self.worst])

    def dataset(self) -> xr.Dataset:
        """Return the curve: predicted, measured, tolerance and spread over the axes."""
        import xarray as xr

        arrays = {"predicted": self.predicted, "measured": self.measured}
        arrays["tolerance"] = self.tolerance
        if self.spread is not None:
            arrays["spread"] = self.spread
        names = list(self.axes)
        return xr.Dataset(
            {key: (names, each) for key, each in arrays.items()},
            coords={key: (key, each) for key, each in self.axes.items()},
            attrs={"name": self.name, "reason": self.reason},
        )


def leaves(nested: Any) -> Iterator[Any]:
    """Yield the entries of nested lists, of an array or of a tensor, or the one that it is."""
    if hasattr(nested, "tolist"):
        nested = nested.tolist()
    if isinstance(nested, list | tuple):
        for each in nested:
            yield from leaves(each)
    else:
        yield nested


def number(value: Any) -> float:
    """Return an entry as a float to show: infinite if it is larger, NaN if it is no number."""
    if not isinstance(value, int | float | bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # an integer that is larger than any float
        return math.inf if value > 0 else -math.inf
