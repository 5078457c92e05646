"""The edge of stability of momentum, against long simulations and Titans' golden numbers."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.dynamics import momentum_edge


def grown(momentum: float, beta: float, keys: int, rounds: int = 400) -> float:
    """Return the largest entry of memory and momentum after many rounds, number by number."""
    memory, moving = np.eye(keys), np.zeros((keys, keys))
    for token in range(rounds * keys):
        row = token % keys
        moving = momentum * moving
        moving[row] -= beta * memory[row]
        memory = memory + moving
    return float(np.abs(memory).max())


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("keys", [1, 2, 3, 5])
def test_just_below_the_edge_it_stays_and_just_above_it_explodes(
    momentum: float, keys: int
) -> None:
    # The edge of one key for many, or a power that is off by one, would show.
    edge = momentum_edge(momentum, keys)
    assert grown(momentum, 0.97 * edge, keys) < 50
    assert grown(momentum, 1.03 * edge, keys) > 1e3


def test_one_key_has_the_published_edge_and_many_the_small_one() -> None:
    # θ = 1.79 is stable and 1.81 not at momentum 0.8, with beta twice θ.
    assert 2 * 1.79 < momentum_edge(0.8) < 2 * 1.81
    assert momentum_edge(0.8) == pytest.approx(3.6)
    assert momentum_edge(0.8, 500) == pytest.approx(0.4)
    assert momentum_edge(0.0, 7) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ((1.0,), "momentum=1.0"),
        ((-0.1,), "momentum=-0.1"),
        ((0.5, 0), "keys=0"),
        ((0.5, 1.5), "1.5"),
        (("a", 1), "momentum='a'"),
        ((float("nan"), 1), "momentum=nan"),
    ],
)
def test_bad_input_is_refused(given: tuple[float, ...], why: str) -> None:
    # A momentum of 1 would divide by zero.
    with pytest.raises(InputError, match=why):
        momentum_edge(*given)  # type: ignore[arg-type]
