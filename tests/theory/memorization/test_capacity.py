"""How many examples attention memorises: against ranks counted by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.lab import Lab
from neuroattn.theory.memorization import memory_capacity, published_capacity
from neuroattn.theory.memorization.capacity import rank, stacked


def test_golden_capacities() -> None:
    # Catches Hn, or H(n-1) without the direction that the heads share.
    assert [memory_capacity(h, n) for h, n in ((1, 8), (2, 8), (4, 8), (8, 4))] == [8, 15, 29, 25]


def test_capacity_is_the_rank_of_random_stochastic_matrices() -> None:
    # Catches a capacity that only softmax weights of our own draws have.
    rng = np.random.default_rng(0)
    for heads, tokens in ((1, 3), (3, 2), (5, 4)):
        free = rng.random((60, heads, tokens))
        stochastic = free / free.sum(-1, keepdims=True)
        ranks = [np.linalg.matrix_rank(each.reshape(60, -1)) for each in (stochastic, free)]
        assert ranks == [memory_capacity(heads, tokens), memory_capacity(heads, tokens, False)]


def test_published_capacity_takes_the_minimum() -> None:
    # Catches the maximum, and a minimum where the context is the shorter of the two.
    assert published_capacity(4, 8, 2) == 5
    assert published_capacity(4, 8, 64) == 29


@pytest.mark.parametrize("number", [0, -1, 1.5, True])
@pytest.mark.parametrize("name", ["heads", "tokens", "head_dim"])
def test_impossible_numbers_are_named(name: str, number: float) -> None:
    # Catches a capacity of nothing, or of a fraction of a head.
    arguments = {"heads": 2, "tokens": 3, "head_dim": 4, name: number}
    with pytest.raises(InputError, match=f"{name}="):
        published_capacity(**arguments)  # type: ignore[arg-type]


def test_rank_counts_what_is_above_rounding() -> None:
    # Catches a threshold so low that rounding counts, or so high that a small direction does not.
    lab = Lab("memorization.rank.weights")
    rng = np.random.default_rng(1)
    low = rng.standard_normal((40, 7)) @ rng.standard_normal((7, 20))
    assert rank(lab, low) == 7
    assert rank(lab, low + 1e-9 * rng.standard_normal(low.shape)) == 20


def test_stacked_weights_are_those_of_each_head() -> None:
    # Catches heads and examples that are mixed up when they are laid side by side.
    lab = Lab("memorization.rank.weights")
    query = lab.normal((1, 2, 6, 4), "query", (2, 3, 4), 6)[0].numpy()
    key = lab.normal((1, 2, 3, 4), "key", (2, 3, 4))[0].numpy()
    found = stacked(lab, (2, 3, 4), 6)
    for example in range(6):
        for head in range(2):
            raw = np.exp(key[head] @ query[head, example])
            np.testing.assert_allclose(
                found[example, 3 * head : 3 * head + 3], raw / raw.sum(), rtol=1e-12
            )
