"""Checks of the numbers that users give."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from neuroattn.errors import InputError


def check_whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return a whole number that lies in a range.

    Parameters
    ----------
    name : str
        Of the argument.
    value : int
        A Python or numpy integer; truths and fractions are refused.
    least : int
        The smallest that is allowed.
    most : int, optional
        The largest.

    Raises
    ------
    InputError
        If it is no whole number or outside the range.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name}={value!r} must be a whole number {allowed}.")
    return int(value)


def check_finite(name: str, value: Any, least: float = 0.0) -> float:
    """Return a finite number that is at least another.

    Parameters
    ----------
    name : str
        Of the argument.
    value : float
        What is checked.
    least : float
        The smallest that is allowed.

    Raises
    ------
    InputError
        If it is below it, infinite or undefined.
    """
    if not (math.isfinite(value) and value >= least):
        raise InputError(f"{name}={value!r} must be finite and at least {least:g}.")
    return float(value)
