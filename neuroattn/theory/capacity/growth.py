"""Capacities of many mechanisms at many widths, and the power of the width they grow with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from neuroattn.attention import get
from neuroattn.errors import InputError, MismatchError
from neuroattn.theory.capacity.criterion import CASES
from neuroattn.theory.capacity.measurement import Capacity, measure


@dataclass(frozen=True)
class Exponent:
    """The power of the width with which the number of interfering associations grows.

    Attributes
    ----------
    mechanism, case : str
        Whose.
    exponent, error : float or None
        Slope of log(capacity - 1) over log(dim), by least squares weighted with the intervals, and
        its standard error; None with fewer than two widths. The error is widened where the
        points scatter about the line by more than their intervals say, which a capacity that is
        no power of the width makes them do.
    misfit : float or None
        Root mean square distance of the points from the line, in their own standard errors, for
        three widths or more: far above 1 means that it is no power law.
    dims : tuple of int
        The widths that count: not censored, and with one interfering association at least.
    """

    mechanism: str
    case: str
    exponent: float | None
    error: float | None
    misfit: float | None
    dims: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "dims": list(self.dims)}


def table(
    mechanisms: Sequence[str], dims: Sequence[int], cases: Sequence[str] = CASES, **options: Any
) -> Iterator[Capacity]:
    """Measure mechanisms at widths, one after the other, all with the same draws.

    Parameters
    ----------
    mechanisms : sequence of str
        Registered names.
    dims : sequence of int
        Widths, one after the other.
    cases : sequence of str
        ``"average"`` and ``"worst"``, or one of them.
    **options
        As of :func:`neuroattn.theory.capacity.measure`, for all.

    Yields
    ------
    Capacity
        By width, mechanism and case, as soon as it is measured; those that cannot be asked too.

    Raises
    ------
    UnknownNameError, InputError
        What :func:`~neuroattn.theory.capacity.measure` raises.
    """
    for name in mechanisms:
        get(name)
    for dim in dims:
        for name in mechanisms:
            for case in cases:
                yield measure(name, dim, case=case, **options)


def exponent(found: Sequence[Capacity]) -> Exponent:
    """Fit the power of the width with which a capacity grows.

    ``capacity - 1`` is fitted: the associations beside the one that is asked for. That is what
    is proportional to ``dim`` or to its root in the closed forms.

    Parameters
    ----------
    found : sequence of Capacity
        Of one mechanism and case.

    Returns
    -------
    Exponent
        See there.

    Raises
    ------
    MismatchError
        If they are of several mechanisms or cases.
    InputError
        If there are none.
    """
    if not found:
        raise InputError("found is empty; give the capacities of a mechanism at some widths.")
    if len({(each.mechanism, each.case) for each in found}) > 1:
        names = sorted({f"{each.mechanism} ({each.case})" for each in found})
        raise MismatchError(f"found is of {', '.join(names)}; give one mechanism and case.")
    points = [
        (each.dim, each.crossing - 1, _relative_error(each))
        for each in sorted(found, key=lambda each: each.dim)
        # An interval that is open above says nothing of the error.
        if each.crossing is not None and each.crossing >= 2 and each.high is not None
    ]
    mechanism, case = found[0].mechanism, found[0].case
    dims = tuple(dim for dim, _, _ in points)
    if len(set(dims)) < 2:
        return Exponent(mechanism, case, None, None, None, dims)
    x, y, spread = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    x, y, weight = np.log(x), np.log(y), spread**-2.0
    centre = np.average(x, weights=weight)
    across = float((weight * (x - centre) ** 2).sum())
    slope = float((weight * (x - centre) * y).sum()) / across
    rest = y - np.average(y, weights=weight) - slope * (x - centre)
    misfit = None
    if len(x) > 2:
        misfit = float(np.sqrt((weight * rest**2).sum() / (len(x) - 2)))
    error = max(1.0, misfit or 0.0) / math.sqrt(across)
    return Exponent(mechanism, case, slope, error, misfit, dims)


def _relative_error(found: Capacity) -> float:
    """Return the standard error of log(capacity - 1) that an interval implies."""
    crossing, low, high = found.crossing or 0.0, found.low or 0, found.high or 0
    # An integer interval is half an association wider, either side, than what it rounds.
    width = high - low + 1
    quantile = float(student.isf((1 - found.confidence) / 2, max(found.draws - 1, 1)))
    return width / (2 * quantile) / (crossing - 1)
