"""Retrieval: a noisy address is read, and read again, until the pattern comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from math import comb, pi

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.attention.memory import intersection as exact
from neuroattn.errors import InputError
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof
from neuroattn.theory.sdm.neurons import power
from neuroattn.theory.sdm.overlap import KANERVA, PAPER
from neuroattn.theory.sdm.snr import wrong_bit

BITS = 64
#: Of the query, where the first read makes some errors but not all.
DISTANCES = (18, 20, 22, 24, 26, 28)


def stored(lab: Lab, sets: int, patterns: int, tag: str) -> Tensor:
    """Return patterns (sets, 1, patterns, bits) of 1 and -1."""
    drawn = torch.randint(0, 2, (sets, 1, patterns, BITS), generator=lab.generator("stored", tag))
    return 2.0 * drawn.double() - 1


def flipped(lab: Lab, targets: Tensor, distance: int) -> Tensor:
    """Return addresses at a distance from the targets, each in other bits."""
    order = torch.rand(targets.shape, generator=lab.generator("flips", distance)).argsort(-1)
    return torch.where(order < distance, -targets, targets)


def read_bits(lab: Lab, query: Tensor, patterns: Tensor, radius: int) -> Tensor:
    """Return the bits that sdm reads at the queries."""
    return torch.where(lab.attend("sdm", query, patterns, patterns, radius=radius) > 0, 1.0, -1.0)


def first_errors(lab: Lab, radius: int, patterns: int) -> Array:
    """Return (draws, distances) of wrong bits after one read, a set of patterns each."""
    held = stored(lab, 600, patterns, f"first {patterns}")
    target = held[:, :, :1]
    query = torch.cat([flipped(lab, target, x) for x in DISTANCES], dim=2)
    wrong = (read_bits(lab, query, held, radius) != target).sum(-1).double()
    return np.asarray(wrong[:, 0].numpy(), dtype=float)


@cache
def expected_errors(radius: int, patterns: int, distance: int, pull: bool = True) -> float:
    """Return the expected wrong bits after one read, exactly, for random patterns.

    A pattern at distance X from the query shows the query's own bit with chance 1 - X/n: others
    pull the read towards the query, away from the target in the bits where they differ.

    Raises
    ------
    InputError
        Near the target, where the overlap is so far above the noise that the integrand turns
        faster than its grid.
    """
    shared = np.array([float(each) for each in exact.circle_table(BITS, radius)])
    chance = np.array([comb(BITS, x) / 2**BITS for x in range(BITS + 1)])
    lean = 1 - 2 * np.arange(BITS + 1) / BITS if pull else np.zeros(BITS + 1)
    spread = np.sqrt((patterns - 1) * (chance * shared**2).sum())
    if shared[distance] > 100 * spread:
        raise InputError(
            f"distance={distance} is too near the target for radius={radius} and "
            f"patterns={patterns}: the overlap is more than 100 times the noise, and no bit wrong."
        )
    # Gil-Pelaez; at the end of the grid the characteristic function has died out.
    grid = np.linspace(0, 120, 12_001)[1:] - 0.005
    turn = np.outer(grid, shared / spread)
    even, odd = np.cos(turn) @ chance, np.sin(turn) @ (chance * lean)
    errors = 0.0
    for bits, sign in ((distance, -1), (BITS - distance, 1)):
        others = (even + 1j * sign * odd) ** (patterns - 1)
        whole = others * np.exp(1j * grid * shared[distance] / spread)
        below = 0.5 - float((whole.imag / grid).sum()) * 0.01 / pi
        errors += bits * below
    return errors


def normal_errors(overlaps: str) -> Callable[[int, int, int], float]:
    """Return the expectation with a normal noise of some power, without pull."""

    def errors(radius: int, patterns: int, distance: int) -> float:
        mean = Fraction(exact.intersection(BITS, radius, distance))
        noise = (patterns - 1) * power(BITS, radius, None, overlaps)
        return BITS * wrong_bit(mean, noise)

    return errors


def measure_first(
    lab: Lab, expect: Callable[[int, int, int], float] = expected_errors
) -> Iterator[Comparison]:
    """Read once at several distances, for sparse and dense balls."""
    patterns = 256
    for radius in (15, 18):
        yield lab.mean(
            f"wrong bits after one read, n = 64, m = {patterns}, d = {radius}",
            lab.once(first_errors, radius, patterns),
            [expect(radius, patterns, x) for x in DISTANCES],
            axes={"wrong bits of the query": DISTANCES},
        )


def prove_first(proof: Proof) -> None:
    """Count the patterns of a small cube that share a bit with the query."""
    n = 4
    for x in range(n + 1):
        patterns = [c for c in range(2**n) if c.bit_count() == x]
        share = sympy.Rational(sum(1 for c in patterns if not c & 1), len(patterns))
        proof.equal(
            f"n = 4: of the patterns at distance {x} from the query, a bit agrees in",
            share,
            1 - sympy.Rational(x, n),
        )
    t, i, y = sympy.symbols("t I y", real=True)
    lean = 1 - 2 * y
    proof.equal(
        "so a pattern of overlap I adds with the characteristic function",
        sympy.expand(
            (1 - y) * sympy.exp(sympy.I * t * i) + y * sympy.exp(-sympy.I * t * i)
        ).rewrite(sympy.cos),
        sympy.cos(t * i) + sympy.I * lean * sympy.sin(t * i),
    )


register(
    Claim(
        id="sdm.retrieval.first-read",
        title="One read's errors follow exactly, and other patterns pull it towards the query",
        paper=f"{PAPER}; {KANERVA}",
        place="retrieval from a noisy address; the exact law is derived here",
        statement=r"P(\mathrm{wrong})=\frac{1}{2}-\frac{1}{\pi}\int_0^\infty\frac{dt}{t}"
        r"\,\mathrm{Im}\left[e^{itI(x)}\left(\sum_y\frac{\binom{n}{y}}{2^n}"
        r"\left[\cos tI(y)\pm i\left(1-\frac{2y}{n}\right)\sin tI(y)\right]\right)^{m-1}\right]",
        hypotheses=(
            "Patterns are random, and stored as values at their own addresses.",
            "The neurons are the 2^n corners of the cube.",
            "The sign is minus for the query's wrong bits and plus for the others.",
        ),
        finding="sharpened",
        found="Reads of the mechanism make as many errors as this law says, at every distance. "
        "The normal law fails twice: the published variance is far too small, and noise has a "
        "mean, because near patterns, which weigh most, resemble the query.",
        mechanisms=("sdm",),
        prove=prove_first,
        measure=measure_first,
        mutants={
            "values that do not resemble addresses": {
                "expect": lambda d, m, x: expected_errors(d, m, x, pull=False)
            },
            "normal noise with p^2 r + p^4 r^2": {"expect": normal_errors("independent")},
            "normal noise of the exact power": {"expect": normal_errors("exact")},
        },
    )
)
