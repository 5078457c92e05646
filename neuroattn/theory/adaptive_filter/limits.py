"""What the filter is without dynamics, and what the robust filter is for Gaussian noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor
from torch.nn import functional as F

from neuroattn.theory.adaptive_filter.variance import PAPER, propagated_variance
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

TOKENS, DIM = 12, 6
FREEDOMS = (4.0, 16.0, 64.0, 256.0, 1024.0)


def tokens(lab: Lab, unit: bool) -> tuple[Tensor, Tensor]:
    """Return queries and keys, of unit length or Gaussian."""
    drawn = (lab.normal((1, 1, TOKENS, DIM), name) for name in ("query", "key"))
    query, key = (lab.rounded(F.normalize(each, dim=-1)) if unit else each for each in drawn)
    return query, key


def weighed(lab: Lab, query: Tensor, key: Tensor, **noise: Any) -> Tensor:
    """Return the filter's weights, read from the values 1; no decay of values."""
    eye = torch.eye(TOKENS, dtype=torch.float64)[None, None]
    return lab.attend("adaptive_filter", query, key, eye, rate=0.0, **noise)[0, 0]


def measure_softmax(
    lab: Lab,
    factor: float = 2.0,
    unit: bool = True,
    process_noise: float = 0.0,
) -> Iterator[Comparison]:
    """Compare the filter without dynamics with softmax attention, over the measurement noise."""
    query, key = tokens(lab, unit)
    eye = torch.eye(TOKENS, dtype=torch.float64)[None, None]
    noises = (0.3, 0.5, 1.0, 2.0)
    largest = []
    for noise in noises:
        given = {"measurement_noise": noise, "process_noise": process_noise, "floor_noise": 0.2}
        found = weighed(lab, query, key, **given)
        scale = factor / propagated_variance(0.0, 0.0, 0.0, noise, 0.2)
        wanted = lab.attend("softmax", query, key, eye, scale=scale)[0, 0]
        largest.append((float(found[0].amax()), float(wanted[0].amax())))
        yield lab.equal(
            f"weights beside softmax(2 q.k/V), measurement noise {noise}",
            found,
            wanted,
            growth=64,
            reason="logits of up to 2/V = 15, in which both round",
        )
    yield lab.equal(
        "largest weight of the first query",
        *np.array(largest).T,
        growth=64,
        reason="as above",
        axes={"measurement noise": noises},
    )


def prove_softmax(proof: Proof) -> None:
    """Expand the residual of two keys."""
    v = sympy.symbols("V", positive=True)
    angles = sympy.symbols("a b c", real=True)
    query, one, two = (sympy.Matrix([sympy.cos(x), sympy.sin(x)]) for x in angles)
    logits = [-sympy.log(v) - (query - key).dot(query - key) / v for key in (one, two)]
    proof.say(
        "The logit of a token without dynamics, a and b being angles of unit vectors", logits[0]
    )
    for key, logit in zip((one, two), logits, strict=True):
        proof.equal(
            "Unit vectors: it is 2 q.k/V and what all keys share",
            logit,
            2 * query.dot(key) / v - sympy.log(v) - 2 / v,
        )
    proof.equal(
        "so that logits differ by 2 q.(k - k')/V",
        logits[0] - logits[1],
        2 * query.dot(one - two) / v,
    )


def first_order(residual: Tensor, convex: Tensor, freedom: float) -> Tensor:
    """Return the weights' difference from Gaussian ones to first order in 1/ν.

    ν d log(1 + r/(ν d)) = r - r²/(2 ν d) + ...
    """
    raised = residual.square() / (2 * freedom * DIM)
    return convex * (raised - (convex * raised).sum(-1, keepdim=True))


def measure_robust(
    lab: Lab,
    expansion: Callable[[Tensor, Tensor, float], Tensor] = first_order,
    tail: str = "student",
) -> Iterator[Comparison]:
    """Let the degrees of freedom grow."""
    query, key = tokens(lab, unit=False)
    noise = {"measurement_noise": 2.5, "process_noise": 0.0, "floor_noise": 0.0}
    convex = weighed(lab, query, key, **noise)
    residual = torch.cdist(query, key)[0, 0].square() / 2.5**2
    gaps, wanted = [], []
    for freedom in FREEDOMS:
        apart = weighed(lab, query, key, robust=freedom, tail=tail, **noise) - convex
        expected = expansion(residual, convex, freedom)
        place = int(first_order(residual, convex, 1.0).abs().argmax())
        gaps.append(float(apart.flatten()[place]))
        wanted.append(float(expected.flatten()[place]))
    size = float((residual.square() / (2 * DIM)).max()) / np.array(FREEDOMS)
    yield lab.near(
        "weight above the Gaussian one, times the degrees of freedom",
        np.array(gaps) * FREEDOMS,
        np.array(wanted) * FREEDOMS,
        tolerance=np.abs(wanted) * FREEDOMS * size + lab.rounding(8) * np.array(FREEDOMS),
        expected=float(np.mean(np.abs(wanted) * FREEDOMS * size)) / 5,
        reason="the next order is smaller by the largest r²/(2 ν d)",
        axes={"degrees of freedom": FREEDOMS},
    )
    far = weighed(lab, query, key, robust=1e6, tail=tail, **noise)
    yield lab.near(
        "Gaussian weights at a million degrees of freedom",
        far,
        convex,
        tolerance=size[0] * FREEDOMS[0] * 2.5e-7 + lab.rounding(16),
        expected=size[0] * FREEDOMS[0] * 2.5e-8 + lab.rounding(1),
        reason="1/ν of the largest r²/(2 d), and log1p rounds r to one part in its unit",
    )
    published = weighed(lab, query, key, robust=1e6, tail="published", **noise)
    yield lab.near(
        "the published form at a million: equal weights, V being the same",
        published,
        torch.full_like(published, 1 / TOKENS),
        tolerance=5e-7 + lab.rounding(16),
        expected=5e-8 + lab.rounding(1),
        reason="r/(ν d) is left of the residual",
    )


def prove_robust(proof: Proof) -> None:
    """Expand Student's tail."""
    r, n, d = sympy.symbols("r nu d", positive=True)
    tail = n * d * sympy.log(1 + r / (n * d))
    proof.equal("nu d log(1 + r/(nu d)) tends to r", sympy.limit(tail, n, sympy.oo), r)
    proof.equal(
        "with an error that times nu is -r^2/(2 d)",
        sympy.limit(n * (tail - r), n, sympy.oo),
        -(r**2) / (2 * d),
    )
    proof.equal(
        "Without the factor nu d it tends to 0",
        sympy.limit(sympy.log(1 + r / (n * d)), n, sympy.oo),
        0,
    )


register(
    Claim(
        id="adaptive_filter.limit.softmax",
        title="Without dynamics, and for unit vectors, the filter is softmax(2 q.k/V)",
        paper=PAPER,
        place="relation to softmax attention",
        statement=r"\mu = \sigma = 0,\ |q| = |k| = 1:\quad w_{ij} ="
        r" \mathrm{softmax}_j\left(\frac{2\,q_i\cdot k_j}{\eta^2+\gamma^2}\right)",
        hypotheses=(
            "No decay and no process noise.",
            "Queries and keys have unit length.",
            "Residuals are Gaussian.",
        ),
        finding="confirmed",
        found="Equal to rounding at noises of .3 to 2. The unit length is needed: a filter weighs "
        "by distance, and a long key is far.",
        mechanisms=("adaptive_filter", "softmax"),
        prove=prove_softmax,
        measure=measure_softmax,
        mutants={
            "q.k/V without the 2": {"factor": 1.0},
            "keys of any length": {"unit": False},
            "a state that drifts": {"process_noise": 0.5},
        },
    )
)
register(
    Claim(
        id="adaptive_filter.limit.robust",
        title="Student's filter becomes the Gaussian one as 1/nu; the published form does not",
        paper=PAPER,
        place="robust filter (v4 and its code); the rate is derived here",
        statement=r"w_\nu - w_\infty = \frac{w_\infty}{2\nu d}\left(r^2 - \sum_l w_{\infty,l}\,"
        r"r_l^2\right) + O(\nu^{-2}), \quad r = R^2/V",
        hypotheses=(
            "Logits are -log V - nu d log(1 + r/(nu d)); the code lacks the factor nu d.",
            "Temperature 1.",
        ),
        finding="sharpened",
        found="The limit holds with the factor nu d, at the rate given. The code's form "
        "-log V - log(1 + r/(nu d)) forgets the residuals instead: at large nu all tokens of one "
        "variance weigh the same.",
        mechanisms=("adaptive_filter",),
        prove=prove_robust,
        measure=measure_robust,
        mutants={
            "the published form": {"tail": "published"},
            "twice the rate": {"expansion": lambda r, w, freedom: first_order(r, w, freedom / 2)},
            "no competition of the weights": {
                "expansion": lambda r, w, freedom: w * r.square() / (2 * freedom * DIM)
            },
        },
    )
)
