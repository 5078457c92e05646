"""Claim: Titans' steps, stable one by one, diverge when keys are written in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import sympy
import torch

from neuroattn.errors import InputError
from neuroattn.theory.arguments import check_whole
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.dynamics.finite_state import is_number
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof


def momentum_edge(momentum: float, keys: int = 1) -> float:
    """Return the step below which Titans' linear memory is stable for orthogonal keys in turn.

    Parameters
    ----------
    momentum : float
        η, at least 0 and below 1.
    keys : int
        How many orthonormal keys follow one another, again and again; at least 1.

    Returns
    -------
    float
        The largest ``beta`` (twice the paper's θ): 2 (1 - η)(1 + η^n)/(1 - η^n). For one key
        2 (1 + η); for many it falls to 2 (1 - η).

    Raises
    ------
    InputError
        If ``momentum`` is not in [0, 1), or ``keys`` is below 1.

    References
    ----------
    Derived here, for Behrouz, Zhong & Mirrokni (2024), Titans, equations 13 and 14 without
    forgetting; arXiv 2501.00663.
    """
    if not is_number(momentum) or not 0 <= momentum < 1:
        raise InputError(f"momentum={momentum!r} must be a number of at least 0 and below 1.")
    keys = check_whole("keys", keys, 1)
    power = momentum**keys
    return 2 * (1 - momentum) * (1 + power) / (1 - power)


def cycle(lab: Lab, momentum: float, beta: float, keys: int) -> np.ndarray:
    """Return what one round of orthonormal keys does to memory and momentum, both stacked."""
    unit = torch.eye(keys, dtype=torch.float64)
    nothing = torch.zeros(1, 1, keys, 2 * keys, dtype=torch.float64)
    begin = {
        "memory": torch.cat([unit, 0 * unit], -1)[None, None],
        "momentum": torch.cat([0 * unit, unit], -1)[None, None],
    }
    ways = {"causal": True, "momentum": momentum, "beta": beta, "initial_state": begin}
    _, state = lab.attend_state("titans", unit[None, None], unit[None, None], nothing, **ways)
    both = torch.cat([state["memory"], state["momentum"]], -2)
    return np.asarray(both[0, 0].numpy())


def radius(matrix: np.ndarray) -> float:
    """Return the spectral radius."""
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def measure_momentum(
    lab: Lab, edge: Callable[[float, int], float] = momentum_edge
) -> Iterator[Comparison]:
    """Find the edge of stability of Titans for keys in turn, by bisection on its round."""
    momentum, numbers = 0.8, (1, 2, 3, 4, 6, 8)
    found = [lab.once(_bisected, momentum, number) for number in numbers]
    yield lab.near(
        "largest stable step, keys in turn",
        found,
        [edge(momentum, number) for number in numbers],
        tolerance=2e-3,
        expected=5e-4,
        reason="bisected to 2^-12 of 4; a round counts as stable up to a radius of 1 + 10^-4",
        axes={"orthonormal keys in turn": numbers},
    )
    single = lab.once(cycle, momentum, 2.88, 1)
    yield lab.at_most("one key, β = 2.88: radius of its step", radius(single), 0.999)
    yield lab.at_least(
        "two orthogonal keys, β = 2.88: radius of their round",
        radius(lab.once(cycle, momentum, 2.88, 2)),
        3.0,
    )


def _bisected(lab: Lab, momentum: float, keys: int) -> float:
    low, high = 0.0, 4.0
    for _ in range(12):
        middle = (low + high) / 2
        if radius(cycle(lab, momentum, middle, keys)) <= 1 + 1e-4:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def prove_momentum(proof: Proof) -> None:
    """Derive the edge from trace and determinant of a round along one key."""
    eta, beta = sympy.symbols("eta beta", positive=True)
    own = sympy.Matrix([[1 - beta, eta], [-beta, eta]])
    other = sympy.Matrix([[1, eta], [0, eta]])
    proof.say("Memory and momentum along a key, at its own step", own)
    proof.say("and at the step of an orthogonal key", other)
    for keys in (1, 2, 3):
        turn = (own * other ** (keys - 1)).applyfunc(sympy.expand)
        power = eta**keys
        proof.say(f"{keys} in turn: a round", turn)
        proof.equal(f"{keys} in turn: its determinant is η^{keys}", turn.det(), power)
        trace = 1 + power - beta * (1 - power) / (1 - eta)
        proof.equal(f"{keys} in turn: its trace", turn.trace(), trace)
        edge = 2 * (1 - eta) * (1 + power) / (1 - power)
        proof.say(f"{keys} in turn: the edge", edge)
        proof.equal(
            f"{keys} in turn: there the trace is -(1 + determinant), an eigenvalue -1",
            turn.trace().subs(beta, edge),
            -1 - power,
        )
    n = sympy.symbols("n", positive=True)
    q = sympy.Rational(4, 5)
    limit = sympy.limit(2 * (1 - q) * (1 + q**n) / (1 - q**n), n, sympy.oo)
    proof.equal("For many keys the edge at η = 4/5 falls to 2(1 - η)", limit, 2 * (1 - q))


register(
    Claim(
        id="dynamics.eigenvalues.momentum",
        title="With momentum, steps that are stable one by one diverge in turn",
        paper="Behrouz, Zhong & Mirrokni (2024), Titans: learning to memorize at test time",
        place="equations 13 and 14; derived here",
        statement=r"\beta<\frac{2(1-\eta)(1+\eta^n)}{1-\eta^n}",
        hypotheses=(
            "Nothing is forgotten, all steps and momenta are equal.",
            "The n keys are orthonormal and follow one another in turn.",
        ),
        finding="sharpened",
        found="The edge θ < 1 + η (β = 2θ) holds for one repeated key. While other keys are "
        "written the momentum goes on moving the memory along the first, so that the edge falls "
        "with every further key, to θ < 1 - η. At η = 0.8 and β = 2.88 each step has radius 1 at "
        "most, and two orthogonal keys in turn grow the memory 3.35-fold a round.",
        measure=measure_momentum,
        prove=prove_momentum,
        mutants={
            "the edge of one key": {"edge": lambda momentum, keys: momentum_edge(momentum)},
            "momentum taken for a share of the step": {
                "edge": lambda momentum, keys: 2 * (1 - momentum)
            },
            "the power of one key less": {
                "edge": lambda momentum, keys: momentum_edge(momentum, max(keys - 1, 1))
            },
        },
        mechanisms=("titans",),
    )
)
