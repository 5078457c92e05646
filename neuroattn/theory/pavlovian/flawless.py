"""Memories without one wrong bit: Hopfield's law."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import sympy
from scipy.optimize import brentq

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.pavlovian.capacities import capacity
from neuroattn.theory.pavlovian.crosstalk import PAPER, means
from neuroattn.theory.pavlovian.delta import check_counts
from neuroattn.theory.pavlovian.sign_bits import sign_error, wrong_bits
from neuroattn.theory.proof import Proof


def flawless_capacity(dim: int, width: int) -> float:
    """Return how many associations a memory holds so that every bit of every value is right.

    Parameters
    ----------
    dim : int
        Dimension of the keys, at least 1.
    width : int
        Bits of a value, at least 1.

    Returns
    -------
    float
        The N for which N - 1 = dim / (2 ln(N width)): Hopfield's law. What can be stored is the
        whole number below. At most 1/sqrt(4 pi ln(N width)) bits of the memory are then expected
        to be wrong, less the more there are.

    Raises
    ------
    InputError
        If ``dim`` or ``width`` is no whole number of at least 1.

    References
    ----------
    McEliece, Posner, Rodemich & Venkatesh (1987), The capacity of the Hopfield associative
    memory, IEEE Transactions on Information Theory 33, 461-482, for the memory of Hopfield (1982).
    """
    check_counts(dim=dim, width=width)
    return float(brentq(lambda n: 2 * (n - 1) * math.log(n * width) - dim, 1.0, dim + 2.0))


def _whole_memories(lab: Lab, pairs: int, dim: int, width: int) -> Array:
    """Return (draws,) numbers of wrong bits of a memory."""
    draws = 2000 if pairs < 12 else 1000
    wrong: Array = wrong_bits(lab, "sphere", pairs, dim, width, draws).sum((1, 2))
    return wrong


def measure_flawless(
    lab: Lab, formula: Callable[[int, int], float] = flawless_capacity
) -> Iterator[Comparison]:
    """Fill memories up to the law, and count the wrong bits of a whole memory."""
    width, dims, law = 8, (32, 48, 64, 96, 128), "sphere"
    numbers = [int(formula(dim, width)) for dim in dims]
    drawn = [
        lab.once(_whole_memories, pairs, dim, width)
        for pairs, dim in zip(numbers, dims, strict=True)
    ]
    rates = [sign_error(pairs, dim, law) for pairs, dim in zip(numbers, dims, strict=True)]
    bits = np.array(numbers) * width
    axes = {"dimension of the keys": dims}
    yield means(lab, "wrong bits of a memory", drawn, bits * np.array(rates), axes)
    bound = 1 / np.sqrt(4 * np.pi * np.log(bits))
    noise = np.array([each.std(ddof=1) / len(each) ** 0.5 for each in drawn])
    yield lab.at_most(
        "wrong bits of a memory beside the law's bound",
        [each.mean() for each in drawn],
        bound,
        slack=float(5 * noise.max()),
        reason="five standard errors of the mean",
        axes=axes,
    )
    whole = np.array([(each == 0).mean() for each in drawn])
    error = np.sqrt(bound * (1 - bound) / min(map(len, drawn)))
    yield lab.at_least(
        "share of memories without a wrong bit",
        whole,
        1 - bound,
        slack=float(4 * error.max()),
        reason="the union bound, with four standard errors of a share",
        axes=axes,
    )


def prove_flawless(proof: Proof) -> None:
    """Bound the Gaussian tail, and count the bits."""
    x, bits = sympy.symbols("x M", positive=True)
    tail = sympy.erfc(x / sympy.sqrt(2)) / 2
    density = sympy.exp(-(x**2) / 2) / sympy.sqrt(2 * sympy.pi)
    gap = density / x - tail
    proof.equal(
        "The gap of Mills' bound Q(x) <= exp(-x²/2)/(x√(2π)) only falls",
        sympy.diff(gap, x),
        -density / x**2,
    )
    proof.equal("to 0, so that it is never negative", sympy.limit(gap, x, sympy.oo), 0)
    at = sympy.sqrt(2 * sympy.log(bits))
    proof.say("N - 1 = d/(2 ln M) makes the argument of the tail x² = d/(N-1)", at**2)
    proof.equal(
        "The M bits together then have at most so many wrong ones",
        sympy.simplify(bits * (density / x).subs(x, at)),
        1 / sympy.sqrt(4 * sympy.pi * sympy.log(bits)),
    )
    y = sympy.symbols("y", positive=True)
    twice = sympy.simplify(sympy.exp(y) * (density / x).subs(x, sympy.sqrt(y)))
    proof.say("Twice the load, x² = ln M = y, leaves about", twice)
    unbounded = bool(sympy.limit(twice, y, sympy.oo) == sympy.oo)
    proof.true("of them, which grows without bound", unbounded)


def _one_item(dim: int, width: int) -> float:
    return float(brentq(lambda n: 2 * (n - 1) * math.log(width) - dim, 1.0, dim + 2.0))


register(
    Claim(
        id="pavlovian.capacity.flawless",
        title="All M bits of a memory are right up to d/(2 ln M) associations",
        paper=PAPER,
        place="between the O(d) and the O(sqrt(d)) of the versions; after McEliece et al. (1987)",
        statement=r"N - 1 \leq \frac{d}{2\,\ln M}\ \Rightarrow\ "
        r"E[\mathrm{wrong\ bits}] \leq \frac{1}{\sqrt{4\pi \ln M}},\quad M = N d_v",
        hypotheses=(
            "The values are of independent fair signs.",
            "The keys are independent and uniform on the unit sphere.",
            "The crosstalk's tail is at most the Gaussian one; what is needed of it, the bound on "
            "the wrong bits, holds with the exact tail wherever it was computed, d = 1 to 4096.",
        ),
        finding="sharpened",
        found="Error-free retrieval costs a logarithm, not a root: with 32 bits a value, 256 "
        "dimensions hold 20 associations without one wrong bit in more than nine memories of ten, "
        "where SNR 4 lets in 65 and 2 % of their bits are wrong. The first version's error-free "
        "O(sqrt(d)) is needed against an adversary only.",
        mechanisms=("linear",),
        prove=prove_flawless,
        measure=measure_flawless,
        mutants={
            "ln M in place of 2 ln M": {
                "formula": lambda d, width: flawless_capacity(2 * d, width),
            },
            "SNR 4 taken for error-free": {"formula": lambda d, width: capacity(d, 4.0)},
            "the bits of one value only": {"formula": _one_item},
        },
    )
)
