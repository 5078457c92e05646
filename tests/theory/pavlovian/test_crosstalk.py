"""Crosstalk: the variance of retrieval, its split, and the moments behind it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from neuroattn import theory
from neuroattn.errors import InputError, UnknownNameError
from neuroattn.theory.lab import KEY_LAWS, Lab
from neuroattn.theory.pavlovian.crosstalk import crosstalk_variance, means, split
from neuroattn.theory.pavlovian.moments import fourth_moment, second_moment


@pytest.mark.parametrize("law", KEY_LAWS)
@pytest.mark.parametrize(("pairs", "expected"), [(8, 0.1094), (32, 0.4844), (128, 1.9844)])
def test_variance_has_the_derived_values(pairs: int, expected: float, law: str) -> None:
    """Catches N for N-1, and 2/d missing for Gaussian keys or given to others."""
    extra = 0.03125 if law == "gaussian" else 0.0
    assert crosstalk_variance(pairs, 64, law) == pytest.approx(expected + extra, abs=5e-5)


@pytest.mark.parametrize("law", KEY_LAWS)
def test_variance_is_that_of_a_memory_in_numpy(law: str) -> None:
    """Catches a constant that only fits large d: 5 pairs in 3 dimensions."""
    draws, pairs, dim = 40_000, 5, 3
    keys = Lab("test").keys(law, (draws, pairs, dim)).numpy()
    values = np.random.default_rng(1).standard_normal((draws, pairs, 2)) / 2**0.5
    memory = np.einsum("bnv,bnd->bvd", values, keys)
    error = np.square(np.einsum("bvd,bd->bv", memory, keys[:, 0]) - values[:, 0]).sum(-1)
    z = (error.mean() - crosstalk_variance(pairs, dim, law)) / (error.std() / draws**0.5)
    assert abs(z) < 4


def test_split_adds_up_to_the_read_of_a_memory() -> None:
    """Catches crosstalk that holds the item itself, and a target without its squared length."""
    rng = np.random.default_rng(2)
    keys, values = rng.standard_normal((2, 5, 3)), rng.standard_normal((2, 5, 4))
    target, crosstalk = split(keys, values)
    assert_allclose(target + crosstalk, keys @ (keys.swapaxes(-1, -2) @ values), rtol=1e-12)
    own = np.square(keys).sum(-1, keepdims=True) * values
    assert_allclose(target, own, rtol=1e-12)


@pytest.mark.parametrize(
    ("law", "expected"),
    [("sphere", 0.010417), ("gaussian", 0.013184), ("rademacher", 0.011230)],
)
def test_fourth_moments_have_the_derived_values(law: str, expected: float) -> None:
    """Catches laws that are swapped: d = 16."""
    assert fourth_moment(16, law) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize("law", KEY_LAWS)
def test_moments_are_those_of_the_keys_of_the_lab(law: str) -> None:
    """Catches keys whose squared length is not 1 on average, in five dimensions."""
    keys = Lab("test").keys(law, (2, 200_000, 5))
    overlap = (keys[0] * keys[1]).sum(-1).numpy()
    for power, moment in ((2, second_moment), (4, fourth_moment)):
        raised = overlap**power
        z = (raised.mean() - moment(5, law)) / (raised.std() / len(raised) ** 0.5)
        assert abs(z) < 4


def test_means_take_different_numbers_of_draws() -> None:
    """Catches a spread that forgets the number of draws."""
    drawn = [torch.tensor([1.0, 3.0] * 50).numpy(), np.array([0.0, 1.0] * 800)]
    found = means(Lab("test"), "two", drawn, [2.0, 0.5], None)
    assert found.passed
    assert found.spread is not None
    assert_allclose(found.spread, [0.1, 0.0125], rtol=0.02)
    assert not means(Lab("test"), "two", drawn, [2.0, 0.6], None).passed


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((0, 4), "pairs=0"), ((3, 0), "dim=0"), ((2.5, 4), "pairs=2.5"), ((True, 4), "pairs=True")],
)
def test_impossible_counts_are_refused_by_name(arguments: tuple[int, int], named: str) -> None:
    """Catches a number of pairs that is no count, and a message that does not say which."""
    with pytest.raises(InputError, match=named):
        crosstalk_variance(*arguments)


def test_an_unknown_law_is_refused_with_the_known_ones() -> None:
    """Catches a law that is silently taken for another."""
    with pytest.raises(UnknownNameError, match="sphere"):
        crosstalk_variance(3, 4, "spere")


def test_the_package_offers_functions_not_modules() -> None:
    """Catches a module that hides the function of the same name once it is imported."""
    theory.list_claims("pavlovian")
    assert theory.pavlovian.capacity(64, 4.0) == 17.0
    for name in theory.pavlovian.__all__:
        assert callable(getattr(theory.pavlovian, name)), name
