"""How many neurons two balls of the cube share: three closed forms against enumeration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import comb
from typing import overload

import numpy as np
import sympy
import torch

from neuroattn.attention.memory import intersection as exact
from neuroattn.theory.arguments import check_whole
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

PAPER = (
    "Bricken & Pehlevan (2021), Attention approximates sparse distributed memory, NeurIPS; "
    "arXiv 2111.05498"
)
KANERVA = "Kanerva (1988), Sparse distributed memory, MIT Press"
#: Largest cube that is enumerated.
ENUMERATED = 11

Form = Callable[[int, int, int], int]


@overload
def intersection(n: int, radius: int, distance: int) -> int: ...
@overload
def intersection(n: int, radius: int, distance: Sequence[int]) -> tuple[int, ...]: ...
def intersection(n: int, radius: int, distance: int | Sequence[int]) -> int | tuple[int, ...]:
    """Return how many addresses lie within a radius of both of two addresses.

    Parameters
    ----------
    n : int
        Bits of an address, at least 1.
    radius : int
        Hamming radius of both balls, 0 to ``n``.
    distance : int or sequence of int
        Hamming distance of the two addresses, 0 to ``n``.

    Returns
    -------
    int or tuple of int
        Exact: Python integers, of any size.

    Raises
    ------
    InputError
        If an argument is out of its range or no whole number.

    References
    ----------
    Kanerva (1988), Sparse distributed memory, appendix B; Bricken & Pehlevan (2021), appendix B.1.

    Examples
    --------
    >>> intersection(64, 11, [0, 1, 2])
    (927740240713, 311949983890, 311949983890)
    """
    n = check_whole("n", n, 1)
    radius = check_whole("radius", radius, 0, n)
    if isinstance(distance, Iterable):
        places = [check_whole("distance", each, 0, n) for each in distance]
        return tuple(exact.intersection(n, radius, each) for each in places)
    return exact.intersection(n, radius, check_whole("distance", distance, 0, n))


def by_lune(n: int, radius: int, distance: int) -> int:
    """Return the intersection through Kanerva's lune."""
    return exact.circle_table(n, radius)[distance]


def cases(most: int = ENUMERATED) -> list[tuple[int, int, int]]:
    """Return every (n, radius, distance) of the cubes up to ``most`` bits."""
    return [(n, d, x) for n in range(1, most + 1) for d in range(n + 1) for x in range(n + 1)]


def enumerated(lab: Lab) -> dict[tuple[int, int, int], int]:
    """Count, corner by corner, what every pair of balls of the small cubes shares."""
    found = {}
    for n in range(1, ENUMERATED + 1):
        corners = np.arange(2**n)
        weight = np.array([int(corner).bit_count() for corner in corners])
        for x in range(n + 1):
            farther = np.maximum(weight, weight[corners ^ (2**x - 1)])
            for d in range(n + 1):
                found[n, d, x] = int((farther <= d).sum())
    return found


def at_distances(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one query (1, 1, 1, n) and keys (1, 1, n + 1, n) at distances 0 to n, as 1 and -1."""
    query = torch.ones(1, 1, 1, n, dtype=torch.float64)
    key = 1.0 - 2.0 * torch.ones(n + 1, n, dtype=torch.float64).tril(-1)
    return query, key[None, None]


def mechanism_counts(lab: Lab, n: int, radius: int) -> torch.Tensor:
    """Return (n + 1,) neurons of the whole cube that ``sdm`` shares at distances 0 to n."""
    query, key = at_distances(n)
    value = torch.eye(n + 1, dtype=torch.float64)[None, None]
    read = lab.attend("sdm", query, key, value, radius=radius, normalize=False)
    return read.flatten() * 2.0**n


def short_range(n: int, radius: int, distance: int) -> int:
    """Return the double sum with its inner range one too short."""
    total = 0
    for i in range(min(radius, distance) + 1):
        most = min(radius - i, radius - distance + i, n - distance)
        total += comb(distance, i) * sum(comb(n - distance, j) for j in range(most))
    return total


def one_ball(n: int, radius: int, distance: int) -> int:
    """Return the double sum that asks for one of the balls only."""
    return sum(
        comb(distance, i) * sum(comb(n - distance, j) for j in range(radius - i + 1))
        for i in range(min(radius, distance) + 1)
    )


def even_lune(n: int, radius: int, distance: int) -> int:
    """Return Kanerva's lune with a step at every distance, not at the odd ones."""
    steps = [j for j in range(1, distance + 1) if radius >= (j - 1) // 2]
    lost = sum(comb(j - 1, (j - 1) // 2) * comb(n - j, radius - (j - 1) // 2) for j in steps)
    return exact.ball(n, radius) - lost


def measure_forms(
    lab: Lab,
    double: Form = exact.intersection,
    agreement: Form = exact.intersection_by_agreement,
    lune: Form = by_lune,
    narrower: int = 0,
) -> Iterator[Comparison]:
    """Compare each form with enumeration, and the mechanism's neurons with it."""
    counts = lab.once(enumerated)
    for name, form in {
        "double sum": double,
        "sum over bits that agree": agreement,
        "ball less Kanerva's lunes": lune,
    }.items():
        found = [form(*case) for case in cases()]
        yield lab.exact(f"{name} = enumeration, n to 11", found, [counts[c] for c in cases()])
    n = ENUMERATED
    for radius in (1, 4, 5):
        found = lab.once(mechanism_counts, n, radius - narrower)
        yield lab.near(
            f"neurons that sdm shares, n = {n}, radius {radius}",
            found,
            [counts[n, radius, x] for x in range(n + 1)],
            tolerance=1e-3,
            expected=1e-3,
            reason="integers below 2^24 over a power of two: exact in float32 too",
            axes={"Hamming distance (bits)": range(n + 1)},
        )


def larger_distances(x: int, z: sympy.Symbol) -> sympy.Expr:
    """Return g_x(z): the flips of the x differing bits, by the larger of the two distances."""
    return sum(sympy.binomial(x, i) * z ** max(i, x - i) for i in range(x + 1))


def prove_lune(proof: Proof) -> None:
    """Derive Kanerva's lune from the double sum, for every n, d and x."""
    z = sympy.Symbol("z")
    t, k = sympy.symbols("t k", integer=True, positive=True)
    choose = sympy.binomial
    proof.say(
        "A neuron that flips i of the x differing bits and j of the others is max(i, x-i) + j "
        "from the farther address, so that I(x) is the sum of the coefficients of z^0 ... z^d of "
        "g_x(z) (1+z)^(n-x), where g_x(z) = sum_i C(x,i) z^max(i,x-i); such as g_4",
        larger_distances(4, z),
    )
    proof.say(
        "Compare (1+z) g_2t with g_(2t+1), power by power: at z^t only the first has a term",
        choose(2 * t, t) * z**t,
    )
    proof.equal(
        "At z^(t+1) the second has C(2t,t) more, by Pascal's rule",
        2 * choose(2 * t, t + 1) + choose(2 * t, t) - 2 * choose(2 * t + 1, t + 1),
        -choose(2 * t, t),
    )
    proof.equal(
        "At z^(t+1+k) they are equal, by Pascal's rule",
        2 * choose(2 * t, t + 1 + k) + 2 * choose(2 * t, t + k),
        2 * choose(2 * t + 1, t + 1 + k),
    )
    for number in (1, 2, 3):
        left = (1 + z) * larger_distances(2 * number, z) - larger_distances(2 * number + 1, z)
        right = choose(2 * number, number) * z**number * (1 - z)
        proof.equal(f"So (1+z) g_2t - g_(2t+1) = C(2t,t) z^t (1-z); t = {number}", left, right)
    proof.equal(
        "Sums of the coefficients of (1-z) f are the coefficients of f: summed to z^d, "
        "C(2t,t) z^t (1-z) (1+z)^(n-2t-1) leaves C(2t,t) C(n-2t-1, d-t), the lune of the odd "
        "distance j = 2t+1; at n = 9, t = 2, d = 4",
        sum(
            sympy.Poly(6 * z**2 * (1 - z) * (1 + z) ** 4, z).coeff_monomial(z**s) for s in range(5)
        ),
        choose(4, 2) * choose(4, 2),
    )


register(
    Claim(
        id="sdm.intersection.three-forms",
        title="Three closed forms count the neurons that two addresses share",
        paper=f"{PAPER}; {KANERVA}",
        place="the circle intersection; the derivation of the lune is ours",
        statement=r"I_{n,d}(x)=\sum_{i}\binom{x}{i}\sum_{j\leq\min(d-i,\,d-x+i)}\binom{n-x}{j}"
        r"=|B|-\sum_{j\leq x,\,j\,\mathrm{odd}}\binom{j-1}{(j-1)/2}\binom{n-j}{d-(j-1)/2}",
        hypotheses=(
            "The neurons are the 2^n corners of the cube.",
            "A neuron is written and read within Hamming distance d, the radius included.",
        ),
        finding="confirmed",
        found="The paper's sum over agreeing bits, the sum over differing bits and Kanerva's ball "
        "less lunes equal enumeration for every n to 11, every radius and every distance, without "
        "one mismatch; the lune follows from the double sum by Pascal's rule for all n, and the "
        "sdm mechanism shares exactly that many neurons in each of its forms.",
        mechanisms=("sdm",),
        prove=prove_lune,
        measure=measure_forms,
        mutants={
            "inner range one too short": {"double": short_range},
            "one ball in place of two": {"double": one_ball},
            "agreement sum with the radius exclusive": {
                "agreement": lambda n, d, x: (
                    exact.intersection_by_agreement(n, d - 1, x) if d else 0
                )
            },
            "a lune at even distances too": {"lune": even_lune},
            "neurons strictly inside the radius": {"narrower": 1},
        },
    )
)
