"""Titans on one repeated key is a heavy ball: where it is stable, and how fast it converges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch
from numpy.typing import ArrayLike

from neuroattn.errors import InputError
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.memory.titans_chunk import PAPER
from neuroattn.theory.proof import Proof

MOMENTUM = 0.8


def heavy_ball_radius(step: ArrayLike, momentum: ArrayLike) -> Array:
    """Return by what the residual of a repeated unit key shrinks or grows at every token.

    The spectral radius of ``e_{t+1} = (1 + eta - 2 theta) e_t - eta e_{t-1}``.

    Parameters
    ----------
    step : float or array
        theta of the paper, whose loss is ``|M k - v|^2`` without a half; at least 0.
    momentum : float or array
        eta, from 0 to 1.

    Raises
    ------
    InputError
        If one is out of its range.

    References
    ----------
    Polyak (1964), Some methods of speeding up the convergence of iteration methods; for Titans
    (arXiv 2501.00663) derived here.
    """
    theta, eta = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (step, momentum)))
    _check(eta)
    if not bool(np.all((theta >= 0) & np.isfinite(theta))):
        raise InputError(f"step={step!r} must be finite and at least 0.")
    trace = 1 + eta - 2 * theta
    root = np.sqrt((trace**2 - 4 * eta).astype(complex))
    return np.asarray(np.maximum(np.abs(trace + root), np.abs(trace - root)) / 2)


def heavy_ball_edge(momentum: ArrayLike) -> Array:
    """Return the step theta from which on a repeated unit key is no longer learned, 1 + eta.

    Parameters
    ----------
    momentum : float or array
        eta, from 0 to 1.

    Raises
    ------
    InputError
        If it is out of its range.
    """
    eta = np.asarray(momentum, dtype=float)
    _check(eta)
    return np.asarray(1 + eta)


def _check(eta: Array) -> None:
    if not bool(np.all((eta >= 0) & (eta <= 1))):
        raise InputError(f"momentum={eta.tolist()!r} must be from 0 to 1.")


def residuals(lab: Lab, step: float, momentum: float, tokens: int) -> Array:
    """Return (tokens + 1,) what is left to learn of a repeated association, at first 1."""
    key = lab.rounded(torch.full((1, 1, tokens, 4), 0.5, dtype=torch.float64))
    value = torch.ones(1, 1, tokens, 1, dtype=torch.float64)
    read = lab.attend(
        "titans", key, key, value, causal=True, scale=1.0, beta=2 * step, momentum=momentum
    )
    return np.append(1.0, 1 - read[0, 0, :, 0].numpy())


def measured_radius(lab: Lab, step: float, momentum: float) -> float:
    """Return the spectral radius of the recursion of order two that fits the first residuals."""
    left = residuals(lab, step, momentum, 8)
    rows = np.stack([left[1:-1], left[:-2]], axis=1)
    trace, product = np.linalg.lstsq(rows, left[2:], rcond=None)[0]
    return float(np.abs(np.roots([1, -trace, -product])).max())


def measure_radius(
    lab: Lab,
    radius: Callable[..., Array] = heavy_ball_radius,
    edge: Callable[..., Array] = heavy_ball_edge,
) -> Iterator[Comparison]:
    """Fit the recursion of the residual; run on both sides of the edge."""
    # Off the double roots at .0056 and 1.7944, where a root is the square root of a rounding.
    steps = np.array([0.02, 0.1, 0.3, 0.6, 0.9, 1.2, 1.5, 1.7, 1.79, 1.81, 1.85, 1.9, 2.0])
    yield lab.equal(
        f"spectral radius, eta = {MOMENTUM}",
        [lab.once(measured_radius, float(step), MOMENTUM) for step in steps],
        radius(steps, MOMENTUM),
        growth=128,
        reason="roots of a fitted polynomial, nearly double at 1.79",
        axes={"step theta": steps},
    )
    momenta = np.array([0.0, 0.2, 0.4, 0.6, 0.8])
    small = [lab.once(residuals, 0.97 * float(edge(eta)), float(eta), 40) for eta in momenta]
    large = [lab.once(residuals, 1.03 * float(edge(eta)), float(eta), 40) for eta in momenta]
    learned = [[bool(abs(each[-1]) < 0.5) for each in run] for run in (small, large)]
    yield lab.exact(
        "40 tokens learn 3 % below the edge, and not 3 % above it",
        learned,
        [[True] * len(momenta), [False] * len(momenta)],
    )
    lost = lab.once(residuals, 1.81, MOMENTUM, 40)
    yield lab.near(
        "growth a token at theta = 1.81, eta = 0.8, over the last 8 of 40",
        abs(lost[-1] / lost[-9]) ** (1 / 8),
        radius(1.81, MOMENTUM),
        tolerance=1e-5 + lab.rounding(64),
        expected=2e-6,
        reason="of the other root (.742/1.078)^32 is left",
    )


def without_the_two(step: ArrayLike, momentum: ArrayLike) -> Array:
    """Take the gradient of half the paper's loss."""
    return heavy_ball_radius(np.asarray(step) / 2, momentum)


def momentum_of_the_memory(step: Any, momentum: Any) -> Array:
    """Average the memory itself instead of its steps."""
    return np.asarray(np.abs(momentum + (1 - momentum) * (1 - 2 * np.asarray(step))))


def prove_radius(proof: Proof) -> None:
    """Derive the characteristic polynomial and its stability edge."""
    eta, theta, v = sympy.symbols("eta theta v", positive=True)
    now, before, z = sympy.symbols("e_t e_{t-1} z")
    read = sympy.Symbol("w")
    slope = sympy.diff((read - v) ** 2, read).subs(read, now + v)
    proof.equal("On a unit key the gradient moves the read by twice the residual", slope, 2 * now)
    after = now + eta * (now - before) - theta * slope
    wanted = (1 + eta - 2 * theta) * now - eta * before
    proof.equal("S_t is the last change of the read, so the next residual is", after, wanted)
    polynomial = sympy.expand(z**2 - (1 + eta - 2 * theta) * z + eta)
    proof.say("Its characteristic polynomial is", polynomial)
    roots = sympy.roots(polynomial, z)
    product = sympy.prod(list(roots))
    proof.equal("The roots multiply to eta: complex ones have modulus sqrt(eta)", product, eta)
    proof.equal("At z = 1 it is positive for any step", polynomial.subs(z, 1), 2 * theta)
    at_edge = sympy.solve(polynomial.subs(z, -1), theta)[0]
    proof.equal("A root leaves the unit circle at z = -1, when theta is", at_edge, 1 + eta)
    eight = {eta: sympy.Rational(4, 5), theta: sympy.Rational(181, 100)}
    largest = max(abs(each) for each in sympy.Poly(polynomial.subs(eight), z).nroots())
    proof.true("At eta = .8, theta = 1.81 the radius is 1.0776", bool(abs(largest - 1.0776) < 1e-4))


register(
    Claim(
        id="memory.titans.stability",
        title="Titans learns a repeated key for steps below 1 + eta, at the rate sqrt(eta)",
        paper=PAPER,
        place="the update with momentum, equations 13 and 14; the edge is derived here",
        statement=r"e_{t+1}=(1+\eta-2\theta)e_t-\eta e_{t-1},\quad "
        r"\rho=\sqrt{\eta}\ \mathrm{(complex\ roots)},\quad \mathrm{stable\ iff}\ 0<\theta<1+\eta",
        hypotheses=(
            "One unit key is repeated with one value; nothing is forgotten.",
            "The loss is |M k - v|^2, without a half; step and momentum are constant.",
        ),
        finding="sharpened",
        found="The paper lets theta and eta range over [0, 1] and does not discuss stability: that "
        "range is safe (but for theta = 1 at eta = 0), with the rate sqrt(eta) (.894427 at eta = "
        ".8) wherever the roots are complex. Momentum widens the stable range, from 1 to 1 + "
        "eta: at eta = .8 a step of 1.79 converges, and one of 1.81 grows by 1.0776 a token.",
        mechanisms=("titans",),
        prove=prove_radius,
        measure=measure_radius,
        mutants={
            "the gradient of a loss with one half": {"radius": without_the_two},
            "momentum of the memory instead of its step": {"radius": momentum_of_the_memory},
            "momentum does not move the edge": {"edge": lambda eta: np.asarray(1.0)},
            "the edge of a loss with one half": {"edge": lambda eta: 2 * heavy_ball_edge(eta)},
        },
    )
)
