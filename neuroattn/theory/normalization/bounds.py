"""How evenly bounded logits make a softmax spread its weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.errors import InputError
from neuroattn.theory.arguments import check_finite
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

PAPER = (
    "Mudarisov, Burtsev, Petrova & State (2025), Limitations of normalization in attention "
    "mechanism"
)
LENGTHS = (2, 8, 32, 128, 512, 2048)


def _checked(length: Any, spread: float, name: str = "spread") -> Any:
    length = np.asarray(length, dtype=float)
    if not np.all(length >= 1):
        raise InputError(f"length={length!r} must be at least 1.")
    check_finite(name, spread)
    return length


def weight_bounds(length: Any, spread: float) -> tuple[Any, Any]:
    """Return the least and the largest weight of a softmax over bounded logits.

    Parameters
    ----------
    length : int or array
        Number L of keys, at least 1.
    spread : float
        Largest size of a logit, divided by the temperature; at least 0.

    Returns
    -------
    least, largest : float or array
        1/(1 + (L-1) e^(2 spread)) and 1/(1 + (L-1) e^(-2 spread)), both attained; inside
        e^(-2 spread)/L and e^(2 spread)/L.

    Raises
    ------
    InputError
        If ``length`` is below 1 or ``spread`` negative.

    References
    ----------
    Mudarisov et al. (2025), arXiv 2508.17821; the attained bounds are derived here.
    """
    others = _checked(length, spread) - 1
    small = math.exp(-2 * spread)
    # A single key has all weight, also where the exponential underflows.
    alone = others == 0
    bounds = [
        np.where(alone, 1.0, small / np.where(alone, 1.0, small + others)),
        1 / (1 + others * small),
    ]
    least, largest = (each if np.ndim(each) else float(each) for each in bounds)
    return least, largest


def entropy_deficit(spread: float) -> float:
    """Return by how much the entropy of many weights is below log L, for uniform logits.

    Parameters
    ----------
    spread : float
        Logits over temperature are uniform on -spread to spread; at least 0.

    Returns
    -------
    float
        a coth a - 1 - log(sinh a / a) for a = spread, in nats.

    Raises
    ------
    InputError
        If ``spread`` is negative.

    References
    ----------
    Derived here.
    """
    _checked(1, spread)
    if spread < 1e-3:
        return spread**2 / 6
    # log sinh a without overflow.
    log_sinh = spread + math.log(-math.expm1(-2 * spread) / 2)
    return spread / math.tanh(spread) - 1 - log_sinh + math.log(spread)


def surviving_weight(length: Any, growth: float) -> Any:
    """Return the weight of the best key when logits are scaled by the logarithm of the length.

    Parameters
    ----------
    length : int or array
        Number L of keys, at least 1.
    growth : float
        Logits are ``growth`` · log L for the best key and minus that for the others.

    Returns
    -------
    float or array
        1/(1 + (L-1) L^(-2 growth)): it tends to 1 above a growth of 1/2, and to 0 below.

    Raises
    ------
    InputError
        If ``length`` is below 1 or ``growth`` negative.

    References
    ----------
    Derived here.
    """
    length = _checked(length, growth, "growth")
    found = 1 / (1 + (length - 1) * length ** (-2 * growth))
    return found if np.ndim(found) else float(found)


def read_weights(lab: Lab, logits: Tensor, temperature: float) -> Tensor:
    """Return the softmax weights of logits (..., L) at a temperature, read from the values 1."""
    query = torch.ones(*logits.shape[:-1], 1, dtype=torch.float64)[None, None]
    flat = logits.reshape(-1, 1, logits.shape[-1], 1)
    value = torch.eye(logits.shape[-1], dtype=torch.float64).expand(len(flat), 1, -1, -1)
    asked = query.reshape(-1, 1, 1, 1)
    found = lab.attend("softmax", asked, flat, value, scale=1 / temperature)
    return found.reshape(logits.shape)


def extremes(lab: Lab, length: int, temperature: float) -> tuple[float, float, float, float]:
    """Return least and largest weight, of random logits within 1 and of the extreme ones."""
    drawn = torch.from_numpy(lab.rng("logits", length).uniform(-1, 1, (4, length)))
    taken = read_weights(lab, lab.rounded(drawn), temperature)
    apart = -torch.ones(2, length, dtype=torch.float64)
    apart[0, 0] = 1.0
    apart[1] = -apart[0]
    ends = read_weights(lab, apart, temperature)
    return float(taken.min()), float(taken.max()), float(ends[1, 0]), float(ends[0, 0])


def measure_sandwich(
    lab: Lab,
    bounds: Callable[[Any, float], tuple[Any, Any]] = weight_bounds,
) -> Iterator[Comparison]:
    """Read the weights of logits within 1, random and extreme, at three temperatures."""
    lengths = np.array([2, 8, 32, 128, 512])
    for temperature in (0.5, 1.0, 2.0):
        drawn = [lab.once(extremes, int(n), temperature) for n in lengths]
        low, high, least, largest = (np.array(each) for each in zip(*drawn, strict=True))
        lower, upper = bounds(lengths, 1 / temperature)
        axes = {"keys": lengths}
        slack = lab.rounding(64)
        yield lab.at_least(f"least random weight, T={temperature}", low, lower, slack=slack)
        yield lab.at_most(f"largest random weight, T={temperature}", high, upper, slack=slack)
        for name, found, bound in (("least", least, lower), ("largest", largest, upper)):
            yield lab.equal(
                f"L times the {name} weight that bounded logits reach, T={temperature}",
                found * lengths,
                bound * lengths,
                axes=axes,
            )
        factor = math.exp(2 / temperature)
        yield lab.at_most(
            f"the looser bound of the lemma, T={temperature}", upper * lengths, factor
        )


def prove_sandwich(proof: Proof) -> None:
    """Bound the weight by making all other logits extreme."""
    x, u, delta = sympy.symbols("x u Delta", real=True)
    length = sympy.symbols("L", positive=True)
    weight = sympy.exp(x) / (sympy.exp(x) + (length - 1) * sympy.exp(u))
    proof.say("A weight beside L-1 logits of which u is the soft mean", weight)
    inside = sympy.exp(x) * (length - 1) * sympy.exp(u)
    below = (sympy.exp(x) + (length - 1) * sympy.exp(u)) ** 2
    proof.equal(
        "It grows with its own logit and falls with the others'", weight.diff(x), inside / below
    )
    proof.equal("... and symmetrically", weight.diff(u), -inside / below)
    largest = weight.subs({x: delta, u: -delta})
    sharp = 1 / (1 + (length - 1) * sympy.exp(-2 * delta))
    proof.equal("So it is largest at x = Delta, u = -Delta", largest, sharp)
    proof.equal(
        "The gap to the lemma's bound e^(2 Delta)/L",
        sympy.exp(2 * delta) / length - sharp,
        (sympy.exp(2 * delta) - 1) / (length * (1 + (length - 1) * sympy.exp(-2 * delta))),
    )
    proof.equal(
        "closes in ratio as L grows",
        sympy.limit(length * sharp.subs(delta, 1), length, sympy.oo),
        sympy.exp(2),
    )


def entropies(lab: Lab, length: int, temperature: float) -> float:
    """Return log L minus the entropy of the weights of evenly spaced logits."""
    logits = (2 * torch.arange(length, dtype=torch.float64) + 1) / length - 1
    taken = read_weights(lab, logits[None], temperature)
    return math.log(length) + float((taken * taken.log()).sum())


def measure_entropy(
    lab: Lab, formula: Callable[[float], float] = entropy_deficit
) -> Iterator[Comparison]:
    """Measure the entropy's deficit over the length, and over the temperature."""
    long = 1024
    temperatures = (0.25, 0.5, 1.0, 2.0, 4.0)
    lengths = (64, 128, 256, 512, 1024)
    # Midpoints integrate with an error a²/L²; the entropy of weights rounds in log L.
    allowed = 10 * lab.rounding(64)
    for name, sizes, axes in (
        ("T = 1", [(n, 1.0) for n in lengths], {"keys": lengths}),
        ("L = 1024", [(long, t) for t in temperatures], {"temperature": temperatures}),
    ):
        found = [lab.once(entropies, *size) for size in sizes]
        coarse = np.array([(1 / t) ** 2 / n**2 for n, t in sizes])
        yield lab.near(
            f"log L minus entropy (nats), {name}",
            found,
            [formula(1 / t) for _, t in sizes],
            tolerance=coarse + allowed,
            expected=float(coarse.mean()) / 5 + allowed / 10,
            reason="evenly spaced logits stand for uniform ones, up to the square of their step",
            axes=axes,
        )
    shares = [1 - lab.once(entropies, n, 1.0) / math.log(n) for n in lengths]
    yield lab.at_least(
        "entropy over log L rises at each doubling of the length", np.diff(shares), 0.001
    )


def prove_entropy(proof: Proof) -> None:
    """Integrate the entropy of uniform logits."""
    x, a = sympy.symbols("x a", positive=True)
    moment = sympy.integrate(sympy.exp(x), (x, -a, a)) / (2 * a)
    tilted = sympy.integrate(x * sympy.exp(x), (x, -a, a)) / (2 * a)
    sinh, cosh = ((sympy.exp(a) + sign * sympy.exp(-a)) / 2 for sign in (-1, 1))
    proof.say(
        "The entropy of weights e^x/Z is log Z less the mean of x under the weights; log Z is"
    )
    proof.say("log L + log E e^x for many keys. So the deficit is E[x e^x]/E e^x - log E e^x")
    proof.equal("A logit uniform on -a..a: E e^x = sinh a / a", moment, sinh / a)
    proof.equal("E[x e^x] = cosh a - sinh a / a", tilted, cosh - sinh / a)
    proof.equal("Their ratio is a coth a - 1", tilted / moment, a * cosh / sinh - 1)
    small = 1 + a**2 / 6 + a**4 / 120
    proof.equal(
        "Small a: sinh a / a is, to fourth order,", sympy.series(sinh / a, a, 0, 6).removeO(), small
    )
    wide = a / sympy.tanh(a) - 1 - sympy.log(sympy.sinh(a) / a)
    proof.true("The deficit is positive at a = 1", bool(wide.subs(a, 1).evalf() > 0), wide)


def flipped(lab: Lab, length: int, growth: float | None) -> float:
    """Return by how much the read changes when the best key's value goes from 0 to 1."""
    logits = -torch.ones(1, 1, length, 1, dtype=torch.float64)
    logits[..., 0, 0] = 1.0
    query = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    value = torch.zeros(1, 1, length, 1, dtype=torch.float64)
    other = value.clone()
    other[..., 0, 0] = 1.0
    scale = 1.0 if growth is None else growth * math.log(length)
    reads = [lab.attend("softmax", query, logits, each, scale=scale) for each in (value, other)]
    return float(reads[1] - reads[0])


def measure_survival(
    lab: Lab,
    fixed: Callable[[Any, float], Any] = lambda length, spread: weight_bounds(length, spread)[1],
    grown: Callable[[Any, float], Any] = surviving_weight,
) -> Iterator[Comparison]:
    """Change one value and see what the read makes of it, as the context grows."""
    axes = {"keys": LENGTHS}
    lengths = np.array(LENGTHS)
    yield lab.equal(
        "change of the read, logits within 1",
        [lab.once(flipped, n, None) for n in LENGTHS],
        fixed(lengths, 1.0),
        axes=axes,
    )
    for growth in (0.25, 0.5, 1.0):
        yield lab.equal(
            f"change of the read, logits within {growth} log L",
            [lab.once(flipped, n, growth) for n in LENGTHS],
            grown(lengths, growth),
            growth=256,
            reason="an error of the exponent counts 2 growth log L times",
            axes=axes,
        )


def prove_survival(proof: Proof) -> None:
    """Take the limits of the weight on both sides of growth 1/2."""
    length = sympy.symbols("L", positive=True)
    odds = (length - 1) * length ** (-2 * sympy.Symbol("c"))
    proof.say("The best key's weight is 1/(1 + odds) with the odds of the others", odds)
    half = sympy.Rational(1, 2)
    for growth, wanted in ((half, 1), (2 * half, 0)):
        at = (length - 1) * length ** (-2 * growth)
        proof.equal(f"c = {growth}: the odds tend to", sympy.limit(at, length, sympy.oo), wanted)
    below = (length - 1) * length**-half
    grows = bool(sympy.limit(below, length, sympy.oo) == sympy.oo)
    proof.true("c = 1/4: the odds grow without bound", grows, below)


_BOUNDED = "Logits over temperature lie within Delta of 0."
register(
    Claim(
        id="normalization.bounds.sandwich",
        title="Bounded logits keep every softmax weight within constant factors of 1/L",
        paper=PAPER,
        place="lemma on the size of weights; the attained bounds are derived here",
        statement=r"\frac{1}{1+(L-1)e^{2\Delta}} \leq \alpha_i \leq \frac{1}{1+(L-1)e^{-2\Delta}}"
        r" \leq \frac{e^{2\Delta}}{L}",
        hypotheses=(_BOUNDED, "All L keys are visible."),
        finding="sharpened",
        found="The lemma's e^(-2D)/L and e^(2D)/L hold and are not reached; the bounds given here "
        "are, by one logit at +-D and the others at the opposite end.",
        mechanisms=("softmax",),
        prove=prove_sandwich,
        measure=measure_sandwich,
        mutants={
            "a range of D in place of 2D": {"bounds": lambda n, s: weight_bounds(n, s / 2)},
            "a temperature that multiplies": {"bounds": lambda n, s: weight_bounds(n, 1 / s)},
            "the lemma's bound taken for attained": {
                "bounds": lambda n, s: (math.exp(-2 * s) / n, math.exp(2 * s) / n)
            },
        },
    )
)
register(
    Claim(
        id="normalization.bounds.entropy",
        title="The entropy of attention tends to log L less a constant",
        paper=PAPER,
        place="loss of selectivity with length; the constant is derived here",
        statement=r"\log L - H(\alpha) \to a \coth a - 1 - \log\frac{\sinh a}{a}",
        hypotheses=(
            "Logits over temperature are uniform on -a to a, a being 1/T.",
            "The number of keys grows.",
        ),
        finding="sharpened",
        found="H / log L tends to 1, as said, but the deficit does not vanish: .152 nats at a = 1 "
        "and 1.08 at a = 4, whatever the length.",
        mechanisms=("softmax",),
        prove=prove_entropy,
        measure=measure_entropy,
        mutants={
            "the entropy is log L": {"formula": lambda a: 0.0},
            "a temperature that multiplies": {"formula": lambda a: entropy_deficit(1 / a)},
            "second order only": {"formula": lambda a: a**2 / 6},
        },
    )
)
register(
    Claim(
        id="normalization.bounds.survival",
        title="A token fades as 1/L, unless its logit grows faster than half of log L",
        paper=PAPER,
        place="distinguishability of selected tokens; derived here for one token",
        statement=r"\alpha_{best} = \frac{1}{1+(L-1)L^{-2c}} \to 1, \frac{1}{2}, 0"
        r"\ \mathrm{for}\ c > \frac{1}{2},\ c = \frac{1}{2},\ c < \frac{1}{2}",
        hypotheses=(
            "The best key's logit is c log L, that of all others -c log L; or 1 and -1, fixed.",
        ),
        finding="sharpened",
        found="With fixed logits what a token can change falls from .88 at 2 keys to .0036 at "
        "2048. Logits that grow with log L have a threshold at c = 1/2.",
        mechanisms=("softmax",),
        prove=prove_survival,
        measure=measure_survival,
        mutants={
            "e^2D/L": {"fixed": lambda n, s: math.exp(2 * s) / n},
            "a threshold at c = 1": {"grown": lambda n, c: surviving_weight(n, c / 2)},
        },
    )
)
