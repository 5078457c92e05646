"""Claim: a Taylor map cuts softmax's state off, with an error that is known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.errors import InputError
from neuroattn.theory.arguments import check_whole
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.dynamics.finite_state import is_number
from neuroattn.theory.dynamics.simulation import PAPER
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

#: Logarithm of the largest number of float64.
LARGEST = math.log(np.finfo(float).max)


def taylor_features(dim: int, order: int) -> int:
    """Return how many features the exponential's Taylor polynomial of q · k needs.

    Parameters
    ----------
    dim, order : int
        Of queries and keys, at least 1; of the polynomial, at least 0.

    Returns
    -------
    int
        (dim + order choose order), each monomial once.

    Raises
    ------
    InputError
        If either is out of its range.
    """
    dim, order = check_whole("dim", dim, 1), check_whole("order", order, 0)
    return math.comb(dim + order, order)


def taylor_bound(radius: float, order: int) -> float:
    """Return a bound on |e^x - Σ_(m ≤ p) x^m/m!| for |x| up to a radius: e^R R^(p+1)/(p+1)!.

    Parameters
    ----------
    radius : float
        R, at least 0.
    order : int
        p, at least 0.

    Raises
    ------
    InputError
        If either is out of its range, or the bound is beyond float64.

    References
    ----------
    Lagrange's remainder; see :func:`taylor_error` for what is attained.
    """
    order = check_whole("order", order, 0)
    if not is_number(radius) or not 0 <= radius < math.inf:
        raise InputError(f"radius={radius!r} must be a finite number of at least 0.")
    if radius == 0:
        return 0.0
    size = radius + (order + 1) * math.log(radius) - math.lgamma(order + 2)
    if size > LARGEST:
        raise InputError(
            f"radius={radius!r} at order={order} has a bound of e^{size:.0f}, more than float64 "
            f"holds (e^{LARGEST:.0f}); take a smaller radius."
        )
    return math.exp(size)


def taylor_error(radius: float, order: int) -> float:
    """Return the largest |e^x - Σ_(m ≤ p) x^m/m!| for |x| up to a radius, attained at x = R.

    Parameters
    ----------
    radius, order
        As in :func:`taylor_bound`.

    Returns
    -------
    float
        Σ_(m > p) R^m/m!

    Raises
    ------
    InputError
        As :func:`taylor_bound`.
    """
    bound = taylor_bound(radius, order)
    terms: list[float] = []
    # The bound is e^R times the first term.
    power = bound * math.exp(-radius)
    place = order + 1
    while power > 1e-18 * sum(terms, 1e-300):
        terms.append(power)
        place += 1
        power *= radius / place
    return math.fsum(terms)


def spread(lab: Lab, radius: float) -> tuple[Tensor, Tensor]:
    """Return query and key (1, 1, 40, 4), products in [-radius, radius], the ends attained."""
    key = lab.keys("sphere", (1, 1, 40, 4), "key")
    other = lab.keys("sphere", (1, 1, 40, 4), "query")
    axis = torch.eye(4, dtype=torch.float64)[0]
    key[:, :, 0], other[:, :, 0], other[:, :, 1] = axis, axis, -axis
    return radius * other, key


def by_taylor(lab: Lab, query: Tensor, key: Tensor, order: int) -> Tensor:
    """Return the un-normalised weights of the Taylor map."""
    unit = torch.eye(key.shape[2], dtype=torch.float64)[None, None]
    ways = {"feature_map": "taylor", "order": order, "normalize": False, "scale": 1.0}
    return lab.attend("linear", query, key, unit, **ways)[0, 0]


def measure_taylor(
    lab: Lab,
    bound: Callable[[float, int], float] = taylor_bound,
    features: Callable[[int, int], int] = taylor_features,
    odd: int = 1,
) -> Iterator[Comparison]:
    """Compare the exponential with the Taylor map's weights, and the reads with softmax's."""
    orders, radius = np.arange(1, 9), 2.0
    query, key = spread(lab, radius)
    exact = (query @ key.mT)[0, 0].exp()
    weights = [by_taylor(lab, query, key, int(order)) for order in orders]
    errors = np.array([float((each - exact).abs().max()) for each in weights])
    yield lab.near(
        "largest error of a weight, products up to 2",
        errors,
        [taylor_error(radius, int(p)) for p in orders],
        tolerance=lab.rounding(64.0) * math.exp(radius),
        expected=lab.rounding(6.0) * math.exp(radius),
        reason="rounding of weights up to e²; the draws hold the worst product itself",
        axes={"order p": orders},
    )
    yield lab.at_most(
        "largest error of a weight, against the bound",
        errors,
        [bound(radius, int(p)) for p in orders],
        slack=lab.rounding(64.0),
        axes={"order p": orders},
    )
    value = lab.normal((1, 1, 40, 3), "value")
    wanted = lab.attend("softmax", query, key, value, scale=1.0)
    even = orders[1::2]
    ways = {"feature_map": "taylor", "scale": 1.0}
    reads = [lab.attend("linear", query, key, value, order=int(p), **ways) for p in even]
    apart = np.array([float((each - wanted).abs().max()) for each in reads])
    yield lab.exact(
        "the read's error falls with every even order", (np.diff(apart) < 0).tolist(), [True] * 3
    )
    yield lab.at_least(
        "even orders: least weight", [float(weights[p - 1].min()) for p in even], 1e-3
    )
    yield lab.at_most("odd order: least weight", float(weights[odd - 1].min()), -0.3)
    counts = [
        lab.attend_state("linear", query, key, value, order=int(p), **ways)[1]["memory"].shape[2]
        for p in orders
    ]
    yield lab.exact(
        "features at d = 4, order 1 to 8", counts, [features(4, int(p)) for p in orders]
    )


def prove_taylor(proof: Proof) -> None:
    """Derive the remainder, its bound, and the sign of even orders."""
    x, t, r = sympy.symbols("x t R", positive=True)
    for p in range(4):
        polynomial = sum(x**m / sympy.factorial(m) for m in range(p + 1))
        rest = sympy.integrate(sympy.exp(t) * (x - t) ** p, (t, 0, x)) / sympy.factorial(p)
        proof.equal(f"Order {p}: the remainder as an integral", rest, sympy.exp(x) - polynomial)
        largest = sympy.integrate(sympy.exp(r) * (r - t) ** p, (t, 0, r)) / sympy.factorial(p)
        proof.equal(
            f"Order {p}: with e^t at most e^R it is the bound",
            largest,
            sympy.exp(r) * r ** (p + 1) / sympy.factorial(p + 1),
        )
    y = sympy.symbols("y", real=True)
    for p in (2, 4, 6):
        polynomial = sum(y**m / sympy.factorial(m) for m in range(p + 1))
        proof.equal(
            f"Order {p}: the polynomial is its slope plus y^{p}/{p}!",
            polynomial - sympy.diff(polynomial, y),
            y**p / sympy.factorial(p),
        )
    proof.say("At a minimum the slope is 0, so that an even order is y^p/p! there: not negative")
    first = 1 + y
    proof.true("Order 1 is negative below -1", bool(first.subs(y, -2) < 0), first)


register(
    Claim(
        id="dynamics.finite-state.taylor",
        title="A Taylor map cuts softmax's state off: error, features and negative weights",
        paper=PAPER,
        place="approximation of softmax by finitely many features; derived here",
        statement=r"\left|e^x-\sum_{m\leq p}\frac{x^m}{m!}\right|\leq "
        r"\sum_{m>p}\frac{R^m}{m!}\leq\frac{e^RR^{p+1}}{(p+1)!},\quad N=\frac{(d+p)!}{d!\,p!}",
        hypotheses=("Products of queries and keys are at most R in magnitude.",),
        finding="sharpened",
        found="The bound is loose by less than e^R; what is attained, at x = R, is the rest of the "
        "series. Even orders never have a negative weight (at a minimum they are x^p/p!), order 1 "
        "has one as soon as a product is below -1.",
        measure=measure_taylor,
        prove=prove_taylor,
        mutants={
            "a bound without e^R": {"bound": lambda r, p: taylor_bound(r, p) * math.exp(-r)},
            "features counted with their order, d^m": {
                "features": lambda d, p: sum(d**m for m in range(p + 1))
            },
            "an even order has negative weights": {"odd": 2},
        },
        mechanisms=("linear", "softmax"),
    )
)
