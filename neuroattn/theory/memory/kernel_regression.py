"""Softmax attention is a local constant: Nadaraya and Watson's kernel regression."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import sympy
from torch import Tensor

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.memory.bridge import PAPER
from neuroattn.theory.proof import Proof


def on_sphere(lab: Lab) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries of any length, keys of unit length and values."""
    key = lab.keys("sphere", (1, 1, 24, 4), "key")
    return lab.normal((1, 1, 10, 4), "query"), key, lab.normal((1, 1, 24, 3), "value")


def smoothed(query: Tensor, key: Tensor, value: Tensor, bandwidth: float, scale: float) -> Array:
    """Return the constants that fit the values best, weighted by a Gaussian of the distance."""
    q, k, v = (each[0, 0].numpy() for each in (query, key, value))
    rows = []
    for asked in q:
        weight = np.exp(-np.square(asked - k).sum(-1) / (2 * bandwidth**2) * scale)[:, None]
        rows.append(np.linalg.lstsq(weight**0.5, weight**0.5 * v, rcond=None)[0][0])
    return np.array(rows)


def measure_kernel(
    lab: Lab, keys: str = "unit", scale: float = 1.0, mechanism: str = "softmax"
) -> Iterator[Comparison]:
    """Fit a weighted constant around every query, with numpy's least squares."""
    query, key, value = lab.once(on_sphere)
    if keys == "any":
        key = lab.rounded(key * (1 + lab.normal((1, 1, 24, 1), "length").abs()))
    widths = np.array([0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 4.0])
    found, wanted = [], []
    for width in widths:
        read = lab.attend(mechanism, query, key, value, scale=float(width**-2))[0, 0]
        fitted = smoothed(query, key, value, float(width), scale)
        found.append(float(read[0, 0]))
        wanted.append(fitted[0, 0])
        if width in (0.5, 2.0):
            # A logit of 20 loses some 20 roundings.
            yield lab.equal(f"reads at bandwidth {width:g}", read, fitted, growth=128)
    yield lab.equal(
        "one channel of a read", found, wanted, growth=128, axes={"bandwidth h": widths}
    )


def prove_kernel(proof: Proof) -> None:
    """Minimise the weighted squares, and turn distances into products."""
    b = sympy.Symbol("b", real=True)
    values = sympy.symbols("v_1:4", real=True)
    weights = sympy.symbols("w_1:4", positive=True)
    loss = sum(w * (v - b) ** 2 for w, v in zip(weights, values, strict=True))
    best = sympy.solve(sympy.diff(loss, b), b)[0]
    mean = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    proof.equal("The constant of least weighted squares is the weighted mean", best, mean)
    q = sympy.Matrix(sympy.symbols("q_1 q_2", real=True))
    k = sympy.Matrix(sympy.symbols("k_1 k_2", real=True))
    h = sympy.Symbol("h", positive=True)
    exponent = -(q - k).dot(q - k) / (2 * h**2)
    parts = q.dot(k) / h**2 - q.dot(q) / (2 * h**2) - k.dot(k) / (2 * h**2)
    proof.equal("The logarithm of a Gaussian of the distance", exponent, parts)
    rest = sympy.expand(exponent - q.dot(k) / h**2).subs(k[1] ** 2, 1 - k[0] ** 2)
    proof.equal(
        "For unit keys all but the product is the same for every key",
        rest,
        -(q.dot(q) + 1) / (2 * h**2),
    )


register(
    Claim(
        id="memory.bridge.softmax",
        title="Softmax attention fits a constant around each query: Nadaraya-Watson regression",
        paper=PAPER,
        place="softmax as local constant regression; derived here",
        statement=r"y(q)=\mathrm{argmin}_b\ \sum_j e^{-\|q-k_j\|^2/2h^2}\|v_j-b\|^2,\quad "
        r"s=\frac{1}{h^2}",
        hypotheses=("All keys have one length; queries may have any.",),
        finding="sharpened",
        found="Exact to rounding for keys of one length, with the bandwidth one over the square "
        "root of the scale. Keys of different lengths carry a prior: each is weighted by "
        "exp(s |k|^2 / 2) besides its distance, so that long keys attract.",
        mechanisms=("softmax",),
        prove=prove_kernel,
        measure=measure_kernel,
        mutants={
            "keys of any length": {"keys": "any"},
            "a kernel exp(-|q - k|^2 / h^2)": {"scale": 2.0},
            "a local line instead of a constant": {"mechanism": "local_linear"},
        },
    )
)
