"""Reading again and again: which queries find their pattern, and how far away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from math import comb

import numpy as np
import sympy
import torch

from neuroattn.attention.memory import intersection as exact
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof
from neuroattn.theory.sdm.overlap import KANERVA, PAPER
from neuroattn.theory.sdm.retrieval import (
    BITS,
    DISTANCES,
    expected_errors,
    flipped,
    normal_errors,
    read_bits,
    stored,
)
from neuroattn.theory.sdm.snr import critical_distance

#: As in the paper.
PATTERNS = 1024
#: Of 20 sets of patterns each, how many are asked for.
TARGETS = 12
Edge = Callable[[int, int], int]


def exact_edge(radius: int, patterns: int) -> int:
    """Return the critical distance with the exact noise."""
    return critical_distance(BITS, radius, patterns)


def published_edge(radius: int, patterns: int) -> int:
    """Return the critical distance with the published noise."""
    return critical_distance(BITS, radius, patterns, overlaps="independent")


def recalled(
    lab: Lab, radius: int, distances: tuple[int, ...], reads: int, targets: int = TARGETS
) -> Array:
    """Return (distances,) the share of queries that are at their pattern after some reads."""
    held = stored(lab, 20, PATTERNS, "convergence")
    asked = held[:, :, :targets]
    query = torch.cat([flipped(lab, asked, x) for x in distances], dim=2)
    for _ in range(reads):
        query = read_bits(lab, query, held, radius)
    came = (query == asked.repeat(1, 1, len(distances), 1)).all(-1).double()
    return np.asarray(came.reshape(20, len(distances), targets).mean((0, 2)).numpy(), dtype=float)


def measure_convergence(
    lab: Lab, edge: Edge = exact_edge, radius: int = 15, reads: int = 6
) -> Iterator[Comparison]:
    """Start below and above the critical distance."""
    told = edge(15, PATTERNS)
    # The edge itself and the stair after it are where it is decided by the draws.
    below = (2, told // 2, told - 4, told - 2)
    above = (told + 4, told + 6, told + 9)
    yield lab.at_least(
        f"queries that find their pattern from below, n = 64, m = {PATTERNS}, d = 15",
        lab.once(recalled, radius, below, reads),
        [0.94] * len(below),
        axes={"wrong bits of the query": below},
        reason="an inequality; .99 and more is found, .81 two bits farther",
    )
    yield lab.at_most(
        "and from above",
        lab.once(recalled, radius, above, reads),
        [0.1] * len(above),
        axes={"wrong bits of the query": above},
        reason="an inequality; .02 and less is found, .35 two bits nearer",
    )


def prove_convergence(proof: Proof) -> None:
    """Follow the wrong bits of a query from read to read, for a normal noise."""
    x, z = sympy.symbols("x z", positive=True)
    n = 64
    wrong = n * sympy.erfc(z / sympy.sqrt(2)) / 2
    proof.say("After a read with z standard deviations of signal this many bits are wrong", wrong)
    proof.equal("none of signal leaves half of them", wrong.subs(z, 0), n // 2)
    proof.true(
        "more signal leaves fewer wrong bits",
        wrong.diff(z).is_negative,
        wrong.diff(z),
    )
    bits, d = 12, 4
    table = [exact.intersection(bits, d, each) for each in range(bits + 1)]
    lunes = [
        comb(each, each // 2) * comb(bits - each - 1, d - each // 2)
        if each % 2 == 0 and each // 2 <= d
        else 0
        for each in range(bits)
    ]
    proof.equal(
        "n = 12, d = 4: what the overlap loses from each distance to the next is Kanerva's lune",
        sympy.Matrix([table[:-1]]) - sympy.Matrix([table[1:]]),
        sympy.Matrix([lunes]),
    )
    proof.true(
        "a product of binomials, at least 0: the overlap never grows with the distance",
        min(lunes) >= 0,
        sympy.Matrix([lunes]),
    )
    whole = exact.circle_table(n, 15)
    proof.true(
        "nor does it at n = 64, d = 15",
        all(near >= far for near, far in pairwise(whole)),
        sympy.Integer(min(near - far for near, far in pairwise(whole))),
    )
    proof.say(
        "So z does not grow with the distance either: where a read at x leaves fewer than x bits "
        "wrong on average, the next read has more signal and leaves fewer still. That follows the "
        "mean and takes each read's noise for fresh: a mean-field argument, which is why the edge "
        "is measured",
        sympy.Lt(wrong, x),
    )


register(
    Claim(
        id="sdm.retrieval.convergence",
        title="Repeated reads find the pattern below the critical distance, and lose it above",
        paper=f"{KANERVA}; {PAPER}",
        place="the critical distance; formula and numbers derived here",
        statement=r"x_{t+1}=n\,Q(z(x_t)),\quad x_0<x_c\Rightarrow x_t\to 0",
        hypotheses=(
            "Random patterns stored at their own addresses, all 2^n neurons.",
            "The noise has the exact mean square of the overlaps.",
            "The mean number of wrong bits stands for all (mean field); the noise is normal.",
        ),
        finding="sharpened",
        found="With 1024 patterns of 64 bits and radius 15 nearly all queries up to 16 bits away "
        "come back, and nearly none 22 or more bits away; half of them come back from 18 to 19. "
        "The exact noise gives 18 as the critical distance, the published noise 24.",
        mechanisms=("sdm",),
        prove=prove_convergence,
        measure=measure_convergence,
        mutants={
            "the published noise": {"edge": published_edge},
            "a ball of 22 bits": {"radius": 22},
            "two bits farther": {"edge": lambda d, m: exact_edge(d, m) + 2},
            "two bits nearer": {"edge": lambda d, m: exact_edge(d, m) - 2},
        },
    )
)


def halfway(lab: Lab, radius: int) -> float:
    """Return the distance from which half of the queries find their pattern."""
    least = 8 if radius > 18 else 13 if radius > 16 else 15
    places = tuple(range(least, least + 8))
    share = lab.once(recalled, radius, places, 6, 6)
    # The share falls with the distance, up to chance.
    falling = np.minimum.accumulate(share)
    return float(np.interp(-0.5, -falling, np.array(places, dtype=float)))


def first_read(lab: Lab, radius: int, distances: tuple[int, ...]) -> Array:
    """Return (sets, distances) of wrong bits after one read, means over the targets of a set."""
    held = stored(lab, 20, PATTERNS, "convergence")
    targets = held[:, :, :TARGETS]
    query = torch.cat([flipped(lab, targets, x) for x in distances], dim=2)
    read = read_bits(lab, query, held, radius)
    wrong = (read != targets.repeat(1, 1, len(distances), 1)).sum(-1).double()
    means = wrong.reshape(20, len(distances), TARGETS).mean(-1)
    return np.asarray(means.numpy(), dtype=float)


def break_even(radius: int, patterns: int) -> int:
    """Return the critical distance of one read, by its exact law (nearer than 12 bits none is)."""
    return next(x for x in range(12, 33) if expected_errors(radius, patterns, x + 1) >= x + 1)


def measure_edge(
    lab: Lab, edge: Edge = exact_edge, errors: Callable[[int, int, int], float] = expected_errors
) -> Iterator[Comparison]:
    """Compare one read with its exact law, and the measured edge of many with the theory's."""
    places = DISTANCES
    for radius in (11, 15, 19):
        yield lab.mean(
            f"wrong bits after one read, n = 64, m = {PATTERNS}, d = {radius}",
            lab.once(first_read, radius, places),
            [errors(radius, PATTERNS, x) for x in places],
            axes={"wrong bits of the query": places},
        )
    radii = (13, 15, 16, 17, 18)
    found = np.array([lab.once(halfway, d) for d in radii])
    yield lab.near(
        f"critical distance of repeated reads, n = 64, m = {PATTERNS}",
        found,
        # The largest whole distance below the edge, which is half a bit farther.
        [edge(d, PATTERNS) + 0.5 for d in radii],
        tolerance=1.5,
        expected=0.6,
        reason="the overlap falls every two bits, so that the theory's edge is even: one bit "
        "either way, and half a bit for a noise that is not normal and the draws",
        axes={"radius d (bits)": radii},
    )
    yield lab.at_least(
        "by how much the published critical distance exceeds the measured",
        np.array([published_edge(d, PATTERNS) for d in (11, *radii, 19)])
        - np.array([lab.once(halfway, 11), *found, lab.once(halfway, 19)]),
        2.5,
        axes={"radius d (bits)": (11, *radii, 19)},
    )
    yield lab.at_least(
        "by how much the break-even of one read exceeds it",
        np.array([break_even(d, PATTERNS) for d in radii]) - found,
        0.5,
        axes={"radius d (bits)": radii},
    )


register(
    Claim(
        id="sdm.retrieval.critical-distance",
        title="Repeated reads tolerate 19 of 64 wrong bits, five fewer than published",
        paper=f"{PAPER}; {KANERVA}",
        place="optimal radius by the critical distance; measured here",
        statement=r"x_c=\max\{x: n\,Q(z(y))<y\ \forall y\leq x\},\quad "
        r"z(x)=\frac{I(x)}{\sqrt{(m-1)\,E[I^2]}}",
        hypotheses=(
            "Random patterns stored at their own addresses, all 2^n neurons.",
            "Critical is the distance from which half of the queries find their pattern.",
        ),
        finding="refuted",
        found="With the published noise radius 15 tolerates 24 of 64 wrong bits with 1024 "
        "patterns, at a peak. Measured, half of the queries come back from 18.7 bits at radii 11 "
        "to 15, a plateau, then fewer: 17.6 at radius 17, 15.6 at 18, 12.6 at 19. A normal noise "
        "of the exact mean square gives 18 at radii 13 to 17 and 16 at 18, right to its steps of "
        "two bits; at 11 (16) and 19 (16) it misses by 3, because the noise is not normal. The "
        "exact law of one read holds at every distance, but does not give the edge either: reads "
        "break even about 2 bits farther out or more, and queries that came nearer are lost later.",
        mechanisms=("sdm",),
        measure=measure_edge,
        mutants={
            "the published noise": {"edge": published_edge},
            "two bits farther": {"edge": lambda d, m: exact_edge(d, m) + 2},
            "two bits nearer": {"edge": lambda d, m: exact_edge(d, m) - 2},
            "where one read breaks even": {"edge": break_even},
            "one read with the published noise": {"errors": normal_errors("independent")},
            "one read without pull to the query": {
                "errors": lambda d, m, x: expected_errors(d, m, x, pull=False)
            },
        },
    )
)
