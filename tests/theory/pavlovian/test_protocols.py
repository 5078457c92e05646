"""The language of protocols, and conditioning against the rules written out in loops."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError, UnknownNameError
from neuroattn.theory.pavlovian import conditioning
from neuroattn.theory.pavlovian.protocols import parse

MIXED = [("A+", 3), ("AB+0.5, C-, BC+2", 4), ("ABC-", 2)]
SALIENCE = {"A": 0.5, "C": 1.25}


def by_loops(correct: bool, step: float) -> np.ndarray:
    """Return strengths of A, B, C in MIXED, by Rescorla and Wagner's rule or by Hebb's."""
    trials = [("A", 1.0)] * 3 + [("AB", 0.5), ("C", 0.0), ("BC", 2.0)] * 4 + [("ABC", 0.0)] * 2
    salience = np.array([SALIENCE.get(each, 1.0) for each in "ABC"])
    weight, rows = np.zeros(3), [np.zeros(3)]
    for present, outcome in trials:
        key = salience * [each in present for each in "ABC"]
        weight = weight + step * key * (outcome - correct * (key @ weight))
        rows.append(salience * weight)
    return np.array(rows)


@pytest.mark.parametrize(
    ("rule", "correct"), [("delta", True), ("titans", True), ("linear", False), ("ssd", False)]
)
def test_the_strengths_are_those_of_the_rule_by_loops(rule: str, correct: bool) -> None:
    """Catches a step, a salience or an outcome that is applied twice, or not, in some rule."""
    found = conditioning(MIXED, rule, saliences=SALIENCE, step=0.2)
    np.testing.assert_allclose(found.values, by_loops(correct, 0.2), atol=1e-13)


def test_the_result_is_labelled() -> None:
    """Catches strengths before the trial in the row after it, and unsorted stimuli."""
    found = conditioning([("XA+", 2), ("A-", 1)], step=0.25)
    assert found.dims == ("trial", "stimulus")
    assert list(found.stimulus.values) == ["A", "X"]
    assert list(found.trial.values) == [0, 1, 2, 3]
    assert list(found.phase.values) == [0, 1, 1, 2]
    assert list(found.type.values) == ["", "XA+", "XA+", "A-"]
    assert found.sel(trial=0, stimulus="A") == 0
    assert found.sel(trial=1, stimulus="A") == 0.25
    assert found.attrs == {"rule": "delta", "step": 0.25}


def test_the_phenomena_have_their_known_values() -> None:
    """Catches a delta rule with normalised keys, and Hebbian writing."""
    extinct = conditioning([("A+", 200), ("A-", 7)])
    assert extinct.sel(stimulus="A")[-1] == pytest.approx(0.0823543, abs=1e-9)
    blocked = conditioning([("A+", 5), ("AB+", 100)])
    assert blocked.sel(stimulus="B")[-1] == pytest.approx(0.084035, abs=1e-9)
    louder = conditioning([("AB+", 400)], saliences={"A": 4.0}, step=0.05)
    np.testing.assert_allclose(louder[-1], [0.941176, 0.058824], atol=1e-6)
    inhibited = conditioning([("A+, AX-", 400)])
    np.testing.assert_allclose(inhibited[-1], [1, -1], atol=1e-12)
    hebbian = conditioning([("A+", 40), ("AB+", 400)], "linear")
    assert hebbian.sel(stimulus="B")[-1] == pytest.approx(120, rel=1e-12)


def test_parameters_of_the_rule_are_passed_on() -> None:
    """Catches our own choice in place of the caller's."""
    normalised = conditioning([("AB+", 60)], normalize_keys=True)
    np.testing.assert_allclose(normalised[-1], [0.5**0.5] * 2, atol=1e-8)
    faster = conditioning([("A+", 1)], step=0.1, beta=0.7)
    assert faster[-1, 0] == pytest.approx(0.7)
    assert conditioning([("A+", 1)], step=0.5, scale=3.0)[-1, 0] == pytest.approx(1.5)


def test_a_protocol_is_read_trial_by_trial() -> None:
    """Catches types that are run in blocks where they alternate, and a size that is lost."""
    trials = parse([("AB+ ,  B-", 2), ("C+.5", 1), ("C+3.", 1)])
    assert trials.types == ("AB+", "B-", "AB+", "B-", "C+.5", "C+3.")
    assert trials.phase == (1, 1, 1, 1, 2, 3)
    np.testing.assert_array_equal(trials.outcome, [1, 0, 1, 0, 0.5, 3])
    np.testing.assert_array_equal(trials.present[[0, 1, 4]], [[1, 1, 0], [0, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ("A+", "sequence of phases"),
        ([], "sequence of phases"),
        (None, "sequence of phases"),
        ([("A+", 1), "A+"], "phase 2 .* pair"),
        ([("A+", 1, 2)], "phase 1 .* pair"),
        ([("A+", 0)], "phase 1 .* run 0 times"),
        ([("A+", 2.0)], "whole number"),
        ([("A+", True)], "whole number"),
        ([(7, 1)], "trial types of phase 1 are 7"),
        ([("A+", 1), ("AB", 3)], "'AB' in phase 2"),
        ([("a+", 1)], "capital letters"),
        ([("+", 1)], "capital letters"),
        ([("A+,", 1)], "trial type ''"),
        ([("A-1", 1)], "capital letters"),
        ([("A+nan", 1)], "capital letters"),
        ([("ABA+", 1)], "names a stimulus twice"),
    ],
)
def test_a_malformed_protocol_is_refused(protocol: object, message: str) -> None:
    """Catches a protocol that is run as something else than was meant."""
    with pytest.raises(InputError, match=message):
        conditioning(protocol)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rule": "softmax"}, "not recurrent"),
        ({"step": 0}, "step=0 must be a positive"),
        ({"step": float("nan")}, "positive"),
        ({"step": "fast"}, "positive"),
        ({"saliences": {"A": 0.0}}, "salience of A=0.0"),
        ({"saliences": [1.0]}, "mapping"),
        ({"beta": -1.0}, "beta"),
    ],
)
def test_an_impossible_argument_is_refused(given: dict[str, object], message: str) -> None:
    """Catches a strength that comes out of an impossible step, salience or rule."""
    with pytest.raises(InputError, match=message):
        conditioning([("A+", 2)], **given)


def test_an_unknown_name_is_answered_with_those_that_are_known() -> None:
    """Catches a salience of a stimulus that never occurs, and a misspelt rule."""
    with pytest.raises(UnknownNameError, match="did you mean 'delta'"):
        conditioning([("A+", 2)], "detla")
    with pytest.raises(UnknownNameError, match="Allowed: A"):
        conditioning([("A+", 2)], saliences={"B": 1.0})
    with pytest.raises(UnknownNameError, match="no parameter"):
        conditioning([("A+", 2)], sped=1.0)
