"""Titans with a memory of two layers: gradients of the loss, and no closed form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.memory.titans_chunk import PAPER
from neuroattn.theory.proof import Proof


def deep_tokens(lab: Lab) -> dict[str, Tensor]:
    """Return a short sequence with gates, and the two layers before it."""
    tokens, dim, hidden, width = 10, 5, 7, 3
    gate = lab.rng("gates").uniform
    draws = {"beta": (0.05, 0.3), "alpha": (0.8, 1.0), "momentum": (0.3, 0.9)}
    return {
        "query": lab.normal((1, 1, tokens, dim), "query"),
        "key": lab.keys("sphere", (1, 1, tokens, dim), "key"),
        "value": lab.normal((1, 1, tokens, width), "value"),
        "first": lab.normal((1, dim, hidden), "first"),
        "second": lab.rounded(lab.normal((1, hidden, width), "second") / hidden**0.5),
        **{
            name: lab.rounded(torch.from_numpy(gate(low, high, (1, 1, tokens))))
            for name, (low, high) in draws.items()
        },
    }


def answer(asked: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return what the memory of the paper says: two layers with a GELU between them."""
    hidden = asked @ first
    return (hidden * (1 + torch.erf(hidden / 2**0.5)) / 2) @ second


def descended(x: dict[str, Tensor], factor: float, order: str) -> Tensor:
    """Return the reads of gradient descent with momentum, by automatic differentiation."""
    layers = [x["first"][0].clone(), x["second"][0].clone()]
    moving = [torch.zeros_like(each) for each in layers]
    reads = []
    for token in range(x["key"].shape[2]):
        key, value, query = (x[name][0, 0, token] for name in ("key", "value", "query"))
        beta, alpha, eta = (x[name][0, 0, token] for name in ("beta", "alpha", "momentum"))
        with torch.enable_grad():
            leaves = [each.clone().requires_grad_() for each in layers]
            loss = (answer(key, *leaves) - value).square().sum()
            slopes = torch.autograd.grad(loss, leaves)
        # theta of the paper is beta / 2 of the registry.
        theta = factor * beta
        moving = [eta * m - theta * g for m, g in zip(moving, slopes, strict=True)]
        if order == "decay after":
            layers = [alpha * (w + m) for w, m in zip(layers, moving, strict=True)]
        else:
            layers = [alpha * w + m for w, m in zip(layers, moving, strict=True)]
        reads.append(answer(query, *layers))
    return torch.stack(reads)


def measure_deep(
    lab: Lab, factor: float = 0.5, order: str = "decay before", deep: str = "titans_mlp"
) -> Iterator[Comparison]:
    """Compare with automatic differentiation; double the values and see what the reads do."""
    x = lab.once(deep_tokens)
    names = ("first", "second", "beta", "alpha", "momentum")
    given: dict[str, Any] = {name: x[name] for name in names}
    tokens = (x["query"], x["key"], x["value"])
    read = lab.attend("titans_mlp", *tokens, causal=True, scale=1.0, **given)[0, 0]
    wanted = descended(x, factor, order)
    yield lab.equal("reads after every token", read, wanted, growth=64)
    yield lab.equal(
        "one channel of the read",
        read[:, 0],
        wanted[:, 0],
        growth=64,
        axes={"tokens": np.arange(1, len(read) + 1)},
    )
    # A memory whose read is affine in the values lies on the chord between two sets of them.
    for name, law in (("titans", "affine"), (deep, "curved")):
        arguments = given if name == "titans_mlp" else {k: given[k] for k in names[2:]}
        query, key, value = tokens
        ends = [
            lab.attend(name, query, key, each, causal=True, scale=1.0, **arguments)
            for each in (0 * value, value, value / 2)
        ]
        bend = (ends[2] - (ends[0] + ends[1]) / 2).abs().max() / ends[1].abs().max()
        if law == "affine":
            yield lab.equal("bend of the read in the values, linear memory", bend, 0.0, growth=16)
        else:
            yield lab.at_least("bend of the read in the values, two layers", bend, 0.001)


def prove_deep(proof: Proof) -> None:
    """Write one step for one hidden unit with the activation x^2, and see the bend."""
    v, w, u, k, theta = sympy.symbols("v w u k theta", positive=True)
    loss = (u * (w * k) ** 2 - v) ** 2
    after_w = w - theta * sympy.diff(loss, w)
    after_u = u - theta * sympy.diff(loss, u)
    proof.say("One step on u (w k)^2, the smallest memory of two layers, moves w to", after_w)
    read = sympy.expand(after_u * (after_w * k) ** 2)
    cubic = sympy.Poly(read, v).coeff_monomial(v**3)
    proof.equal(
        "What it then reads is cubic in the value", cubic, 32 * k**8 * theta**3 * u**2 * w**4
    )
    linear = w - theta * sympy.diff((w * k - v) ** 2, w)
    proof.equal(
        "One layer reads an affine function of the value",
        linear * k,
        w * k * (1 - 2 * theta * k**2) + 2 * theta * k**2 * v,
    )
    proof.equal("without bend", sympy.diff(linear * k, v, 2), 0)


register(
    Claim(
        id="memory.titans.deep",
        title="A memory of two layers descends its loss, and reads no weighted sum of values",
        paper=PAPER,
        place="equations 13 and 14 with a deep memory; the second part is derived here",
        statement=r"S_t=\eta_tS_{t-1}-\theta_t\nabla\|M_{t-1}(k_t)-v_t\|^2,\quad "
        r"M_t=(1-\alpha_t)M_{t-1}+S_t,\quad y_t=M_t(q_t)",
        hypotheses=(
            "M(x) = W_2^T gelu(W_1^T x); all weights share forgetting, momentum and step.",
            "The read is a forward pass without update, after the token is written.",
        ),
        finding="sharpened",
        found="The registered memory is the paper's update to rounding. Its reads bend in the "
        "values, so that neither attention weights nor the closed form of a chunk exist for it: "
        "in the paper's parallel training freezing the gradient is the only way.",
        mechanisms=("titans_mlp", "titans"),
        prove=prove_deep,
        measure=measure_deep,
        mutants={
            "theta taken for twice itself": {"factor": 1.0},
            "the step is decayed with the memory": {"order": "decay after"},
            "a linear memory bends as well": {"deep": "titans"},
        },
    )
)
