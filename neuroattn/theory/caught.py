"""The one place that catches every error: a claim that raises has failed, and the run goes on."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
HERE = Path(__file__).parent


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
        return Raised(f"{type(error).__name__} at {_place(error)}: {error}")


def _place(error: BaseException) -> str:
    """Return the file and line of the claim that raised, not of a library that it called."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [each for each in frames if not _machinery(each.filename)] or list(frames)
    place = next(each for each in reversed(theirs) if each.filename == theirs[0].filename)
    return f"{Path(place.filename).name}:{place.lineno}"


def _machinery(filename: str) -> bool:
    ours = ("caught.py", "claim_files.py", "script.py", "verdict.py")
    path = Path(filename)
    return filename.startswith("<frozen") or (path.parent == HERE and path.name in ours)
