"""An endless stream into a memory that fades: how many of the latest associations it holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import sympy
from scipy.optimize import minimize_scalar

from neuroattn.errors import InputError
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.pavlovian.capacities import capacity, check_positive
from neuroattn.theory.pavlovian.crosstalk import PAPER
from neuroattn.theory.pavlovian.delta import check_counts
from neuroattn.theory.pavlovian.trace import check_decay, crosstalk_at
from neuroattn.theory.proof import Proof


def decay_capacity(dim: int, snr: float = 1.0, decay: float | None = None) -> float:
    """Return how many of the latest associations of an endless stream can be read.

    Parameters
    ----------
    dim : int
        Dimension of the keys, at least 1; they have unit length.
    snr : float
        Power of the target over that of the crosstalk that is still enough, above 0.
    decay : float, optional
        What is left of the memory after one association, above 0 and below 1; by default the
        best, γ² = 1 - e snr/(dim + snr).

    Returns
    -------
    float
        1 + ln(snr/((dim + snr)(1 - γ²)))/ln γ², at least 0: about dim/(e snr) at the best decay.

    Raises
    ------
    InputError
        If ``dim`` is below 1, ``snr`` not positive, ``decay`` out of range, or no decay is best
        because dim/snr is below e - 1.

    References
    ----------
    Derived here, for the trace decay of Qiao (2025), arXiv 2508.08289.
    """
    check_counts(dim=dim)
    check_positive("snr", snr)
    if decay is None:
        lost = math.e * snr / (dim + snr)
        if lost >= 1:
            raise InputError(
                f"dim={dim} at snr={snr!r} has no best decay: dim/snr must be above e - 1."
            )
        decay = math.sqrt(1 - lost)
    check_decay(decay)
    if decay == 1:
        return 0.0
    held = 1 + math.log(snr / ((dim + snr) * (1 - decay**2))) / (2 * math.log(decay))
    return max(0.0, held)


#: 1 - γ²; the best for 64 dimensions at SNR 1 is e/65 = .042.
LOST = (0.02, 0.03, 0.042, 0.06, 0.1, 0.2, 0.4)


BEST = LOST.index(0.042)


def best_held(dim: int) -> float:
    """Return A/e + 1/2 + e/(24 A), A = dim + 1: the most that can be read at SNR 1, nearly."""
    return (dim + 1) / math.e + 0.5 + math.e / (24 * (dim + 1))


def _loads(lab: Lab, dim: int) -> Array:
    """Return (draws, decays) of the load that the crosstalk of a long stream shows."""
    found, lags = [], tuple(range(64))
    for lost in LOST:
        decay = math.sqrt(1 - lost)
        noise = crosstalk_at(lab, "retention", 384, dim, decay, lags, draws=160, width=16)
        found.append((noise * dim + decay ** (2 * np.array(lags))).mean(1))
    return np.stack(found, axis=1)


def measure_stream(
    lab: Lab,
    formula: Callable[[int, float, float], float] = decay_capacity,
    effective: Callable[[float], float] = lambda lost: 1 / lost,
    best: Callable[[int], float] = best_held,
) -> Iterator[Comparison]:
    """Write far more associations than fit, at several decays, and count what can be read."""
    dim, lost = 64, np.array(LOST)
    loads = lab.once(_loads, dim)
    axes = {"share of the power lost with each association": LOST}
    # What is left of the first of the stream is below a permille.
    shortfall = (1 - lost) ** 384
    yield lab.mean(
        "effective load", loads / (1 - shortfall), [effective(each) for each in LOST], axes=axes
    )
    mean = loads.mean(0)
    spread = loads.std(0, ddof=1) / len(loads) ** 0.5 / mean / -np.log(1 - lost)
    held = 1 + np.log(mean / (1 - shortfall) / (dim + 1)) / np.log(1 - lost)
    yield lab.estimate(
        "latest associations that can be read at SNR 1, d = 64",
        held,
        spread,
        [formula(dim, 1.0, math.sqrt(1 - each)) for each in LOST],
        draws=len(loads),
        axes=axes,
    )
    yield lab.at_most(
        "latest associations that can be read beside the bound for all decays",
        held,
        1 + (dim + 1) / math.e,
        slack=float(5 * spread[BEST]),
        reason="five standard errors of the count at the best decay",
        axes=axes,
    )
    yield lab.estimate(
        "those at the best decay, the most", held[BEST], spread[BEST], best(dim), draws=len(loads)
    )
    dims = (32, 64, 128, 256, 512)
    yield lab.near(
        "most that can be read, over all decays",
        [_most(each) for each in dims],
        [best(each) for each in dims],
        tolerance=3e-6,
        expected=3e-7,
        reason="the next order, about 1/(100 (d + 1)³)",
        axes={"dimension of the keys": dims},
    )


def _most(dim: int) -> float:
    """Return the most that can be read of a stream at SNR 1, by search over the decay."""
    found = minimize_scalar(
        lambda lost: -decay_capacity(dim, 1.0, math.sqrt(1 - lost)),
        bounds=(1.5 / (dim + 1), 6 / (dim + 1)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return -float(found.fun)


def prove_stream(proof: Proof) -> None:
    """Solve for the lag at which the ratio is reached, and find the best decay."""
    x, d, snr, a = sympy.symbols("x d SNR A", positive=True)
    target = sympy.symbols("T", positive=True)
    proof.say(
        "With x = 1 - γ², an old target of power T = γ^(2l) has crosstalk", (1 / x - target) / d
    )
    (least,) = sympy.solve(sympy.Eq(target, snr * (1 / x - target) / d), target)
    proof.equal("It can be read while T is at least", least, snr / ((d + snr) * x))
    held = sympy.log(a * x) / x
    proof.say("that is up to the lag l = ln(A x)/x, A = (d + SNR)/SNR, as γ² is about e^(-x)", held)
    at = sympy.E / a
    proof.equal("It is largest where", sympy.simplify(sympy.diff(held, x).subs(x, at)), 0)
    curve = sympy.simplify(sympy.diff(held, x, 2).subs(x, at))
    proof.true("a maximum", bool(curve.is_negative), curve)
    proof.equal("of", sympy.simplify(held.subs(x, at)), a / sympy.E)
    y = sympy.symbols("y", positive=True)
    proof.say("Exactly the lag is -ln(A x)/ln(1 - x). At x = e/A = y, where A = e/y,")
    rest = sympy.limit(-1 / sympy.log(1 - y) - 1 / y, y, 0)
    proof.equal("it is half less, in many dimensions", rest, -sympy.Rational(1, 2))
    proof.equal(
        "and always less, as -ln(1 - y) is more than y: the slope of their difference",
        sympy.simplify(sympy.diff(-sympy.log(1 - y) - y, y)),
        y / (1 - y),
    )
    proof.say("so that with the newest itself, at lag 0, the most is about", a / sympy.E + 0.5)


register(
    Claim(
        id="pavlovian.decay.stream",
        title="A memory that fades never fills, and holds at best d/(e SNR) of the latest",
        paper=PAPER,
        place="decay as stimulus-trace decay; derived here",
        statement=r"N_{\mathrm{held}} = 1 + \frac{1}{\ln\gamma^2}\,"
        r"\ln\frac{\mathrm{SNR}}{(d+\mathrm{SNR})(1-\gamma^2)}"
        r" \leq 1 + \frac{d+\mathrm{SNR}}{e\,\mathrm{SNR}}",
        hypotheses=(
            "The stream is endless: γ^2N is negligible.",
            "The keys are independent and uniform on the unit sphere, the values independent.",
            "An association is held if its target has SNR times the power of its crosstalk.",
        ),
        finding="sharpened",
        found="A memory without decay holds 1 + d/SNR associations and then none. With decay it "
        "holds the latest for ever, but fewer: at the best decay, 1-γ² = e SNR/(d+SNR), about "
        "(d+SNR)/(e SNR) + 1/2, 24.4 of 64 dimensions at SNR 1. That factor e is the price of "
        "forgetting; half of the best loss holds a third less, and below 1-γ² = SNR/(d+SNR) "
        "nothing is held.",
        mechanisms=("retention",),
        prove=prove_stream,
        measure=measure_stream,
        mutants={
            "all of 1 + d/SNR at the best decay": {"best": capacity},
            "d/e of them": {"best": lambda d: d / math.e},
            "the bound 1 + (d+1)/e is reached": {"best": lambda d: 1 + (d + 1) / math.e},
            "a load of 1/(1-γ)": {"effective": lambda lost: 1 / (1 - math.sqrt(1 - lost))},
            "the trace's amplitude for its power": {
                "formula": lambda d, snr, g: 2 * decay_capacity(d, snr, g) - 1,
            },
        },
    )
)
