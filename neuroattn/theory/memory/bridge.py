"""Test-time regression: which least-squares problem each mechanism solves, and how far."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

PAPER = "Wang et al. (2025), Test-time regression"


def pairs(lab: Lab) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values of one head, with more tokens than channels."""
    return tuple(lab.normal((1, 1, 16, n), name) for n, name in ((5, "q"), (5, "k"), (3, "v")))  # type: ignore[return-value]


def measure_linear(
    lab: Lab, half: float = 0.5, start: float = 0.0, steps: int = 1, mechanism: str = "linear"
) -> Iterator[Comparison]:
    """Take gradient steps on the tokens so far, by automatic differentiation."""
    query, key, value = lab.once(pairs)
    plain = {"feature_map": "identity", "normalize": False} if mechanism == "linear" else {}
    read = lab.attend(mechanism, query, key, value, causal=True, scale=1.0, **plain)[0, 0]
    wanted = []
    for count in range(1, key.shape[2] + 1):
        memory = torch.full((5, 3), start, dtype=torch.float64)
        for _ in range(steps):
            with torch.enable_grad():
                leaf = memory.clone().requires_grad_()
                error = value[0, 0, :count] - key[0, 0, :count] @ leaf
                (slope,) = torch.autograd.grad(half * error.square().sum(), leaf)
            memory = memory - slope
        wanted.append(query[0, 0, count - 1] @ memory)
    predicted = torch.stack(wanted)
    yield lab.equal("reads after every token", read, predicted, growth=16)
    yield lab.equal(
        "one channel of the read",
        read[:, 0],
        predicted[:, 0],
        growth=16,
        axes={"tokens": np.arange(1, len(read) + 1)},
    )


def prove_linear(proof: Proof) -> None:
    """Differentiate the loss of two tokens in two dimensions."""
    weights = sympy.Matrix(sympy.symbols("W_1 W_2", real=True))
    keys = [sympy.Matrix(sympy.symbols(f"k_{n}1 k_{n}2", real=True)) for n in (1, 2)]
    values = sympy.symbols("v_1 v_2", real=True)
    loss = sum((v - weights.dot(k)) ** 2 for k, v in zip(keys, values, strict=True)) / 2
    proof.say("The loss of two associations", loss)
    step = -sympy.Matrix([sympy.diff(loss, w) for w in weights])
    proof.say("One step of size 1 from W is W plus", step)
    hebb = values[0] * keys[0] + values[1] * keys[1]
    zero = dict.fromkeys(weights, 0)
    proof.equal("From W = 0 it is the sum of v k", step.subs(zero), hebb)
    gram = keys[0] * keys[0].T + keys[1] * keys[1].T
    proof.equal("from anywhere else the keys' Gram matrix enters", step, hebb - gram * weights)


register(
    Claim(
        id="memory.bridge.linear",
        title="Linear attention is one gradient step of least squares from an empty memory",
        paper=PAPER,
        place="linear attention as regression; derived here",
        statement=r"q\cdot\sum_j k_jv_j^\top=q\cdot W_1,\quad "
        r"W_1=-\nabla_W\frac{1}{2}\sum_j\|v_j-W^\top k_j\|^2\ \mathrm{at}\ W=0",
        hypotheses=("No normaliser and no feature map.", "The step is 1 and starts from W = 0."),
        finding="confirmed",
        found="Exact to rounding after every token. It holds for one step, from zero, only: the "
        "second step already sees the Gram matrix of the keys, which linear attention never does.",
        mechanisms=("linear",),
        prove=prove_linear,
        measure=measure_linear,
        mutants={
            "a loss without one half": {"half": 1.0},
            "a memory that is not empty": {"start": 0.3},
            "two steps": {"steps": 2},
            "the delta rule in its place": {"mechanism": "delta"},
        },
    )
)


def measure_mesa(lab: Lab, penalty: str = "ridge", times: float = 1.0) -> Iterator[Comparison]:
    """Solve ridge regression with numpy's least squares on augmented rows."""
    query, key, value = lab.once(pairs)
    ridges = np.array([0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0])
    found, wanted = [], []
    for ridge in ridges:
        asked = {"scale": 1.0, "ridge": float(ridge), "causal": True}
        read = lab.attend("mesa", query, key, value, **asked)[0, 0]
        solved = ridge_reads(query, key, value, float(ridge) * times, penalty)
        found.append(float(read[-1, 0]))
        wanted.append(solved[-1, 0])
        if ridge in (0.1, 1.0):
            yield lab.equal(f"reads after every token, ridge {ridge:g}", read, solved, growth=256)
    yield lab.equal(
        "one channel of the last read", found, wanted, growth=256, axes={"ridge": ridges}
    )
    large = 1e6
    limit = large * lab.attend("mesa", query, key, value, scale=1.0, ridge=large)
    options: dict[str, Any] = {"feature_map": "identity", "normalize": False, "scale": 1.0}
    linear = lab.attend("linear", query, key, value, **options)
    size = float(linear.abs().max())
    yield lab.near(
        "ridge times the read, at a ridge of a million, is linear attention",
        limit,
        linear,
        tolerance=size * (2e-4 + lab.rounding(64)),
        expected=size * 3e-5,
        reason="the next term is the Gram matrix of the keys over the ridge, some 1e-5",
    )


def ridge_reads(query: Tensor, key: Tensor, value: Tensor, ridge: float, penalty: str) -> Array:
    """Return the ridge regression on the tokens so far, read by the newest query."""
    q, k, v = (each[0, 0].numpy() for each in (query, key, value))
    rows = []
    for count in range(1, len(k) + 1):
        weight = ridge * count if penalty == "mean" else ridge
        weight = 0.0 if penalty == "none" else weight
        left = np.concatenate([k[:count], weight**0.5 * np.eye(k.shape[1])])
        right = np.concatenate([v[:count], np.zeros((k.shape[1], v.shape[1]))])
        rows.append(q[count - 1] @ np.linalg.lstsq(left, right, rcond=None)[0])
    return np.array(rows)


def prove_mesa(proof: Proof) -> None:
    """Check the recursion of recursive least squares on two dimensions."""
    k = sympy.Matrix(sympy.symbols("k_1 k_2", real=True))
    v, a, c = sympy.symbols("v a c", positive=True)
    b = sympy.Symbol("b", real=True)
    inverse = sympy.Matrix([[a, b], [b, c]])
    weights = sympy.Matrix(sympy.symbols("w_1 w_2", real=True))
    proof.say("P is the inverse of the Gram matrix plus ridge before a token", inverse)
    gain = inverse * k / (1 + (k.T * inverse * k)[0])
    after = inverse - gain * (k.T * inverse)
    identity = (after * (inverse.inv() + k * k.T)).applyfunc(sympy.simplify)
    proof.equal("Sherman and Morrison: P - g k^T P inverts it after", identity, sympy.eye(2))
    updated = weights + gain * (v - (k.T * weights)[0])
    moment = inverse.inv() * weights + v * k
    solved = (after * moment - updated).applyfunc(sympy.simplify)
    proof.equal("so that w + g (v - k w) solves the normal equations", solved, sympy.zeros(2, 1))


register(
    Claim(
        id="memory.bridge.mesa",
        title="The mesa layer is ridge regression, and recursive least squares computes it",
        paper=PAPER,
        place="recursive least squares; derived here",
        statement=r"W_t=\left(\sum_{j\leq t}k_jk_j^\top+\lambda I\right)^{-1}\sum_{j\leq t}"
        r"k_jv_j^\top=\mathrm{argmin}_W\ \sum_{j\leq t}\|v_j-W^\top k_j\|^2+\lambda\|W\|^2",
        hypotheses=(
            "The ridge is above 0, is not divided by the number of tokens and not forgotten.",
        ),
        finding="confirmed",
        found="All three forms (solving, blocks by Woodbury's formula, recursive least squares) "
        "equal numpy's least squares. A large ridge brings linear attention back: the same "
        "problem, one step deep.",
        mechanisms=("mesa", "linear"),
        prove=prove_mesa,
        measure=measure_mesa,
        mutants={
            "the ridge of a mean instead of a sum": {"penalty": "mean"},
            "no ridge": {"penalty": "none"},
            "the ridge of a loss with one half": {"times": 2.0},
        },
    )
)
