"""Ranges, choices and shapes of parameters: what is allowed, and how a mistake is answered."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention.parameters import choice, integer, number, switch, tensor
from neuroattn.errors import InputError

SIZES = {"batch": 2, "heads": 3, "queries": 4, "keys": 5, "dim": 6, "value_dim": 7}


def accepts(parameter, value, sizes=SIZES) -> bool:
    told = ""
    try:
        parameter.check("owner", "name", value, dict(sizes))
    except InputError as error:
        told = str(error)
    if told and not ("owner's name" in told and (parameter.allowed in told or "Allowed" in told)):
        raise AssertionError(f"{told!r} does not say what is allowed")
    return not told


@pytest.mark.parametrize("exclude", ["", "low", "high", "both"])
def test_bounds_are_open_or_closed_as_written(exclude):
    # Catches a bound that is open where it should be closed, or the other way round.
    each = number("x", 0.5, 0, 1, exclude=exclude)
    assert accepts(each, 0.5)
    assert accepts(each, 0) == (exclude not in ("low", "both"))
    assert accepts(each, 1) == (exclude not in ("high", "both"))
    assert not accepts(each, -0.1)
    assert not accepts(each, 1.1)
    assert ("above 0" in each.allowed) == (exclude in ("low", "both"))
    assert ("at most 1" in each.allowed) == (exclude not in ("high", "both"))


def test_what_is_no_number_is_refused():
    # Catches NaN, which is within no bound and outside none, and true taken for 1.
    each = number("x", 0.5, 0, 1)
    for wrong in (math.nan, True, None, "0.5", (0.5,), torch.tensor(0.5)):
        assert not accepts(each, wrong)
    assert accepts(number("x", None, optional=True), None)


def test_integers_are_whole_and_may_be_several():
    # Catches a window of 2.5 tokens, and an empty tuple of windows.
    one, several = integer("x", 1, 1), integer("x", 1, 1, several=True)
    assert accepts(one, 3)
    assert not accepts(one, 3.0)
    assert not accepts(one, (3, 4))
    assert accepts(several, (3, 4))
    assert accepts(several, [3, 4])
    for wrong in ((), (3, 0), (3, 1.5)):
        assert not accepts(several, wrong)


def test_names_are_answered_with_the_closest():
    each = choice("x", "visible", "all")
    assert accepts(each, "visible")
    assert accepts(each, "all")
    with pytest.raises(InputError, match=r"owner's name='visble'.*did you mean 'visible'"):
        each.check("owner", "name", "visble", {})
    assert not accepts(each, 3)
    assert accepts(number("x", 1.0, 0, choices=("retnet",)), "retnet")
    assert not accepts(switch("x", True), 1)


def test_tensors_have_named_axes_of_which_some_may_be_shared():
    # Catches a gate for other heads that broadcasting would accept, and one axis too few.
    each = tensor("x", ("batch", "heads", "keys"), ("heads", "dim", "features"))
    for shape in ((2, 3, 5), (1, 3, 5), (1, 1, 1), (3, 6, 11)):
        assert accepts(each, torch.zeros(shape))
    for shape in ((2, 3, 4), (3, 5), (2, 3, 5, 1), (3, 1, 11), (2, 6, 11)):
        assert not accepts(each, torch.zeros(shape))
    assert not accepts(each, 0.5)


def test_a_free_axis_is_the_same_in_all_parameters():
    # Catches two weights of different widths that meet only in a matrix product.
    sizes = dict(SIZES)
    tensor("x", ("heads", "dim", "hidden")).check("owner", "first", torch.zeros(3, 6, 9), sizes)
    second = tensor("x", ("heads", "hidden"))
    assert accepts(second, torch.zeros(3, 9), sizes)
    assert not accepts(second, torch.zeros(3, 8), sizes)
    assert not accepts(second, torch.zeros(3, 1), sizes)
