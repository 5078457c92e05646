"""The law of errors through depth, against products of Gram matrices in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.pavlovian import crosstalk_variance, depth_error
from neuroattn.theory.pavlovian.depth import _fresh_noise, noise_gain


def gram(rng: np.random.Generator, draws: int, heads: int, pairs: int, dim: int) -> np.ndarray:
    """Return the mean over heads of K Kᵀ, (draws, pairs, pairs)."""
    keys = rng.normal(size=(draws, heads, pairs, dim))
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    found: np.ndarray = (keys @ keys.swapaxes(-1, -2)).mean(1)
    return found


@pytest.mark.parametrize(
    ("pairs", "dim", "heads", "layers"), [(5, 7, 1, 3), (5, 3, 4, 2), (2, 1, 2, 4), (9, 30, 1, 1)]
)
def test_the_law_is_that_of_products_of_gram_matrices(
    pairs: int, dim: int, heads: int, layers: int
) -> None:
    """Catches an exponent, or a factor of heads, that is right to first order only."""
    rng, draws = np.random.default_rng(layers), 40_000
    shares = np.broadcast_to(np.eye(pairs)[0], (draws, pairs))
    for _ in range(layers):
        shares = np.einsum("bij,bj->bi", gram(rng, draws, heads, pairs, dim), shares)
    errors = np.square(shares - np.eye(pairs)[0]).sum(-1)
    expected = depth_error(pairs, dim, heads, layers)
    assert abs(errors.mean() - expected) < 4.5 * errors.std() / draws**0.5


@pytest.mark.parametrize(
    ("size", "error"),
    [
        ((48, 64, 1, 2), 2.008),
        ((48, 64, 1, 6), 26.218),
        ((48, 64, 4, 6), 1.749),
        ((48, 64, 8, 6), 0.694),
        ((16, 64, 1, 12), 11.51),
        ((16, 64, 4, 12), 0.980),
    ],
)
def test_the_law_has_its_known_values(size: tuple[int, int, int, int], error: float) -> None:
    """Catches N for N-1, and heads that are not counted."""
    assert depth_error(*size) == pytest.approx(error, rel=6e-4)


def test_one_layer_of_one_head_is_the_crosstalk_of_one_memory() -> None:
    """Catches a law whose first layer is something else."""
    assert depth_error(32, 64) == pytest.approx(crosstalk_variance(32, 64), rel=1e-12)
    assert depth_error(1, 3, 2, 5) == 0


def test_only_the_product_of_heads_and_width_counts() -> None:
    """Catches heads that enter with another power than the width."""
    assert depth_error(48, 64, 4, 6) == pytest.approx(depth_error(48, 256, 1, 6), rel=1e-13)


def test_the_falsified_recursion_has_its_fixed_point() -> None:
    """Catches a mutant that is wrong for another reason than the one it is named for."""
    assert _fresh_noise(16, 64, 1, 12) == pytest.approx(0.3125, rel=2e-2)
    assert _fresh_noise(16, 64, 1, 200) == pytest.approx(15 / 48, rel=1e-12)


def test_noise_from_outside_is_damped_once_and_then_recalled() -> None:
    """Catches N/d in every layer."""
    rng, draws, pairs, dim = np.random.default_rng(3), 40_000, 4, 8
    keys = rng.normal(size=(draws, pairs, dim))
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    noise = rng.normal(size=(draws, dim)) / dim**0.5
    shares = np.einsum("bnd,bd->bn", keys, noise)
    for layers in (1, 2, 3):
        left = np.square(shares).sum(-1)
        expected = noise_gain(pairs, dim, layers)
        assert abs(left.mean() - expected) < 4.5 * left.std() / draws**0.5
        shares = np.einsum("bij,bj->bi", gram(rng, draws, 1, pairs, dim), shares)


@pytest.mark.parametrize("name", ["pairs", "dim", "heads", "layers"])
@pytest.mark.parametrize("bad", [0, -1, 2.0, False])
def test_a_count_that_is_none_is_refused(name: str, bad: object) -> None:
    """Catches a number out of a network without layers, heads or items."""
    given = {"pairs": 4, "dim": 4, "heads": 1, "layers": 1, name: bad}
    with pytest.raises(InputError, match=rf"{name}=.* whole number of at least 1"):
        depth_error(**given)
