"""Normalisers that leave mass over: affine-scaled attention, softmax_1 and learned sinks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

TOKENS, DIM = 24, 8


def matrix(lab: Lab, name: str, query: Tensor, key: Tensor, **given: Any) -> Tensor:
    """Return the weights (batch, heads, queries, keys) that a mechanism reads values 1 with."""
    eye = torch.eye(key.shape[-2], dtype=torch.float64).expand(*key.shape[:2], -1, -1)
    return lab.attend(name, query, key, eye, **given)


def affine(lab: Lab, normalizer: str, causal: bool) -> tuple[Tensor, Tensor]:
    """Return affine-scaled weights and the softmax weights beside them, for gains 0..1."""
    query, key = (lab.normal((1, 2, TOKENS, DIM), name) for name in ("query", "key"))
    gain = torch.linspace(0, 1, TOKENS, dtype=torch.float64).expand(1, 2, -1)
    average = torch.tensor([0.5, 0.25], dtype=torch.float64)
    given = {"gain": gain, "gain_average": average, "normalizer": normalizer, "causal": causal}
    found = matrix(lab, "affine_scaled", query, key, scale=1.0, **given)
    return found, matrix(lab, "softmax", query, key, scale=1.0, causal=causal)


def measure_affine(
    lab: Lab, visible: str = "visible", counted: str = "visible"
) -> Iterator[Comparison]:
    """Sum the rows under a causal mask, with both readings of N, and count negative weights."""
    gain = np.linspace(0, 1, TOKENS)
    rows = np.arange(1, TOKENS + 1)
    axes = {"row (gain rises from 0 to 1)": rows}
    for head, average in ((0, 0.5), (1, 0.25)):
        found = lab.once(affine, visible, True)[0][0, head].sum(-1)
        yield lab.equal(f"row sums, N = visible keys, average {average}", found, average, axes=axes)
        published = lab.once(affine, "all", True)[0][0, head].sum(-1)
        seen = rows if counted == "visible" else TOKENS
        yield lab.equal(
            f"row sums, N = all keys, average {average}",
            published,
            gain + (average - gain) * seen / TOKENS,
            axes=axes,
        )
        weights, convex = (each[0, head] for each in lab.once(affine, visible, False))
        with np.errstate(divide="ignore"):
            threshold = (gain - average) / (gain * TOKENS)
        yield lab.exact(
            f"which weights are negative, average {average}",
            weights < 0,
            convex < torch.from_numpy(threshold)[:, None],
        )
        yield lab.at_least(
            f"share of negative weights where the gain is above {average}",
            float((weights[gain > average] < 0).double().mean()),
            0.1,
        )


def prove_affine(proof: Proof) -> None:
    """Sum a row of three visible keys among four."""
    gain, average, keys = sympy.symbols("g gbar N", positive=True)
    logits = sympy.symbols("x1:4", real=True)
    total = sum(sympy.exp(x) for x in logits)
    weights = [gain * sympy.exp(x) / total + (average - gain) / keys for x in logits]
    summed = sympy.simplify(sum(weights))
    proof.equal("Three visible keys: the row sums to", summed, gain + 3 * (average - gain) / keys)
    proof.equal("N = 3 visible keys", summed.subs(keys, 3), average)
    proof.equal("N = 4 keys in all", summed.subs(keys, 4), (gain + 3 * average) / 4)
    p = sympy.symbols("p", positive=True)
    edge = sympy.solve(gain * p + (average - gain) / keys, p)[0]
    proof.equal(
        "A weight is negative where the softmax is below", edge, (gain - average) / (gain * keys)
    )


def offset(lab: Lab, name: str, sink: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights with a sink, those of softmax, and the logits, over a range of loudness."""
    loud = torch.linspace(0.0, 3.0, 13, dtype=torch.float64)[None, None, :, None]
    query = lab.rounded(loud * lab.normal((1, 1, 1, DIM), "asked"))
    key = lab.normal((1, 1, TOKENS, DIM), "keys")
    given = {"sink_logit": sink} if name == "sink" else {}
    found = matrix(lab, name, query, key, scale=1.0, **given)[0, 0]
    convex = matrix(lab, "softmax", query, key, scale=1.0)[0, 0]
    return found, convex, (query @ key.mT)[0, 0]


def gate_of_sum(logits: Tensor, sink: float) -> Tensor:
    """Return σ(log-sum-exp of the logits - sink), the mass that softmax keeps beside a sink."""
    return (logits.logsumexp(-1) - sink).sigmoid()


def measure_offset(
    lab: Lab, gate: Callable[[Tensor, float], Tensor] = gate_of_sum
) -> Iterator[Comparison]:
    """Compare softmax_one and sink with softmax times a sigmoid of the log-sum-exp."""
    for name, sink in (("softmax_one", 0.0), ("sink", -1.5), ("sink", 4.0)):
        found, convex, logits = lab.once(offset, name, sink)
        said = name if name == "softmax_one" else f"sink at {sink}"
        yield lab.equal(f"weights of {said}", found, gate(logits, sink)[:, None] * convex)
        yield lab.equal(
            f"row sums of {said}",
            found.sum(-1),
            gate(logits, sink),
            axes={"size of the query": np.linspace(0.0, 3.0, 13)},
        )


def prove_offset(proof: Proof) -> None:
    """Divide both sides of the fraction."""
    sink = sympy.symbols("s", real=True)
    logits = sympy.symbols("x1:4", real=True)
    total = sum(sympy.exp(x) for x in logits)
    log_sum = sympy.log(total)
    gate = 1 / (1 + sympy.exp(-(log_sum - sink)))
    for place, x in enumerate(logits, 1):
        proof.equal(
            f"Weight {place} of three keys and a sink is softmax times sigma(LSE - s)",
            sympy.exp(x) / (sympy.exp(sink) + total),
            gate * sympy.exp(x) / total,
        )
    one = sympy.exp(logits[0]) / (1 + total)
    proof.equal(
        "softmax_1 is the sink at 0", (gate * sympy.exp(logits[0]) / total).subs(sink, 0), one
    )
    proof.equal("A sink at -infinity is softmax", sympy.limit(gate, sink, -sympy.oo), 1)


register(
    Claim(
        id="normalization.affine.row-sums",
        title="Affine-scaled rows sum to the gain's average only if N counts the visible keys",
        paper="Bae et al. (2026), Affine-scaled attention",
        place="definition of the bias beta = (alpha_ma - alpha)/N; row sums derived here",
        statement=r"\sum_j w_{ij} = \bar g\ (N = i), \quad g_i + (\bar g - g_i)\frac{i}{L}"
        r"\ (N = L); \quad w_{ij} < 0 \Leftrightarrow \alpha_{ij} < \frac{g_i-\bar g}{g_i N}",
        hypotheses=("Row i of a causal read sees i of L keys.", "Gains lie within 0 and 1."),
        finding="sharpened",
        found="With N the full length, as published, the early rows of a causal read sum to their "
        "own gain instead of the average. Where the gain exceeds its average weights are negative, "
        "and a gain of 0 is a uniform read, not a head that is off.",
        mechanisms=("affine_scaled", "softmax"),
        prove=prove_affine,
        measure=measure_affine,
        mutants={
            "N = all keys taken for the visible ones": {"visible": "all"},
            "all keys summed in every row": {"counted": "all"},
        },
    )
)
register(
    Claim(
        id="normalization.offset.sink",
        title="A sink in the denominator gates softmax by its log-sum-exp",
        paper="Miller (2023), Attention is off by one",
        place="softmax_1; the identity as stated in Bae et al. (2026); sinks derived here",
        statement=r"\frac{e^{x_i}}{e^s+\sum_j e^{x_j}} = \sigma(\mathrm{LSE}(x)-s)"
        r"\,\mathrm{softmax}_i(x)",
        hypotheses=("The sink's value is zero; softmax_1 is s = 0.",),
        finding="confirmed",
        found="Exact, for every size of the query: the sink is a gate that opens when any key "
        "matches, with s as its threshold.",
        mechanisms=("softmax_one", "sink", "softmax"),
        prove=prove_offset,
        measure=measure_offset,
        mutants={
            "a gate by the largest logit": {
                "gate": lambda logits, sink: (logits.amax(-1) - sink).sigmoid()
            },
            "the sink added outside of the exponential": {
                "gate": lambda logits, sink: (
                    logits.exp().sum(-1) / (sink + 1 + logits.exp().sum(-1))
                )
            },
            "the sink's sign": {"gate": lambda logits, sink: gate_of_sum(logits, -sink)},
        },
    )
)
