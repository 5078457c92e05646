"""What the claims about conditioning and steps predict with, against the rules in loops."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from neuroattn.theory.lab import Lab
from neuroattn.theory.pavlovian import competition, phenomena, steps
from neuroattn.theory.pavlovian.phenomena import STEP, run

Trial = tuple[str, float]


def by_loops(
    trials: list[Trial], saliences: dict[str, float] | None = None, hebb: bool = False
) -> dict[str, float]:
    """Return strengths after trials of the delta rule, or of Hebb's."""
    loud = {each: (saliences or {}).get(each, 1.0) for present, _ in trials for each in present}
    weight = dict.fromkeys(loud, 0.0)
    for present, outcome in trials:
        error = outcome - (0.0 if hebb else sum(loud[s] * weight[s] for s in present))
        for each in present:
            weight[each] += STEP * loud[each] * error
    return {each: loud[each] * weight[each] for each in loud}


def default(measure: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the prediction that a claim's measurement has by default."""
    found: Callable[..., Any] = inspect.signature(measure).parameters[name].default
    return found


def test_acquisition_and_extinction_are_the_rule_by_loops() -> None:
    """Catches a curve that is a trial late."""
    learnt, kept = (default(phenomena.measure_acquisition, each) for each in ("learnt", "kept"))
    trials: list[Trial] = [("A", 1.0)] * 4 + [("A", 0.0)] * 3
    assert by_loops(trials[:4])["A"] == pytest.approx(learnt(4), rel=1e-13)
    assert by_loops(trials)["A"] == pytest.approx(learnt(4) * kept(3), rel=1e-13)


def test_blocking_is_the_rule_by_loops() -> None:
    """Catches a share of B that forgets that A goes on learning with it."""
    partial = default(phenomena.measure_blocking, "partial")
    for before in (0, 2, 5):
        trials: list[Trial] = [("A", 1.0)] * before + [("AB", 1.0)] * 90
        assert by_loops(trials)["B"] == pytest.approx(partial(before), rel=1e-13)


def test_overshadowing_is_the_rule_by_loops() -> None:
    """Catches saliences in place of their squares."""
    share = default(phenomena.measure_overshadowing, "share")
    found = by_loops([("AB", 1.0)] * 200, {"A": 1.5})
    assert found["A"] == pytest.approx(share(1.5, 1.0), rel=1e-12)
    assert found["B"] == pytest.approx(1 - share(1.5, 1.0), rel=1e-12)


def test_overexpectation_is_the_rule_by_loops() -> None:
    """Catches a loss at the rate of one stimulus."""
    curve = default(phenomena.measure_overexpectation, "curve")
    trials: list[Trial] = [("A", 1.0), ("B", 1.0)] * 110 + [("AB", 1.0)] * 3
    assert by_loops(trials)["A"] == pytest.approx(curve(3), rel=1e-12)


def test_inhibition_depends_on_the_order_of_trials() -> None:
    """Catches -1 for trials that are not mixed."""
    blocked = default(phenomena.measure_inhibition, "blocked")
    assert by_loops([("A", 1.0)] * 120 + [("AX", 0.0)] * 80)["X"] == pytest.approx(blocked)
    assert by_loops([("A", 1.0), ("AX", 0.0)] * 400)["X"] == pytest.approx(-1)


@pytest.mark.parametrize("size", [1, 3, 6, 7, 10])
def test_the_error_of_a_compound_is_the_rule_by_loops(size: int) -> None:
    """Catches an edge that is off by one stimulus."""
    factor = default(competition.measure_compound, "factor")
    found = by_loops([("ABCDEFGHIJ"[:size], 1.0)] * 3)
    assert 1 - sum(found.values()) == pytest.approx(factor(size) ** 3, rel=1e-12)
    late = by_loops([("ABCDEFGHIJ"[:size], 1.0)] * 200)
    assert (abs(1 - sum(late.values())) < 1) == (abs(factor(size)) < 1) == (size < 7)


def test_hebbian_strength_is_the_rule_by_loops() -> None:
    """Catches a salience that enters once, and an outcome of another size that counts as 1."""
    added = default(competition.measure_hebb, "added")
    trials: list[Trial] = [("A", 1.0)] * 7 + [("AB", 0.5)] * 20
    found = by_loops(trials, {"B": 2.0}, hebb=True)
    assert found["A"] == pytest.approx(added(7) + added(20) * 0.5)
    assert found["B"] == pytest.approx(added(20) * 0.5 * 2**2)
    assert by_loops([("AB", 1.0)] * 20, {"B": 2.0}, hebb=True)["B"] == pytest.approx(24)


@pytest.mark.parametrize("rule", ["delta", "linear"])
def test_a_run_is_the_rule_by_loops(rule: str) -> None:
    """Catches strengths of another stimulus, and saliences that are not passed on."""
    trials: list[Trial] = [("A", 1.0)] * 3 + [("AB", 0.5)] * 2
    found = run(Lab("test.run"), [("A+", 3), ("AB+0.5", 2)], rule, {"B": 2.0})
    expected = by_loops(trials, {"B": 2.0}, hebb=rule == "linear")
    assert {each: float(found[each][-1]) for each in found} == pytest.approx(expected)
    assert [len(each) for each in found.values()] == [6, 6]


def test_the_factors_of_a_step_are_those_of_numpy() -> None:
    """Catches 1 - 2x, the square without its half, and an explicit step for an implicit one."""
    eigenvalue = default(steps.measure_stability, "eigenvalue")
    factor = default(steps.measure_implicit, "factor")
    key, value, beta = np.array([0.3, -1.2, 0.8]), 0.7, 0.9
    x = beta * key @ key
    write = np.eye(3) - beta * np.outer(key, key)
    np.testing.assert_allclose(min(np.linalg.eigvalsh(write)), min(1.0, eigenvalue(x)), rtol=1e-12)
    old = np.array([1.0, 0.5, -0.4])
    # The minimum of |w - old|^2/2 + beta (value - w.key)^2/2.
    new = np.linalg.solve(np.eye(3) + beta * np.outer(key, key), old + beta * value * key)
    assert (value - new @ key) / (value - old @ key) == pytest.approx(factor(x), rel=1e-12)


def test_the_share_of_a_residual_is_that_of_a_write_by_hand() -> None:
    """Catches a residual before and after that are of different pairs."""
    beta = torch.full((2, 1, 3), 0.4, dtype=torch.float64)
    lab = Lab("test.residual")
    keys, values = (lab.normal((2, 1, 3, 4), each) for each in ("keys", "values"))
    found = steps.residual_left(lab, "delta", keys, values, beta, normalize_keys=False)
    np.testing.assert_allclose(found, 1 - 0.4 * keys[:, 0, -1].square().sum(-1), rtol=1e-9)
