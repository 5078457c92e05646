"""Windows along an axis against rows written by hand, and tables against gathered keys."""

from __future__ import annotations

import pytest
import torch

from neuroattn.attention.softmax.windows import Axis, axes_of, keys_of, seen_by

CPU = torch.device("cpu")
ROWS = [
    (Axis(5, 3, 1, 1, False), ["012", "012", "123", "234", "234"]),
    # An even window reaches one further back than ahead.
    (Axis(5, 2, 1, 1, False), ["01", "01", "12", "23", "34"]),
    (Axis(5, 3, 1, 1, True), ["0", "01", "012", "123", "234"]),
    (Axis(5, 2, 2, 1, False), ["02", "13", "02", "13", "24"]),
    (Axis(6, 3, 1, 2, False), ["012", "012", "234", "234", "345", "345"]),
    # With causal, the last of a group leads: the first of it sees fewer.
    (Axis(6, 3, 1, 2, True), ["0", "01", "12", "123", "34", "345"]),
    (Axis(6, 3, 1, 3, True), ["0", "01", "012", "3", "34", "345"]),
]


@pytest.mark.parametrize(("axis", "wanted"), ROWS)
def test_windows_equal_those_written_by_hand(axis, wanted):
    # Catches an even window that leans ahead, and a causal group led by its middle.
    table = axis.table(CPU)
    found = ["".join(str(int(key)) for key in row.nonzero()) for row in table]
    assert found == wanted


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "given",
    [
        {"grid": None, "window": 5, "dilation": 3, "stride": 2},
        {"grid": (6, 4), "window": (3, 2), "dilation": (2, 1), "stride": 1},
        {"grid": [2, 3, 4], "window": 2, "dilation": 1, "stride": [1, 2, 1]},
    ],
)
def test_gathered_keys_are_those_of_the_table_each_once(given, causal):
    # Catches a key that is gathered twice, and padding that is read.
    axes = axes_of(24, causal, causal_axes=None, **given)
    index, real = keys_of(axes, CPU)
    count = torch.zeros(24, 24, dtype=torch.long).scatter_add(1, index, real.long())
    assert torch.equal(count, seen_by(axes, CPU).long())


def test_only_named_axes_are_causal_and_only_on_request():
    # Catches causal_axes that act without causal.
    shape = (12, (3, 4), 2, 1, 1)
    for causal, named, wanted in (
        (True, None, [True, True]),
        (True, 1, [False, True]),
        (True, (0,), [True, False]),
        (False, (0,), [False, False]),
    ):
        axes = axes_of(shape[0], causal, *shape[1:], named)
        assert [axis.causal for axis in axes] == wanted
