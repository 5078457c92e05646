"""Worst-case capacity: values that are chosen after the keys, to hurt."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch
from scipy.special import poch

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.pavlovian.capacities import capacity, fitted
from neuroattn.theory.pavlovian.crosstalk import PAPER, PLAIN, means
from neuroattn.theory.pavlovian.delta import check_counts
from neuroattn.theory.pavlovian.moments import on_sphere
from neuroattn.theory.proof import Proof

DIMS = (16, 32, 64, 128, 256, 512)


def worst_case_capacity(dim: int) -> float:
    """Return how many associations an adversary needs to drown the one that is retrieved.

    Parameters
    ----------
    dim : int
        Dimension of the keys, at least 1; they are uniform on the unit sphere.

    Returns
    -------
    float
        1 + sqrt(pi) Γ((d+1)/2)/Γ(d/2), between 1 + sqrt(pi (d-1)/2) and 1 + sqrt(pi d/2): where
        the mean worst crosstalk is as large as the target.

    Raises
    ------
    InputError
        If ``dim`` is no whole number of at least 1.

    References
    ----------
    Qiao (2025), arXiv 2508.08289, first version, has the order; the constant is derived here.
    """
    check_counts(dim=dim)
    return 1 + 1 / mean_overlap(dim)


def mean_overlap(dim: int) -> float:
    """Return E|k·k'| of keys on the sphere, Γ(d/2)/(sqrt(pi) Γ((d+1)/2))."""
    # A difference of logarithms of Γ would cancel in many dimensions.
    return 1 / (math.sqrt(math.pi) * float(poch(dim / 2, 0.5)))


def worst_errors(lab: Lab, pairs: int, dim: int, after: bool) -> Array:
    """Return (draws,) sizes of the crosstalk, the values chosen after the keys, or before."""
    draws = 1500 if dim <= 64 else 80_000 // dim
    keys = lab.keys("sphere", (draws, 1, pairs, dim), "keys", pairs, dim)
    values = -(keys[:, :, :1] * keys).sum(-1, keepdim=True).sign()
    if not after:
        values = lab.normal((draws, 1, pairs, 1), "values", pairs, dim).sign()
    values[:, :, 0] = 1.0
    read = lab.attend("linear", keys[:, :, :1], keys, values, **PLAIN)
    sizes: Array = torch.linalg.vector_norm(read - 1.0, dim=(1, 2, 3)).numpy()
    return sizes


def measure_worst(
    lab: Lab,
    formula: Callable[[int], float] = worst_case_capacity,
    after: bool = True,
    exponent: float = 0.5,
) -> Iterator[Comparison]:
    """Add associations whose values all push the target down."""
    numbers, dim = (2, 4, 8, 11, 16, 24), 64
    drawn = [lab.once(worst_errors, pairs, dim, after) for pairs in numbers]
    predicted = [(pairs - 1) / (formula(dim) - 1) for pairs in numbers]
    axes = {"associations": numbers}
    yield means(lab, "worst crosstalk over the target, d = 64", drawn, predicted, axes)
    pairs = [round(worst_case_capacity(each)) for each in DIMS]
    drawn = [lab.once(worst_errors, n, each, after) for n, each in zip(pairs, DIMS, strict=True)]
    size = np.array([each.mean() for each in drawn])
    relative = np.array([each.std(ddof=1) / len(each) ** 0.5 for each in drawn]) / size
    others = (np.array(pairs) - 1) / size
    yield lab.estimate(
        "associations at which the worst crosstalk reaches the target",
        1 + others,
        others * relative,
        [formula(each) for each in DIMS],
        draws=min(map(len, drawn)),
        axes={"dimension of the keys": DIMS},
    )
    slope, error = fitted(others, others * relative, DIMS)
    # Over these dimensions the exact law is a little steeper than its limit.
    exact, _ = fitted([1 / mean_overlap(each) for each in DIMS], np.zeros(len(DIMS)), DIMS)
    yield lab.estimate(
        "exponent of the dimension",
        slope,
        error,
        exact - 0.5 + exponent,
        draws=min(map(len, drawn)),
    )
    yield lab.near(
        "its limit",
        exact,
        exponent,
        tolerance=0.02,
        expected=1 / (4 * math.log(16) * 16),
        reason="the exact law is sqrt(d - 1/2) to the next order",
    )


def prove_worst(proof: Proof) -> None:
    """Integrate the size of a cosine, and show between which bounds the capacity lies."""
    d = sympy.Symbol("d", positive=True)
    turn = sympy.symbols("t", real=True)
    quarter = (turn, 0, sympy.pi / 2)

    def overlap(dim: Any) -> Any:
        return sympy.gamma(dim / 2) / (sympy.sqrt(sympy.pi) * sympy.gamma((dim + 1) / 2))

    proof.say("The mean size of a coordinate on the sphere is claimed to be", overlap(d))
    circle = sympy.integrate(sympy.cos(turn), quarter) * 2 / sympy.pi
    proof.equal("d = 2, over a quarter of the circle", circle, overlap(sympy.Integer(2)))
    space = sympy.integrate(sympy.cos(turn) * sympy.sin(turn), quarter)
    proof.equal("d = 3, over half of the sphere", space, overlap(sympy.Integer(3)))
    c = sympy.symbols("c", positive=True)
    power = (d - 1) / 2
    down = -((1 - c**2) ** power) / (d - 1)
    slope = sympy.powsimp(sympy.diff(down, c) / (1 - c**2) ** (power - 1))
    text = (
        "Any d: the slope of -(1 - c²)^((d-1)/2)/(d-1), over the density (1 - c²)^((d-3)/2), is c"
    )
    proof.equal(text, sympy.simplify(slope), c)
    beta = sympy.sqrt(sympy.pi) * sympy.gamma(power) / sympy.gamma(d / 2)
    mean = sympy.gammasimp(2 / (d - 1) / beta)
    proof.equal("so that its mean over B(1/2,(d-1)/2) is that", mean, overlap(d))
    proof.equal(
        "Two neighbouring dimensions multiply to 2/(πd)",
        sympy.gammasimp(overlap(d) * overlap(d + 1)),
        2 / (sympy.pi * d),
    )
    proof.say("As it falls with d, E|c|² is between 2/(πd) and 2/(π(d-1))")
    proof.say("and the capacity 1 + 1/E|c| between 1 + √(π(d-1)/2) and 1 + √(πd/2)")
    proof.equal(
        "The mean square is what the average case has",
        on_sphere(3, 2),
        sympy.Rational(1, 3),
    )


register(
    Claim(
        id="pavlovian.capacity.worst",
        title="In the worst case 1 + sqrt(pi d/2) associations drown the target",
        paper=PAPER,
        place="capacity theorem, O(sqrt(d)) in the first version; the constant is derived here",
        statement=r"E\sum_{j\neq i}|k_i\cdot k_j| = (N-1)\,"
        r"\frac{\Gamma(d/2)}{\sqrt{\pi}\,\Gamma((d+1)/2)} = 1\ \mathrm{at}\ "
        r"N \approx 1 + \sqrt{\frac{\pi d}{2}}",
        hypotheses=(
            "The keys are independent and uniform on the unit sphere.",
            "An adversary sees the keys and gives the others the value -sign(k_i.k_j) v_i.",
        ),
        finding="sharpened",
        found="The first version's O(sqrt(d)) is right for the worst case, as the later O(d) is on "
        "average: the exponents fitted to the measurement are 1/2 and 1. The capacity is "
        "5.9, 11.0, 21.0 and 41.1 at d = 16, 64, 256 and 1024; exactly it is "
        "1 + sqrt(pi) Γ((d+1)/2)/Γ(d/2), a little below the asymptotic form.",
        mechanisms=("linear",),
        prove=prove_worst,
        measure=measure_worst,
        mutants={
            "the average case's 1 + d": {"formula": capacity},
            "sqrt(d), the root mean square for the mean size": {"formula": lambda d: 1 + d**0.5},
            "values chosen before the keys": {"after": False},
            "an exponent of 1": {"exponent": 1.0},
        },
        half=True,
    )
)
