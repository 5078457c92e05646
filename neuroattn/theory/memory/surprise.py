"""Yaad and the robust loss: what a surprising value may do to the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import sympy
import torch
from numpy.typing import ArrayLike

from neuroattn.errors import InputError
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.memory.simplex import PAPER
from neuroattn.theory.proof import Proof


def huber_jump(direction: ArrayLike, threshold: float = 1.0) -> float:
    """Return by how much Yaad's quoted write jumps where the error reaches the threshold.

    From ``delta u`` to ``delta sign(u)``: between ``delta (sqrt(n) - 1)``, for an error spread over
    n channels evenly, and ``delta sqrt(n - 1)``, which an error of nearly one channel approaches.

    Parameters
    ----------
    direction : array (value_dim,)
        Of the error; its length does not matter.
    threshold : float
        delta, above 0.

    Raises
    ------
    InputError
        If the direction is no vector or zero, or the threshold is not above 0.
    """
    unit = np.asarray(direction, dtype=float)
    if unit.ndim != 1 or not np.any(unit) or not threshold > 0:
        raise InputError(
            f"direction of shape {unit.shape}, threshold={threshold!r}; needed are a vector that "
            "is not zero, and a threshold above 0."
        )
    unit = unit / np.linalg.norm(unit)
    return float(threshold * np.linalg.norm(np.sign(unit) - unit))


def robust_loss(error: ArrayLike, noise: float) -> Array:
    """Return the largest half squared error that noise of bounded length on the value can make.

    Parameters
    ----------
    error : array (..., value_dim)
    noise : float
        Largest length of the noise, at least 0.

    Raises
    ------
    InputError
        If ``noise`` is below 0.

    References
    ----------
    Behrouz et al. (2025), robust variants, arXiv 2504.13173; the maximum is derived here.
    """
    if not noise >= 0:
        raise InputError(f"noise={noise!r} must be at least 0.")
    size = np.linalg.norm(np.asarray(error, dtype=float), axis=-1)
    return np.asarray((size + noise) ** 2 / 2)


def moved(lab: Lab, huber: str, direction: Array, length: float) -> Array:
    """Return what one write of unit strength into an empty memory moves, along a unit key."""
    width = len(direction)
    key = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    key[..., 0] = 1.0
    value = lab.rounded(torch.from_numpy(direction * length / np.linalg.norm(direction)))
    state = lab.attend_state(
        "yaad",
        key,
        key,
        value.reshape(1, 1, 1, width),
        beta=1.0,
        threshold=1.0,
        huber=huber,
        scale=1.0,
    )[1]
    return state["memory"][0, 0, 0].numpy()


def directions(width: int) -> dict[str, Array]:
    """Return an error spread over all channels, and one of nearly one channel."""
    lone = np.full(width, 1e-3)
    lone[0] = 1.0
    return {"evenly spread": np.ones(width), "nearly of one channel": lone}


def measure_yaad(
    lab: Lab,
    huber: str = "vector",
    jump: Callable[[Array], float] = huber_jump,
    quoted: Callable[[int], float] = lambda width: width**0.5,
) -> Iterator[Comparison]:
    """Write errors of lengths around the threshold, both ways."""
    lengths = np.array([0.25, 0.5, 0.75, 0.95, 1.05, 1.5, 2.0, 4.0])
    spread = np.array([1.0, -2.0, 0.5, 3.0])
    after = {"vector": np.ones(8), "quoted": np.full(8, quoted(4))}
    for kind, beyond in after.items():
        asked = huber if kind == "vector" else kind
        sizes = [np.linalg.norm(moved(lab, asked, spread, float(each))) for each in lengths]
        yield lab.equal(
            f"length of the write in 4 channels, {kind} Huber",
            sizes,
            np.where(lengths < 1, lengths, beyond),
            growth=16,
            axes={"length of the error over delta": lengths},
        )
    widths = np.array([2, 4, 8, 16, 64])
    near = 1e-3
    for name in directions(2):
        for kind in ("vector", "quoted"):
            asked = huber if kind == "vector" else kind
            found = []
            for width in widths:
                way = directions(int(width))[name]
                sides = [moved(lab, asked, way, 1 + side * near) for side in (-1, 1)]
                found.append(np.linalg.norm(sides[1] - sides[0]))
            flat = [0.0 if kind == "vector" else jump(directions(int(w))[name]) for w in widths]
            yield lab.near(
                f"jump at the threshold, {kind} Huber, error {name}",
                found,
                flat,
                tolerance=4 * near,
                expected=near,
                reason="both sides are a thousandth of the threshold away from it",
                axes={"value channels": widths},
            )


def prove_yaad(proof: Proof) -> None:
    """Compare the gradients on both sides of the threshold."""
    x, y, delta = sympy.symbols("x y delta", positive=True)
    size = sympy.sqrt(x**2 + y**2)
    inside, outside = size**2 / 2, delta * (size - delta / 2)
    slopes = [sympy.Matrix([sympy.diff(loss, e) for e in (x, y)]) for loss in (inside, outside)]
    proof.say("The gradients of the vector Huber loss, inside and beyond", slopes[1])
    angle = sympy.Symbol("phi", positive=True)
    at = {x: delta * sympy.cos(angle), y: delta * sympy.sin(angle)}
    edge = [sympy.simplify(each.subs(at)) for each in slopes]
    proof.equal("They agree at the threshold, |e| = delta", edge[0], edge[1])
    losses = [sympy.simplify(each.subs(at)) for each in (inside, outside)]
    proof.equal("and so do the losses", losses[0], losses[1])
    n = sympy.Symbol("n", positive=True)
    sign = sympy.Matrix([delta, delta])
    gap = sympy.simplify((sign - edge[0]).dot(sign - edge[0]))
    norm1 = sympy.cos(angle) + sympy.sin(angle)
    proof.equal(
        "The quoted one jumps by delta sqrt(n + 1 - 2|u|_1), squared, n = 2",
        gap,
        delta**2 * (3 - 2 * norm1),
    )
    spread = (n + 1 - 2 * sympy.sqrt(n)) - (sympy.sqrt(n) - 1) ** 2
    proof.equal("which is (sqrt(n) - 1)^2 for an even error", spread, 0)


register(
    Claim(
        id="memory.miras.yaad",
        title="Yaad as quoted jumps where the error reaches its threshold; a vector Huber does not",
        paper=PAPER,
        place="Yaad: Huber loss; the jump is derived here",
        statement=r"\|\delta\,\mathrm{sign}(u)-\delta u\|=\delta\sqrt{n+1-2\|u\|_1}\in"
        r"[\delta(\sqrt{n}-1),\ \delta\sqrt{n-1})",
        hypotheses=(
            "u is the unit direction of the error, none of whose n channels is zero.",
            "The quoted rule takes delta sign(e) where |e| > delta, and e elsewhere.",
        ),
        finding="refuted",
        found="The quoted rule is no gradient of a Huber loss: at the threshold the length of the "
        "write jumps from delta to delta sqrt(n), and the write itself by sqrt(n) - 1 to sqrt(n - "
        "1) thresholds. The loss that is quadratic in |e| and then linear has the gradient delta "
        "e/|e|, which is continuous; the registry has both, huber='vector' (the default) and "
        "huber='quoted'.",
        mechanisms=("yaad",),
        prove=prove_yaad,
        measure=measure_yaad,
        mutants={
            "the quoted rule is continuous": {"huber": "quoted"},
            "its jump is always sqrt(n)": {"jump": lambda way: len(way) ** 0.5},
            "its write keeps the length delta": {"quoted": lambda width: 1.0},
        },
    )
)


def worst_value(error: Array, noise: float) -> float:
    """Return the largest half squared error over noise on a circle, by looking all round."""
    angle = np.linspace(0, 2 * np.pi, 20001)
    around = error[:, None] - noise * np.stack([np.cos(angle), np.sin(angle)])
    return float((around**2).sum(0).max() / 2)


def measure_robust(
    lab: Lab, loss: Callable[[Array, float], Array] = robust_loss, side: float = 1.0
) -> Iterator[Comparison]:
    """Look all round for the worst noise; write the worst value, and differentiate the maximum."""
    error, noises = np.array([1.2, -0.9]), np.array([0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5])
    yield lab.near(
        "largest half squared error, |e| = 1.5",
        [worst_value(error, float(each)) for each in noises],
        [loss(error, float(each)) for each in noises],
        tolerance=1e-6,
        expected=1e-7,
        reason="the noise turns by steps of a 20000th of a circle",
        axes={"length of the noise": noises},
    )
    key = lab.rounded(torch.tensor([0.6, 0.8], dtype=torch.float64)).reshape(1, 1, 1, 2)
    before = lab.normal((1, 1, 2, 2), "before")
    value = lab.normal((1, 1, 1, 2), "value")
    missed = (key @ before - value)[0, 0, 0].numpy()
    worst = value[0, 0, 0].numpy() - side * 0.5 * missed / np.linalg.norm(missed)
    state = lab.attend_state(
        "titans",
        key,
        key,
        lab.rounded(torch.from_numpy(worst)).reshape(1, 1, 1, 2),
        beta=0.25,
        scale=1.0,
        normalize_keys=False,
        initial_state={"memory": before, "momentum": torch.zeros_like(before)},
    )[1]
    found = (before - state["memory"])[0, 0].numpy() / 0.25
    k, w, small = key[0, 0, 0].numpy(), before[0, 0].numpy(), 1e-5
    slope = np.zeros((2, 2))
    for row, column in np.ndindex(2, 2):
        ends = []
        for sign in (1, -1):
            near = w.copy()
            near[row, column] += sign * small
            ends.append(float(loss(k @ near - value[0, 0, 0].numpy(), 0.5)))
        slope[row, column] = (ends[0] - ends[1]) / (2 * small)
    yield lab.near(
        "what is written of the worst value is the gradient of the maximum",
        found,
        slope,
        tolerance=1e-8 + lab.rounding(256),
        expected=1e-9 + lab.rounding(32),
        reason="central differences at 1e-5, and a quarter of a write rounded",
    )


def prove_robust(proof: Proof) -> None:
    """Maximise over the angle of the noise."""
    e, noise = sympy.symbols("e Delta", positive=True)
    angle = sympy.Symbol("phi", real=True)
    value = ((e - noise * sympy.cos(angle)) ** 2 + (noise * sympy.sin(angle)) ** 2) / 2
    proof.say("Half the squared error (e, 0) with noise of length Delta at the angle phi", value)
    slope = sympy.diff(value, angle)
    proof.equal("Its slope vanishes along the error only", slope, e * noise * sympy.sin(angle))
    largest = e**2 / 2 + noise * e + noise**2 / 2
    proof.equal("and against the error it is", value.subs(angle, sympy.pi), largest)
    gradient = sympy.diff(largest, e)
    proof.equal("whose gradient has the length", gradient, e + noise)
    golden = largest.subs({e: sympy.Rational(3, 2), noise: sympy.Rational(1, 2)})
    proof.equal("For |e| = 1.5 and Delta = 0.5", golden, 2)


register(
    Claim(
        id="memory.miras.robust",
        title="The worst noise on a value adds to the length of the error",
        paper=PAPER,
        place="robust attentional bias; derived here",
        statement=r"\max_{\|\epsilon\|\leq\Delta}\frac{1}{2}\|e-\epsilon\|^2="
        r"\frac{1}{2}\|e\|^2+\Delta\|e\|+\frac{1}{2}\Delta^2=\frac{1}{2}(\|e\|+\Delta)^2",
        hypotheses=("The noise on the value has a length of at most Delta, in any direction.",),
        finding="confirmed",
        found="The maximum is where the noise opposes the value. Its gradient is that of the "
        "plain loss at the worst value, v - Delta e/|e|: a memory that is to be robust can use "
        "any plain rule and shift its values. The write is longer, not shorter, than the plain "
        "one: robustness to bounded noise is the opposite of Yaad's to outliers.",
        mechanisms=("titans",),
        prove=prove_robust,
        measure=measure_robust,
        mutants={
            "without the cross term": {"loss": lambda e, n: (np.linalg.norm(e) ** 2 + n**2) / 2},
            "noise that helps": {"loss": lambda e, n: (np.linalg.norm(e) - n) ** 2 / 2},
            "a value shifted toward the memory": {"side": -1.0},
        },
    )
)
