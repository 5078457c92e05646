"""A proof's steps are checked, and its text shows them."""

from __future__ import annotations

import pytest
import sympy

from neuroattn.theory import Proof
from neuroattn.theory.proof import ProofError

x, y = sympy.symbols("x y", real=True)


def test_equations_that_hold_are_kept_as_steps() -> None:
    """Catches a step that is shown without having been checked."""
    proof = Proof()
    proof.say("Given", x)
    proof.equal("a square", (x + y) ** 2, x**2 + 2 * x * y + y**2)
    proof.equal(
        "a matrix", sympy.Matrix([[sympy.sin(x) ** 2]]), sympy.Matrix([[1 - sympy.cos(x) ** 2]])
    )
    proof.true("positive", sympy.exp(x) > 0)
    assert [step.checked for step in proof.steps] == [False, True, True, True]
    assert proof.steps[1].plain == "(x + y)**2 = x**2 + 2*x*y + y**2"
    assert proof.steps[1].latex.startswith(r"\left(x + y\right)^{2} = ")
    assert proof.steps[2].plain == "[[sin(x)**2]] = [[1 - cos(x)**2]]"
    proof.equal("the same form", x + y, y + x)
    assert proof.steps[4].plain == "x + y"
    assert proof.steps[3].plain == proof.steps[3].latex == ""


@pytest.mark.parametrize("right", [x**2 + x * y + y**2, sympy.nan, x**2])
def test_an_equation_that_does_not_hold_ends_the_proof(right: sympy.Expr) -> None:
    """Catches a difference that is not looked at."""
    proof = Proof()
    with pytest.raises(ProofError, match="a square: the sides differ"):
        proof.equal("a square", (x + y) ** 2, right)
    assert proof.steps == []


@pytest.mark.parametrize("condition", [False, x > 0, sympy.false])
def test_a_condition_that_is_not_certain_ends_the_proof(condition: object) -> None:
    """Catches an inequality that sympy leaves open and that is taken for true."""
    with pytest.raises(ProofError, match="open: found"):
        Proof().true("open", condition)


def test_matrices_of_other_shapes_are_not_equal() -> None:
    with pytest.raises((ProofError, sympy.matrices.exceptions.ShapeError)):
        Proof().equal("shapes", sympy.zeros(1, 2), sympy.zeros(2, 1))
