"""Attention without a normaliser over the row: what relu and sigmoid weights sum to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch
from scipy.special import expit

from neuroattn.errors import InputError
from neuroattn.names import check_name
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

KEYS = (2, 8, 32, 128, 512)


def expected_row_sum(keys: Any, mechanism: str, spread: float = 1.0) -> Any:
    """Return what a row of relu or sigmoid attention sums to on average, for Gaussian logits.

    Parameters
    ----------
    keys : int or array
        Number n of visible keys, at least 1.
    mechanism : {"relu_attention", "sigmoid_attention"}
        With relu / n, or a sigmoid of the logit less log n.
    spread : float
        Standard deviation of the logits, above 0 and at most 30.

    Returns
    -------
    float or array
        spread / sqrt(2 pi) for relu. n E σ(z - log n) for sigmoid, which tends to e^(spread²/2).

    Raises
    ------
    InputError
        If ``keys`` is below 1 or ``spread`` outside its range.

    References
    ----------
    For Wortsman et al. (2023), arXiv 2309.08586, and Ramapuram et al. (2024), arXiv 2409.04431;
    derived here.
    """
    check_name("mechanism", mechanism, ("relu_attention", "sigmoid_attention"))
    keys = np.asarray(keys, dtype=float)
    if not np.all(keys >= 1):
        raise InputError(f"keys={keys!r} must be at least 1.")
    if not (0 < spread <= 30):
        raise InputError(f"spread={spread!r} must be above 0 and at most 30.")
    if mechanism == "relu_attention":
        found = np.full(keys.shape, spread / math.sqrt(2 * math.pi))
    else:
        # Between the logit's bulk and its turn at log n: 20001 even steps of a smooth function.
        place = np.linspace(-12.0, 12.0, 20001)
        mass = np.exp(-(place**2) / 2) / math.sqrt(2 * math.pi) * (place[1] - place[0])
        found = keys * (expit(spread * place - np.log(keys)[..., None]) @ mass)
    return found if np.ndim(found) else float(found)


def row_sums(lab: Lab, mechanism: str, keys: int) -> np.ndarray[Any, Any]:
    """Return (draws,) row sums of one query each; logits are standard normal."""
    draws, dim = 4000, 4
    query = lab.keys("sphere", (draws, 1, 1, dim), "query", mechanism, keys)
    key = lab.normal((draws, 1, keys, dim), "key", mechanism, keys)
    ones = torch.ones(draws, 1, keys, 1, dtype=torch.float64)
    read = lab.attend(mechanism, query, key, ones, scale=1.0)
    found: np.ndarray[Any, Any] = read.flatten().numpy()
    return found


def measure_sums(
    lab: Lab, formula: Callable[[Any, str], Any] = expected_row_sum
) -> Iterator[Comparison]:
    """Average row sums over Gaussian logits, as the number of keys grows."""
    for mechanism in ("relu_attention", "sigmoid_attention"):
        drawn = [lab.once(row_sums, mechanism, keys) for keys in KEYS]
        yield lab.mean(
            f"row sum of {mechanism}",
            np.stack(drawn, axis=1),
            formula(np.array(KEYS), mechanism),
            axes={"keys": KEYS},
        )
    nothing = torch.zeros(1, 1, 1, 4, dtype=torch.float64)
    key, ones = lab.normal((1, 1, 32, 4), "any"), torch.ones(1, 1, 32, 1, dtype=torch.float64)
    quiet = [
        lab.attend(name, nothing, key, ones).item()
        for name in ("softmax", "sigmoid_attention", "relu_attention")
    ]
    yield lab.equal("row sums at logits of 0: softmax, sigmoid, relu", quiet, [1.0, 32 / 33, 0.0])


def prove_sums(proof: Proof) -> None:
    """Integrate the weights over a normal logit."""
    z, s, n = sympy.symbols("z s n", positive=True)
    normal = sympy.exp(-(z**2) / (2 * s**2)) / (sympy.sqrt(2 * sympy.pi) * s)
    relu = sympy.integrate(z * normal, (z, 0, sympy.oo))
    proof.equal("E relu(z) of a normal logit, whatever n", relu, s / sympy.sqrt(2 * sympy.pi))
    sigmoid = n / (1 + sympy.exp(-z) * n)
    proof.equal(
        "n sigma(z - log n) tends to e^z as n grows",
        sympy.limit(sigmoid, n, sympy.oo),
        sympy.exp(z),
    )
    x = sympy.symbols("x", real=True)
    proof.equal(
        "so that rows sum to E e^z; the square in its exponent is completed as",
        x - x**2 / (2 * s**2),
        s**2 / 2 - (x - s**2) ** 2 / (2 * s**2),
    )
    shifted = sympy.integrate(
        sympy.exp(-(x**2) / (2 * s**2)) / (sympy.sqrt(2 * sympy.pi) * s), (x, -sympy.oo, sympy.oo)
    )
    proof.equal(
        "and the shifted normal law integrates to 1: e^(s^2/2)",
        shifted * sympy.exp(s**2 / 2),
        sympy.exp(s**2 / 2),
    )
    proof.equal("At logits of 0 they sum to n/(n+1)", sigmoid.subs(z, 0), n / (1 + n))


register(
    Claim(
        id="normalization.elementwise.row-sums",
        title="Rows of relu and sigmoid attention do not sum to one",
        paper="Wortsman et al. (2023), Replacing softmax with ReLU in vision transformers; "
        "Ramapuram et al. (2024), Theory, analysis, and best practices for sigmoid self-attention",
        place="the divisor n and the bias -log n; the sums are derived here",
        statement=r"E\sum_j \frac{\mathrm{relu}(z_j)}{n} = \frac{s}{\sqrt{2\pi}}, \quad"
        r" E\sum_j \sigma(z_j - \log n) \to e^{s^2/2}",
        hypotheses=("Logits are independent normals of standard deviation s.",),
        finding="sharpened",
        found="Both choices keep the sum of order one as n grows. Logits of unit variance give "
        ".399 (relu) and, for many keys, 1.65 (sigmoid): only at logits of 0 is the sigmoid's sum "
        "n/(n+1), and there the relu reads nothing.",
        mechanisms=("relu_attention", "sigmoid_attention", "softmax"),
        prove=prove_sums,
        measure=measure_sums,
        mutants={
            "rows that sum to one": {"formula": lambda n, name: np.ones(len(n))},
            "the limit e^(1/2) at any n": {
                "formula": lambda n, name: expected_row_sum(1e12 * np.ones(len(n)), name)
            },
            "half-normal mean for the relu": {
                "formula": lambda n, name: (
                    expected_row_sum(n, name) * (2 if name == "relu_attention" else 1)
                )
            },
        },
    )
)
