"""Parallax: softmax minus a learned slope; which slope makes it local linear attention."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import sympy
import torch
from numpy.typing import ArrayLike

from neuroattn.errors import InputError
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.local_linear.plane import SCALE, parts, scene
from neuroattn.theory.proof import Proof


def centred_slope(slope: ArrayLike, offset: ArrayLike) -> Array:
    """Return the slope about the mean key from the paper's slope about the query.

    ``rho = (C + ridge I + d d^T)^-1 d`` and ``r = (C + ridge I)^-1 d`` point the same way: ``r =
    rho / (1 - d . rho)``, which is ``(1 + d . r) rho``.

    Parameters
    ----------
    slope : array (..., dim)
        rho of the paper.
    offset : array (..., dim)
        d, the mean key under the softmax weights minus the query.

    Raises
    ------
    InputError
        If the shapes differ, or ``d . rho`` is not below 1, which no covariance makes.

    References
    ----------
    Sherman & Morrison (1950); for local linear attention (arXiv 2510.01450) derived here.
    """
    rho, d = np.asarray(slope, dtype=float), np.asarray(offset, dtype=float)
    if rho.shape != d.shape:
        raise InputError(f"slope of shape {rho.shape}, offset {d.shape}; needed is one shape.")
    along = (rho * d).sum(-1, keepdims=True)
    if not bool(np.all(along < 1)):
        raise InputError(
            f"offset . slope={along.max()} must be below 1: it is e/(1 + e) with e = d . r >= 0."
        )
    return np.asarray(rho / (1 - along))


def direction(lab: Lab, kind: str, ridge: float) -> Array:
    """Return the slope of every query, (queries, dim)."""
    p = lab.once(parts, 0.0)
    offset = p["offset"]
    outer = offset[:, :, None] * offset[:, None, :]
    second = p["own"] + ridge * np.eye(3) + outer
    rho = np.linalg.solve(second, offset[..., None])[..., 0]
    if kind == "about the query":
        return np.asarray(rho)
    if kind == "negative":
        return -centred_slope(rho, offset)
    return centred_slope(rho, offset)


def tilted(lab: Lab, kind: str, ridge: float, share: float) -> Array:
    """Return what Parallax reads with a share of a slope."""
    query, key, value = lab.once(scene)
    way = lab.rounded(share * torch.from_numpy(direction(lab, kind, ridge)))[None, None]
    return lab.attend("parallax", query, key, value, scale=SCALE, direction=way)[0, 0].numpy()


def measure_parallax(
    lab: Lab, kind: str = "about the mean", power: float = 1.0
) -> Iterator[Comparison]:
    """Give Parallax the solved slope, whole and in parts."""
    query, key, value = lab.once(scene)
    for ridge in (0.0, 0.1):
        wanted = lab.attend("local_linear", query, key, value, scale=SCALE, ridge=ridge)[0, 0]
        found = lab.once(tilted, kind, ridge, 1.0)
        yield lab.equal(
            f"Parallax with the solved slope, ridge {ridge:g}", found, wanted, growth=512
        )
    soft = lab.attend("softmax", query, key, value, scale=SCALE)[0, 0].numpy()
    yield lab.equal("no slope is softmax", lab.once(tilted, kind, 0.1, 0.0), soft, growth=16)
    shares = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.25])
    wanted_there = wanted.numpy()[0, 0]
    yield lab.equal(
        "one channel for shares of the solved slope",
        [lab.once(tilted, kind, 0.1, float(each))[0, 0] for each in shares],
        soft[0, 0] + shares**power * (wanted_there - soft[0, 0]),
        growth=512,
        scale=float(np.abs(soft).max()),
        axes={"share of the slope": shares},
    )


def prove_parallax(proof: Proof) -> None:
    """Relate the slopes about the mean and about the query in two dimensions."""
    a, c = sympy.symbols("a c", positive=True)
    b = sympy.Symbol("b", real=True)
    d = sympy.Matrix(sympy.symbols("d_1 d_2", real=True))
    own = sympy.Matrix([[a, b], [b, c]])
    proof.say("C + ridge I, about the mean of the keys", own)
    r = own.inv() * d
    eta = (d.T * r)[0]
    proof.say("With r = C^-1 d and e = d . r, try rho = r/(1 + e)")
    rho = r / (1 + eta)
    left = ((own + d * d.T) * rho).applyfunc(sympy.simplify)
    proof.equal("Sherman and Morrison: it solves the system about the query", left, d)
    back = (rho / (1 - (d.T * rho)[0])).applyfunc(sympy.simplify)
    proof.equal("so that r is rho/(1 - d . rho)", back, r.applyfunc(sympy.simplify))
    p1, p2, t1, t2, v1, v2 = sympy.symbols("p_1 p_2 t_1 t_2 v_1 v_2", positive=True)
    d1, d2 = p1 + p2, p1 * t1 + p2 * t2
    o1, o2 = p1 * v1 + p2 * v2, p1 * t1 * v1 + p2 * t2 * v2
    mean = d2 / d1
    read = (p1 * (1 - (t1 - mean)) * v1 + p2 * (1 - (t2 - mean)) * v2) / d1
    proof.equal(
        "Two sums and two reads are enough, t = K r", read, o1 / d1 * (1 + d2 / d1) - o2 / d1
    )


register(
    Claim(
        id="local_linear.slope.parallax",
        title="Parallax with the solved slope is local linear attention; without one, softmax",
        paper="Zuo et al. (2026), Local linear attention; Parallax (2026), arXiv 2605.29157",
        place="the form of Parallax; the relation of the slopes is derived here",
        statement=r"o=\frac{O_1}{d_1}\left(1+\frac{d_2}{d_1}\right)-\frac{O_2}{d_1},\quad "
        r"r=(\mathrm{Cov}_w(k)+\lambda I)^{-1}\delta=(1+\delta\cdot r)\rho,\quad "
        r"\delta=\bar k_w-q",
        hypotheses=(
            "The weights are those of softmax; the covariance of the keys under them is regular, "
            "or the ridge above 0.",
        ),
        finding="sharpened",
        found="Equal at every ridge, if the slope is the one about the mean key. The paper's rho, "
        "about the query, points the same way but is shorter by 1 + d . r; used as it is it "
        "under-corrects. The read is linear in the slope, so that a learned one moves on the "
        "line between softmax and local linear attention and beyond.",
        mechanisms=("parallax", "local_linear", "softmax"),
        prove=prove_parallax,
        measure=measure_parallax,
        mutants={
            "the slope about the query": {"kind": "about the query"},
            "the opposite sign": {"kind": "negative"},
            "the read is quadratic in the slope": {"power": 2.0},
        },
    )
)
