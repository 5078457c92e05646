"""What the claims about repeated trials predict with, against loops and numpy."""

from __future__ import annotations

import numpy as np

from neuroattn.theory.pavlovian.sweeps import _limit_error, error_after, least_error, sweep_map


def drawn(pairs: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return unit keys and values."""
    rng = np.random.default_rng(pairs)
    keys = rng.normal(size=(pairs, dim))
    return keys / np.linalg.norm(keys, axis=1, keepdims=True), rng.normal(size=(pairs, 2))


def after(keys: np.ndarray, values: np.ndarray, memory: np.ndarray, sweeps: int) -> np.ndarray:
    """Return the memory (dim, value_dim) after sweeps of the delta rule by loops."""
    for _ in range(sweeps):
        for key, value in zip(keys, values, strict=True):
            memory = memory + np.outer(key, value - key @ memory)
    return memory


def test_the_map_of_a_sweep_is_that_of_its_writes() -> None:
    """Catches projections in the opposite order."""
    keys, values = drawn(4, 6)
    start = np.random.default_rng(9).normal(size=(6, 2))
    kept, added = sweep_map(keys, values)
    np.testing.assert_allclose(kept @ start + added, after(keys, values, start, 1), atol=1e-13)


def test_the_limit_of_dependent_keys_is_reached_by_loops() -> None:
    """Catches the error of another point of the cycle, or that of least squares."""
    keys, values = drawn(5, 8)
    keys[2] = keys[0] - keys[1]
    keys[2] /= np.linalg.norm(keys[2])
    memory = after(keys, values, np.zeros((8, 2)), 400)
    error = np.square(keys @ memory - values).sum()
    assert abs(_limit_error(keys, values) - error) < 1e-10
    assert error > least_error(keys, values) + 1e-3


def test_the_error_on_the_way_is_that_of_loops() -> None:
    """Catches a limit taken for the state after a few sweeps, and a sweep too many."""
    keys, values = drawn(7, 6)
    for sweeps in (0, 1, 9):
        memory = after(keys, values, np.zeros((6, 2)), sweeps)
        error = np.square(keys @ memory - values).sum()
        np.testing.assert_allclose(error_after(keys, values, sweeps), error, rtol=1e-11)


def test_the_least_error_is_that_of_lstsq() -> None:
    """Catches a residual of the keys in place of the values."""
    keys, values = drawn(9, 4)
    residual = np.linalg.lstsq(keys, values, rcond=None)[1].sum()
    np.testing.assert_allclose(least_error(keys, values), residual, rtol=1e-10)
    assert least_error(*drawn(4, 9)) < 1e-25


def test_independent_keys_are_recalled_in_the_limit() -> None:
    """Catches a limit that is inverted along directions that no key has."""
    assert _limit_error(*drawn(3, 9)) < 1e-20
