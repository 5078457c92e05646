"""What passes, what fails, and which entry is told."""

from __future__ import annotations

import math

import numpy as np
import pytest

from neuroattn.theory import Comparison, Lab


def comparison(error: list[float], tolerance: list[float]) -> Comparison:
    measured = np.array(error)
    return Comparison(
        "x", np.zeros(len(error)), measured, np.abs(measured), np.array(tolerance), 0.1, "why"
    )


@pytest.mark.parametrize(
    ("error", "tolerance", "passed", "worst", "strain"),
    [
        ([1.0, 0.5], [2.0, 0.5], True, 1, 1.0),
        ([1.0, 0.5], [2.0, 0.4], False, 1, 1.25),
        ([0.0, 0.0], [0.0, 0.0], True, 0, 0.0),
        ([0.0, 1.0], [0.0, 0.0], False, 1, math.inf),
        ([math.nan, 0.1], [1.0, 1.0], False, 0, math.inf),
        ([0.1, math.inf], [1.0, 1.0], False, 1, math.inf),
        ([0.1, 0.1], [1.0, math.inf], False, 1, math.inf),
    ],
)
def test_the_entry_nearest_to_failing_is_told(
    error: list[float], tolerance: list[float], passed: bool, worst: int, strain: float
) -> None:
    """Catches an undefined error that passes, and a large error that is hidden by a wide bound."""
    found = comparison(error, tolerance)
    assert found.passed is passed
    assert found.worst == worst
    assert found.strain == strain
    assert found.defined is not any(map(math.isnan, error))


def test_nothing_compared_is_nothing_shown() -> None:
    """Catches a claim that passes because its list of cases is empty."""
    empty = comparison([], [])
    assert not empty.passed
    assert empty.strain == math.inf
    assert math.isnan(empty.at_worst("measured"))


def test_a_curve_becomes_a_labelled_dataset() -> None:
    """Catches axes that are swapped on the way to a file."""
    x, y = [1.0, 2.0, 3.0], [0.0, 1.0]
    measured = np.arange(6.0).reshape(3, 2)
    found = Lab("a.b").near(
        "curve", measured, 0.0, tolerance=9.0, expected=3.0, reason="given", axes={"n": x, "d": y}
    )
    assert found.where == "n = 3, d = 1"
    assert comparison([1.0], [2.0]).where == ""
    dataset = found.dataset()
    assert dict(dataset.sizes) == {"n": 3, "d": 2}
    assert dataset["measured"].sel(n=3, d=0) == 4
    assert dataset.attrs == {"name": "curve", "reason": "given"}
    assert "spread" not in dataset
