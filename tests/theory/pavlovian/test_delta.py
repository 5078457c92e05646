"""Error, size and forgetting of one pass of the delta rule, against simulations in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.pavlovian import delta_rule_error
from neuroattn.theory.pavlovian.forgetting import delta_rule_norm, forgetting_factor


def simulated(pairs: int, dim: int, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return squared errors (draws, pairs) and squared norms (draws,) of the rule by loops."""
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(draws, pairs, dim))
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    values = rng.normal(size=(draws, pairs, 3)) / 3**0.5
    memory = np.zeros((draws, 3, dim))
    for item in range(pairs):
        key, value = keys[:, item], values[:, item]
        error = value - np.einsum("bvd,bd->bv", memory, key)
        memory += error[:, :, None] * key[:, None]
    recalled = np.einsum("bvd,bnd->bnv", memory, keys)
    return np.square(recalled - values).sum(-1), np.square(memory).sum((-1, -2))


@pytest.mark.parametrize(("pairs", "dim"), [(2, 2), (5, 3), (7, 12), (9, 1)])
def test_the_error_of_every_item_is_that_of_a_simulation(pairs: int, dim: int) -> None:
    """Catches a wrong order of items, and a moment of the cosine that holds in large d only."""
    errors, _ = simulated(pairs, dim, 40_000, pairs)
    spread = errors.std(axis=0) / 200
    assert np.all(np.abs(errors.mean(0) - delta_rule_error(pairs, dim)) <= 4.5 * spread + 1e-12)


@pytest.mark.parametrize(
    ("pairs", "dim", "mean", "oldest"),
    [
        (16, 32, 0.28746, 0.53496),
        (32, 32, 0.59577, 1.02969),
        (64, 32, 1.05808, 1.61708),
        (8, 4, 1.04877, None),
    ],
)
def test_the_error_has_its_known_values(
    pairs: int, dim: int, mean: float, oldest: float | None
) -> None:
    """Catches the cruder recursion, which gives .2811, .5900 and 1.0557."""
    found = delta_rule_error(pairs, dim)
    assert found.shape == (pairs,)
    assert found.mean() == pytest.approx(mean, abs=6e-6)
    assert oldest is None or found[0] == pytest.approx(oldest, abs=6e-6)


def test_older_items_have_larger_errors_and_the_newest_none() -> None:
    """Catches an error that is returned newest first."""
    found = delta_rule_error(20, 7)
    assert found[-1] == 0
    assert np.all(np.diff(found) < 0)


def test_two_items_by_hand() -> None:
    """Catches a missing term: E c^2 (|v|^2 + c^2 |v'|^2) = 1/d + 3/(d (d+2))."""
    np.testing.assert_allclose(delta_rule_error(2, 6), [1 / 6 + 3 / 48, 0], rtol=1e-14)
    np.testing.assert_array_equal(delta_rule_error(1, 6), [0])


@pytest.mark.parametrize("bad", [0, -2, 1.5, True, "4", None])
def test_a_count_that_is_none_is_refused(bad: object) -> None:
    """Catches an empty or endless loop in place of a message."""
    with pytest.raises(InputError, match=r"pairs=.* whole number of at least 1"):
        delta_rule_error(bad, 4)
    with pytest.raises(InputError, match=r"dim=.* whole number of at least 1"):
        delta_rule_error(4, bad)


def test_the_norm_is_that_of_a_simulation_and_has_its_known_values() -> None:
    """Catches the Hebbian norm, which is the number of pairs."""
    _, norms = simulated(7, 4, 40_000, 0)
    assert abs(norms.mean() - delta_rule_norm(7, 4)) < 4.5 * norms.std() / 200
    found = [delta_rule_norm(n, 32) for n in (16, 32, 64)]
    np.testing.assert_allclose(found, [12.7453, 20.4142, 27.8053], atol=6e-5)


def test_what_later_writes_leave_has_its_known_value_and_that_of_projections() -> None:
    """Catches (1 - 2/d)^N and exp(-N/d)."""
    assert forgetting_factor(20, 16) == pytest.approx(4.4009, abs=6e-5)
    rng = np.random.default_rng(1)
    left = np.broadcast_to(np.eye(5), (20_000, 5, 5))
    for _ in range(6):
        keys = rng.normal(size=(20_000, 5))
        keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
        left = left - keys[:, :, None] * np.einsum("bd,bde->be", keys, left)[:, None]
    squared = np.square(left).sum((-1, -2))
    assert abs(squared.mean() - forgetting_factor(6, 5)) < 4.5 * squared.std() / 20_000**0.5
