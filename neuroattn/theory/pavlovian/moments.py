"""Moments of the product of two keys, under three laws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import sympy
import torch

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import KEY_LAWS, Lab
from neuroattn.theory.pavlovian.crosstalk import PAPER, PLAIN
from neuroattn.theory.proof import Proof

DIMS = (2, 4, 8, 16, 32, 64)
#: The fourth power of products of Gaussian keys has a tail too heavy for a normal mean below.
LEAST = {("gaussian", 4): 8}


def second_moment(dim: int, law: str) -> float:
    """Return E(k·k')²: 1/d, whatever the law."""
    return 1 / dim


def fourth_moment(dim: int, law: str) -> float:
    """Return E(k·k')⁴, for keys of a squared length of 1 on average."""
    return {
        "sphere": 3 / (dim * (dim + 2)),
        "gaussian": 3 * (dim + 2) / dim**3,
        "rademacher": (3 * dim - 2) / dim**3,
    }[law]


def _products(lab: Lab, law: str, dim: int) -> Array:
    """Return (draws, 8, 8), what each of 8 keys, its value being 1, adds to reads of 8 others."""
    draws, several = 2500, 8
    query, key = (lab.keys(law, (draws, 1, several, dim), which) for which in ("query", "key"))
    own = torch.eye(several, dtype=torch.float64).expand(draws, 1, several, several)
    return lab.attend("linear", query, key, own, **PLAIN)[:, 0].numpy()


def _measure(
    lab: Lab, power: int, formula: Callable[[int, str], float], laws: tuple[str, ...] = KEY_LAWS
) -> Iterator[Comparison]:
    name = {2: "second", 4: "fourth"}[power]
    for law in laws:
        dims = [dim for dim in DIMS if dim >= LEAST.get((law, power), 1)]
        drawn = [(lab.once(_products, law, dim) ** power).mean((1, 2)) for dim in dims]
        yield lab.mean(
            f"{name} moment of the product of two keys, {law}",
            np.stack(drawn, axis=1),
            [formula(dim, law) for dim in dims],
            axes={"dimension of the keys": dims},
        )


def measure_second(
    lab: Lab, formula: Callable[[int, str], float] = second_moment
) -> Iterator[Comparison]:
    """Square what keys add to the reads of independent others."""
    yield from _measure(lab, 2, formula)


def measure_fourth(
    lab: Lab, formula: Callable[[int, str], float] = fourth_moment
) -> Iterator[Comparison]:
    """Raise what keys add to the reads of independent others to the fourth power."""
    yield from _measure(lab, 4, formula)


def on_sphere(dim: int, power: int) -> Any:
    """Return the mean of a power of one coordinate on the sphere, integrated over angles."""
    turn = sympy.symbols("t", real=True)
    if dim == 2:
        whole = (turn, 0, 2 * sympy.pi)
        return sympy.integrate(sympy.cos(turn) ** power, whole) / (2 * sympy.pi)
    area = sympy.sin(turn)
    return sympy.integrate(sympy.cos(turn) ** power * area, (turn, 0, sympy.pi)) / 2


def by_expansion(dim: int, power: int, moments: dict[int, Any]) -> Any:
    """Return E(x·y)^power for independent coordinates, their moments given, by expansion."""
    x, y = sympy.symbols(f"x1:{dim + 1}"), sympy.symbols(f"y1:{dim + 1}")
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    terms = sympy.Poly(sympy.expand(dot**power), *x, *y).terms()
    return sum(c * sympy.prod([moments[n] for n in powers]) for powers, c in terms)


def by_counting(dim: int, power: int) -> Any:
    """Return E(k·k')^power for keys of ±1/√dim, over all pairs of them."""
    corners = list(product((-1, 1), repeat=dim))
    found = [sum(a * b for a, b in zip(x, y, strict=True)) for x in corners for y in corners]
    total = sum(sympy.Integer(each) ** power for each in found)
    return total / sympy.Integer(len(found)) / sympy.Integer(dim) ** power


def prove_moments(proof: Proof, power: int, formula: Callable[[Any, str], Any]) -> None:
    """Integrate over the sphere, expand for Gaussian keys, count for corners of the cube."""
    d = sympy.Symbol("d", positive=True, integer=True)
    proof.say("By symmetry one key is the first axis: the product is a coordinate of the other")
    for dim, where in ((2, "circle"), (3, "sphere in space")):
        text = f"Sphere, d = {dim}: a cosine on the {where}"
        proof.equal(text, on_sphere(dim, power), formula(sympy.Integer(dim), "sphere"))
    # A coordinate's density is (1 - c²)^((d-3)/2); its even moments are ratios of Beta functions.
    half = sympy.Rational(1, 2)
    ratio = sympy.gamma((power + 1) * half) * sympy.gamma(d / 2)
    ratio /= sympy.gamma(half) * sympy.gamma((d + power) / 2)
    proof.equal("Sphere, any d: B((p+1)/2,(d-1)/2) / B(1/2,(d-1)/2)", ratio, formula(d, "sphere"))
    for dim in (2, 3):
        moments = {0: 1, 1: 0, 2: sympy.Rational(1, dim), 3: 0, 4: sympy.Rational(3, dim**2)}
        text = f"Gaussian, d = {dim}: the expansion of (x·y)^{power}, moments 1/d and 3/d²"
        proof.equal(
            text, by_expansion(dim, power, moments), formula(sympy.Integer(dim), "gaussian")
        )
        text = f"Rademacher, d = {dim}: over all {4**dim} pairs of corners"
        proof.equal(text, by_counting(dim, power), formula(sympy.Integer(dim), "rademacher"))
    if power == 4:
        fourth = sympy.Symbol("m4", positive=True)
        # d terms x⁴y⁴, and 3d(d-1) of two different squares.
        general = d * fourth**2 + 3 * d * (d - 1) / d**4
        proof.say("Independent coordinates, any d: d m4² + 3 d (d-1)/d⁴", general)
        for law, moment in (("gaussian", 3 / d**2), ("rademacher", 1 / d**2)):
            proof.equal(f"With the {law} m4", general.subs(fourth, moment), formula(d, law))


_HYPOTHESES = (
    "Two keys are independent and of one law: uniform on the unit sphere, Gaussian N(0, I/d), or "
    "of entries +-1/sqrt(d).",
)


def _with(wrong: Callable[[int], float], which: str) -> dict[str, Any]:
    return {"formula": lambda d, law: wrong(d) if law == which else fourth_moment(d, law)}


register(
    Claim(
        id="pavlovian.moments.second",
        title="Two keys overlap by 1/d on average, squared, whatever their law",
        paper=PAPER,
        place="the noise of associative retrieval; derived here",
        statement=r"E(k\cdot k')^2 = \frac{1}{d}",
        hypotheses=_HYPOTHESES,
        finding="sharpened",
        found="The crosstalk of one other association is exactly 1/d for all three laws, at every "
        "d: the order of the capacity cannot depend on which of them the keys have.",
        mechanisms=("linear",),
        prove=lambda proof: prove_moments(proof, 2, second_moment),
        measure=measure_second,
        mutants={
            "1/(d-1), as for correlations": {"formula": lambda d, law: 1 / (d - 1)},
            "keys of unit entries, not of unit length": {"formula": lambda d, law: d},
            "the size 1/sqrt(d) in place of its square": {"formula": lambda d, law: d**-0.5},
        },
        half=True,
    )
)

register(
    Claim(
        id="pavlovian.moments.fourth",
        title="The fourth moment of the overlap of two keys tells their laws apart",
        paper=PAPER,
        place="the noise of associative retrieval; derived here",
        statement=r"E(k\cdot k')^4 = \frac{3}{d(d+2)},\ \frac{3(d+2)}{d^3},\ \frac{3d-2}{d^3}",
        hypotheses=_HYPOTHESES,
        finding="sharpened",
        found="Sphere, Gaussian and Rademacher keys have the same second moment and differ in the "
        "fourth, .01042, .01318 and .01123 at d = 16; relative to a Gaussian overlap, 3/d², by "
        "factors 1 - 2/d, 1 + 2/d and 1 - 2/(3d). The law therefore shows in the rare errors.",
        mechanisms=("linear",),
        prove=lambda proof: prove_moments(proof, 4, fourth_moment),
        measure=measure_fourth,
        mutants={
            "a Gaussian overlap for keys on the sphere": _with(lambda d: 3 / d**2, "sphere"),
            "d + 2 on the wrong side of the fraction": _with(
                lambda d: 3 / (d * (d + 2)), "gaussian"
            ),
            "corners of the cube taken for the sphere": _with(
                lambda d: 3 / (d * (d + 2)), "rademacher"
            ),
        },
        half=True,
    )
)
