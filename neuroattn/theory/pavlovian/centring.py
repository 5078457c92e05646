"""Retrieval behind a feature map: what a shared mean costs, and what centring gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import sympy

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.pavlovian.crosstalk import PAPER, means
from neuroattn.theory.pavlovian.feature_maps import (
    CENTRED,
    DIMS,
    HYPOTHESES,
    feature_crosstalk,
    moments,
)
from neuroattn.theory.proof import Proof


def read_errors(lab: Lab, feature_map: str, centred: str, pairs: int, dim: int) -> Array:
    """Return (draws,) squared errors of recalling one of the first eight associations."""
    draws, width = 500, 8
    keys = lab.normal((draws, 1, pairs, dim), "keys", pairs, dim)
    values = lab.normal((draws, 1, pairs, width), "values", pairs, dim) / width**0.5
    mechanism, more = CENTRED[centred]
    given = {"feature_map": feature_map, "normalize": False, "scale": 1.0, **more}
    of = moments(feature_map)
    unit = dim * (of.second if centred == "nothing" else of.variance)
    read = lab.attend(mechanism, keys[:, :, :8], keys, values, **given) / unit
    errors: Array = (read - values[:, :, :8]).square().sum(-1).mean((-1, -2)).numpy()
    return errors


Formula = Callable[[int, int, str, str], float]


def _curves(
    lab: Lab, formula: Formula, cases: tuple[tuple[str, str], ...], swap: str = ""
) -> Iterator[Comparison]:
    pairs = 32
    for feature_map, centred in cases:
        found = [lab.once(read_errors, feature_map, swap or centred, pairs, dim) for dim in DIMS]
        predicted = [formula(pairs, dim, feature_map, centred) for dim in DIMS]
        name = f"squared error of retrieval, N = 32, {feature_map}, {centred} centred"
        yield means(lab, name, found, predicted, {"dimension of the keys": DIMS})


def measure_positive(lab: Lab, formula: Formula = feature_crosstalk) -> Iterator[Comparison]:
    """Retrieve through positive maps in more and more dimensions."""
    yield from _curves(lab, formula, (("elu", "nothing"), ("relu", "nothing")))


def prove_positive(proof: Proof) -> None:
    """Solve for the number of items, with and without a mean."""
    n, d, snr, c = sympy.symbols("N d SNR c", positive=True)
    noise = (n - 1) * (c**2 + (1 - c**2) / d)
    proof.say("The crosstalk of N-1 items behind a map of mean cosine c", noise)
    (held,) = sympy.solve(sympy.Eq(1 / noise, snr), n)
    proof.equal("SNR is met up to", held, 1 + d / (snr * (1 + (d - 1) * c**2)))
    proof.equal(
        "which no dimension raises above", sympy.limit(held, d, sympy.oo), 1 + 1 / (snr * c**2)
    )
    proof.equal(
        "It stays below that by a positive number, as c < 1",
        sympy.simplify(1 + 1 / (snr * c**2) - held),
        (1 - c**2) / (snr * c**2 * (1 + (d - 1) * c**2)),
    )
    proof.equal("while without a mean it is 1 + d/SNR", held.subs(c, 0), 1 + d / snr)


register(
    Claim(
        id="pavlovian.features.positive",
        title="A positive feature map leaves a capacity that no dimension raises",
        paper=PAPER,
        place="linear attention with the feature map of Katharopoulos et al. (2020); derived here",
        statement=r"E\|\hat y - v\|^2 = (N-1)\left[c^2 + \frac{1-c^2}{d}\right]"
        r"+\frac{\mathrm{var}\,\phi^2}{d\,(E\phi^2)^2},\quad "
        r"N^* \leq 1+\frac{1}{c^2\,\mathrm{SNR}}",
        hypotheses=HYPOTHESES,
        finding="sharpened",
        found="The capacity theorem does not hold for linear attention as it is used: elu + 1 "
        "gives crosstalk of .469 an item in any dimension, so that two other items reach the "
        "target's power where 64 dimensions would hold 64. The whole is exact, and met from "
        "d = 16 to 128.",
        mechanisms=("linear",),
        prove=prove_positive,
        measure=measure_positive,
        mutants={
            "the capacity theorem's (N-1)/d": {"formula": lambda n, d, phi, of: (n - 1) / d},
            "c in place of its square": {
                "formula": lambda n, d, phi, of: (n - 1) * moments(phi).cosine,
            },
            "only one of the keys has the mean": {
                "formula": lambda n, d, phi, of: (n - 1) * moments(phi).cosine / d,
            },
        },
    )
)


def measure_centring(
    lab: Lab, formula: Formula = feature_crosstalk, swap: str = ""
) -> Iterator[Comparison]:
    """Retrieve with centred keys, and with centred keys and queries."""
    cases = tuple((phi, of) for phi in ("elu", "relu") for of in ("keys", "keys and queries"))
    yield from _curves(lab, formula, cases, swap)


def _gain(pairs: int, dim: int, feature_map: str, centred: str) -> float:
    both, of = feature_crosstalk(pairs, dim, feature_map, "keys and queries"), moments(feature_map)
    return both * of.variance / of.second if centred == "keys" else both


def prove_centring(proof: Proof) -> None:
    """Expand the product of centred features, for three items and a skew law."""
    v, third, fourth, m = sympy.symbols("v mu3 mu4 m", positive=True)
    x = sympy.symbols("x1:4", real=True)
    value = {0: sympy.Integer(1), 1: sympy.Integer(0), 2: v, 3: third, 4: fourth}

    def mean(what: Any) -> Any:
        terms = sympy.Poly(sympy.expand(what), *x).terms()
        return sympy.expand(sum(c * sympy.prod([value[n] for n in p]) for p, c in terms))

    average = sum(x) / 3
    both = (x[0] - average) * (x[1] - average)
    kappa = fourth - 3 * v**2
    share = sympy.Rational(1, 3)
    lengths = (1 - share) ** 2 + 2 * share**4 / share**2
    proof.equal("Three items: |α|² = 1 - 1/N", lengths, 1 - share)
    corner = 2 * (1 - share) ** 2 * share**2 + share**4
    proof.equal(
        "E(α·x)²(β·x)² = v²(|α|²|β|² + 2(α·β)²) + κ Σα²β² for the product of two centred features",
        mean(both**2),
        v**2 * (lengths**2 + 2 * share**2) + kappa * corner,
    )
    proof.equal("whose mean is -v/N: the mean of all is theirs too", mean(both), -v * share)
    one = (m + x[0]) * (x[1] - average)
    proof.equal(
        "With the keys alone centred, the query's mean comes in, times the variance of a key",
        mean(one**2) - mean((x[0] * (x[1] - average)) ** 2),
        m**2 * v * lengths + 2 * m * third * share**2,
    )
    d, p = sympy.symbols("d p", positive=True)
    alone = v**2 * (1 - p + 2 * p**2) + kappa * p**2 + v * m**2 * (1 - p) + 2 * m * third * p**2
    proof.equal("The same for any N, p = 1/N, at N = 3", alone.subs(p, share), mean(one**2))
    corners = 2 * (1 - p) ** 2 * p**2 + (1 / p - 2) * p**4
    together = v**2 * ((1 - p) ** 2 + 2 * p**2) + kappa * corners
    proof.equal("with both, at N = 3", together.subs(p, share), mean(both**2))
    proof.say("Many items, over the target's (d v)²: what each adds with the keys alone centred")
    limit = sympy.limit(d * alone / (d * v) ** 2, p, 0)
    proof.equal("is Eφ²/var φ over d", limit, (v + m**2) / v / d)
    proof.equal("and with both 1/d", sympy.limit(d * together / (d * v) ** 2, p, 0), 1 / d)


register(
    Claim(
        id="pavlovian.features.centring",
        title="Centring restores (N-1)/d, at full strength only if queries are centred too",
        paper=PAPER,
        place="the covariance rule of Sejnowski (1977); derived here",
        statement=r"E\|\hat y - v\|^2 \approx \frac{N-1}{d}\ \mathrm{(keys,\ queries)},\quad "
        r"\frac{N-1}{d}\,\frac{E\phi^2}{\mathrm{var}\,\phi}\ \mathrm{(keys)}",
        hypotheses=(*HYPOTHESES, "The mean is that of the features of the N stored keys."),
        finding="sharpened",
        found="Subtracting the mean feature brings the O(d) back for every positive map. If only "
        "the keys are centred, which is enough to cancel the shared mean, the query's mean still "
        "reads the keys' fluctuations: that costs Eφ²/var φ = 3.17 for elu + 1. The covariance "
        "rule, which centres both, pays nothing. Terms of order 1/N and 1/d are known exactly.",
        mechanisms=("linear", "covariance"),
        prove=prove_centring,
        measure=measure_centring,
        mutants={
            "centred keys are as good as both": {
                "formula": lambda n, d, phi, of: feature_crosstalk(n, d, phi, "keys and queries"),
            },
            "the mean is not subtracted": {"swap": "nothing"},
            "a gain where there is a cost": {"formula": _gain},
        },
    )
)
