"""Negative weights: local linear attention is no probability over keys."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.local_linear.plane import PAPER, local_fit
from neuroattn.theory.proof import Proof

#: Weights of keys 0, 1/2 and 1 for a query at 2, scale 1, by ridge.
GOLDEN: dict[float, tuple[float, ...]] = {
    0.0: (-0.72022610, -0.55954779, 2.27977390),
    0.01: (-0.65043724, -0.49027403, 2.14071127),
    1.0: (0.01230788, 0.16757945, 0.82011267),
}


def three_keys(lab: Lab, query: float, ridge: float, mechanism: str) -> Array:
    """Return the weights of keys 0, 1/2 and 1, by reading unit vectors."""
    key = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64).reshape(1, 1, 3, 1)
    asked = lab.rounded(torch.full((1, 1, 1, 1), query, dtype=torch.float64))
    identity = torch.eye(3, dtype=torch.float64)[None, None]
    options = {"ridge": ridge} if mechanism == "local_linear" else {}
    return lab.attend(mechanism, asked, key, identity, scale=1.0, **options)[0, 0, 0].numpy()


def measure_golden(
    lab: Lab, mechanism: str = "local_linear", ridge: float | None = None
) -> Iterator[Comparison]:
    """Read the three weights beyond the keys, and follow a query past them."""
    for given, golden in GOLDEN.items():
        asked = given if ridge is None else ridge
        yield lab.near(
            f"weights of a query at 2, ridge {given:g}",
            lab.once(three_keys, 2.0, asked, mechanism),
            golden,
            tolerance=1e-8 + lab.rounding(128),
            expected=3e-9 + lab.rounding(16),
            reason="the golden numbers have eight digits",
        )
    places = np.linspace(-1.0, 2.5, 15)
    keys = np.array([[0.0], [0.5], [1.0]])
    found = np.stack(
        [lab.once(three_keys, float(x), 0.0 if ridge is None else ridge, mechanism) for x in places]
    )
    rounded = lab.rounded(torch.from_numpy(places)).numpy()
    wanted = np.stack([local_fit([x], keys, np.eye(3), 1.0, 0.0)[0] for x in rounded])
    for column, name in enumerate(("0", "1/2", "1")):
        yield lab.equal(
            f"weight of the key at {name}, ridge 0",
            found[:, column],
            wanted[:, column],
            growth=128,
            axes={"place of the query": places},
        )
    outside = (places < 0) | (places > 1)
    negative = np.asarray((found < -1e-6).any(1))
    yield lab.exact(
        "every query beyond the keys has a negative weight",
        negative[outside].tolist(),
        [True] * int(outside.sum()),
    )


def prove_golden(proof: Proof) -> None:
    """Write the weights of three keys in closed form, and count signs."""
    w = sympy.Matrix([1, sympy.exp(1), sympy.exp(2)])
    away = sympy.Matrix([-2, -sympy.Rational(3, 2), -1])
    proof.say("Keys 0, 1/2 and 1, a query at 2: weights exp(q k)", w)
    omega, mean = sum(w), (w.T * away)[0]
    square = sum(weight * x**2 for weight, x in zip(w, away, strict=True))
    for ridge, golden in GOLDEN.items():
        lam = sympy.nsimplify(ridge)
        rho = mean / (square + lam * omega)
        weights = [e * (1 - x * rho) / (omega - mean * rho) for e, x in zip(w, away, strict=True)]
        proof.equal(f"ridge {ridge:g}: they sum to 1", sympy.simplify(sum(weights)), 1)
        close = all(abs(float(a) - b) < 1e-8 for a, b in zip(weights, golden, strict=True))
        proof.true(f"and are {golden}", close)
    s1, s2, s3 = sympy.symbols("s_1:4", real=True)
    found = sympy.solve([s1 + s2 + s3 - 1, s2 / 2 + s3 - 2], [s2, s3], dict=True)[0]
    proof.equal("Weights of sum 1 and mean key 2 have the last weight", found[s3], 3 + s1)
    proof.equal("and the middle one", found[s2], -2 - 2 * s1)
    proof.true(
        "so that the first two cannot both be at least 0",
        sympy.simplify(sympy.And(s1 >= 0, -2 - 2 * s1 >= 0)) == sympy.false,
    )


register(
    Claim(
        id="local_linear.weights.negative",
        title="Beyond the keys some weight is negative: no probability over keys",
        paper=PAPER,
        place="weights of the estimator; the golden case is derived here",
        statement=r"\sum_js_j=1,\ \sum_js_jk_j=q\notin\mathrm{hull}(k)\ \Rightarrow\ \min_js_j<0;"
        r"\quad k=(0,\frac{1}{2},1),\ q=2:\ s=(-.7202,-.5595,2.2798)",
        hypotheses=("The ridge is 0 for the implication.", "The keys span the space."),
        finding="sharpened",
        found="A query outside the hull of its keys must have a negative weight, as non-negative "
        "weights of sum 1 cannot leave the hull: this is the price of extrapolation. A ridge of "
        "1 makes the three weights of the golden case positive, one of .01 does not.",
        mechanisms=("local_linear",),
        prove=prove_golden,
        measure=measure_golden,
        mutants={
            "softmax in its place": {"mechanism": "softmax"},
            "the default ridge instead of the given one": {"ridge": 0.01},
        },
    )
)


def weights_of(query: Array, key: Array, scale: float, ridge: float) -> Array:
    """Return weights (draws, keys) by the paper's sums about the query."""
    logits = scale * np.einsum("nkd,nd->nk", key, query)
    w = np.exp(logits - logits.max(1, keepdims=True))
    away = key - query[:, None]
    omega, mean = w.sum(1), np.einsum("nk,nkd->nd", w, away)
    second = np.einsum("nk,nkd,nke->nde", w, away, away)
    second += ridge * omega[:, None, None] * np.eye(key.shape[-1])
    rho = np.linalg.solve(second, mean[..., None])[..., 0]
    tilt = 1 - np.einsum("nkd,nd->nk", away, rho)
    return np.asarray(w * tilt / (omega - (mean * rho).sum(1))[:, None])


def predicted_share(lab: Lab, dim: int, ridge: float, draws: int) -> tuple[float, float]:
    """Return the share of random queries with a negative weight, and its standard error."""
    rng = lab.rng("prediction", dim, ridge)
    query, key = rng.normal(size=(draws, dim)), rng.normal(size=(draws, 12, dim))
    share = float((weights_of(query, key, 0.5, ridge) < 0).any(1).mean())
    return share, float(np.sqrt(share * (1 - share) / draws))


def measured_share(lab: Lab, dim: int, mechanism: str) -> Array:
    """Return which of 3000 queries, each with 12 keys of its own, have a negative weight."""
    draws = 3000
    query = lab.normal((draws, 1, 1, dim), "query", dim)
    key = lab.normal((draws, 1, 12, dim), "key", dim)
    identity = torch.eye(12, dtype=torch.float64).expand(draws, 1, 12, 12)
    options = {"ridge": 0.01} if mechanism == "local_linear" else {}
    found: Tensor = lab.attend(mechanism, query, key, identity, scale=0.5, **options)
    return (found[:, 0, 0] < 0).any(-1).numpy()


def measure_share(
    lab: Lab, mechanism: str = "local_linear", ridge: float = 0.01
) -> Iterator[Comparison]:
    """Count queries with a negative weight, and compare with the paper's sums on other draws."""
    dims = np.array([1, 2, 3, 4])
    hits = [lab.once(measured_share, int(dim), mechanism) for dim in dims]
    wanted = [lab.once(predicted_share, int(dim), ridge, 40000) for dim in dims]
    share = np.array([each.mean() for each in hits])
    own = np.array([p * (1 - p) / len(hits[0]) for p, _ in wanted])
    yield lab.estimate(
        "share of queries with a negative weight, 12 keys",
        share,
        np.sqrt(own + np.array([each**2 for _, each in wanted])),
        [p for p, _ in wanted],
        axes={"dimensions": dims},
    )
    golden = 0.97996  # of a million draws by the paper's sums, to .00014
    yield lab.estimate(
        "share in 4 dimensions",
        share[3],
        np.sqrt(golden * (1 - golden) / len(hits[3])),
        golden,
    )


register(
    Claim(
        id="local_linear.weights.share",
        title="Negative weights are the rule: 98 % of random queries have one in four dimensions",
        paper=PAPER,
        place="weights of the estimator; measured here",
        statement=r"P(\min_js_j<0)=.980\quad (d=4,\ n=12,\ s=\frac{1}{2},\ \lambda=.01)",
        hypotheses=("Keys and query are independent standard normal.",),
        finding="sharpened",
        found="Not a rare event beyond the keys: with twelve keys in four dimensions 98.0 % of all "
        "queries have a negative weight, and in one dimension already 46 %. Reading the weights as "
        "probabilities, for a map of attention say, is wrong for any number of dimensions.",
        mechanisms=("local_linear",),
        measure=measure_share,
        mutants={
            "softmax in its place": {"mechanism": "softmax"},
            "the share at a ridge of one": {"ridge": 1.0},
        },
    )
)
