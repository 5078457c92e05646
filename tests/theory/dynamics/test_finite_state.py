"""The rank of weights and of Gram matrices, against numpy and sympy."""

from __future__ import annotations

import numpy as np
import pytest
import sympy
import torch

from neuroattn.errors import InputError
from neuroattn.theory.dynamics import exponential_rank, state_size


@pytest.mark.parametrize("states", [1, 2, 5])
def test_a_recurrence_of_known_size_is_counted(states: int) -> None:
    # Ranks of blocks that include the diagonal, which is the skip, would be one too high.
    rng = np.random.default_rng(states)
    steps = rng.normal(size=(16, states, states)) / states**0.5
    into, out = rng.normal(size=(16, states)), rng.normal(size=(16, states))
    kernel = np.diag(rng.normal(size=16))
    for j in range(16):
        left = into[j]
        for i in range(j, 16):
            left = left if i == j else steps[i] @ left
            kernel[i, j] += out[i] @ left
    assert state_size(torch.as_tensor(kernel), 1e-9) == states


def test_a_skip_alone_needs_no_state_and_a_full_matrix_half_the_tokens() -> None:
    # A rank of the whole matrix would give all tokens in both cases.
    assert state_size(torch.eye(8, dtype=torch.float64)) == 0
    full = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert state_size(full.tril()) == 4


@pytest.mark.parametrize("keys", [[0, 1, 2], [3, 1, 4, 1, 5, 9], [2, 2, 2], [0, 7]])
def test_the_rank_is_sympys_over_the_rationals(keys: list[int]) -> None:
    # An elimination that loses a pivot, or counts equal keys twice, would show.
    gram = sympy.Matrix(len(keys), len(keys), lambda i, j: sympy.Integer(3) ** (keys[i] * keys[j]))
    assert exponential_rank(keys, base=3) == gram.rank() == len(set(keys))


def test_bad_input_names_what_is_allowed() -> None:
    # Floating keys would be rounded, a base of 1 makes all entries equal.
    with pytest.raises(InputError, match=r"key=1\.5"):
        exponential_rank([1.5])  # type: ignore[list-item]
    with pytest.raises(InputError, match="key=-1"):
        exponential_rank([-1])
    with pytest.raises(InputError, match="base=1 must be a whole number of at least 2"):
        exponential_rank([1, 2], base=1)
    with pytest.raises(InputError, match=r"needed is \(tokens, tokens\)"):
        state_size(torch.zeros(3, 4))
    with pytest.raises(InputError, match="tolerance=0"):
        state_size(torch.zeros(3, 3), 0)
