"""Configurations given as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from neuroattn.errors import InputError
from neuroattn.names import did_you_mean

Config = TypeVar("Config")


def as_config(argument: str, value: Any, kind: type[Config]) -> Config:
    """Return ``value`` as a frozen configuration; None gives its defaults, a mapping its fields.

    Raises
    ------
    InputError
        If a field is unknown, or it or the value is of another type.
    """
    if value is None:
        return kind()
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise InputError(
            f"{argument} is a {type(value).__name__}; give a {kind.__name__} or a mapping."
        )
    defaults = {field.name: getattr(kind(), field.name) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name, given in value.items():
        if name not in defaults:
            raise InputError(
                f"{argument} has no field {name!r}{did_you_mean(str(name), defaults) or '.'} "
                f"Allowed: {', '.join(defaults)}."
            )
        wanted = type(defaults[name])
        if wanted is not type(given) and (wanted, type(given)) != (float, int):
            raise InputError(
                f"{argument} has {name}={given!r}, a {type(given).__name__}; allowed is "
                f"{wanted.__name__}, such as {defaults[name]!r}."
            )
    return kind(**value)
