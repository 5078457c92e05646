"""Titans' chunk in closed form, and what freezing the gradient at the chunk's start costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from neuroattn.errors import InputError
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

PAPER = "Behrouz, Zhong & Mirrokni (2024), Titans: learning to memorize at test time"
Coefficients = tuple[float, float, Array]


def titans_coefficients(forget: ArrayLike, momentum: ArrayLike, step: ArrayLike) -> Coefficients:
    r"""Return what is left of memory, momentum and every gradient after a chunk.

    ``M_T = b M_0 + f S_0 - sum_j g_j U_j`` solves ``S_t = eta_t S_{t-1} - theta_t U_t``,
    ``M_t = (1 - alpha_t) M_{t-1} + S_t`` when the gradients ``U_t`` do not depend on ``M_t``.

    Parameters
    ----------
    forget, momentum : array (tokens,)
        alpha and eta of the paper, from 0 to 1.
    step : array (tokens,)
        theta of the paper, at least 0.

    Returns
    -------
    b, f : float
    g : array (tokens,)

    Raises
    ------
    InputError
        If they are not vectors of one length, at least 1, or are out of their range.

    References
    ----------
    Behrouz et al. (2024), section 3.2, arXiv 2501.00663; the coefficients are derived here.
    """
    given = {"forget": forget, "momentum": momentum, "step": step}
    rows = {name: np.asarray(each, dtype=float) for name, each in given.items()}
    shapes = {name: each.shape for name, each in rows.items()}
    if len(set(shapes.values())) != 1 or rows["step"].ndim != 1 or not rows["step"].size:
        raise InputError(f"shapes {shapes} must be one vector's, of at least one token.")
    for name, each in rows.items():
        highest = np.inf if name == "step" else 1.0
        if not bool(np.all((each >= 0) & (each <= highest))):
            raise InputError(f"{name}={each.tolist()} must be from 0 to {highest:g}.")
    kept = 1 - rows["forget"]
    left = np.append(np.cumprod(kept[:0:-1])[::-1], 1.0)
    # What one unit of momentum at token j adds to the last memory, by Horner's rule.
    unit = left.copy()
    for token in range(len(left) - 2, -1, -1):
        unit[token] += rows["momentum"][token + 1] * unit[token + 1]
    return float(kept.prod()), float(rows["momentum"][0] * unit[0]), rows["step"] * unit


def chunk_of(lab: Lab) -> dict[str, Tensor]:
    """Return a chunk of 24 tokens for two heads, with gates and an initial state."""
    heads, tokens, dim, width = 2, 24, 5, 3
    rng = lab.rng("gates")
    ranges = {"forget": (0.0, 0.2), "momentum": (0.3, 0.95), "step": (0.05, 0.5)}
    gates = {
        name: lab.rounded(torch.from_numpy(rng.uniform(low, high, (1, heads, tokens))))
        for name, (low, high) in ranges.items()
    }
    return {
        "query": lab.normal((1, heads, tokens, dim), "query"),
        "key": lab.keys("sphere", (1, heads, tokens, dim), "key"),
        "value": lab.normal((1, heads, tokens, width), "value"),
        "memory": lab.normal((1, heads, dim, width), "memory"),
        "momentum_before": lab.normal((1, heads, dim, width), "momentum"),
        **gates,
    }


def run_chunk(lab: Lab, gradient: str, factor: float) -> tuple[Tensor, Tensor]:
    """Return the causal reads and the last memory of the mechanism."""
    x = lab.once(chunk_of)
    reads, state = lab.attend_state(
        "titans",
        x["query"],
        x["key"],
        x["value"],
        causal=True,
        scale=1.0,
        beta=factor * x["step"],
        alpha=1 - x["forget"],
        momentum=x["momentum"],
        gradient=gradient,
        chunk_size=32,
        normalize_keys=False,
        initial_state={"memory": x["memory"], "momentum": x["momentum_before"]},
    )
    return reads, state["memory"]


def measure_closed_form(
    lab: Lab,
    coefficients: Callable[..., Coefficients] = titans_coefficients,
    gradient: str = "chunk start",
    factor: float = 2.0,
) -> Iterator[Comparison]:
    """Compare the mechanism with the sum over gradients, after every token of a chunk."""
    x = {name: each.numpy()[0] for name, each in lab.once(chunk_of).items()}
    reads, memory = lab.once(run_chunk, gradient, factor)
    heads, tokens = x["step"].shape
    predicted, last = np.zeros(reads.shape[1:]), np.zeros(memory.shape[1:])
    for head in range(heads):
        start, key = x["memory"][head], x["key"][head]
        slopes = 2 * key[:, :, None] * (key @ start - x["value"][head])[:, None, :]
        for token in range(tokens):
            gates = (x[name][head, : token + 1] for name in ("forget", "momentum", "step"))
            b, f, g = coefficients(*gates)
            last[head] = b * start + f * x["momentum_before"][head]
            last[head] -= np.tensordot(g, slopes[: token + 1], 1)
            predicted[head, token] = x["query"][head, token] @ last[head]
    yield lab.equal("memory after the chunk", memory[0], last, growth=16)
    yield lab.equal("reads after every token", reads[0], predicted, growth=16)
    yield lab.equal(
        "one channel of the read",
        reads[0, 0, :, 0],
        predicted[0, :, 0],
        growth=16,
        axes={"tokens of the chunk": np.arange(1, tokens + 1)},
    )


def without_initial_momentum(*gates: ArrayLike) -> Coefficients:
    """Drop the momentum that a chunk inherits."""
    b, _, g = titans_coefficients(*gates)
    return b, 0.0, g


def momentum_too_early(forget: Any, momentum: Any, step: Any) -> Coefficients:
    """Multiply a gradient by the momentum of its own token, too."""
    b, f, g = titans_coefficients(forget, momentum, step)
    return b, f, g * np.asarray(momentum)


def prove_closed_form(proof: Proof) -> None:
    """Unroll two tokens."""
    memory, moving, first, second = sympy.symbols("M_0 S_0 U_1 U_2")
    a1, a2, e1, e2, t1, t2 = sympy.symbols("alpha_1 alpha_2 eta_1 eta_2 theta_1 theta_2")
    s1 = e1 * moving - t1 * first
    m1 = (1 - a1) * memory + s1
    proof.say("After the first token the memory is", m1)
    s2 = e2 * s1 - t2 * second
    m2 = sympy.expand((1 - a2) * m1 + s2)
    proof.say("After the second it is", m2)
    b1, b2 = 1 - a1, (1 - a1) * (1 - a2)
    f = (b2 / b1) * e1 + e1 * e2
    g1, g2 = (b2 / b1) * t1 + t1 * e2, t2
    closed = b2 * memory + f * moving - g1 * first - g2 * second
    proof.equal("The closed form at T = 2", m2, closed)
    proof.equal("The initial momentum keeps the weight f", sympy.diff(m2, moving), f)
    proof.equal("The first gradient has the weight -g_1", sympy.diff(m2, first), -g1)


register(
    Claim(
        id="memory.titans.closed-form",
        title="A chunk of Titans is one weighted sum of gradients, and of the initial momentum",
        paper=PAPER,
        place="section 3.2, parallel training; the coefficients are derived here",
        statement=r"M_T=\beta_T M_0+f_T S_0-\sum_j g_j U_j,\quad "
        r"f_T=\sum_i\frac{\beta_T}{\beta_i}\prod_{k\leq i}\eta_k,\quad "
        r"g_j=\theta_j\sum_{i\geq j}\frac{\beta_T}{\beta_i}\prod_{k=j+1}^{i}\eta_k",
        hypotheses=(
            "All gradients U_j of |M k - v|^2 are taken at the memory M_0 before the chunk.",
            "The memory is linear; forgetting, momentum and step may differ at every token.",
        ),
        finding="sharpened",
        found="Exact to rounding. The momentum S_0 that a chunk inherits enters through f_T: an "
        "implementation that starts every chunk with no momentum is another mechanism. In "
        "terms of the registry beta = 2 theta (its loss has a half) and alpha = 1 - alpha_t.",
        mechanisms=("titans",),
        prove=prove_closed_form,
        measure=measure_closed_form,
        mutants={
            "the chunk's initial momentum is dropped": {"coefficients": without_initial_momentum},
            "the token's own momentum multiplies its gradient": {
                "coefficients": momentum_too_early
            },
            "the gradient of a loss with one half": {"factor": 1.0},
            "gradients of the memory before each token": {"gradient": "each token"},
        },
    )
)
