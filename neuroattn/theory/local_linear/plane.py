"""Local linear attention reads a weighted plane: a ridge regression around every query."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import sympy
from numpy.typing import ArrayLike
from torch import Tensor

from neuroattn.errors import InputError
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

PAPER = "Zuo et al. (2026), Local linear attention"
SCALE = 0.7
#: The ways in which the chunked form finds its slope.
SOLVERS: dict[str, dict[str, Any]] = {
    "direct": {"solver": "direct"},
    "conjugate gradients": {"solver": "conjugate gradients", "iterations": 64, "tolerance": 0.0},
}


def local_fit(
    query: ArrayLike, keys: ArrayLike, values: ArrayLike, scale: float = 1.0, ridge: float = 0.0
) -> tuple[Array, Array]:
    """Return the plane that fits values best near a query: its height there and its slope.

    ``argmin over b, G of sum_j w_j |v_j - b - G (k_j - q)|^2 + ridge sum(w) |G|^2`` with ``w_j =
    exp(scale q . k_j)``, by numpy's least squares; of all that fit alike, the flattest.

    Parameters
    ----------
    query : array (dim,)
    keys : array (keys, dim)
        At least one.
    values : array (keys, value_dim)
    scale : float
        On the products.
    ridge : float
        At least 0; the height is not penalised.

    Returns
    -------
    height : array (value_dim,)
    slope : array (dim, value_dim)

    Raises
    ------
    InputError
        If shapes do not fit, or ``ridge`` is below 0.

    References
    ----------
    Zuo et al. (2026), arXiv 2510.01450.
    """
    asked, key, value = (np.asarray(x, dtype=float) for x in (query, keys, values))
    fits = key.ndim == value.ndim == 2 and asked.shape == key.shape[1:]
    if not fits or len(key) != len(value) or not len(key):
        raise InputError(
            f"query of shape {asked.shape}, keys {key.shape}, values {value.shape}; needed are "
            "(dim,), (keys, dim), (keys, value_dim) with at least one key."
        )
    if not ridge >= 0:
        raise InputError(f"ridge={ridge!r} must be at least 0.")
    return solved_plane(asked, key, value, scale, [0.0, *[ridge] * key.shape[1]])


def solved_plane(
    query: Array, key: Array, value: Array, scale: float, penalties: Any
) -> tuple[Array, Array]:
    """Return height and slope under a penalty for the height and one for every slope."""
    logits = scale * key @ query
    root = np.sqrt(np.exp(logits - logits.max()))[:, None]
    root /= np.sqrt((root**2).sum())
    rows = np.concatenate([np.ones((len(key), 1)), key - query], axis=1)
    left = np.concatenate([root * rows, np.diag(np.sqrt(penalties))])
    right = np.concatenate([root * value, np.zeros((rows.shape[1], value.shape[1]))])
    found = np.linalg.lstsq(left, right, rcond=None)[0]
    return found[0], found[1:]


def scene(lab: Lab) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values of one head in three dimensions."""
    shapes = {"query": (1, 1, 14, 3), "key": (1, 1, 14, 3), "value": (1, 1, 14, 2)}
    query, key, value = (lab.normal(shape, name) for name, shape in shapes.items())
    return query, key, value


def read(lab: Lab, ridge: float, solver: str, causal: bool, mechanism: str) -> Array:
    """Return what the mechanism reads of the scene, (queries, value_dim)."""
    options = {"ridge": ridge, **SOLVERS[solver]} if mechanism == "local_linear" else {}
    found = lab.attend(mechanism, *lab.once(scene), causal=causal, scale=SCALE, **options)
    return found[0, 0].numpy()


def heights(lab: Lab, ridge: float, penalty: str, causal: bool) -> Array:
    """Return the heights of the fitted planes at the queries."""
    query, key, value = (each[0, 0].numpy() for each in lab.once(scene))
    rows = []
    for place, asked in enumerate(query):
        seen = place + 1 if causal else len(key)
        near, there = key[:seen], value[:seen]
        logits = SCALE * near @ asked
        # Without the sum of weights, here relative to the largest, in the penalty.
        share = ridge / np.exp(logits - logits.max()).sum() if penalty == "alone" else ridge
        penalties = [ridge if penalty == "height too" else 0.0, *[share] * key.shape[1]]
        rows.append(solved_plane(asked, near, there, SCALE, penalties)[0])
    return np.array(rows)


def measure_intercept(
    lab: Lab, penalty: str = "slope", mechanism: str = "local_linear"
) -> Iterator[Comparison]:
    """Compare both solvers with numpy's least squares, over the ridge."""
    ridges = np.array([0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0])
    found = [lab.once(read, float(each), "direct", False, mechanism) for each in ridges]
    wanted = [lab.once(heights, float(each), penalty, False) for each in ridges]
    yield lab.equal("all reads", found, wanted, growth=128)
    yield lab.equal(
        "one channel of a read",
        [each[0, 0] for each in found],
        [each[0, 0] for each in wanted],
        growth=128,
        axes={"ridge": ridges},
    )
    # The chunked form solves or iterates; that it agrees with the parallel one is checked anyhow.
    for solver in SOLVERS:
        yield lab.equal(
            f"causal reads, from one key on, {solver}",
            lab.once(read, 0.1, solver, True, mechanism),
            lab.once(heights, 0.1, penalty, True),
            growth=128,
        )


def prove_intercept(proof: Proof) -> None:
    """Solve three keys in one dimension with a symbolic ridge, and compare with the definition."""
    lam = sympy.Symbol("lambda", positive=True)
    weights = sympy.symbols("w_1:4", positive=True)
    away = sympy.symbols("x_1:4", real=True)
    values = sympy.symbols("v_1:4", real=True)
    b, slope = sympy.symbols("b G", real=True)
    terms = list(zip(weights, away, values, strict=True))
    total = sum(weights)
    loss = sum(w * (v - b - slope * x) ** 2 for w, x, v in terms) + lam * total * slope**2
    proof.say("With x = k - q, minimise over the height b and the slope G", loss)
    mean, square = sum(w * x for w, x, _ in terms), sum(w * x**2 for w, x, _ in terms)
    zeroth, first = sum(w * v for w, _, v in terms), sum(w * x * v for w, x, v in terms)
    size = square + lam * total
    slopes = sympy.Matrix([sympy.diff(loss, each) / 2 for each in (b, slope)])
    normal = sympy.Matrix([[total, mean], [mean, size]])
    wanted = normal * sympy.Matrix([b, slope]) - sympy.Matrix([zeroth, first])
    proof.equal("Its slopes vanish where the normal equations hold", slopes, wanted)
    bottom = sympy.expand(normal.det())
    top = zeroth * size - mean * first
    proof.say("By Cramer's rule the height b is the quotient of", top)
    proof.say("and", bottom)
    # The paper's numerator and denominator, both times what its slope is divided by.
    above = sum(w * (size - x * mean) * v for w, x, v in terms)
    proof.equal(
        "sum w (1 - x rho) v with rho = mean/size has, times size, this numerator", above, top
    )
    below = total * size - mean * mean
    proof.equal("and omega - mean rho this denominator", below, bottom)
    pairs = [(i, j) for i in range(3) for j in range(i)]
    cross, own = (
        sum(weights[i] * weights[j] * (away[i] - away[j]) * (e[i] - e[j]) for i, j in pairs)
        for e in (values, away)
    )
    proof.say("total^2 times the covariance of keys and values is", cross)
    corrected = zeroth * (own + lam * total**2) - cross * mean
    proof.equal("Softmax minus the correction has the same numerator", corrected, total * top)
    proof.equal("and denominator", own + lam * total**2, bottom)
    ones, lines = dict.fromkeys(values, 1), dict(zip(values, away, strict=True))
    proof.equal("Equal values are read as they are: the weights sum to 1", top.subs(ones), bottom)
    left = top.subs(lines)
    proof.equal(
        "The mean key misses the query by a multiple of the ridge", left, lam * total * mean
    )
    proof.equal("which is nothing without ridge", left.subs(lam, 0).expand(), 0)


register(
    Claim(
        id="local_linear.plane.intercept",
        title="Local linear attention is the height of a ridge regression with a free intercept",
        paper=PAPER,
        place="definition of the estimator; derived here",
        statement=r"o=\hat b,\quad (\hat b,\hat G)=\mathrm{argmin}\ \sum_j w_j\|v_j-b-G(k_j-q)\|^2"
        r"+\lambda\omega\|G\|^2,\quad \omega=\sum_j w_j,\ w_j=e^{s\,q\cdot k_j}",
        hypotheses=("The ridge is above 0, or the keys that are seen span the space.",),
        finding="confirmed",
        found="Both solvers, and causal rows from a single key on, equal numpy's least squares. "
        "The penalty is on the slope alone and multiplied by the sum of the weights: without that "
        "factor the ridge would mean something else for every query.",
        mechanisms=("local_linear",),
        prove=prove_intercept,
        measure=measure_intercept,
        mutants={
            "a ridge that is not multiplied by the sum of weights": {"penalty": "alone"},
            "a ridge on the height, too": {"penalty": "height too"},
            "softmax in its place": {"mechanism": "softmax"},
        },
    )
)


def parts(lab: Lab, distance: float) -> dict[str, Array]:
    """Return softmax means and covariances of the scene's keys for queries moved along a ray."""
    query, key, value = lab.once(scene)
    query = moved(lab, distance)
    share = lab.weights("softmax", query, key, scale=SCALE)[0, 0].numpy()
    k, v, q = key[0, 0].numpy(), value[0, 0].numpy(), query[0, 0].numpy()
    mean, read = share @ k, share @ v
    away = k[None] - mean[:, None]
    cross = np.einsum("ij,ijd,jv->idv", share, away, v)
    own = np.einsum("ij,ijd,ije->ide", share, away, away)
    return {"softmax": read, "cross": cross, "own": own, "offset": mean - q}


def moved(lab: Lab, distance: float) -> Tensor:
    """Return the queries, moved along the diagonal."""
    return lab.rounded(lab.once(scene)[0] + distance / 3**0.5)


def measure_correction(
    lab: Lab, sign: float = 1.0, centre: bool = True, ridge: float = 0.05
) -> Iterator[Comparison]:
    """Take softmax, and subtract what the slope of values over keys adds up to."""
    _, key, value = lab.once(scene)
    distances = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
    found, wanted = [], []
    for distance in distances:
        asked = {"scale": SCALE, "ridge": 0.05}
        query = moved(lab, float(distance))
        got = lab.attend("local_linear", query, key, value, **asked)[0, 0].numpy()
        p = lab.once(parts, float(distance))
        own = p["own"] + ridge * np.eye(3)
        if not centre:
            own = own + p["offset"][:, :, None] * p["offset"][:, None, :]
        slope = np.linalg.solve(own, p["offset"][..., None])[..., 0]
        expected = p["softmax"] - sign * np.einsum("id,idv->iv", slope, p["cross"])
        found.append(got)
        wanted.append(expected)
    yield lab.equal("all reads", found, wanted, growth=128)
    yield lab.equal(
        "one channel of a read",
        [each[0, 0] for each in found],
        [each[0, 0] for each in wanted],
        growth=128,
        axes={"distance that the query moved": distances},
    )


register(
    Claim(
        id="local_linear.plane.correction",
        title="Local linear attention is softmax minus the slope times how far the mean key is off",
        paper=PAPER,
        place="relation to softmax; derived here",
        statement=r"o=o_{\mathrm{softmax}}-\mathrm{Cov}_w(v,k)\,(\mathrm{Cov}_w(k)+\lambda I)^{-1}"
        r"(\bar k_w-q)",
        hypotheses=("Means and covariances are under the softmax weights of the query.",),
        finding="confirmed",
        found="Exact to rounding, for queries among the keys and far from them. Softmax is biased "
        "by what lies between the query and the mean of the keys that it attends to; the "
        "correction removes that to first order. The covariance is about that mean: the paper's "
        "own second moment about the query gives another slope, see local_linear.slope.parallax.",
        mechanisms=("local_linear", "softmax"),
        measure=measure_correction,
        mutants={
            "the correction is added": {"sign": -1.0},
            "second moments about the query": {"centre": False},
            "another ridge": {"ridge": 0.5},
        },
    )
)
