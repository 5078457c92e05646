"""What the attention benchmark holds: agreement before time, slopes, token loops."""

from __future__ import annotations

import math

import torch

from benchmarks import attention
from neuroattn.attention import get
from neuroattn.attention.bench import Row


def row(name: str, form: str, power: float, factor: float = 1.0, expected: float = 1.0) -> Row:
    lengths = attention.LENGTHS
    seconds = tuple(factor * 1e-6 * n**power for n in lengths)
    return Row(name, form, "reference", True, lengths, seconds, None, power, math.nan, expected)


def test_agreement_finds_a_form_that_is_wrong(monkeypatch):
    # Catches a benchmark that times whatever runs.
    assert max(attention.agreement(get("softmax"), "cpu").values()) < 1e-12
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def louder(*inputs, **given):
        return 1.001 * sdpa(*inputs, **given)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", louder)
    assert attention.agreement(get("softmax"), "cpu")["parallel/sdpa"] > 1e-4


def test_targets_judge_slopes_and_token_loops():
    # Catches a target that is met whatever was measured.
    good = [row("delta", "recurrent", 1.0, 20), row("delta", "chunked", 1.0)]
    assert all(target.met for target in attention.targets(good))
    assert len(attention.targets(good)) == 3
    slow = [row("delta", "recurrent", 1.0, 900), row("delta", "chunked", 1.3)]
    assert [target.met for target in attention.targets(slow)] == [True, False, True]
    assert attention.targets([row("delta", "chunked", 1.3)], 32_768) == []
    near = [row("delta", "recurrent", 1.0, 9), row("delta", "chunked", 1.0)]
    assert [target.met for target in attention.targets(near)] == [True, True, False]


def test_one_more_token_after_a_state_is_measured():
    # Catches a state that grows with what was read.
    found = attention.decoding("linear", (8, 64))
    assert set(found) == {8, 64}
    assert found[8] == found[64] > attention.DIM**2 * 4
