"""Which radius is best, in the literature: for the signal and for the capacity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from math import exp, log, log1p

import numpy as np
import sympy
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from neuroattn.errors import InputError
from neuroattn.names import check_name
from neuroattn.theory.arguments import check_whole
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof
from neuroattn.theory.sdm.neurons import ball_share
from neuroattn.theory.sdm.overlap import KANERVA, PAPER
from neuroattn.theory.sdm.snr import critical_distance, signal_to_noise

CRITERIA: tuple[str, ...] = ("snr", "memory", "critical")


def optimal_radius(n: int, patterns: int, criterion: str, neurons: int | None = None) -> int:
    """Return the radius that the literature calls optimal.

    Parameters
    ----------
    n : int
        Bits of an address, at least 1.
    patterns : int
        How many are stored, at least 1. The criterion "memory" does not depend on it.
    criterion : {"snr", "memory", "critical"}
        The smallest radius whose ball holds the share of addresses that maximises the squared
        signal over the noise, or the number of patterns of which half come out right in all
        bits; or the radius that tolerates the noisiest queries, the smallest of several.
    neurons : int, optional
        How many; the whole cube, 2**n, if not given.

    Returns
    -------
    int
        With overlaps taken for "independent"; see :func:`signal_to_noise` for what that misses.

    Raises
    ------
    InputError
        If an argument is out of its range, or so few neurons have no optimum.

    References
    ----------
    Bricken & Pehlevan (2021), the optimal radii; the formulas are derived here.

    Examples
    --------
    >>> [optimal_radius(64, 1024, each) for each in ("snr", "memory", "critical")]
    [11, 5, 15]
    """
    n = check_whole("n", n, 1)
    m = check_whole("patterns", patterns, 1)
    r = 2**n if neurons is None else check_whole("neurons", neurons, 1)
    if check_name("criterion", criterion, CRITERIA) == "critical":
        far = [critical_distance(n, d, m, neurons, "independent") for d in range(n // 2 + 1)]
        return far.index(max(far))
    for radius in range(n + 1):
        p = ball_share(n, radius)
        if criterion == "snr" and 2 * m * r * p**3 >= 1:
            return radius
        if criterion == "memory" and memory_slope(p, r, Fraction(half_right(n)) ** 2) <= 0:
            return radius
    raise InputError(
        f"neurons={r} are too few for an optimal radius by criterion={criterion!r}; give more."
    )


def half_right(n: int) -> float:
    """Return how many standard deviations make n bits come out right half of the time."""
    return float(norm.ppf(0.5 ** (1 / n)))


def memory_slope(p: Fraction, r: int, z2: Fraction) -> Fraction:
    """Return what has the sign of the derivative in p of the number of patterns."""
    return -2 * p**3 * r**2 + 3 * r * p**2 * z2 + z2


def independent_snr(p: float, m: int, r: int) -> float:
    """Return the literature's squared signal over noise."""
    return p * r / (1 + p * m + p**3 * m * r)


def measure_snr(
    lab: Lab,
    best: Callable[[int, int], float] = lambda m, r: (2 * m * r) ** (-1 / 3),
    choose: Callable[[int, int], int] = lambda n, m: optimal_radius(n, m, "snr"),
) -> Iterator[Comparison]:
    """Maximise the formula numerically, and look at the whole radii."""
    r, numbers = 2**64, (10, 100, 512, 1024, 10_000, 60_000)

    def found(m: int) -> float:
        goal = minimize_scalar(
            lambda u: -log(independent_snr(exp(u), m, r)),
            bounds=(-30, -5),
            method="bounded",
            options={"xatol": 1e-10},
        )
        return float(goal.x)

    yield lab.near(
        "log of the share of a ball that maximises the formula, n = 64",
        [found(m) for m in numbers],
        [log(best(m, r)) for m in numbers],
        tolerance=1e-5,
        expected=1e-6,
        reason="a maximum is flat: its place is known to the root of the rounding",
        axes={"patterns m": numbers},
    )
    yield lab.near(
        "known share, m = 1024, in units of 1e-8",
        best(1024, r) * 1e8,
        2.980232,
        tolerance=1e-6,
        expected=3e-7,
        reason="six decimals are known",
    )
    radii = [choose(64, m) for m in (100, 512, 1024, 60_000)]
    yield lab.exact("radius by the signal, m = 100, 512, 1024, 60000", radii, [12, 11, 11, 10])
    whole = [
        max(range(1, 32), key=lambda d: signal_to_noise(64, d, m, None, "independent"))
        for m in (100, 512, 1024, 60_000)
    ]
    yield lab.exact("whole radius that maximises the formula", whole, [11, 11, 11, 10])


def prove_snr(proof: Proof) -> None:
    """Build the formula from its two noises, and differentiate it."""
    p, m, r = sympy.symbols("p m r", positive=True)
    noise = p * r + m * (p**2 * r + p**4 * r**2)
    proof.say("Signal p r neurons; noise: its Poisson scatter and m overlaps of p^2 r", noise)
    formula = p * r / (1 + p * m + p**3 * m * r)
    proof.equal("The squared signal over the noise", (p * r) ** 2 / noise, formula)
    slope = sympy.numer(sympy.together(formula.diff(p)))
    proof.equal(
        "Its derivative in p has the sign of 1 - 2 m r p^3", slope, r * (1 - 2 * m * r * p**3)
    )
    best = (2 * m * r) ** sympy.Rational(-1, 3)
    proof.equal("which vanishes at (2 m r)^(-1/3)", (1 - 2 * m * r * p**3).subs(p, best), 0)


register(
    Claim(
        id="sdm.radius.snr",
        title="The published formula for signal over noise is best at a ball of (2mr)^(-1/3)",
        paper=f"{PAPER}; {KANERVA}",
        place="the optimal radius by the signal; formula derived here, giving the published 11",
        statement=r"\mathrm{SNR}^2=\frac{pr}{1+pm+p^3mr},\quad p^*=(2mr)^{-1/3}",
        hypotheses=(
            "m patterns, r neurons, p the share of addresses in a ball.",
            "The overlap with a random pattern is a Poisson count of mean p^2 r.",
        ),
        finding="sharpened",
        found="The published radius 11 (n = 64, 1024 patterns, all 2^64 neurons) follows, and "
        "hardly depends on the number of patterns: 12 for 100, 10 for 60000. It is the smallest "
        "radius whose ball holds p*; the whole radius that maximises the formula is 11 for 100 "
        "patterns too. The second hypothesis fails on the whole cube: see "
        "sdm.radius.overlap-power and sdm.radius.signal-to-noise.",
        prove=prove_snr,
        measure=measure_snr,
        mutants={
            "without the factor 2": {"best": lambda m, r: (m * r) ** (-1 / 3)},
            "the root in place of the cube root": {"best": lambda m, r: (2 * m * r) ** -0.5},
            "neurons as many as patterns": {
                "choose": lambda n, m: optimal_radius(n, m, "snr", neurons=m)
            },
        },
    )
)


def patterns_lost(p: float, r: int, z: float) -> float:
    """Return the logarithm of r/z^2 over the patterns held besides one, in the formula."""
    return log1p(p**2 * r) - log1p(-(z**2) / (p * r))


def measure_memory(
    lab: Lab, quantile: Callable[[int], float] = half_right, power_of_p: int = 2
) -> Iterator[Comparison]:
    """Maximise the number of patterns numerically, and compare with the root of the cubic."""
    numbers = (16, 32, 48, 64, 96)
    found, told = [], []
    for n in numbers:
        r, z = 2**n, quantile(n)
        true = half_right(n)
        goal = minimize_scalar(
            lambda u, r=r, z=true: patterns_lost(exp(u), r, z),
            bounds=(log(3 * true**2 / r), -2),
            method="bounded",
            options={"xatol": 1e-10},
        )
        found.append(float(goal.x))
        # In units of the root of -2 p^3 r^2 + z^2 the cubic is a well-scaled one.
        unit = (z**2 / 2 / r**2) ** (1 / 3)
        middle = [3 * r * unit**2, 0] if power_of_p == 2 else [0, 3 * r * unit]
        roots = np.roots([-1, *middle, 1])
        told.append(log(max(roots.real) * unit))
    yield lab.near(
        "log of the share of a ball that holds most patterns",
        found,
        told,
        tolerance=1e-5,
        expected=1e-6,
        reason="a maximum is flat: its place is known to the root of the rounding",
        axes={"bits of an address n": numbers},
    )
    yield lab.near(
        "standard deviations for 64 right bits, and the share in units of 1e-13",
        [quantile(64), exp(told[3]) * 1e13],
        [2.298313, 1.979931],
        tolerance=1e-6,
        expected=5e-7,
        reason="six decimals are known",
    )
    radii = (3, 4, 5, 6)
    balls = [float(ball_share(64, d)) for d in radii]
    yield lab.at_most(
        "share of the capacity that other radii lose, n = 64",
        [patterns_lost(p, 2**64, half_right(64)) for p in balls],
        1e-3,
        axes={"radius d (bits)": radii},
    )
    yield lab.exact("radius by the memory", optimal_radius(64, 1024, "memory"), 5)


def prove_memory(proof: Proof) -> None:
    """Differentiate the number of patterns."""
    p, r, z, m = sympy.symbols("p r z m", positive=True)
    noise = p * r + (m - 1) * (p**2 * r + p**4 * r**2)
    held = (p * r / z**2 - 1) / (p + p**3 * r) + 1
    proof.equal(
        "That many patterns leave a signal of z standard deviations",
        (z**2 * noise).subs(m, held),
        (p * r) ** 2,
    )
    cubic = -2 * p**3 * r**2 + 3 * r * p**2 * z**2 + z**2
    proof.equal(
        "Their number's derivative in p is a cubic over what is positive",
        held.diff(p),
        cubic / (z * (p + p**3 * r)) ** 2,
    )
    proof.true(
        "The cubic is positive at 0 and has one change of sign: one maximum (Descartes)",
        bool(cubic.subs(p, 0).is_positive),
        cubic,
    )


register(
    Claim(
        id="sdm.radius.memory",
        title="The published capacity is largest at the root of a cubic: radius 5 at 64 bits",
        paper=PAPER,
        place="the optimal radius by the memory; formula derived here, giving the published 5",
        statement=r"m(p)=\frac{(pr)^2/z^2-pr}{p^2r+p^4r^2}+1,\quad -2p^3r^2+3rp^2z^2+z^2=0,"
        r"\quad z=\Phi^{-1}\left(2^{-1/n}\right)",
        hypotheses=(
            "All n bits are to come out right with probability 1/2.",
            "The overlap with a random pattern is a Poisson count of mean p^2 r.",
        ),
        finding="sharpened",
        found="p = 1.98e-13 and radius 5 as published, whatever the number of patterns. The "
        "optimum is no sharp one: radii 3 to 6 hold as many to a thousandth. It rests on the same "
        "hypothesis as the radius by the signal.",
        prove=prove_memory,
        measure=measure_memory,
        mutants={
            "half of the bits right, not all": {"quantile": lambda n: float(norm.ppf(0.75))},
            "one bit in place of n": {"quantile": lambda n: float(norm.ppf(1 - 0.5 / n))},
            "p in place of its square in the cubic": {"power_of_p": 1},
        },
    )
)
