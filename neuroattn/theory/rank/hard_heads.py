"""Hard heads of rank one between two points: how often they agree, and find the nearer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import sympy
import torch
from scipy.special import beta, hyp2f1
from torch import Tensor

from neuroattn.errors import InputError
from neuroattn.theory.arguments import check_whole
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

PAPER = "Amsel, Yehudai & Bruna (2024), On the benefits of rank in attention layers"
#: A scale at which the softmax is an argmax.
HARD = 1e9


def head_agreement(query_cosine: Any, key_cosine: Any) -> Any:
    """Return how often two hard heads of rank one choose the same of two points.

    Parameters
    ----------
    query_cosine, key_cosine : float or array
        Cosines between the heads' query directions and between their key directions, -1 to 1.

    Returns
    -------
    float or array
        Probability, for independent isotropic points and query in any dimension.

    Raises
    ------
    InputError
        If a cosine is outside -1 to 1.

    References
    ----------
    Amsel, Yehudai & Bruna (2024), arXiv 2407.16153; the closed form is derived here.
    """
    cosines = [np.asarray(each, dtype=float) for each in (query_cosine, key_cosine)]
    for name, each in zip(("query_cosine", "key_cosine"), cosines, strict=True):
        if not np.all(np.abs(each) <= 1):
            raise InputError(f"{name}={each!r} must be a cosine, from -1 to 1.")
    found = 0.5 + 2 / math.pi**2 * np.arcsin(cosines[0]) * np.arcsin(cosines[1])
    return found if np.ndim(found) else float(found)


def target_agreement(angle: Any, dim: int = 2) -> Any:
    """Return how often a hard head of rank one chooses the nearer of two points.

    Parameters
    ----------
    angle : float or array
        Between the head's query and key directions, in radians, 0 to pi.
    dim : int
        Of the sphere's space, at least 2.

    Returns
    -------
    float or array
        1/2 + (2/pi^2) of the integral from ``angle`` to pi/2 of E asin(r sin t), r being the length
        of a random unit vector's part in a plane; in two dimensions 3/4 - (angle/pi)^2 for an angle
        below pi/2, and 1 less that of the angle's supplement above.

    Raises
    ------
    InputError
        If the angle is outside 0 to pi, or ``dim`` no whole number of at least 2.

    References
    ----------
    Amsel, Yehudai & Bruna (2024), arXiv 2407.16153; derived here.
    """
    angle = np.asarray(angle, dtype=float)
    if not np.all((angle >= 0) & (angle <= math.pi)):
        raise InputError(f"angle={angle!r} must be in radians, from 0 to pi.")
    check_whole("dim", dim, 2)
    sharp = np.minimum(angle, math.pi - angle)
    turned = np.polynomial.chebyshev.chebval(4 * sharp / math.pi - 1, _turned(int(dim)))
    found = 0.5 + np.sign(math.pi / 2 - angle) * 2 / math.pi**2 * turned
    return found if np.ndim(found) else float(found)


@cache
def _turned(dim: int) -> Any:
    """Return the Chebyshev series in the angle, 0 to pi/2, of the integral of E asin(r sin t)."""
    nodes, shares = np.polynomial.legendre.leggauss(40)

    def whole(place: Any) -> Any:
        angle = (place + 1) * math.pi / 4
        half = (math.pi / 2 - angle)[:, None] / 2
        sines = np.sin(math.pi / 2 - half * (1 - nodes))
        # E asin(r c) = ∫ (1-r²)^(dim/2-1) c / √(1-c²r²) dr over 0..1: r is longer than that with
        # the chance (1-r²)^(dim/2-1).
        means = sines / 2 * beta(0.5, dim / 2) * hyp2f1(0.5, 0.5, (dim + 1) / 2, sines**2)
        return (means * shares * half).sum(1)

    return np.polynomial.chebyshev.chebinterpolate(whole, 40)


def chosen(
    lab: Lab, points: Tensor, query: Tensor, heads: tuple[Tensor, Tensor], mechanism: str
) -> Tensor:
    """Return (trials, heads) which of two points each hard head of rank one reads: 1 or -1."""
    key = torch.einsum("tpd,hd->thp", points, heads[1])[..., None]
    asked = (query @ heads[0].T)[:, :, None, None]
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64)[:, None].expand(*key.shape[:2], 2, 1)
    return lab.attend(mechanism, asked, key, sign, scale=HARD)[:, :, 0, 0]


def spun(lab: Lab, dim: int, cosines: np.ndarray[Any, Any], tag: str) -> tuple[Tensor, Tensor]:
    """Return unit vectors (n, dim) and others at given cosines from them."""
    drawn = lab.rng(tag, dim).normal(size=(2, len(cosines), dim))
    first = drawn[0] / np.linalg.norm(drawn[0], axis=1, keepdims=True)
    other = drawn[1] - (drawn[1] * first).sum(1, keepdims=True) * first
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    second = cosines[:, None] * first + np.sqrt(1 - cosines[:, None] ** 2) * other
    return torch.from_numpy(first), torch.from_numpy(second)


def agreed(lab: Lab, dim: int, mechanism: str) -> Any:
    """Return (trials, pairs) whether pairs of heads agree, and the pairs' two cosines."""
    cosines = np.linspace(-0.98, 0.98, 8)
    trials = 20_000
    first, second = spun(lab, dim, cosines, "queries")
    third, fourth = spun(lab, dim, np.full_like(cosines, 0.9), "keys")
    points = lab.normal((trials, 2, dim), "points", dim)
    query = lab.normal((trials, dim), "query", dim)
    heads = torch.cat([first, second]), torch.cat([third, fourth])
    read = chosen(lab, points, query, heads, mechanism)
    return (read[:, :8] * read[:, 8:] > 0).double().numpy(), cosines


def measure_agreement(
    lab: Lab,
    formula: Callable[[Any, Any], Any] = head_agreement,
    mechanism: str = "softmax",
) -> Iterator[Comparison]:
    """Let pairs of hard heads choose one of two points, in three dimensions of space."""
    for dim in (2, 5, 16):
        same, cosines = lab.once(agreed, dim, mechanism)
        yield lab.mean(
            f"how often two heads agree, d={dim}, cosine of their keys 0.9",
            same,
            formula(cosines, np.full_like(cosines, 0.9)),
            axes={"cosine of the two query directions": cosines},
        )


def prove_agreement(proof: Proof) -> None:
    """Derive Sheppard's law on the circle, and the product of two of them."""
    a, b, t = sympy.symbols("a b t", positive=True)
    proof.say("Only the plane of two directions counts; there x has a uniform angle t. Their angle")
    proof.say("being a, the signs of cos t and cos(t - a) differ on two arcs of length a", a)
    differ = 2 * sympy.integrate(1, (t, sympy.pi / 2, sympy.pi / 2 + a)) / (2 * sympy.pi)
    for angle in (sympy.pi / 6, sympy.pi / 3, sympy.pi * 3 / 4):
        edges = sorted({-sympy.pi / 2, sympy.pi / 2, angle - sympy.pi / 2, angle + sympy.pi / 2})
        edges.append(edges[0] + 2 * sympy.pi)
        total = sum(
            (high - low)
            * sympy.sign(sympy.cos((low + high) / 2) * sympy.cos((low + high) / 2 - angle))
            for low, high in pairwise(edges)
        )
        proof.equal(
            f"At a={angle} the mean product of signs, arc by arc, is 1 - 2 P(differ)",
            total / (2 * sympy.pi),
            (1 - 2 * differ).subs(a, angle),
        )
    sheppard = 2 / sympy.pi * sympy.asin(sympy.cos(a))
    c = sympy.symbols("c", positive=True)
    proof.equal(
        "1 - 2a/pi has the slope of (2/pi) asin(c) in c = cos a ...",
        sympy.diff(1 - 2 * sympy.acos(c) / sympy.pi, c),
        sympy.diff(2 / sympy.pi * sympy.asin(c), c),
    )
    proof.equal("... and its value at a = pi/2", sheppard.subs(a, sympy.pi / 2), 0)
    product = (1 - 2 * a / sympy.pi) * (1 - 2 * b / sympy.pi)
    keys, queries = sympy.symbols("k q", real=True)
    wanted = sympy.Rational(1, 2) + 2 / sympy.pi**2 * sympy.asin(keys) * sympy.asin(queries)
    proof.equal(
        "Points and query are independent: the heads agree with (1 + product)/2",
        (1 + product) / 2,
        wanted.subs({keys: sympy.cos(a), queries: sympy.cos(b)}).subs(
            {
                sympy.asin(sympy.cos(a)): sympy.pi / 2 - a,
                sympy.asin(sympy.cos(b)): sympy.pi / 2 - b,
            }
        ),
    )


def found_nearer(lab: Lab, dim: int, mechanism: str) -> Any:
    """Return (trials, angles) whether heads choose as one of full rank, and the angles."""
    angles = np.array([0.05, 0.3, 0.65, 1.0, 1.35, 1.7, 2.0, 2.5, 3.1])
    trials = 20_000
    heads = spun(lab, dim, np.cos(angles), "heads")
    points = lab.keys("sphere", (trials, 2, dim), "points", dim)
    query = lab.normal((trials, dim), "query", dim)
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64)[:, None].expand(trials, 1, 2, 1)
    wanted = lab.attend(mechanism, query[:, None, None], points[:, None], sign, scale=HARD)
    read = chosen(lab, points, query, heads, mechanism)
    return (read * wanted[:, 0, :, 0] > 0).double().numpy(), angles


def measure_target(
    lab: Lab,
    formula: Callable[[Any, int], Any] = target_agreement,
    mechanism: str = "softmax",
) -> Iterator[Comparison]:
    """Compare a rank-one head's choice with a full-rank head's, in three dimensions of space."""
    for dim in (2, 3, 8):
        right, angles = lab.once(found_nearer, dim, mechanism)
        yield lab.mean(
            f"how often one head finds the nearer point, d={dim}",
            right,
            formula(angles, dim),
            axes={"angle between query and key (rad)": angles},
        )
    yield lab.near(
        "derived for the paper's plane: .7409, .6487 and .3820 at .3, 1 and 2 rad",
        formula(np.array([0.3, 1.0, 2.0]), 2),
        [0.7409, 0.6487, 0.3820],
        tolerance=6e-5,
        expected=5e-5,
        reason="written to four digits",
    )


def prove_target(proof: Proof) -> None:
    """Integrate the law of the plane."""
    angle, t = sympy.symbols("theta t", positive=True)
    proof.say("Averaged over the query, signs of q.y and x.y agree as (2/pi) asin(q.x), with")
    proof.say("q.x = r cos(phi - theta) for x at angle phi from k and length r in the plane (k, q)")
    proof.say(
        "The slope in theta of the integral over the half circle around k is at its edges "
        "-(2/pi) 2 asin(r sin theta) / pi; so the correlation with the target is",
        sympy.Integral(4 / sympy.pi**2 * t, (t, angle, sympy.pi / 2)),
    )
    plane = sympy.integrate(4 / sympy.pi**2 * t, (t, angle, sympy.pi / 2))
    proof.equal(
        "In the plane r = 1: agreement 1/2 + (1/4 - (theta/pi)^2)",
        sympy.Rational(1, 2) + plane / 2,
        sympy.Rational(3, 4) - (angle / sympy.pi) ** 2,
    )
    phi = sympy.symbols("phi", real=True)
    half = sympy.pi / 2
    direct = sympy.integrate(half - angle + phi, (phi, -half, angle))
    direct += sympy.integrate(half + angle - phi, (phi, angle, half))
    proof.equal(
        "The same from the half circle itself, where asin(cos u) = pi/2 - |u|",
        2 / sympy.pi * direct / sympy.pi,
        plane,
    )
    proof.say("Obtuse angles: q to -q exchanges the two points, and 1 - agreement is left")


register(
    Claim(
        id="rank.hard-heads.agreement",
        title="How often two hard heads of rank one agree depends on two angles, not on dimension",
        paper=PAPER,
        place="the model of hard heads for two points; the closed form is derived here",
        statement=r"P = \frac{1}{2} + \frac{2}{\pi^2}\,\arcsin(q\cdot q')\,\arcsin(k\cdot k')",
        hypotheses=(
            "Two points and a query, independent and isotropic.",
            "A head is hard (its softmax is an argmax) and has W_Q W_K^T = q k^T.",
        ),
        finding="confirmed",
        found="The same curve at d = 2, 5 and 16: two arcsine laws multiply, because a head's "
        "choice is the sign of one number of the points times the sign of one of the query.",
        mechanisms=("softmax",),
        prove=prove_agreement,
        measure=measure_agreement,
        mutants={
            "correlations in place of their arcsines": {"formula": lambda q, k: 0.5 + q * k / 2},
            "1/pi^2 in place of 2/pi^2": {
                "formula": lambda q, k: 0.25 + head_agreement(q, k) / 2,
            },
            "queries only": {"formula": lambda q, k: head_agreement(q, np.ones_like(k))},
        },
    )
)
register(
    Claim(
        id="rank.hard-heads.target",
        title="A hard head of rank one finds the nearer of two points 3/4 of the time at best",
        paper=PAPER,
        place="the target of nearest neighbour for two points; any dimension is derived here",
        statement=r"P = \frac{1}{2} + \frac{2}{\pi^2}\int_\theta^{\pi/2} E\,\arcsin(r \sin t)\,dt,"
        r"\quad P_{d=2} = \frac{3}{4} - \frac{\theta^2}{\pi^2}",
        hypotheses=(
            "Two points uniform on the sphere, a query isotropic.",
            "The angle theta between the head's q and k is below pi/2; beyond, 1 - P(pi - theta).",
            "r is the length of a random unit vector's part in a plane of d dimensions.",
        ),
        finding="sharpened",
        found="The plane's law is the case r = 1. In d dimensions r < 1, and the best head of rank "
        "one, q = k, falls from .75 at d = 2 towards 1/2 as 1/sqrt(d), with .597 at d = 8.",
        mechanisms=("softmax",),
        prove=prove_target,
        measure=measure_target,
        mutants={
            "the plane's law in any dimension": {
                "formula": lambda angle, dim: target_agreement(angle, 2)
            },
            "no sign for obtuse angles": {
                "formula": lambda angle, dim: target_agreement(
                    np.minimum(angle, math.pi - angle), dim
                )
            },
            "the square of the angle's share of pi/2": {
                "formula": lambda angle, dim: (
                    target_agreement(angle, dim) - 3 * (angle / math.pi) ** 2
                )
            },
        },
    )
)
