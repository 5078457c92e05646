"""What is said of a mechanism: nothing left out, and tables that Markdown can read."""

from __future__ import annotations

import dataclasses

from neuroattn.attention import get
from neuroattn.attention.describe import facts, page, parameters
from neuroattn.attention.parameters import integer, number, tensor


def spec():
    return dataclasses.replace(
        get("softmax"),
        parameters={
            "beta": number(
                "strength", 1.0, 0, 2, exclude="low", axes=(("batch", "heads", "keys"),)
            ),
            "gate": tensor("how much", ("heads", "dim")),
        },
        options={"hidden": integer("width", 8, 1)},
        symbols={"a | b": "beta"},
        mask="keys",
        causal=(True,),
    )


def test_facts_follow_the_specification():
    # Catches a page that says of every mechanism what holds for softmax.
    found = facts(spec())
    assert found["causal"] == "always"
    assert found["masks"].startswith("of keys")
    assert found["state"] == "no"
    assert "sdpa-math" in found["form parallel"]
    assert facts(get("softmax"))["causal"] == "with and without"
    assert "as many queries as keys" in facts(get("neighborhood"))["shapes"]
    assert "as many queries as keys" not in found["shapes"]


def test_parameters_tell_default_range_and_meaning():
    # Catches an option that a user cannot find.
    assert parameters(spec()) == [
        (
            "beta",
            "1.0",
            "a number above 0 and at most 2, or a tensor (batch, heads, keys)",
            "strength",
        ),
        ("gate", "learned", "a tensor (heads, dim)", "how much"),
        ("hidden", "8", "an integer at least 1", "option of what is learned; width"),
    ]


def test_the_page_has_every_part_and_no_broken_table():
    # Catches a bar within a cell, which ends it.
    measured = [
        {
            "form": "parallel",
            "backend": "sdpa",
            "lengths": [256, 1024],
            "seconds": [0.001, 0.02],
            "slope": 2.05,
        },
        {
            "form": "parallel",
            "backend": "reference",
            "lengths": [256],
            "seconds": [0.004],
            "slope": None,
        },
    ]
    text = page(spec(), measured)
    assert "a \\| b" in text
    assert "| parallel / sdpa | 1 | 20 | 2.05 |" in text
    assert "| parallel / reference | 4 |  | – |" in text
    for law in spec().laws.values():
        assert law in text
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.replace("\\|", "").count("|") for row in rows}) <= 1
    assert "Measured" not in page(spec())
