"""A symbolic proof: steps that a reader can follow, each checked by sympy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy

from neuroattn.errors import NeuroattnError


class ProofError(NeuroattnError, ArithmeticError):
    """A step of a proof does not hold."""


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes
    ----------
    text : str
        What is said.
    left, right : sympy object or None
        The two sides, where it is an equation; ``left`` alone where it is an expression.
    checked : bool
        Whether something was checked, rather than stated.
    """

    text: str
    left: Any = None
    right: Any = None
    checked: bool = False

    @property
    def latex(self) -> str:
        """The formula in LaTeX, or ""."""
        return " = ".join(dict.fromkeys(sympy.latex(each) for each in self._sides))

    @property
    def plain(self) -> str:
        """The formula as text, or ""."""
        return " = ".join(dict.fromkeys(_plain(each) for each in self._sides))

    @property
    def _sides(self) -> list[Any]:
        # Sides that come out in the same form are shown once.
        return [each for each in (self.left, self.right) if each is not None]


class Proof:
    """Collects the steps of a proof, and stops at the first that is false."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def say(self, text: str, expression: Any = None) -> None:
        """State a definition or a result, with an expression to show."""
        self.steps.append(Step(text, expression))

    def equal(self, text: str, left: Any, right: Any) -> None:
        """Show that two expressions, or two matrices, are the same.

        Raises
        ------
        ProofError
            If their difference does not simplify to zero.
        """
        left, right = sympy.sympify(left), sympy.sympify(right)
        difference = left - right
        entries = list(difference) if isinstance(difference, sympy.MatrixBase) else [difference]
        left_over = [x for x in map(_simplified, entries) if x != 0]
        if left_over:
            raise ProofError(f"{text}: the sides differ by {left_over[0]}.")
        self.steps.append(Step(text, left, right, checked=True))

    def true(self, text: str, condition: Any, expression: Any = None) -> None:
        """Show that a condition holds.

        Raises
        ------
        ProofError
            If it does not reduce to true.
        """
        held = condition if isinstance(condition, bool) else sympy.simplify(condition)
        if held is not True and held != sympy.true:
            raise ProofError(f"{text}: found {held}.")
        self.steps.append(Step(text, expression, checked=True))


def _plain(expression: Any) -> str:
    # A matrix would take a line a row.
    rows = expression.tolist() if isinstance(expression, sympy.MatrixBase) else expression
    return str(sympy.sstr(rows))


def _simplified(expression: Any) -> Any:
    # Cheap first: most differences of polynomials vanish when they are expanded.
    for reduce in (sympy.expand, sympy.together, sympy.simplify):
        expression = reduce(expression)
        if expression == 0:
            return expression
    return expression
