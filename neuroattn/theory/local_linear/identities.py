"""What the weights of local linear attention reproduce, and what they tend to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.local_linear.plane import PAPER, SCALE, local_fit, parts, scene


def moments(lab: Lab, ridge: float, mechanism: str) -> Array:
    """Return the sum of weights and their mean key, (queries, 1 + dim)."""
    query, key, _ = lab.once(scene)
    counted = torch.cat([torch.ones_like(key[..., :1]), key], dim=-1)
    options = {"ridge": ridge} if mechanism == "local_linear" else {}
    found = lab.attend(mechanism, query, key, counted, scale=SCALE, **options)
    return found[0, 0].numpy()


def missed(lab: Lab, ridge: float) -> Array:
    """Return by what the mean key misses the query: ridge (Cov + ridge)^-1 (mean key - query)."""
    p = lab.once(parts, 0.0)
    own = p["own"] + ridge * np.eye(3)
    return ridge * np.linalg.solve(own, p["offset"][..., None])[..., 0]


def measure_moments(
    lab: Lab, miss: Callable[[Lab, float], Array] = missed, mechanism: str = "local_linear"
) -> Iterator[Comparison]:
    """Read ones and the keys themselves, over the ridge."""
    query = lab.once(scene)[0][0, 0].numpy()
    ridges = np.array([0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0])
    found = np.stack([lab.once(moments, float(each), mechanism) for each in ridges])
    yield lab.equal("sum of the weights, at any ridge", found[..., 0], 1.0, growth=128)
    wanted = np.stack([miss(lab, float(each)) for each in ridges])
    off = found[..., 1:] - query
    size = float(np.abs(query).max() + np.abs(found).max())
    yield lab.equal("mean key minus query", off, wanted, growth=128, scale=size)
    yield lab.equal(
        "first channel of the mean key minus the query's",
        off[1:, 0, 0],
        wanted[1:, 0, 0],
        growth=128,
        scale=size,
        axes={"ridge": ridges[1:]},
    )


register(
    Claim(
        id="local_linear.weights.moments",
        title="The weights sum to one, and without a ridge their mean key is the query",
        paper=PAPER,
        place="properties of the weights; derived here",
        statement=r"\sum_j s_j=1,\quad \sum_j s_j(k_j-q)=\lambda(\mathrm{Cov}_w(k)+\lambda I)^{-1}"
        r"(\bar k_w-q)",
        hypotheses=("At ridge 0 the keys that are seen span the space.",),
        finding="sharpened",
        found="The sum is 1 at every ridge. The mean key is the query at ridge 0 only; with one it "
        "stays behind, towards the mean of softmax, by the stated amount: along a direction in "
        "which the keys spread with variance c, by the share ridge/(c + ridge).",
        mechanisms=("local_linear", "softmax"),
        measure=measure_moments,
        mutants={
            "the mean key is the query at any ridge": {
                "miss": lambda lab, ridge: 0 * missed(lab, ridge)
            },
            "shrunk by ridge / (1 + ridge)": {
                "miss": lambda lab, ridge: parts(lab, 0.0)["offset"] * ridge / (1 + ridge)
            },
            "softmax in its place": {"mechanism": "softmax"},
        },
    )
)


def measure_affine(
    lab: Lab, mechanism: str = "local_linear", ridge: float = 0.0
) -> Iterator[Comparison]:
    """Move a query away from the keys along a ray, and read an affine function."""
    _, key, _ = lab.once(scene)
    weight = lab.keys("sphere", (2, 3), "weight").T
    places = np.linspace(-1, 4, 11)
    query = lab.rounded(torch.from_numpy(places)[:, None] * weight[:, 0])[None, None]
    value = lab.rounded(key @ weight + 1.0)
    options = {"ridge": ridge} if mechanism == "local_linear" else {}
    # Few units of scale: far out all weight would be on one key, whose covariance is rounding.
    found = lab.attend(mechanism, query, key, value, scale=0.25, **options)[0, 0]
    wanted = (query @ weight + 1.0)[0, 0]
    yield lab.equal(
        "an affine function of the keys",
        found,
        wanted,
        growth=256,
        reason="a covariance of weights on few keys is inverted",
    )
    yield lab.equal(
        "one channel along a ray",
        found[:, 0],
        wanted[:, 0],
        growth=256,
        reason="a covariance of weights on few keys is inverted",
        axes={"place on the ray": places},
    )
    soft = lab.attend("softmax", query, key, value, scale=0.25)[0, 0]
    hull = [float(value[0, 0, :, c].max()) for c in range(2)]
    low = [float(value[0, 0, :, c].min()) for c in range(2)]
    yield lab.at_most("softmax stays below the largest value", soft, hull, slack=lab.rounding(64))
    yield lab.at_least("and above the smallest", soft, low, slack=lab.rounding(64))
    beyond = float((soft[-1, 0] - wanted[-1, 0]).abs())
    yield lab.at_least("its error at the end of the ray", beyond, 0.5)


register(
    Claim(
        id="local_linear.weights.affine",
        title="Affine functions are read exactly, inside and outside of the keys",
        paper=PAPER,
        place="local linear regression; derived here",
        statement=r"v_j=a+Bk_j\ \mathrm{for\ all}\ j\ \Rightarrow\ o(q)=a+Bq\quad (\lambda=0)",
        hypotheses=("The ridge is 0, and the keys span the space.",),
        finding="confirmed",
        found="Exact to the conditioning of the keys, also far outside of them, where softmax "
        "stays within the range of its values and errs by any amount. A ridge ends it.",
        mechanisms=("local_linear", "softmax"),
        measure=measure_affine,
        mutants={
            "softmax does so as well": {"mechanism": "softmax"},
            "at the default ridge, too": {"ridge": 0.01},
        },
    )
)


def read_at(lab: Lab, ridge: float, scale: float) -> Array:
    """Return the reads of the scene at a ridge and a scale."""
    query, key, value = lab.once(scene)
    found = lab.attend("local_linear", query, key, value, scale=scale, ridge=ridge)
    return found[0, 0].numpy()


def measure_large_ridge(lab: Lab, power: float = 1.0, sign: float = 1.0) -> Iterator[Comparison]:
    """Subtract softmax from the reads at large ridges."""
    p = lab.once(parts, 0.0)
    first = -sign * np.einsum("id,idv->iv", p["offset"], p["cross"])
    ridges = np.array([10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0])
    apart = [lab.once(read_at, float(each), SCALE)[0, 0] - p["softmax"][0, 0] for each in ridges]
    wanted = first[0, 0] / ridges**power
    size = float(np.abs(p["softmax"]).max())
    spread = float(np.abs(p["own"]).sum(-1).max())
    off = np.linalg.norm(p["offset"][0]) * np.linalg.norm(p["cross"][0][:, 0])
    yield lab.near(
        "read minus softmax, one channel",
        np.array(apart),
        wanted,
        tolerance=off * spread / ridges**2 + lab.rounding(16) * size,
        expected=float((off * spread / ridges**2).max()) / 3,
        reason="the next term is the covariance of the keys over the ridge, squared",
        axes={"ridge": ridges},
    )
    yield lab.near(
        "reads at a ridge of a billion are softmax",
        lab.once(read_at, 1e9, SCALE),
        p["softmax"],
        tolerance=5e-8 + lab.rounding(16) * size,
        expected=5e-9,
        reason="the first term over a billion",
    )


register(
    Claim(
        id="local_linear.limit.softmax",
        title="A large ridge makes it softmax, at the rate of one over the ridge",
        paper=PAPER,
        place="interpolation of linear and softmax attention (abstract); the rate is derived here",
        statement=r"o=o_{\mathrm{softmax}}-\frac{1}{\lambda}\mathrm{Cov}_w(v,k)(\bar k_w-q)"
        r"+O(\lambda^{-2})",
        hypotheses=("The scale stays as it is.",),
        finding="sharpened",
        found="The limit is softmax with the same scale; the distance falls as 1/ridge with the "
        "stated constant, once the ridge exceeds the spread of the keys.",
        mechanisms=("local_linear", "softmax"),
        measure=measure_large_ridge,
        mutants={
            "the distance falls with the root of the ridge": {"power": 0.5},
            "it falls with the square of the ridge": {"power": 2.0},
            "from the other side": {"sign": -1.0},
        },
    )
)


def fitted(lab: Lab, ridge: float, scale: float) -> Array:
    """Return the heights of weighted planes at the queries of the scene."""
    query, key, value = (each[0, 0].numpy() for each in lab.once(scene))
    return np.stack([local_fit(asked, key, value, scale, ridge)[0] for asked in query])


def ordinary(lab: Lab, intercept: bool) -> Array:
    """Return ordinary least squares on all keys, read at the queries."""
    query, key, value = (each[0, 0].numpy() for each in lab.once(scene))
    one = np.ones((len(key), 1 if intercept else 0))
    found = np.linalg.lstsq(np.concatenate([one, key], axis=1), value, rcond=None)[0]
    return np.asarray(np.concatenate([one[: len(query)], query], axis=1) @ found)


def measure_no_scale(
    lab: Lab, intercept: bool = True, scale: float = 0.0, ridge: float = 0.0
) -> Iterator[Comparison]:
    """Compare scale 0 with one regression on all keys; follow the scale there."""
    found = lab.once(read_at, ridge, scale)
    yield lab.equal("reads at scale 0 and ridge 0", found, ordinary(lab, intercept), growth=256)
    scales = np.array([0.0, 0.05, 0.1, 0.2, 0.4, 0.8])
    yield lab.equal(
        "one channel of a read on the way there",
        [lab.once(read_at, 0.1, float(each))[0, 0] for each in scales],
        [fitted(lab, 0.1 + ridge, float(each))[0, 0] for each in scales],
        growth=128,
        axes={"scale": scales},
    )
    query, key, value = lab.once(scene)
    flat = lab.attend("local_linear", query, key, value, scale=0.0, ridge=ridge)
    middle = lab.rounded((query[:, :, :1] + query[:, :, 1:2]) / 2)
    half: Tensor = lab.attend("local_linear", middle, key, value, scale=0.0, ridge=ridge)
    yield lab.equal(
        "a query half-way between two reads what is half-way",
        half[0, 0, 0],
        (flat[0, 0, 0] + flat[0, 0, 1]) / 2,
        growth=256,
    )


register(
    Claim(
        id="local_linear.limit.least-squares",
        title="Without scale it is ordinary least squares with an intercept",
        paper=PAPER,
        place="interpolation of linear and softmax attention (abstract); derived here",
        statement=r"s=\lambda=0:\quad o(q)=\hat a+\hat Bq,\quad (\hat a,\hat B)="
        r"\mathrm{argmin}\sum_j\|v_j-a-Bk_j\|^2",
        hypotheses=("All keys weigh the same; they span the space.",),
        finding="sharpened",
        found="One plane for all queries: the linear end of the interpolation is least squares "
        "with an intercept, not linear attention, which is one gradient step towards it and has "
        "no intercept (memory.bridge.linear).",
        mechanisms=("local_linear",),
        measure=measure_no_scale,
        mutants={
            "least squares without an intercept": {"intercept": False},
            "at the default scale": {"scale": 3**-0.5},
            "at the default ridge": {"ridge": 0.01},
        },
    )
)
