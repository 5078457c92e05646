"""Mega's moving average and the quasi-LSTM, against loops and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.signal import lfilter

from neuroattn.errors import InputError
from neuroattn.theory.dynamics import moving_average, quasi_lstm, simulate


def test_the_moving_average_is_scipys_filter() -> None:
    # A retention 1 - α in place of 1 - αδ, or a skip that is lost, would show.
    u = torch.randn(1, 1, 11, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    made = moving_average(u, 0.6 * one, 0.3 * one, 2 * one, 0.5 * one, skip=0.25 * one[0])
    wanted = lfilter([0.6 * 2 * 0.5], [1, -(1 - 0.18)], u.flatten()) + 0.25 * u.flatten().numpy()
    assert simulate(made).flatten().tolist() == pytest.approx(wanted.tolist(), rel=1e-12)


def test_a_constant_is_amplified_by_one_over_the_damping() -> None:
    # (1 - α)δ in place of 1 - αδ would show.
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    made = moving_average(one.expand(1, 1, 400, 1), 0.5 * one, 0.2 * one, one, one)
    assert simulate(made)[0, 0, -1, 0].item() == pytest.approx(5.0, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("gain", lambda x: x + 2, "outside"),
        ("damping", lambda x: -x, "outside"),
        ("readout", lambda x: x[..., :1], "readout has shape"),
        ("spread", lambda x: x[0], "spread has shape"),
    ],
)
def test_the_average_refuses_what_is_none(name: str, change: object, why: str) -> None:
    # An average that grows, or a broadcast over hidden units, would go unnoticed.
    half = torch.full((2, 3, 4), 0.5, dtype=torch.float64)
    given = dict.fromkeys(("gain", "damping", "spread", "readout"), half)
    given[name] = change(half)  # type: ignore[operator]
    with pytest.raises(InputError, match=why):
        moving_average(torch.zeros(1, 2, 5, 3, dtype=torch.float64), **given)


def test_gates_that_are_all_open_or_shut_have_known_reads() -> None:
    # Gates in another order would show: nothing forgotten is a sum, all forgotten the token.
    u = torch.arange(1.0, 6.0, dtype=torch.float64)[None, None, :, None]
    wide = torch.full_like(u, 40.0)
    sums = simulate(quasi_lstm(u, wide, wide, wide)).flatten()
    assert sums.tolist() == pytest.approx([1, 3, 6, 10, 15])
    assert simulate(quasi_lstm(u, wide, wide, wide, rate=1.0)).flatten().tolist() == pytest.approx(
        [1, 2, 3, 4, 5]
    )
    half = simulate(quasi_lstm(u, wide, 0 * u, wide)).flatten()
    assert half.tolist() == pytest.approx([0.5, 1.5, 3, 5, 7.5])


def test_the_reversed_gate_is_a_power_of_the_sigmoid() -> None:
    # σ(x)^a, or a rate that multiplies the input, would show.
    u = torch.tensor([1.0, 0.0], dtype=torch.float64)[None, None, :, None]
    wide, x = torch.full_like(u, 40.0), torch.full_like(u, 0.7)
    left = simulate(quasi_lstm(u, x, wide, wide, rate=2.5))[0, 0, 1, 0].item()
    assert left == pytest.approx((1 / (1 + math.exp(0.7))) ** 2.5, rel=1e-12)


def test_a_gate_of_another_shape_and_a_negative_rate_are_refused() -> None:
    # A broadcast gate, or a cell that grows, would go unnoticed.
    u = torch.zeros(1, 1, 3, 2, dtype=torch.float64)
    with pytest.raises(InputError, match="write has shape"):
        quasi_lstm(u, u, u[:, :, :1], u)
    with pytest.raises(InputError, match="rate=-1"):
        quasi_lstm(u, u, u, u, rate=-1)
