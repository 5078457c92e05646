"""Exact identities of the intersection, and integers that floating point cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import comb, log

import numpy as np
import sympy

from neuroattn.attention.memory import intersection as exact
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof
from neuroattn.theory.sdm.overlap import (
    KANERVA,
    PAPER,
    Form,
    even_lune,
    larger_distances,
    mechanism_counts,
    short_range,
)

Table = Callable[[int, int], Sequence[int]]
#: Cubes at which identities are checked, for every radius.
DIMS = (1, 2, 7, 16, 33, 64)


def tabled(form: Form) -> Table:
    """Return a form's table of all distances."""
    return lambda n, radius: [form(n, radius, x) for x in range(n + 1)]


def even_above(x: int) -> int:
    """Return the even distance whose overlap x bits share with it."""
    return 2 * ((x + 1) // 2)


def measure_staircase(
    lab: Lab, table: Table = exact.circle_table, stair: Callable[[int], int] = even_above
) -> Iterator[Comparison]:
    """Compare the overlap at every distance with that of its stair."""
    rows = [table(n, d) for n in DIMS for d in range(n + 1)]
    found = [row[x] for row in rows for x in range(len(row)) if stair(x) < len(row)]
    wanted = [row[stair(x)] for row in rows for x in range(len(row)) if stair(x) < len(row)]
    yield lab.exact(f"Kanerva's overlap and that of its stair, n in {DIMS}", found, wanted)
    cases = [(n, d, x) for n in DIMS[:4] for d in range(n + 1) for x in range(n)]
    yield lab.exact(
        "double sum and that of its stair, n to 16",
        [exact.intersection(n, d, x) for n, d, x in cases],
        [exact.intersection(n, d, stair(x)) for n, d, x in cases],
    )
    read = lab.once(mechanism_counts, 64, 11)[:23].log()
    yield lab.equal(
        "log of the neurons that sdm shares, n = 64, d = 11",
        read,
        [log(abs(table(64, 11)[stair(x)])) for x in range(23)],
        growth=16,
        axes={"Hamming distance (bits)": range(23)},
    )


def prove_staircase(proof: Proof) -> None:
    """Show that an even distance shares what the odd one before it shares, for every n and d."""
    z = sympy.Symbol("z")
    t, k = sympy.symbols("t k", integer=True, positive=True)
    choose = sympy.binomial
    proof.say(
        "I(x) sums the coefficients of z^0 ... z^d of g_x(z) (1+z)^(n-x), where "
        "g_x(z) = sum_i C(x,i) z^max(i,x-i); so it is enough that (1+z) g_(2t-1) = g_2t"
    )
    proof.equal(
        "At z^t: both halves of the odd sum meet",
        2 * choose(2 * t - 1, t),
        choose(2 * t, t),
    )
    proof.equal(
        "At z^(t+k), k > 0: Pascal's rule",
        2 * choose(2 * t - 1, t + k) + 2 * choose(2 * t - 1, t + k - 1),
        2 * choose(2 * t, t + k),
    )
    for number in (1, 2, 3):
        proof.equal(
            f"t = {number}, written out",
            (1 + z) * larger_distances(2 * number - 1, z),
            larger_distances(2 * number, z),
        )


register(
    Claim(
        id="sdm.intersection.staircase",
        title="The overlap is a staircase: an even distance shares what the odd one before it does",
        paper=f"{PAPER}; {KANERVA}",
        place="implied by Kanerva's lune; derived here",
        statement=r"I_{n,d}(2t-1)=I_{n,d}(2t),\quad t\geq 1",
        hypotheses=("The neurons are the 2^n corners of the cube.",),
        finding="sharpened",
        found="The papers draw a smooth, nearly exponential decay. It is a staircase, exactly and "
        "for every n and d: two of three neighbouring distances never differ. Any smooth fit, "
        "softmax included, therefore keeps a residual, however beta is chosen.",
        mechanisms=("sdm",),
        prove=prove_staircase,
        measure=measure_staircase,
        mutants={
            "steps at even distances too": {"table": tabled(even_lune)},
            "an odd distance shares what the even one before it does": {
                "stair": lambda x: 2 * (x // 2)
            },
        },
    )
)


def measure_ends(
    lab: Lab, table: Table = exact.circle_table, last: int = 2
) -> Iterator[Comparison]:
    """Compare the overlap of one point, of the last step and beyond with what they must be."""
    rows = {(n, d): table(n, d) for n in DIMS for d in range(n + 1)}
    inside = [(n, d) for n, d in rows if last * d <= n]
    sizes = [sum(comb(n, i) for i in range(d + 1)) for n, d in rows]
    yield lab.exact("I(0) is a ball", [row[0] for row in rows.values()], sizes)
    ends = [rows[n, d][last * d] for n, d in inside]
    yield lab.exact("I(2d) = C(2d, d)", ends, [comb(2 * d, d) for _, d in inside])
    beyond = [rows[n, d][last * d + 1 :] for n, d in inside]
    yield lab.exact("nothing beyond 2d", [any(each) for each in beyond], [False] * len(inside))
    read = lab.once(mechanism_counts, 64, 11)
    known = [float(table(64, 11)[x]) for x in (0, 22)]
    yield lab.equal(
        "sdm at distance 0 and 2d over the prediction",
        read[[0, 22]] / read.new_tensor(known),
        [1.0, 1.0],
        growth=8,
    )
    yield lab.exact("sdm beyond 2d gives no weight", (read[23:] != 0).tolist(), [False] * 42)


def prove_ends(proof: Proof) -> None:
    """Find the lowest powers of the generating polynomial."""
    z = sympy.Symbol("z")
    for x in (2, 4, 6, 7):
        polynomial = sympy.Poly(larger_distances(x, z), z)
        low = min(power for (power,) in polynomial.monoms())
        proof.equal(f"x = {x}: the farther address is at least ceil(x/2) away", low, -(-x // 2))
        if x % 2 == 0:
            proof.equal(
                f"so with d = {x // 2} only the neurons half-way remain",
                polynomial.coeff_monomial(z**low),
                sympy.binomial(x, x // 2),
            )


register(
    Claim(
        id="sdm.intersection.ends",
        title="The overlap starts with a ball, ends with C(2d,d) at 2d, and is zero beyond",
        paper=f"{PAPER}; {KANERVA}",
        place="the circle intersection; derived here",
        statement=r"I(0)=\sum_{i\leq d}\binom{n}{i},\quad I(2d)=\binom{2d}{d},"
        r"\quad I(x)=0\ \mathrm{for}\ x>2d",
        hypotheses=("The neurons are the 2^n corners of the cube.", "2d is at most n."),
        finding="sharpened",
        found="SDM has finite support where softmax has none: a pattern more than 2d bits away "
        "gets the weight 0, not a small one, and a query that far from all patterns reads nothing.",
        mechanisms=("sdm",),
        prove=prove_ends,
        measure=measure_ends,
        mutants={
            "support of one radius": {"last": 1},
            "radius exclusive": {"table": lambda n, d: exact.circle_table(n, max(d - 1, 0))},
            "inner range one too short": {"table": tabled(short_range)},
        },
    )
)


def measure_sum(
    lab: Lab, table: Table = exact.circle_table, weighted: bool = True
) -> Iterator[Comparison]:
    """Add the overlaps with all addresses."""
    found, wanted = [], []
    for n in DIMS:
        for d in range(n + 1):
            counts = [comb(n, x) if weighted else 1 for x in range(n + 1)]
            found.append(sum(a * b for a, b in zip(counts, table(n, d), strict=True)))
            wanted.append(sum(comb(n, i) for i in range(d + 1)) ** 2)
    yield lab.exact(f"sum over all addresses, n in {DIMS}", found, wanted)
    n, radii = 16, range(1, 9)
    shells = [comb(n, x) if weighted else 1 for x in range(n + 1)]
    reads = [lab.once(mechanism_counts, n, d) for d in radii]
    total = [float((each * each.new_tensor(shells)).sum()) for each in reads]
    share = [exact.ball(n, d) ** 2 for d in radii]
    yield lab.near(
        "sum of the neurons that sdm shares over the square of a ball, n = 16",
        np.array(total) / np.array(share, dtype=float),
        np.ones(len(share)),
        tolerance=1e-6,
        expected=1e-7,
        reason="weights are fractions of 2^16 below 2^24: exact but for the sum",
        axes={"radius d (bits)": radii},
    )


def prove_sum(proof: Proof) -> None:
    """Count pairs of (address, neuron) twice, with a variable for each ball."""
    z, w, n = sympy.symbols("z w n", positive=True)
    proof.say(
        "With z for a bit that differs from the first address and w from the second, neurons at "
        "distance x count (1+zw)^(n-x) (z+w)^x; summed over addresses, one bit gives"
    )
    proof.equal("The two balls separate", (1 + z * w) + (z + w), (1 + z) * (1 + w))
    proof.say("so n bits give", ((1 + z) * (1 + w)) ** n)
    low = sympy.Poly(sympy.expand(((1 + z) * (1 + w)) ** 5), z, w)
    both = sum(value for powers, value in low.terms() if max(powers) <= 2)
    proof.equal("Powers up to d in both are |B|^2; n = 5, d = 2", both, (1 + 5 + 10) ** 2)


register(
    Claim(
        id="sdm.intersection.sum-rule",
        title="Summed over all addresses, the overlaps are the square of a ball",
        paper=PAPER,
        place="not in the papers; derived here",
        statement=r"\sum_{x=0}^{n}\binom{n}{x}I_{n,d}(x)=|B|^2",
        hypotheses=("The neurons are the 2^n corners of the cube.",),
        finding="sharpened",
        found="The mean overlap with a random address is p^2 of the cube, p the share of a ball, "
        "exactly and not only for large n. What is not p^4 is the mean of its square: see "
        "sdm.radius.overlap-power.",
        mechanisms=("sdm",),
        prove=prove_sum,
        measure=measure_sum,
        mutants={
            "distances counted once each": {"weighted": False},
            "one ball in place of two": {"table": lambda n, d: [exact.ball(n, d)] * (n + 1)},
        },
    )
)
