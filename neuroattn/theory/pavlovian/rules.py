"""Plausible learning rules that a head could use: Oja's and BCM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import sympy
import torch

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.pavlovian.delta import PAPER, plain
from neuroattn.theory.proof import Proof

PLACE = "plausible learning rules for a head; derived here"
OJA = "Oja (1989), International Journal of Neural Systems 1, 61-68; Yan, Helmke & Moore (1994), "
OJA += "IEEE Transactions on Neural Networks 5, 674-683; " + PAPER
#: Variances of the stimuli along their principal axes; three are to be found.
VARIANCES = np.array([1.0, 0.9, 0.7, 0.2, 0.1, 0.05])
FOUND = 3


def _axes(lab: Lab) -> Array:
    """Return orthonormal principal axes, one a column."""
    found: Array = np.linalg.qr(lab.rng("axes").normal(size=(6, 6)))[0]
    return found


def _learnt(lab: Lab, step: float, times: tuple[int, ...], target: str) -> list[Array]:
    """Return the memory (dim, FOUND) after cycles through stimuli of those variances."""
    axes = _axes(lab)
    cycle = torch.tensor((axes * np.sqrt(6 * VARIANCES)).T)[None, None]
    start = np.linalg.qr(lab.rng("start").normal(size=(6, FOUND)))[0] / 2
    state = {
        "memory": torch.tensor(start)[None, None],
        "count": torch.zeros(1, 1, 1, dtype=torch.float64),
    }
    found = [start]
    for before, after in pairwise(times):
        keys = cycle.repeat(1, 1, after - before, 1)
        values = lab.normal((1, 1, keys.shape[2], FOUND), "values", after)
        given = {"beta": step, "target": target, "normalize": False, "initial_state": state}
        _, state = lab.attend_state("oja", keys[:, :, :1], keys, values, **given)
        found.append(state["memory"][0, 0].numpy())
    return found


def flow(covariance: Array, start: Array, time: float, pace: float = 1.0) -> Array:
    """Return M Mᵀ of Oja's flow dM/dt = C M - M Mᵀ C M at a time, in closed form."""
    values, vectors = np.linalg.eigh(covariance)
    grown = (vectors * np.exp(pace * values * time)) @ vectors.T
    ahead = grown @ start
    inner = np.eye(start.shape[1]) + ahead.T @ ahead - start.T @ start
    found: Array = ahead @ np.linalg.solve(inner, ahead.T)
    return found


def _hebbian_flow(covariance: Array, start: Array, time: float) -> Array:
    values, vectors = np.linalg.eigh(covariance)
    ahead = (vectors * np.exp(values * time)) @ vectors.T @ start
    found: Array = ahead @ ahead.T
    return found


def measure_oja(
    lab: Lab,
    theory: Callable[[Array, Array, float], Array] = flow,
    leading: int = FOUND,
    target: str = "output",
) -> Iterator[Comparison]:
    """Show stimuli of six variances to a memory of three outputs, slowly and for long."""
    axes, step, times = _axes(lab), 0.004, (0, 10, 20, 35, 50, 75, 100, 140)
    covariance = (axes * VARIANCES) @ axes.T
    memories = lab.once(_learnt, step, times, target)
    elapsed = [6 * step * each for each in times]
    projectors = [theory(covariance, memories[0], each) for each in elapsed]
    yield lab.near(
        "variance that the memory holds, tr(W C Wᵀ)",
        [np.trace(each.T @ covariance @ each) for each in memories],
        [np.trace(covariance @ each) for each in projectors],
        tolerance=0.02,
        expected=0.004,
        reason="the flow is the limit of small steps: of the order of the step, 0.004",
        axes={"time (steps x 0.004)": elapsed},
    )
    final = lab.once(_learnt, 0.1, (0, 160), target)[-1]
    top = axes[:, :leading] @ axes[:, :leading].T
    reason = "960 writes"
    yield lab.equal("WᵀW, the projector", final @ final.T, top, growth=512, reason=reason)
    yield lab.equal("WWᵀ", final.T @ final, np.eye(FOUND), growth=512, reason=reason)


def prove_oja(proof: Proof) -> None:
    """Show for one output and two stimuli that the closed form solves the flow."""
    t = sympy.symbols("t", real=True)
    a, b, x, y = sympy.symbols("a b x y", positive=True)
    grown = sympy.Matrix([x * sympy.exp(a * t), y * sympy.exp(b * t)])
    norm = sympy.sqrt(1 + (grown.T * grown)[0] - x**2 - y**2)
    memory, covariance = grown / norm, sympy.diag(a, b)
    proof.say("From w = (x, y), with variances a and b, the flow of Oja's rule is at", memory)
    slope = covariance * memory - memory * (memory.T * covariance * memory)[0]
    proof.equal("It solves dw/dt = C w - w (wᵀ C w)", memory.diff(t), slope)
    square = (memory.T * memory)[0]
    ratio = sympy.exp(-2 * t * a)
    proof.equal(
        "|w|^2 tends to 1, whatever it was: the part that is missing decays",
        1 - square,
        (1 - x**2 - y**2)
        * ratio
        / (ratio * (1 - x**2 - y**2) + x**2 + y**2 * sympy.exp(2 * t * (b - a))),
    )


register(
    Claim(
        id="pavlovian.rules.oja",
        title="Oja's rule bounds a Hebbian memory and finds the leading subspace, at a known pace",
        paper=OJA,
        place=PLACE,
        statement=r"W W^T\to I,\quad W^TW\to \sum_{i\leq m}u_iu_i^T,\quad "
        r"W^TW(t) = e^{Ct}W_0^T\left[I+W_0(e^{2Ct}-I)W_0^T\right]^{-1}W_0e^{Ct}",
        hypotheses=(
            "The memory starts with full rank, and not orthogonal to the leading subspace.",
            "The m-th variance is above the next.",
            "For the curve the step is small; the limit holds for any stable step here, because "
            "every stimulus lies on a principal axis.",
        ),
        finding="confirmed",
        found="The decay - y yᵀW alone keeps a Hebbian head bounded, without normaliser. The rows "
        "span the leading subspace and are orthonormal, but are not the principal components: "
        "which basis it is depends on the start.",
        mechanisms=("oja",),
        prove=prove_oja,
        measure=measure_oja,
        half=True,
        mutants={
            "Hebbian growth": {"theory": _hebbian_flow},
            "half the pace": {"theory": lambda c, m, t: flow(c, m, t, 0.5)},
            "one component less": {"leading": FOUND - 1},
            "written with values instead of the outputs": {"target": "value"},
        },
    )
)

BCM = "Bienenstock, Cooper & Munro (1982), Journal of Neuroscience 2, 32-48; " + PAPER
PATTERNS = 3


def _bcm(lab: Lab, sweeps: tuple[int, ...], threshold: str) -> tuple[Array, Array, Array]:
    """Return first responses (cells, patterns), those after some sweeps, and the overlaps."""
    axes = np.linalg.qr(lab.rng("patterns").normal(size=(8, PATTERNS)))[0].T
    mixed = axes + 0.2 * axes[[1, 2, 0]]
    pattern = lab.rounded(torch.tensor(mixed / np.linalg.norm(mixed, axis=1, keepdims=True)))
    overlap = pattern @ pattern.T
    first = torch.tensor(lab.rng("responses").uniform(0.5, 1.5, (6, PATTERNS)))
    keys = pattern.expand(len(first), 1, -1, -1)
    write, state = torch.linalg.solve(overlap, first.T).T, None
    found: list[Array] = []
    for sweep in range(max(sweeps) + 1):
        given: dict[str, Any] = {} if state is None else {"initial_state": state}
        value = write[:, None, :, None]
        read, state = lab.attend_state(
            "linear", keys, keys, value, scale=1.0, **given, **plain("linear")
        )
        response = read[:, 0, :, 0]
        if sweep in sweeps:
            found.append(response.numpy())
        write = 0.2 / PATTERNS * response * (response - _threshold(response, threshold))
    return first.numpy(), np.stack(found), overlap.numpy()


def _threshold(response: Any, kind: str) -> Any:
    """Return theta of responses (cells, patterns)."""
    if kind == "fixed":
        return 2.0 + 0 * response
    mean = response.mean(-1, keepdims=True)
    return mean**2 if kind == "square of the mean" else (response**2).mean(-1, keepdims=True)


def measure_bcm(
    lab: Lab,
    threshold: str = "mean of the square",
    selective: float = PATTERNS,
    silent: float = 0.0,
) -> Iterator[Comparison]:
    """Let linear attention write y (y - theta) for patterns that it has just read as y."""
    sweeps = (0, 2, 4, 6, 8, 10, 15, 20, 30, 400)
    first, responses, overlap = lab.once(_bcm, sweeps, threshold)
    ends = np.sort(responses[-1], axis=-1)
    reason = "400 sweeps"
    best = "response to the best pattern"
    yield lab.equal(best, ends[:, -1], selective, growth=512, reason=reason)
    yield lab.equal("responses to the others", ends[:, :-1], silent, growth=512, reason=reason)
    theta = (responses**2).mean(-1)
    yield lab.equal("threshold in the end", theta[-1], selective, growth=512, reason=reason)
    # The responses alone, without memory or keys.
    expected, y = [], first
    for sweep in range(sweeps[-2] + 1):
        expected += [y] if sweep in sweeps else []
        change = y * (y - (y**2).mean(-1, keepdims=True))
        y = y + 0.2 / PATTERNS * change @ overlap
    yield lab.equal(
        "threshold of the first cell",
        theta[:-1, 0],
        [(each[0] ** 2).mean() for each in expected],
        growth=4096,
        reason="the unselective state is unstable: it grows rounding, until one pattern has won",
        axes={"sweep": sweeps[:-1]},
    )


def prove_bcm(proof: Proof) -> None:
    """Find the fixed points of two orthogonal patterns, and which are stable."""
    y = sympy.Matrix(sympy.symbols("y1 y2", real=True))
    theta = (y[0] ** 2 + y[1] ** 2) / 2
    change = sympy.Matrix([each * (each - theta) for each in y])
    proof.say("Two orthogonal patterns, each half of the time: dy/dt is, up to a factor", change)
    points = sympy.solve(list(change), list(y))
    proof.true(
        "It vanishes at (0, 0), (1, 1) and where one pattern has all: (2, 0) and (0, 2)",
        {tuple(p) for p in points if all(v.is_real for v in p)} == {(0, 0), (1, 1), (2, 0), (0, 2)},
    )
    slope = change.jacobian(y)

    def at(*point: int) -> Any:
        return slope.subs(dict(zip(y, point, strict=True)))

    proof.equal(
        "At (2, 0) the slope is -2: stable, also for overlapping ones", at(2, 0), -2 * sympy.eye(2)
    )
    proof.true("At (1, 1) it has a positive eigenvalue", max(at(1, 1).eigenvals()) > 0, at(1, 1))
    best = theta.subs({y[0]: 2, y[1]: 0})
    proof.equal("The threshold E y^2 is then the response itself, 2", best, 2)


register(
    Claim(
        id="pavlovian.rules.bcm",
        title="The BCM rule makes a head select one of n stimuli, with response and threshold n",
        paper=BCM,
        place=PLACE,
        statement=r"\Delta w = \eta\,k\,y(y-\theta),\ \theta=E\,y^2:\quad "
        r"y\to(0,\ldots,0,n,0,\ldots,0),\quad \theta\to n",
        hypotheses=(
            "n independent stimuli, equally often.",
            "The threshold is the mean square over one sweep; weights change once a sweep.",
            "No mechanism has this rule built in: it is linear attention that is given y (y - "
            "theta) as the values of stimuli that it has just read.",
        ),
        finding="confirmed",
        found="A Hebbian head that reads before it writes becomes selective to one stimulus, which "
        "depends on the start. All equal, y = theta = 1, is a fixed point as well, and unstable.",
        mechanisms=("linear",),
        prove=prove_bcm,
        measure=measure_bcm,
        half=True,
        mutants={
            "the square of the mean as the threshold": {"threshold": "square of the mean"},
            "a threshold that does not slide": {"threshold": "fixed"},
            "all stimuli answered alike": {"selective": 1.0, "silent": 1.0},
        },
    )
)
