"""The integrated squared bias of local fits, and the rates that follow from it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import sympy
import torch

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.local_linear.plane import PAPER
from neuroattn.theory.local_linear.smoothing import (
    BIAS_ORDERS,
    WIDTHS,
    biases,
    curve,
    legendre,
    slopes,
    smoothing_bias,
)
from neuroattn.theory.proof import Proof

MECHANISMS: dict[str, str] = {"constant": "softmax", "linear": "local_linear"}


def grid(bandwidth: float) -> tuple[Array, Array]:
    """Return places and weights that integrate over [0, 1], with layers of 6 bandwidths."""
    cuts = [0.0, 6 * bandwidth, 1 - 6 * bandwidth, 1.0]
    nodes, weights = legendre(12)
    ends = list(pairwise(cuts))
    places = [low + (nodes + 1) * (high - low) / 2 for low, high in ends]
    shares = [weights * (high - low) / 2 for low, high in ends]
    return np.concatenate(places), np.concatenate(shares)


def integrated(lab: Lab, bandwidth: float, mechanism: str) -> float:
    """Return the integral of the squared bias of a mechanism over [0, 1]."""
    places, shares = grid(bandwidth)
    widths = (bandwidth,) * len(places)
    found = lab.once(biases, tuple(places.tolist()), widths, mechanism)
    return float((shares * found**2).sum())


def predicted(lab: Lab, bandwidth: float, fit: str) -> float:
    """Return the integral of the squared bias of a local fit over [0, 1], by quadrature."""
    places, shares = grid(bandwidth)
    bias = np.array([smoothing_bias(curve, float(x), bandwidth, fit) for x in places])
    return float((shares * bias**2).sum())


def measure_integrated(
    lab: Lab, powers: tuple[int, int] = (3, 4), swap: bool = False
) -> Iterator[Comparison]:
    """Integrate the squared bias of both over [0, 1], at shrinking bandwidths."""
    names = dict(zip(MECHANISMS, reversed(MECHANISMS.values()), strict=True))
    for fit, power in zip(BIAS_ORDERS, powers, strict=True):
        mechanism = (names if swap else MECHANISMS)[fit]
        found = np.array([lab.once(integrated, float(h), mechanism) for h in WIDTHS])
        wanted = np.array([lab.once(predicted, float(h), fit) for h in WIDTHS])
        noise = 2 * lab.rounding(16) * np.sqrt(wanted) + lab.rounding(16) ** 2
        yield lab.near(
            f"integrated squared bias of a local {fit}",
            found,
            wanted,
            tolerance=3e-3 * wanted + noise,
            expected=float(5e-4 * wanted.max() + noise.max() / 10),
            reason="2000 keys stand for a density; rounding of values of size 1",
            axes={"bandwidth h": WIDTHS},
        )
        measured = slopes(found, WIDTHS)
        yield lab.near(
            f"its order between bandwidths, local {fit}",
            measured,
            np.full(len(measured), float(power)),
            tolerance=0.4,
            expected=0.15,
            reason="at large bandwidths the boundary layers overlap the inside",
        )
    yield from floor(lab)


def floor(lab: Lab) -> Iterator[Comparison]:
    """Compare one plane for all with the part of the curve that no line has."""
    key = lab.rounded((torch.arange(400, dtype=torch.float64) + 0.5) / 400)[None, None, :, None]
    nodes, weights = legendre(20)
    places = (nodes + 1) / 2
    query = lab.rounded(torch.from_numpy(places))[None, None, :, None]
    value = lab.rounded(torch.from_numpy(curve(key.numpy())))
    read = lab.attend("local_linear", query, key, value, scale=0.0, ridge=0.0)[0, 0, :, 0].numpy()
    found = float((weights / 2 * (read - curve(places)) ** 2).sum())
    # Legendre's polynomials are orthogonal: what is left after the first two is the floor.
    parts = [(weights * curve(places) * p).sum() for p in (np.ones_like(nodes), nodes)]
    whole = (weights * curve(places) ** 2).sum()
    left = (whole - parts[0] ** 2 / 2 - parts[1] ** 2 * 3 / 2) / 2
    yield lab.near(
        "integrated squared bias of one line for all",
        found,
        left,
        tolerance=2e-9 * left + lab.rounding(0.1),
        expected=2e-10 * left + lab.rounding(0.01),
        reason="400 keys stand for an even density; rounding of values, squared errors of .002",
    )


def prove_integrated(proof: Proof) -> None:
    """Balance the squared bias against the variance of n tokens in a ball of h."""
    h, n, d, b = sympy.symbols("h n d b", positive=True)
    for fit, power in BIAS_ORDERS.items():
        risk = b * h**power + 1 / (n * h**d)
        proof.say(f"The error of a local {fit}: squared bias and variance", risk)
        slope = sympy.expand(h * sympy.diff(risk, h))
        tokens = d / (power * b * h ** (power + d))
        proof.equal("is least where n and h obey", sympy.powsimp(slope.subs(n, tokens)), 0)
        least = sympy.powsimp(risk.subs(n, tokens))
        proof.equal(
            "where it is the squared bias times 1 + p/d", least, b * h**power * (1 + power / d)
        )
        rate = [h * sympy.diff(sympy.log(each), h) for each in (least, 1 / tokens)]
        proof.equal("and falls as n to the power of minus", rate[0] / rate[1], power / (power + d))


register(
    Claim(
        id="local_linear.bias.integrated",
        title="Integrated squared bias: third order for softmax, fourth for a local line",
        paper=PAPER,
        place="theorem on the rates, as recalled; derived here",
        statement=r"\int b_{\mathrm{softmax}}^2\sim h^3,\quad \int b_{\mathrm{local\ linear}}^2"
        r"\sim h^4\quad (h \to 0)",
        hypotheses=(
            "The function is smooth on an interval with ends at which its slope is not 0.",
            "Keys are dense and even in one dimension; values have no noise.",
        ),
        finding="confirmed",
        found="The boundary layers, of width h, make softmax's error h^2 times h; a local line has "
        "h^4 everywhere. One line for all tokens, the limit of no scale, keeps a floor that no "
        "number of tokens lowers. With a variance of the order 1/(n h^d), which is not measured "
        "here, the best h would give the rates of the proof.",
        mechanisms=("softmax", "local_linear"),
        prove=prove_integrated,
        measure=measure_integrated,
        mutants={
            "softmax is of fourth order, as inside": {"powers": (4, 4)},
            "a local line is of fifth order": {"powers": (3, 5)},
            "the mechanisms exchanged": {"swap": True},
        },
    )
)
