"""Groups of options: dataclasses that may also be given as plain mappings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from neuroattn.errors import InputError
from neuroattn.names import check_name

Settings = TypeVar("Settings")


def settings_of(kind: type[Settings], argument: str, given: Any) -> Settings:
    """Return a group of options given as its dataclass, as a mapping, or not at all.

    Parameters
    ----------
    kind : type
        The dataclass, all fields with defaults.
    argument : str
        Its name, for messages.
    given : kind, mapping, namespace of a parser, or None
        What the user gave.

    Raises
    ------
    InputError
        If it is none of these, or names an unknown option.
    """
    if isinstance(given, kind):
        return given
    plain = given if isinstance(given, Mapping) else getattr(given, "__dict__", None)
    if given is not None and plain is None:
        raise InputError(
            f"{argument} is {type(given).__name__}; needed: {kind.__name__} or a mapping."
        )
    options = {str(name): value for name, value in (plain or {}).items()}
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in options:
        check_name(f"{argument} option", name, known)
    return kind(**options)
