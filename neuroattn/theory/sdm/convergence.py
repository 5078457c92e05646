"""Reading again and again: which queries find their pattern, and how far away."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import sympy
import torch

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof
from neuroattn.theory.sdm.overlap import KANERVA, PAPER
from neuroattn.theory.sdm.radii import optimal_radius
from neuroattn.theory.sdm.retrieval import BITS, flipped, read_bits, stored
from neuroattn.theory.sdm.snr import critical_distance

#: As in the paper.
PATTERNS = 1024
Edge = Callable[[int, int], int]


def exact_edge(radius: int, patterns: int) -> int:
    """Return the critical distance with the exact noise."""
    return critical_distance(BITS, radius, patterns)


def published_edge(radius: int, patterns: int) -> int:
    """Return the critical distance with the published noise."""
    return critical_distance(BITS, radius, patterns, overlaps="independent")


def recalled(lab: Lab, radius: int, distances: tuple[int, ...], reads: int) -> Array:
    """Return (distances,) the share of queries that are at their pattern after some reads."""
    held = stored(lab, 20, PATTERNS, "convergence")
    targets = held[:, :, :6]
    query = torch.cat([flipped(lab, targets, x) for x in distances], dim=2)
    for _ in range(reads):
        query = read_bits(lab, query, held, radius)
    came = (query == targets.repeat(1, 1, len(distances), 1)).all(-1).double()
    return np.asarray(came.reshape(20, len(distances), 6).mean((0, 2)).numpy(), dtype=float)


def measure_convergence(
    lab: Lab, edge: Edge = exact_edge, radius: int = 15, reads: int = 6
) -> Iterator[Comparison]:
    """Start below and above the critical distance."""
    told = edge(15, PATTERNS)
    below = (2, told // 2, told - 4)
    above = (told + 6, told + 9, 32)
    yield lab.at_least(
        f"queries that find their pattern from below, n = 64, m = {PATTERNS}, d = 15",
        lab.once(recalled, radius, below, reads),
        [0.9] * len(below),
        axes={"wrong bits of the query": below},
        reason="an inequality; .97 and more is found",
    )
    yield lab.at_most(
        "and from above",
        lab.once(recalled, radius, above, reads),
        [0.05] * len(above),
        axes={"wrong bits of the query": above},
        reason="an inequality; less than .01 is found",
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
    proof.say(
        "The overlap never grows with the distance (each lune is at least 0), nor does z; so where "
        "a read at x leaves fewer than x bits wrong, the next read has more signal and leaves "
        "fewer still: all reads below the critical distance descend",
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
        ),
        finding="sharpened",
        found="With 1024 patterns of 64 bits and radius 15 nearly all queries 14 bits away come "
        "back, and nearly none 24 bits away, which is the critical distance that the published "
        "noise gives; the exact noise gives 18.",
        mechanisms=("sdm",),
        prove=prove_convergence,
        measure=measure_convergence,
        mutants={
            "the published noise": {"edge": published_edge},
            "a ball of 22 bits": {"radius": 22},
        },
    )
)


def halfway(lab: Lab, radius: int) -> float:
    """Return the distance from which half of the queries find their pattern."""
    least = exact_edge(radius, PATTERNS) - 2
    places = tuple(range(least, least + 9))
    share = lab.once(recalled, radius, places, 6)
    # The share falls with the distance, up to chance.
    falling = np.minimum.accumulate(share)
    return float(np.interp(-0.5, -falling, np.array(places, dtype=float)))


def measure_edge(lab: Lab, edge: Edge = exact_edge) -> Iterator[Comparison]:
    """Compare the measured critical distance with the theory, for several radii."""
    radii = (5, 7, 9, 11, 13, 15)
    found = np.array([lab.once(halfway, d) for d in radii])
    told = np.array([edge(d, PATTERNS) for d in radii])
    yield lab.at_least(
        f"critical distance, n = 64, m = {PATTERNS}, over the theory's",
        found,
        told,
        slack=0.5,
        reason="an inequality, and half a bit for the draws",
        axes={"radius d (bits)": radii},
    )
    yield lab.near(
        "critical distance",
        found,
        told,
        tolerance=4.5,
        expected=2.0,
        reason="the theory takes one read's noise for normal; the distance is a whole number",
        axes={"radius d (bits)": radii},
    )


def measure_published(
    lab: Lab, choose: Callable[[int], int] = lambda m: optimal_radius(BITS, m, "critical")
) -> Iterator[Comparison]:
    """Look for the radius of the largest published critical distance, for several numbers."""
    numbers = (100, 256, 1024, 4096, 16_384)
    chosen = [choose(m) for m in numbers]
    yield lab.exact("published radius, m = 100 and 1024", [chosen[0], chosen[2]], [21, 15])
    far = [published_edge(d, PATTERNS) for d in (14, 15, 16, 17)]
    yield lab.exact("published critical distance at d = 14 to 17", far, [22, 24, 24, 22])
    yield lab.exact(
        "and with 100 patterns at d = 21, 22", [published_edge(d, 100) for d in (21, 22)], [32, 32]
    )
    scanned = [
        max(range(33), key=lambda d: (critical_distance(BITS, d, m, overlaps="independent"), -d))
        for m in numbers
    ]
    yield lab.near(
        "radius that tolerates most wrong bits",
        chosen,
        scanned,
        tolerance=0.0,
        expected=0.0,
        reason="whole numbers",
        axes={"patterns m": numbers},
    )


register(
    Claim(
        id="sdm.retrieval.critical-distance",
        title="The critical distance of the mechanism is the exact noise's, not the published one",
        paper=f"{PAPER}; {KANERVA}",
        place="optimal radius by the critical distance; measured here",
        statement=r"x_c=\max\{x: n\,Q(z(y))<y\ \forall y\leq x\},\quad "
        r"z(x)=\frac{I(x)}{\sqrt{(m-1)\,E[I^2]}}",
        hypotheses=(
            "Random patterns stored at their own addresses, all 2^n neurons.",
            "Critical is the distance from which half of the queries find their pattern.",
        ),
        finding="refuted",
        found="With the published noise, radius 15 tolerates 24 of 64 wrong bits with 1024 "
        "patterns. Measured, it tolerates 19, no more than radii 11 and 13: the exact noise gives "
        "a plateau of 16 to 18 in place of a peak at 15.",
        mechanisms=("sdm",),
        measure=measure_edge,
        mutants={"the published noise": {"edge": published_edge}},
    )
)

register(
    Claim(
        id="sdm.radius.critical",
        title="The published radius by critical distance depends on the number of patterns",
        paper=PAPER,
        place="the optimal radius by critical distance; formula derived here, gives the published",
        statement=r"d^*_{CD}=\mathrm{argmax}_d\,x_c(d),\quad z(x)=\frac{I(x)}"
        r"{\sqrt{I(x)+m(p^2r+p^4r^2)}}",
        hypotheses=(
            "n = 64 with all 2^64 neurons.",
            "The overlap with a random pattern is a Poisson count of mean p^2 r.",
        ),
        finding="sharpened",
        found="The published 15 follows for 1024 patterns, in a tie with 16 (both 24 bits). With "
        "100 patterns it would be 21, and would tolerate any number of wrong bits, 32 of 64, "
        "which no memory can. See sdm.retrieval.critical-distance for what is measured.",
        measure=measure_published,
        mutants={
            "the radius by the signal": {"choose": lambda m: optimal_radius(BITS, m, "snr")},
            "1024 patterns whatever the number": {
                "choose": lambda m: optimal_radius(BITS, PATTERNS, "critical")
            },
        },
    )
)
