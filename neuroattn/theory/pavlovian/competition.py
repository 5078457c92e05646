"""Competition for strength: many stimuli in the delta rule, and none of it in Hebb's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.pavlovian.phenomena import HEBB, HYPOTHESES, PAPER, PLACE, STEP, Curve, run
from neuroattn.theory.pavlovian.protocols import Protocol


def measure_compound(
    lab: Lab,
    rule: str = "delta",
    factor: Curve = lambda m: 1 - STEP * m,
    **parameters: Any,
) -> Iterator[Comparison]:
    """Pair compounds of more and more stimuli with the outcome."""
    sizes = np.arange(1, 11)
    names = ["ABCDEFGHIJ"[:size] for size in sizes]
    found = [run(lab, [(f"{name}+", 12)], rule, **parameters) for name in names]
    totals = [np.sum(list(each.values()), axis=0) for each in found]
    yield lab.equal(
        "error of the compound after 3 trials",
        [1 - total[3] for total in totals],
        factor(sizes) ** 3,
        axes={"stimuli in the compound": sizes},
    )
    yield lab.exact(
        "which compounds are learnt",
        [bool(abs(1 - total[-1]) < 1) for total in totals],
        [bool(abs(each) < 1) for each in factor(sizes)],
    )


register(
    Claim(
        id="pavlovian.conditioning.compound-stability",
        title="A compound of m stimuli is learnt if and only if the step is below 2/m",
        paper=PAPER,
        place=PLACE,
        statement=r"1-\sum_i V_i(n) = (1-\eta m)^n,\quad 0<\eta m<2",
        hypotheses=(*HYPOTHESES, "All stimuli have salience 1."),
        finding="confirmed",
        found="At a step of 0.3 compounds of up to 6 stimuli are learnt and those of 7 and more "
        "diverge. Dividing the key by its length removes the limit.",
        mechanisms=("delta",),
        measure=measure_compound,
        half=True,
        mutants={
            "each stimulus with an error of its own": {"factor": lambda m: 1 - STEP + 0 * m},
            "edge at eta sqrt(m) = 2": {"factor": lambda m: 1 - STEP * m**0.5},
            "keys of length 1": {"normalize_keys": True},
            "Hebbian writing": HEBB,
        },
    )
)


def measure_hebb(
    lab: Lab,
    rule: str = "linear",
    added: Curve = lambda n: STEP * n,
    power: float = 2.0,
    **parameters: Any,
) -> Iterator[Comparison]:
    """Run the four protocols of competition through linear attention."""

    def end(protocol: Protocol, stimulus: str, **more: Any) -> float:
        return float(run(lab, protocol, rule, **more, **parameters)[stimulus][-1])

    trials = np.array([1, 2, 5, 10, 20, 50, 100, 400])
    yield lab.equal(
        "no blocking: strength of B, A trained 40 times before",
        [end([("A+", 40), ("AB+", int(n))], "B") for n in trials],
        added(trials),
        growth=512,
        reason="a sum over 440 trials",
        axes={"trials of AB+": trials},
    )
    alone, louder = end([("A+", 20)], "A"), {"B": 2.0}
    yield lab.equal(
        "no overshadowing: strength of A beside a louder B, and alone",
        [end([("AB+", 20)], "A", saliences=louder), alone],
        added(20),
    )
    salience = np.array([0.5, 1.0, 1.5, 2.0, 3.0])
    yield lab.equal(
        "strength of B beside A after 20 trials",
        [end([("AB+", 20)], "B", saliences={"B": float(each)}) for each in salience],
        added(20) * salience**power,
        axes={"salience of B": salience},
    )
    outcome = np.array([0.25, 0.5, 1.0, 2.0])
    yield lab.equal(
        "strength of A after 20 trials of A and B with an outcome of another size",
        [end([(f"AB+{each:g}", 20)], "A") for each in outcome],
        added(20) * outcome,
        axes={"size of the outcome": outcome},
    )
    yield lab.equal("no inhibition: strength of X", end([("A+, AX-", 40)], "X"), 0.0)
    yield lab.equal(
        "no overexpectation: strength of A after A+, B+ and AB+",
        end([("A+, B+", 20), ("AB+", 30)], "A"),
        added(50),
    )


register(
    Claim(
        id="pavlovian.conditioning.hebb",
        title="Linear attention shows no blocking, overshadowing, inhibition or overexpectation",
        paper=PAPER,
        place=PLACE,
        statement=r"V_s = \eta\,\alpha_s^2\sum_{t:\,s\ \mathrm{present}}\lambda_t",
        hypotheses=(*HYPOTHESES, "The read is linear, without normaliser or feature map."),
        finding="confirmed",
        found="Hebbian strength is the count of paired trials, whatever else was present: 120 "
        "after 400 trials at 0.3. Any of the four protocols tells the two mechanisms apart with "
        "one read.",
        mechanisms=("linear",),
        measure=measure_hebb,
        half=True,
        mutants={
            "the delta rule": {"rule": "delta"},
            "the decayed memory of retention": {"rule": "retention"},
            "strengths that saturate": {"added": lambda n: 1 - (1 - STEP) ** n},
            "linear attention with its normaliser": {"normalize": True},
            "a salience that enters once": {"power": 1.0},
        },
    )
)
