"""The delta rule is stochastic gradient descent, Longhorn its implicit step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import sympy
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from neuroattn.errors import InputError
from neuroattn.theory.arguments import check_whole
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.memory.bridge import PAPER, pairs
from neuroattn.theory.proof import Proof


def descent_error(steps: ArrayLike, dim: int, beta: float = 1.0) -> Array:
    """Return the share of a linear task that the delta rule has still to learn.

    ``E|W_t - W*|^2 / |W*|^2`` after so many unit keys of independent, uniform directions whose
    values are ``W* k``.

    Parameters
    ----------
    steps : int or array of int
        Tokens, at least 0.
    dim : int
        Of the keys, at least 1.
    beta : float
        Write strength, from 0 to 2.

    Raises
    ------
    InputError
        If one is out of its range.
    """
    count = np.asarray(steps)
    if not np.issubdtype(count.dtype, np.integer) or not bool(np.all(count >= 0)):
        raise InputError(f"steps={steps!r} must be whole numbers of at least 0.")
    check_whole("dim", dim, 1)
    if not 0 <= beta <= 2:
        raise InputError(f"beta={beta!r} must be from 0 to 2.")
    return np.asarray((1 - beta * (2 - beta) / dim) ** count)


def learned(lab: Lab, mechanism: str, beta: float) -> Array:
    """Return (draws, tokens) squared errors of random tasks, relative to the first."""
    draws, tokens, dim = 3000, 24, 8
    key = lab.keys("sphere", (draws, 1, tokens, dim), "key")
    query = lab.normal((draws, 1, tokens, dim), "query")
    task = lab.normal((draws, 1, dim, 1), "task")
    options = {"feature_map": "identity", "normalize": False} if mechanism == "linear" else {}
    strength = {"beta": beta} if mechanism == "delta" else {}
    given = {"causal": True, "scale": 1.0, **strength, **options}
    read = lab.attend(mechanism, query, key, lab.rounded(key @ task), **given)
    # The expectation of |q W - q W*|^2 is |W - W*|^2, and that of |W*|^2 is dim.
    return ((read - query @ task).square()[:, 0, :, 0] / dim).numpy()


def stepped(key: Tensor, value: Tensor, beta: float, half: float) -> Tensor:
    """Return the memory after stochastic gradient descent, by automatic differentiation."""
    memory = torch.zeros(key.shape[-1], value.shape[-1], dtype=torch.float64)
    for k, v in zip(key[0, 0], value[0, 0], strict=True):
        with torch.enable_grad():
            leaf = memory.clone().requires_grad_()
            (slope,) = torch.autograd.grad(half * (v - k @ leaf).square().sum(), leaf)
        memory = memory - beta * slope
    return memory


def proximal(key: Tensor, value: Tensor, beta: float) -> Array:
    """Return the memory after minimising |W - W'|^2 + beta |v - W k|^2 at every token."""
    memory = np.zeros((key.shape[-1], value.shape[-1]))
    for k, v in zip(key[0, 0].numpy(), value[0, 0].numpy(), strict=True):
        left = np.concatenate([np.eye(len(k)), beta**0.5 * k[None]])
        right = np.concatenate([memory, beta**0.5 * v[None]])
        memory = np.linalg.lstsq(left, right, rcond=None)[0]
    return memory


def measure_descent(
    lab: Lab,
    half: float = 0.5,
    error: Callable[..., Array] = descent_error,
    mechanism: str = "delta",
    implicit: str = "longhorn",
) -> Iterator[Comparison]:
    """Compare with the steps one by one, and with the learning curve of random tasks."""
    _, key, value = lab.once(pairs)
    key = lab.rounded(key / 4)
    state = lab.attend_state("delta", key, key, value, beta=0.7, scale=1.0, normalize_keys=False)[1]
    wanted = stepped(key, value, 0.7, half)
    yield lab.equal("memory after 16 steps of descent", state["memory"][0, 0], wanted, growth=16)
    plain = {"normalize_keys": False} if implicit == "delta" else {}
    state = lab.attend_state(implicit, key, key, value, beta=0.7, scale=1.0, **plain)[1]
    closest = proximal(key, value, 0.7)
    yield lab.equal("memory after 16 implicit steps", state["memory"][0, 0], closest, growth=32)
    for beta in (1.0, 0.5):
        drawn = lab.once(learned, mechanism, beta)
        tokens = np.arange(1, drawn.shape[1] + 1)
        yield lab.mean(
            f"what is left of a linear task in 8 dimensions, beta = {beta:g}",
            drawn,
            error(tokens, 8, beta),
            axes={"tokens": tokens},
        )


def prove_descent(proof: Proof) -> None:
    """Derive the explicit and the implicit step, and the factor by which the task shrinks."""
    beta, d = sympy.symbols("beta d", positive=True)
    k = sympy.Matrix(sympy.symbols("k_1 k_2", real=True))
    w = sympy.Matrix(sympy.symbols("w_1 w_2", real=True))
    u = sympy.Matrix(sympy.symbols("u_1 u_2", real=True))
    v = sympy.Symbol("v", real=True)
    loss = (v - w.dot(k)) ** 2 / 2
    step = w - beta * sympy.Matrix([sympy.diff(loss, each) for each in w])
    proof.equal("A step on one token's loss is the delta rule", step, w + beta * (v - w.dot(k)) * k)
    objective = (u - w).dot(u - w) / 2 + beta * (v - u.dot(k)) ** 2 / 2
    solution = sympy.solve([sympy.diff(objective, each) for each in u], list(u), dict=True)[0]
    shrunk = beta / (1 + beta * k.dot(k))
    implicit = w + shrunk * (v - w.dot(k)) * k
    found = u.subs(solution)
    proof.equal("The implicit step divides beta by 1 + beta |k|^2", found, implicit)
    angle = sympy.Symbol("phi", real=True)
    unit = sympy.Matrix([sympy.cos(angle), sympy.sin(angle)])
    once = sympy.eye(2) - beta * unit * unit.T
    turned = (once * once).applyfunc(
        lambda each: sympy.integrate(sympy.expand(each), (angle, 0, 2 * sympy.pi)) / (2 * sympy.pi)
    )
    shrunk = (1 - beta * (2 - beta) / 2) * sympy.eye(2)
    proof.equal(
        "Over unit keys on the circle the squared error shrinks, on average, by", turned, shrunk
    )
    mean = ((d - 1) + (1 - beta) ** 2) / d
    proof.equal(
        "In d directions only the one along the key shrinks, by (1 - beta)^2",
        mean,
        1 - beta * (2 - beta) / d,
    )


register(
    Claim(
        id="memory.bridge.delta",
        title="The delta rule is stochastic gradient descent, and Longhorn its implicit step",
        paper=PAPER,
        place="delta rule as online regression; Miras, table of models; the curve is derived here",
        statement=r"W_t=W_{t-1}-\beta\nabla\frac{1}{2}\|v_t-W^\top k_t\|^2,\quad "
        r"\frac{E\|W_t-W^*\|^2}{\|W^*\|^2}=\left(1-\frac{\beta(2-\beta)}{d}\right)^t",
        hypotheses=(
            "For the learning curve: unit keys of independent uniform directions, values W* k "
            "without noise, an empty memory at first.",
        ),
        finding="sharpened",
        found="Exact to rounding; the implicit step (Longhorn) has the write strength beta / (1 + "
        "beta |k|^2). The largest step that recalls the newest value, beta = 1, is also the "
        "fastest on average, and still needs some d tokens to learn e-fold: ridge regression "
        "(mesa) needs d tokens to learn all.",
        mechanisms=("delta", "longhorn"),
        prove=prove_descent,
        measure=measure_descent,
        mutants={
            "a loss without one half": {"half": 1.0},
            "every token removes beta/d, without the overshoot": {
                "error": lambda t, d, beta: (1 - 2 * beta / d) ** t
            },
            "linear attention in its place": {"mechanism": "linear"},
            "an explicit step in place of the implicit one": {"implicit": "delta"},
        },
    )
)
