"""Configurations given as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from neuroattn.encoders.config import as_config
from neuroattn.encoders.decoder import DecoderConfig
from neuroattn.errors import InputError
from neuroattn.training.optimisation import Optimisation


@dataclass(frozen=True)
class Knobs:
    """A configuration with one field of each kind."""

    count: int = 3
    share: float = 0.5
    name: str = "a"
    on: bool = False
    more: dict[str, Any] = field(default_factory=dict)


def test_a_configuration_is_built_from_nothing_a_mapping_or_itself():
    # Catches a shared default object, or fields that are dropped.
    assert as_config("knobs", None, Knobs) == Knobs()
    assert as_config("knobs", {"count": 5, "share": 1}, Knobs) == Knobs(5, 1)
    given = Knobs(name="b")
    assert as_config("knobs", given, Knobs) is given


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"cuont": 3}, r"knobs has no field 'cuont'; did you mean 'count'.*count, share"),
        ({3: 3}, "knobs has no field 3"),
        ({"count": 2.5}, r"knobs has count=2.5, a float; allowed is int"),
        ({"count": True}, r"knobs has count=True, a bool; allowed is int"),
        ({"share": "0.5"}, r"knobs has share='0.5', a str; allowed is float"),
        ({"on": 1}, r"knobs has on=1, a int; allowed is bool"),
        ({"name": None}, "knobs has name=None, a NoneType; allowed is str"),
        ([1, 2], "knobs is a list; give a Knobs or a mapping"),
        (Optimisation(), "knobs is a Optimisation; give a Knobs"),
    ],
)
def test_a_wrong_configuration_is_named(value, message):
    # Catches a TypeError about __init__, and a string that only fails when it is compared.
    with pytest.raises(InputError, match=message):
        as_config("knobs", value, Knobs)


def test_ranges_are_checked_when_a_mapping_is_read():
    # Catches a negative size that shows after the features were read.
    with pytest.raises(InputError, match="heads=0"):
        as_config("network", {"heads": 0}, DecoderConfig)
