"""Classical phenomena of conditioning, in the delta rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import sympy

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.pavlovian.protocols import Protocol, parse, strengths
from neuroattn.theory.proof import Proof

PAPER = (
    "Qiao (2025), Attention as Conditioning: What Classical Learning Theory Predicts About Linear "
    "Transformers; Rescorla & Wagner (1972), A theory of Pavlovian conditioning"
)
PLACE = "the conditioning phenomena predicted in context; closed forms derived here"
HYPOTHESES = (
    "The stimuli are orthogonal, and keys are used as they come.",
    "Trials are tokens, the value of a trial is its outcome, and the state starts at zero.",
)
STEP = 0.3
HEBB = {"rule": "linear"}
#: A function of trials or cycles to strengths.
Curve = Callable[[Any], Any]


def run(
    lab: Lab,
    protocol: Protocol,
    rule: str,
    saliences: Mapping[str, float] | None = None,
    step: float = STEP,
    **parameters: Any,
) -> dict[str, Array]:
    """Return every stimulus' strength before the first trial and after each."""
    trials = parse(protocol)
    found = strengths(lab.attend, trials, rule, saliences, step, **parameters)
    return dict(zip(trials.stimuli, found.T, strict=True))


def measure_acquisition(
    lab: Lab,
    rule: str = "delta",
    learnt: Curve = lambda n: 1 - (1 - STEP) ** n,
    kept: Curve = lambda m: (1 - STEP) ** m,
) -> Iterator[Comparison]:
    """Pair A with the outcome 20 times, then present it alone 16 times."""
    strength = run(lab, [("A+", 20), ("A-", 16)], rule)["A"]
    trials, after = np.arange(21), np.arange(17)
    yield lab.equal(
        "strength in acquisition", strength[:21], learnt(trials), axes={"trial": trials}
    )
    yield lab.equal(
        "strength in extinction", strength[20:], learnt(20) * kept(after), axes={"trial": after}
    )


def prove_acquisition(proof: Proof) -> None:
    """Solve the recursion of one stimulus."""
    step = sympy.symbols("eta", positive=True)
    n, m = sympy.symbols("n m", integer=True, nonnegative=True)
    learnt = 1 - (1 - step) ** n
    proof.equal("No trial, no strength", learnt.subs(n, 0), 0)
    proof.equal("A trial adds eta (1 - V)", learnt.subs(n, n + 1), learnt + step * (1 - learnt))
    left = learnt * (1 - step) ** m
    proof.equal("A trial without outcome adds -eta V", left.subs(m, m + 1), left - step * left)
    number = left.subs({step: sympy.Rational(3, 10), m: 7}).subs(n, 10**4)
    proof.true(
        "From the asymptote, seven trials at eta = 0.3 leave 0.0824",
        bool(abs(number.evalf(9) - sympy.Float("0.0823543")) < 1e-8),
    )


register(
    Claim(
        id="pavlovian.conditioning.acquisition",
        title="Acquisition and extinction are exponential in the number of trials",
        paper=PAPER,
        place=PLACE,
        statement=r"V_A(n) = 1-(1-\eta)^n,\quad V_A(n+m) = V_A(n)\,(1-\eta)^m",
        hypotheses=HYPOTHESES,
        finding="confirmed",
        found="The learning curve of one stimulus comes out to rounding, in every form of delta.",
        mechanisms=("delta",),
        prove=prove_acquisition,
        measure=measure_acquisition,
        half=True,
        mutants={
            "Hebbian writing": HEBB,
            "the gradient of the squared error without 1/2": {
                "learnt": lambda n: 1 - (1 - 2 * STEP) ** n
            },
            "extinction as linear decline": {"kept": lambda m: 1 - STEP * m},
            "nothing is unlearnt": {"kept": lambda m: m**0},
        },
    )
)


def measure_blocking(
    lab: Lab,
    rule: str = "delta",
    partial: Curve = lambda n: (1 - STEP) ** n / 2,
) -> Iterator[Comparison]:
    """Pair A with the outcome n times, then A and B together."""
    before = np.array([0, 1, 2, 3, 5, 8, 12, 20, 120])
    protocols = [[("A+", int(n))] * bool(n) + [("AB+", 60)] for n in before]
    ends = [{key: v[-1] for key, v in run(lab, each, rule).items()} for each in protocols]
    yield lab.equal(
        "strength of the added stimulus",
        [each["B"] for each in ends][:-1],
        partial(before[:-1]),
        scale=1.0,
        axes={"earlier trials of A alone": before[:-1]},
    )
    yield lab.equal("full blocking", ends[-1]["B"], partial(120), scale=1.0)
    after = np.arange(13)
    yield lab.equal(
        "strength of B while A and B are paired, after 5 trials of A",
        run(lab, [("A+", 5), ("AB+", 12)], rule)["B"][5:],
        partial(5) * (1 - (1 - 2 * STEP) ** after),
        axes={"trial": after},
    )


def prove_blocking(proof: Proof) -> None:
    """Follow a compound of two stimuli."""
    step, v = sympy.symbols("eta V", positive=True)
    n = sympy.symbols("n", integer=True, nonnegative=True)
    second = (1 - v) / 2 * (1 - (1 - 2 * step) ** n)
    first = v + second
    proof.say("A has the strength V, B none; after n trials of both B has", second)
    change = step * (1 - first - second)
    proof.equal("Each trial adds eta (1 - V_A - V_B) to B", second.subs(n, n + 1), second + change)
    proof.equal("and as much to A", first.subs(n, n + 1), first + change)
    proof.equal("If V is 1, B gets nothing", second.subs(v, 1), 0)


register(
    Claim(
        id="pavlovian.conditioning.blocking",
        title="What a stimulus predicts already, an added one does not learn",
        paper=PAPER,
        place=PLACE,
        statement=r"V_B = \frac{1-V_A}{2} = \frac{(1-\eta)^n}{2}",
        hypotheses=HYPOTHESES,
        finding="confirmed",
        found="Blocking is complete after long training and partial before: 5 trials at 0.3 leave "
        "the added stimulus 0.084 of the half that it would have had to share.",
        mechanisms=("delta",),
        prove=prove_blocking,
        measure=measure_blocking,
        half=True,
        mutants={
            "Hebbian writing": HEBB,
            "blocking is complete at once": {"partial": lambda n: 0.0 * n},
            "B gets all that A lacks": {"partial": lambda n: (1 - STEP) ** n},
        },
    )
)


def measure_overshadowing(
    lab: Lab,
    rule: str = "delta",
    share: Callable[[Array, float], Any] = lambda a, b: a**2 / (a**2 + b**2),
    **parameters: Any,
) -> Iterator[Comparison]:
    """Pair two stimuli of unequal salience with the outcome, together."""
    louder = np.array([0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0])
    found = [
        run(lab, [("AB+", 80)], rule, {"A": a}, float(0.5 / (1 + a**2)), **parameters)
        for a in louder
    ]
    for name, expected in {"A": share(louder, 1.0), "B": 1 - share(louder, 1.0)}.items():
        yield lab.equal(
            f"strength of {name}",
            [each[name][-1] for each in found],
            expected,
            scale=1.0,
            axes={"salience of A over that of B": louder},
        )


register(
    Claim(
        id="pavlovian.conditioning.overshadowing",
        title="Stimuli that come together share the strength by their squared saliences",
        paper=PAPER,
        place=PLACE,
        statement=r"V_A = \frac{\alpha_A^2}{\alpha_A^2+\alpha_B^2}",
        hypotheses=(*HYPOTHESES, "A stimulus' key is its direction times its salience."),
        finding="sharpened",
        found="The shares are 0.8 and 0.2 at saliences 2 to 1, and 0.94 and 0.06 at 4 to 1: the "
        "salience enters twice, once as it is written and once as it is read.",
        mechanisms=("delta",),
        measure=measure_overshadowing,
        half=True,
        mutants={
            "Hebbian writing": HEBB,
            "shares by the saliences themselves": {"share": lambda a, b: a / (a + b)},
            "equal shares": {"share": lambda a, b: 0.5 + 0 * a},
            "keys of length 1": {"normalize_keys": True},
        },
    )
)


def _cycles(numbers: Array) -> Array:
    """Return V_X after so many cycles of A+, AX-, from the powers of one cycle's matrix."""
    a, ax = np.array([1.0, 0.0]), np.array([1.0, 1.0])
    cycle = (np.eye(2) - STEP * np.outer(ax, ax)) @ (np.eye(2) - STEP * np.outer(a, a))
    limit = np.array([1.0, -1.0])
    found = [(limit - np.linalg.matrix_power(cycle, int(n)) @ limit)[1] for n in numbers]
    return np.array(found)


def measure_inhibition(
    lab: Lab, rule: str = "delta", curve: Curve = _cycles, blocked: float = -0.5
) -> Iterator[Comparison]:
    """Alternate A with the outcome and A and X without; test X with a third stimulus."""
    strength = run(lab, [("A+, AX-, B+", 400)], rule)
    cycles = np.array([1, 2, 3, 5, 8, 12, 20, 32, 64, 400])
    yield lab.equal(
        "strength of X",
        strength["X"][3 * cycles],
        curve(cycles),
        growth=512,
        scale=1.0,
        reason="1200 trials",
        axes={"cycles of A+, AX-": cycles},
    )
    yield lab.equal(
        "X beside a third stimulus that is trained to 1",
        strength["X"][-1] + strength["B"][-1],
        1 + curve(np.array([400]))[0],
        growth=512,
        scale=1.0,
        reason="1200 trials",
    )
    apart = run(lab, [("A+", 120), ("AX-", 80)], rule)["X"][-1]
    yield lab.equal("X after all of A+, then all of AX-", apart, blocked, scale=1.0)


register(
    Claim(
        id="pavlovian.conditioning.inhibition",
        title="A stimulus that announces the absence of an outcome becomes an inhibitor",
        paper=PAPER,
        place=PLACE,
        statement=r"A+,\,AX- \;\Rightarrow\; V_A\to 1,\quad V_X\to -1",
        hypotheses=(*HYPOTHESES, "Trials of A alone and of A with X alternate."),
        finding="sharpened",
        found="X tends to -1 and cancels a third stimulus, but only if the two kinds of trial are "
        "mixed: all of A+ followed by all of AX- ends at -1/2, because A is then extinguished "
        "halfway itself.",
        mechanisms=("delta",),
        measure=measure_inhibition,
        half=True,
        mutants={
            "Hebbian writing": HEBB,
            "nothing is learnt without an outcome": {"curve": lambda n: 0.0 * n},
            "-1 in whatever order": {"blocked": -1.0},
        },
    )
)


def measure_overexpectation(
    lab: Lab,
    rule: str = "delta",
    curve: Curve = lambda n: (1 + (1 - 2 * STEP) ** n) / 2,
) -> Iterator[Comparison]:
    """Train A and B apart, then together with the outcome of one."""
    strength = run(lab, [("A+, B+", 110), ("AB+", 40)], rule)
    trials = np.arange(41)
    for name, found in strength.items():
        yield lab.equal(
            f"strength of {name}", found[220:], curve(trials), axes={"trial of AB+": trials}
        )


register(
    Claim(
        id="pavlovian.conditioning.overexpectation",
        title="Two stimuli that were learnt apart lose half when they come together",
        paper=PAPER,
        place=PLACE,
        statement=r"A+,\,B+,\ \mathrm{then}\ n\ \mathrm{of}\ AB+:\quad "
        r"V_A = V_B = \frac{1+(1-2\eta)^n}{2}",
        hypotheses=HYPOTHESES,
        finding="confirmed",
        found="Strength is lost although every trial is reinforced: the outcome of one is less "
        "than the two of them predict.",
        mechanisms=("delta",),
        measure=measure_overexpectation,
        half=True,
        mutants={
            "Hebbian writing": HEBB,
            "a reinforced trial never weakens": {"curve": lambda n: 1.0 + 0 * n},
            "each stimulus with an error of its own": {
                "curve": lambda n: (1 + (1 - STEP) ** n) / 2
            },
        },
    )
)
