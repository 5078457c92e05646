"""Decay: the crosstalk of a memory that fades, and how much of a stream it holds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.pavlovian import capacity, decay_capacity, decay_crosstalk
from neuroattn.theory.pavlovian.stream import best_held


@pytest.mark.parametrize(("decay", "expected"), [(0.9, 0.07679), (0.98, 0.3818)])
def test_crosstalk_has_the_derived_values(decay: float, expected: float) -> None:
    """Catches 1 - γ for 1 - γ²: a long stream at lag 5, d = 64."""
    assert decay_crosstalk(10_000, 64, decay, 5) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("lag", [0, 3, 6])
def test_crosstalk_is_the_sum_over_the_other_items(lag: int) -> None:
    """Catches the target counted as crosstalk, and an age that is off by one."""
    expected = sum(0.8 ** (2 * age) for age in range(7) if age != lag) / 5
    assert decay_crosstalk(7, 5, 0.8, lag) == pytest.approx(expected, rel=1e-12)


def test_without_decay_the_crosstalk_is_that_of_the_hebbian_memory() -> None:
    """Catches a division by 1 - γ² = 0."""
    assert decay_crosstalk(33, 64, 1.0, 7) == 0.5
    assert decay_crosstalk(33, 64, 1 - 1e-9, 7) == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize(("dim", "snr"), [(64, 1.0), (200, 4.0), (50, 0.5)])
@pytest.mark.parametrize("decay", [0.9, 0.97, 0.99])
def test_capacity_is_the_count_of_lags_that_can_be_read(dim: int, snr: float, decay: float) -> None:
    """Catches an amplitude for a power, and the newest item at lag 1."""
    ratios = [decay ** (2 * lag) / decay_crosstalk(20_000, dim, decay, lag) for lag in range(600)]
    assert math.floor(decay_capacity(dim, snr, decay)) == sum(ratio >= snr for ratio in ratios)


@pytest.mark.parametrize(("dim", "snr"), [(64, 1.0), (500, 1.0), (500, 4.0)])
def test_default_decay_is_the_best(dim: int, snr: float) -> None:
    """Catches a best decay of another SNR; the most is d/(e SNR)."""
    all_of_them = [
        decay_capacity(dim, snr, float(x)) for x in np.sqrt(1 - np.geomspace(1e-4, 0.9, 4000))
    ]
    assert decay_capacity(dim, snr) == pytest.approx(max(all_of_them), rel=0.01)
    assert decay_capacity(dim, snr) == pytest.approx(1 + (dim + snr) / (math.e * snr), abs=0.7)
    assert decay_capacity(dim, snr) < capacity(dim, snr)


@pytest.mark.parametrize("dim", [8, 33, 64, 1000])
def test_the_most_of_a_stream_is_that_of_a_fine_grid(dim: int) -> None:
    """Catches d/e, (d+1)/e and 1 + (d+1)/e for (d+1)/e + 1/2."""
    lost = np.linspace(1.5, 5, 2001) / (dim + 1)
    most = max(decay_capacity(dim, 1.0, float(each)) for each in np.sqrt(1 - lost))
    assert best_held(dim) == pytest.approx(most, abs=2e-4)
    assert most <= 1 + (dim + 1) / math.e


def test_an_endless_stream_without_decay_holds_nothing() -> None:
    """Catches a negative number of associations."""
    assert decay_capacity(64, 1.0, 1.0) == 0.0
    assert decay_capacity(64, 1.0, 0.9999) == 0.0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, 4, 0.9, 0), "pairs=0"),
        ((3, 4, 0.0, 0), "decay=0.0"),
        ((3, 4, 1.5, 0), "decay=1.5"),
        ((3, 4, 0.9, 3), "lag=3"),
        ((3, 4, 0.9, -1), "lag=-1"),
    ],
)
def test_impossible_arguments_are_refused_by_name(
    arguments: tuple[int, int, float, int], named: str
) -> None:
    """Catches a memory that grows, and a lag that was never written."""
    with pytest.raises(InputError, match=named):
        decay_crosstalk(*arguments)


def test_no_best_decay_is_told() -> None:
    """Catches a root of a negative number."""
    with pytest.raises(InputError, match="dim=1"):
        decay_capacity(1, 1.0)
