"""The benchmark's own arithmetic: slopes, memory, inputs and what it runs."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention import bench, get
from neuroattn.errors import InputError, UnknownNameError


def test_the_slope_is_that_of_the_longest_lengths():
    # Catches a fit over the short lengths, where overheads rule.
    lengths = [2**n for n in range(4, 12)]
    times = [1.0 if n < 256 else (n / 256) ** 2 for n in lengths]
    assert math.isclose(bench.slope(lengths, times), 2.0)
    assert math.isclose(bench.slope(lengths, [3.0 * n for n in lengths]), 1.0)
    assert math.isnan(bench.slope([4], [1.0]))


def test_memory_counts_the_matrix_of_weights_and_not_the_inputs():
    # Catches a peak that misses what is freed before the end, or counts what was there.
    (row,) = bench.measure("softmax", (512,), backend="reference", repeats=1, dim=8)
    matrix = 512 * 512 * 4
    assert 2 * matrix <= row.peak_bytes[0] <= 5 * matrix
    (fused,) = bench.measure("softmax", (512,), backend="sdpa", repeats=1, dim=8)
    assert fused.peak_bytes[0] < matrix


def test_every_run_that_fits_is_measured_and_others_are_left_out():
    # Catches a backend of another device that ends the benchmark.
    rows = list(bench.measure("softmax", (16, 32), repeats=1, memory=False))
    assert {row.backend for row in rows} >= {"sdpa", "reference", "sdpa-math"}
    assert "sdpa-cudnn" not in {row.backend for row in rows}
    assert all(row.peak_bytes is None and math.isnan(row.memory_slope) for row in rows)
    assert all(row.expected == 2.0 for row in rows)


def test_a_form_stops_at_its_limits(monkeypatch):
    # Catches a token loop that holds up the whole table, and a matrix that fills the machine.
    monkeypatch.setattr(bench, "LIMIT_BYTES", 1.5 * 5 * 64 * 64 * 4)
    (row,) = bench.measure("softmax", (32, 64, 128), backend="reference", repeats=1)
    assert row.lengths == (32, 64)
    monkeypatch.setattr(bench, "LIMIT_S", 0)
    (row,) = bench.measure("softmax", (8, 16, 32), backend="reference", repeats=1)
    assert row.lengths == (8,)


def test_the_processor_clock_does_not_count_what_others_do(monkeypatch):
    # Catches a slope that tells of the machine's load.
    clocks = iter(range(100))
    monkeypatch.setitem(bench.CLOCKS, "processor", lambda: float(next(clocks)))
    (row,) = bench.measure(
        "softmax", (8,), backend="reference", repeats=2, clock="processor", memory=False
    )
    assert row.seconds == (1.0,)


def test_inputs_are_what_a_fresh_block_makes():
    # Catches inputs that need a gradient or share memory with the block.
    first, _ = bench.inputs(get("softmax"), 7, 4, 2, "cpu", torch.float32, seed=3)
    again, _ = bench.inputs(get("softmax"), 7, 4, 2, "cpu", torch.float32, seed=3)
    other, _ = bench.inputs(get("softmax"), 7, 4, 2, "cpu", torch.float32, seed=4)
    assert [tuple(each.shape) for each in first] == [(1, 2, 7, 4)] * 3
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not any(each.requires_grad for each in first)


def test_mistakes_are_named():
    with pytest.raises(UnknownNameError, match="did you mean 'softmax'"):
        list(bench.measure("sofmax"))
    with pytest.raises(InputError, match=r"lengths=\[0\] must be positive"):
        list(bench.measure("softmax", (0,)))
    with pytest.raises(InputError, match=r"no form='recurrent'.*parallel/sdpa"):
        list(bench.measure("softmax", (8,), form="recurrent"))
