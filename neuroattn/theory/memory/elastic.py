"""Elastic net retention: a memory that decays, forgets small entries and keeps large ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from neuroattn.errors import InputError
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.memory.simplex import PAPER
from neuroattn.theory.proof import Proof

STEP, RIDGE = 0.5, 1.5


def elastic_net_step(
    memory: ArrayLike, gradient: ArrayLike, step: float, ridge: float, lasso: float
) -> Array:
    """Return the memory after one step with elastic net retention.

    The minimiser of ``<W, g> + |W - W'|^2/(2 step) + |W|^2/(2 ridge) + |W|_1/lasso``.

    Parameters
    ----------
    memory, gradient : array
        W' and g, of one shape.
    step, ridge, lasso : float
        eta, beta and alpha of the paper, above 0; infinite for no such penalty.

    Raises
    ------
    InputError
        If one is not above 0, or ``step`` is infinite.

    References
    ----------
    Behrouz et al. (2025), elastic net retention, arXiv 2504.13173; derived here.
    """
    for name, number in {"step": step, "ridge": ridge, "lasso": lasso}.items():
        if not number > 0:
            raise InputError(f"{name}={number!r} must be above 0; infinite for no penalty.")
    if step == np.inf:
        raise InputError(f"step={step!r} must be finite.")
    before, slope = np.asarray(memory, dtype=float), np.asarray(gradient, dtype=float)
    if slope.ndim and slope.shape != before.shape:
        raise InputError(
            f"gradient has shape {slope.shape}; it must be a number or of the memory's shape, "
            f"{before.shape}."
        )
    kept = 1 / (1 + step / ridge)
    moved = kept * before - step * kept * slope
    return np.asarray(np.sign(moved) * np.maximum(np.abs(moved) - step * kept / lasso, 0.0))


def minimiser(memory: float, gradient: float, step: float, ridge: float, lasso: float) -> float:
    """Return the minimiser of one entry, numerically, on either side of zero."""

    def value(now: float) -> float:
        kept = (now - memory) ** 2 / (2 * step) + now**2 / (2 * ridge)
        return now * gradient + kept + abs(now) / lasso

    sides = [
        minimize_scalar(value, bounds=bounds, method="bounded", options={"xatol": 1e-11}).x
        for bounds in ((-20.0, 0.0), (0.0, 20.0))
    ]
    return float(min([0.0, *sides], key=value))


def measure_elastic(
    lab: Lab, rule: Callable[..., Array] = elastic_net_step, order: str = "error first"
) -> Iterator[Comparison]:
    """Minimise entry by entry; without the lasso, compare with the gated delta rule."""
    memory = np.linspace(-3, 3, 13)
    said: dict[str, Any] = {
        "tolerance": 1e-6,
        "expected": 1e-7,
        "reason": "a minimum is known to the root of the rounding of its value",
    }
    for lasso in (0.5, 1.0, 4.0):
        yield lab.near(
            f"entry after a step, gradient 0.2, alpha = {lasso:g}",
            rule(memory, 0.2, STEP, RIDGE, lasso),
            [minimiser(float(each), 0.2, STEP, RIDGE, lasso) for each in memory],
            axes={"entry before": memory},
            **said,
        )
    key, value = lab.keys("sphere", (1, 2, 1, 5), "key"), lab.normal((1, 2, 1, 3), "value")
    before = lab.normal((1, 2, 5, 3), "memory")
    kept = RIDGE / (RIDGE + STEP)
    state = lab.attend_state(
        "gated_delta",
        key,
        key,
        value,
        alpha=kept,
        beta=STEP * kept,
        order=order,
        scale=1.0,
        normalize_keys=False,
        initial_state={"memory": before},
    )[1]
    slope = key.mT @ (key @ before - value)
    wanted = rule(before.numpy(), slope.numpy(), STEP, RIDGE, np.inf)
    yield lab.equal("without lasso: gated delta, error first", state["memory"], wanted, growth=16)
    zeros = [
        int((rule(before.numpy(), slope.numpy(), STEP, RIDGE, a) == 0).sum()) for a in (2.0, 0.2)
    ]
    yield lab.at_least("a stronger lasso forgets more entries", zeros[1] - zeros[0], 1)


def hard(memory: ArrayLike, gradient: ArrayLike, step: float, ridge: float, lasso: float) -> Array:
    """Cut small entries off and leave the others as long as they are."""
    moved = elastic_net_step(memory, gradient, step, ridge, np.inf)
    return np.where(np.abs(moved) > step / (1 + step / ridge) / lasso, moved, 0.0)


def unshrunk(
    memory: ArrayLike, gradient: ArrayLike, step: float, ridge: float, lasso: float
) -> Array:
    """Take the full step against the gradient: zeta = eta instead of eta lambda."""
    return elastic_net_step(memory, np.asarray(gradient) * (1 + step / ridge), step, ridge, lasso)


def late(memory: ArrayLike, gradient: ArrayLike, step: float, ridge: float, lasso: float) -> Array:
    """Cut off by eta / alpha, as without the ridge."""
    return elastic_net_step(memory, gradient, step, ridge, lasso / (1 + step / ridge))


def prove_elastic(proof: Proof) -> None:
    """Solve for the stationary point where the entry is positive."""
    w, old, g = sympy.symbols("W W' g", real=True)
    eta, beta, alpha = sympy.symbols("eta beta alpha", positive=True)
    lam = beta / (beta + eta)
    gamma, zeta = eta * beta / (alpha * (eta + beta)), eta * lam
    for sign, name in ((1, "positive"), (-1, "negative")):
        value = w * g + (w - old) ** 2 / (2 * eta) + w**2 / (2 * beta) + sign * w / alpha
        found = sympy.solve(sympy.diff(value, w), w)[0]
        wanted = lam * old - zeta * g - sign * gamma
        proof.equal(f"Where the entry is {name} the minimum is at", found, wanted)
    smooth = g * w + (w - old) ** 2 / (2 * eta) + w**2 / (2 * beta)
    at_zero = sympy.diff(smooth, w).subs(w, 0)
    size = -at_zero * zeta
    proof.equal(
        "At zero the smooth part pulls by (lambda W' - zeta g)/zeta", size, lam * old - zeta * g
    )
    proof.equal("and the lasso holds it below 1/alpha, that is, below gamma", gamma, zeta / alpha)
    curved = sympy.diff(smooth, w, 2)
    proof.equal("The objective is convex", curved, 1 / eta + 1 / beta)
    limit = sympy.limit(wanted, alpha, sympy.oo)
    proof.equal("Without lasso it is decay and a shortened step", limit, lam * (old - eta * g))


register(
    Claim(
        id="memory.miras.elastic-net",
        title="Elastic net retention is decay, a shortened step and a soft threshold",
        paper=PAPER,
        place="elastic net retention; derived here",
        statement=r"W=S_\gamma(\lambda W'-\zeta g),\quad \lambda=\frac{\beta}{\beta+\eta},\quad "
        r"\zeta=\eta\lambda,\quad \gamma=\frac{\eta\beta}{\alpha(\eta+\beta)}",
        hypotheses=(
            "The retention is |W - W'|^2/(2 eta) + |W|^2/(2 beta) + |W|_1/alpha.",
            "g, the gradient of the loss at W', stands for the loss.",
        ),
        finding="confirmed",
        found="The formula is the entrywise minimiser. The ridge shortens the step and the "
        "threshold as well as the memory. Without the lasso it is the gated delta rule whose "
        "error comes first, with alpha = lambda and beta = eta lambda: not Gated DeltaNet's "
        "order.",
        mechanisms=("gated_delta",),
        prove=prove_elastic,
        measure=measure_elastic,
        mutants={
            "a hard threshold": {"rule": hard},
            "the step is not shortened": {"rule": unshrunk},
            "the threshold is not shortened": {"rule": late},
            "Gated DeltaNet's order": {"order": "decay first"},
        },
    )
)
