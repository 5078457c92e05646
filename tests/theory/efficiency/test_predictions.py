"""Predictions of the claims on cheaper reads."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.efficiency import low_rank_error, window_counts


def test_the_low_rank_error_is_attained_by_the_truncated_svd_and_not_beaten():
    # Catches the tail counted from the wrong end.
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(6, 8))
    left, size, right = np.linalg.svd(matrix, full_matrices=False)
    best = (left[:, :2] * size[:2]) @ right[:2]
    assert np.isclose(low_rank_error(matrix, 2), np.square(matrix - best).sum())
    others = [rng.normal(size=(6, 2)) @ rng.normal(size=(2, 8)) for _ in range(50)]
    assert min(np.square(matrix - each).sum() for each in others) > low_rank_error(matrix, 2)
    assert low_rank_error(matrix, 6) == 0


def test_windows_count_themselves():
    # Catches windows that are cut at the edges.
    assert window_counts(5, 3).tolist() == [3, 3, 3, 3, 3]
    assert window_counts(5, 3, causal=True).tolist() == [1, 2, 3, 3, 3]


def test_bad_input_names_the_argument():
    # Catches a window longer than the sequence.
    with pytest.raises(InputError, match="window=6"):
        window_counts(5, 6)
    with pytest.raises(InputError, match="rank=-1"):
        low_rank_error(np.eye(2), -1)
    with pytest.raises(InputError, match="weights"):
        low_rank_error(np.ones(3), 1)
