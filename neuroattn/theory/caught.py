"""The one place that catches every error: a claim that raises has failed, and the run goes on."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Raised:
    """An error that a claim raised.

    Attributes
    ----------
    message : str
        Its class, where it was raised, and what it says.
    """

    message: str


def caught(function: Callable[[], T]) -> T | Raised:
    """Return the function's result, or the error that it raised."""
    try:
        return function()
    # SystemExit too: a claim that calls sys.exit must not end the run as if all held.
    except (Exception, SystemExit) as error:  # noqa: BLE001 - told as the claim's failure
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return Raised(f"{type(error).__name__} at {where}: {error}")
