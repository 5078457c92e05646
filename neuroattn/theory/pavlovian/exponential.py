"""The softmax read for contrast: crosstalk that the exponential holds down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import sympy
import torch
from scipy.special import gammaln, hyp0f1, ive

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.pavlovian.capacities import capacity, check_positive, fitted
from neuroattn.theory.pavlovian.delta import check_counts
from neuroattn.theory.proof import Proof

RAMSAUER = "Ramsauer et al. (2021), Hopfield networks is all you need, arXiv 2008.02217"


def softmax_capacity(dim: int, beta: float) -> float:
    """Return how many associations a softmax read holds before others weigh as much as the target.

    Parameters
    ----------
    dim : int
        Dimension of the keys, at least 1; they are uniform on the unit sphere.
    beta : float
        The inverse temperature, above 0.

    Returns
    -------
    float
        1 + e^β/E e^(βc), c the overlap of two keys; infinity where it is beyond floating point.

    Raises
    ------
    InputError
        If ``dim`` is no whole number of at least 1, or ``beta`` is not positive.

    References
    ----------
    Derived here; Ramsauer et al. (2021), theorem 3, bounds such a number.
    """
    check_counts(dim=dim)
    half = dim / 2
    # E e^(βc) is at most e^β, and e^(β²/2d): beyond, it may overflow.
    if min(check_positive("beta", beta), beta**2 / (2 * dim)) <= 600:
        log = beta - math.log(_wave(dim, beta))
    else:
        # Where this underflows, the dimension is so large that the capacity overflows.
        scaled = float(ive(half - 1, beta))
        whole = (half - 1) * math.log(beta / 2) - float(gammaln(half))
        log = whole - math.log(scaled) if scaled else math.inf
    return 1 + math.exp(log) if log < 700 else math.inf


def _wave(dim: int, beta: float) -> float:
    """Return E e^(βc) of keys on the sphere."""
    return float(hyp0f1(dim / 2, beta**2 / 4))


def own_weights(
    lab: Lab, dim: int, pairs: int, betas: tuple[float, ...], scale: float, draws: int
) -> Array:
    """Return (draws, queries, betas): the weight of the key that is asked for, among all."""
    keys = lab.keys("sphere", (draws, 1, pairs, dim), "keys", dim)
    queries = min(4, pairs)
    own = torch.eye(pairs, queries, dtype=torch.float64)[None, None]
    sharp = torch.tensor(betas, dtype=torch.float64)[None, :, None, None]
    found = []
    for each in keys:
        several = each[None].expand(1, len(betas), pairs, dim)
        asked = several[:, :, :queries] * sharp
        values = own.expand(1, len(betas), pairs, queries)
        read = lab.attend("softmax", asked, several, values, scale=scale)
        found.append(read[0].diagonal(dim1=-2, dim2=-1).T.numpy())
    return np.stack(found)


BETAS = (2.0, 4.0, 6.0, 8.0, 10.0, 12.0)
Wave = Callable[[int, float], float]


def measure_weight(lab: Lab, wave: Wave = _wave, scale: float = 1.0) -> Iterator[Comparison]:
    """Ask for stored keys at several temperatures."""
    dim, pairs = 32, 4096
    weight = lab.once(own_weights, dim, pairs, BETAS, scale, 40)
    odds = np.array([(pairs - 1) * math.exp(-beta) * wave(dim, beta) for beta in BETAS])
    axes = {"inverse temperature": BETAS}
    yield lab.mean("odds of the others", (1 / weight - 1).mean(1), odds, axes=axes)
    share = 1 / (1 + odds)
    # The weight is convex in the others' sum: the next order of its mean, below the spread.
    relative = np.array([wave(dim, 2 * b) / wave(dim, b) ** 2 - 1 for b in BETAS]) / (pairs - 1)
    second = share * (1 + (1 - share) ** 2 * relative)
    yield lab.mean("weight of the target", weight.mean(1), second, axes=axes)


def prove_weight(proof: Proof) -> None:
    """Average the exponential over the sphere in three dimensions, and over the circle."""
    beta, c = sympy.symbols("beta c", positive=True)
    proof.say("On the sphere in space a coordinate is uniform on [-1, 1]")
    mean = sympy.integrate(sympy.exp(beta * c) / 2, (c, -1, 1))
    proof.equal("E e^(βc)", mean, sympy.sinh(beta).rewrite(sympy.exp) / beta)
    terms = 6
    series = sympy.series(sympy.sinh(beta) / beta, beta, 0, 2 * terms).removeO()
    half = sympy.Rational(3, 2)
    power = sum((beta**2 / 4) ** n / (sympy.rf(half, n) * sympy.factorial(n)) for n in range(terms))
    proof.equal("the same as 0F1(; d/2; β²/4), by its first terms", series, power)
    turn, n = sympy.symbols("t", real=True), 4
    circle = sympy.integrate(sympy.cos(turn) ** n, (turn, 0, 2 * sympy.pi)) / (2 * sympy.pi)
    proof.equal(
        "On the circle, the term of β⁴",
        circle / sympy.factorial(n),
        sympy.Rational(1, 16) / (sympy.rf(1, 2) * sympy.factorial(2)),
    )
    pairs, wave = sympy.symbols("N E", positive=True)
    odds = (pairs - 1) * sympy.exp(-beta) * wave
    (held,) = sympy.solve(sympy.Eq(odds, 1), pairs)
    proof.equal("The others weigh as much as the target at", held, 1 + sympy.exp(beta) / wave)


def _gaussian(dim: int, beta: float) -> float:
    return math.exp(beta**2 / (2 * dim))


register(
    Claim(
        id="pavlovian.softmax.weight",
        title="In a softmax read the target's weight is 1/(1 + (N-1) e^-β E e^βc)",
        paper=RAMSAUER,
        place="the retrieval error of theorem 3; the expectation is derived here",
        statement=r"w_i \approx \frac{1}{1+(N-1)\,e^{-\beta}\,E e^{\beta c}},\quad "
        r"E e^{\beta c} = {}_0F_1\left(;\frac{d}{2};\frac{\beta^2}{4}\right)",
        hypotheses=(
            "The keys are independent and uniform on the unit sphere.",
            "The query is one of them.",
        ),
        finding="sharpened",
        found="The odds of the others have that expectation exactly; the weight does up to a "
        "relative (1-w)² var/N, which many items make too small to be seen. At d = 32 and "
        "N = 4096, where the linear read has a hundred times more crosstalk than target, β = 8 "
        "gives the target .216.",
        mechanisms=("softmax",),
        prove=prove_weight,
        measure=measure_weight,
        mutants={
            "Gaussian overlaps, e^(β²/2d)": {"wave": _gaussian},
            "the others at overlap 0": {"wave": lambda dim, beta: 1.0},
            "the scale 1/sqrt(d) left on": {"scale": 32**-0.5},
        },
    )
)

STEEP = 0.5
SIZES = (4, 8, 12, 16, 20)


def _held(lab: Lab, dim: int) -> Array:
    """Return (draws,) odds of the others at the predicted capacity, over its N - 1."""
    pairs = max(3, round(softmax_capacity(dim, STEEP * dim)))
    weight = own_weights(lab, dim, pairs, (STEEP * dim,), 1.0, 32)
    odds: Array = (1 / weight[..., 0] - 1).mean(1) / (pairs - 1)
    return odds


def measure_exponential(
    lab: Lab,
    formula: Callable[[int, float], float] = softmax_capacity,
    rate: float | None = None,
) -> Iterator[Comparison]:
    """Fill a memory of sharper and sharper reads up to its capacity."""
    each = [lab.once(_held, dim) for dim in SIZES]
    size = np.array([x.mean() for x in each])
    relative = np.array([x.std(ddof=1) / len(x) ** 0.5 for x in each]) / size
    predicted = [formula(dim, STEEP * dim) for dim in SIZES]
    yield lab.estimate(
        "associations held by a softmax read, β = d/2",
        1 + 1 / size,
        relative / size,
        predicted,
        draws=len(each[0]),
        axes={"dimension of the keys": SIZES},
    )
    # ln N against d: the slope of N against e^d.
    slope, error = fitted(1 / size, relative / size, list(np.exp(SIZES)))
    exact, _ = fitted(np.array(predicted) - 1, np.zeros(len(SIZES)), list(np.exp(SIZES)))
    name = "growth of ln N with each dimension"
    yield lab.estimate(name, slope, error, exact, draws=len(each[0]))
    far = [math.log(softmax_capacity(dim, STEEP * dim) - 1) for dim in (400, 800)]
    yield lab.near(
        "its limit",
        (far[1] - far[0]) / 400,
        growth(STEEP) if rate is None else rate,
        tolerance=4e-7,
        expected=4e-8,
        reason="the next order of Laplace's method is constant in d, the one after 1/d",
    )


def growth(steep: float) -> float:
    """Return the limit of ln N/d at β = steep d: β less the largest βc + (d/2) ln(1 - c²)."""
    best = (math.sqrt(1 + 4 * steep**2) - 1) / (2 * steep)
    return steep - steep * best - math.log(1 - best**2) / 2


def prove_exponential(proof: Proof) -> None:
    """Find the exponent by Laplace's method, and show that it is positive."""
    b, c = sympy.symbols("b c", positive=True)
    exponent = b * c + sympy.log(1 - c**2) / 2
    proof.say("With β = b d, e^(βc) times the density of c has the exponent d times", exponent)
    best = (sympy.sqrt(1 + 4 * b**2) - 1) / (2 * b)
    proof.equal("It is largest at", sympy.simplify(sympy.diff(exponent, c).subs(c, best)), 0)
    proof.say("there", best)
    second = sympy.simplify(sympy.diff(exponent, c, 2))
    proof.equal("a maximum: it is concave everywhere", second, -(1 + c**2) / (1 - c**2) ** 2)
    left = b - exponent
    slope = sympy.simplify(sympy.diff(left, b))
    proof.equal("ln N/d = b less that grows with b, by 1 - c at the best c", slope, 1 - c)
    proof.equal("from", sympy.limit(left.subs(c, best), b, 0), 0)
    proof.true("as c stays below 1", bool(sympy.limit(best, b, sympy.oo) == 1))


register(
    Claim(
        id="pavlovian.softmax.exponential",
        title="A softmax read holds exponentially many associations",
        paper=RAMSAUER,
        place="theorem 3; the rate is derived here",
        statement=r"N^* = 1 + \frac{e^{\beta}}{E e^{\beta c}},\quad \frac{\ln N^*}{d} \to "
        r"b - \max_c\left[bc + \frac{\ln(1-c^2)}{2}\right],\ \beta = b\,d",
        hypotheses=(
            "The keys are independent and uniform on the unit sphere; the query is one of them.",
            "Held means that all others together weigh less than the target.",
            "β grows with d.",
        ),
        finding="sharpened",
        found="At β = d/2 the number grows by a factor of e^.387 = 1.47 with each dimension: 2,270 "
        "at d = 20, where the linear read holds 21. It is the growth of β that buys it; at a fixed "
        "β the capacity stops at e^β.",
        mechanisms=("softmax",),
        prove=prove_exponential,
        measure=measure_exponential,
        mutants={
            "the linear read's 1 + d": {"formula": lambda dim, beta: capacity(dim)},
            "Gaussian overlaps, e^(β²/2d)": {
                "formula": lambda dim, beta: 1 + math.exp(beta) / _gaussian(dim, beta),
                "rate": STEEP - STEEP**2 / 2,
            },
            "e^β, the others at overlap 0": {
                "formula": lambda dim, beta: 1 + math.exp(beta),
                "rate": STEEP,
            },
        },
    )
)
