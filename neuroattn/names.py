"""Names: lazy re-exports of a room and the closest match to a name that nobody knows."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from neuroattn.errors import UnknownNameError


def lazy_exports(
    room: str, exports: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make the PEP 562 hooks that import a room's public names on first use.

    Parameters
    ----------
    room : str
        The package's ``__name__``.
    exports : mapping of str to str
        Public name to the submodule (relative to the room) that defines it. An empty
        submodule means that the name is itself a submodule.

    Returns
    -------
    getattr_hook, dir_hook, all_names
        To be bound to ``__getattr__``, ``__dir__`` and ``__all__`` of the room.
    """

    def __getattr__(name: str) -> Any:
        if name not in exports:
            raise AttributeError(
                f"module {room!r} has no attribute {name!r}{did_you_mean(name, exports)}"
            )
        if exports[name]:
            value = getattr(importlib.import_module(f"{room}.{exports[name]}"), name)
        else:
            value = importlib.import_module(f"{room}.{name}")
        setattr(sys.modules[room], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted(exports)

    return __getattr__, __dir__, sorted(exports)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_name(argument: str, name: str, known: Iterable[str]) -> str:
    """Return ``name`` if it is known.

    Raises
    ------
    UnknownNameError
        If it is not; the message lists what is allowed and the closest match.
    """
    allowed = sorted(known)
    if name not in allowed:
        raise UnknownNameError(
            f"{argument}={name!r} is unknown{did_you_mean(name, allowed) or '.'} "
            f"Allowed: {', '.join(allowed)}."
        )
    return name
