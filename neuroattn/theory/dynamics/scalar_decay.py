"""Claim S2: linear attention is SSD is S6 with scalar A, and where each condition is needed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.dynamics.recurrence import IDENTITY
from neuroattn.theory.dynamics.simulation import PAPER, gate
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

TOKENS, DIM, WIDTH, RATE = 32, 5, 4, 0.5


def tokens_of(lab: Lab) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return c, b, u and the steps Δ."""
    query, key = (lab.normal((1, 2, TOKENS, DIM), name) for name in ("query", "key"))
    value = lab.normal((1, 2, TOKENS, WIDTH), "value")
    return query, key, value, gate(lab, 0.05, 0.6, "step", shape=(1, 2, TOKENS))


def measure_equal(
    lab: Lab, before: int = 0, tied: bool = True, vector: bool = False, normalize: bool = False
) -> Iterator[Comparison]:
    """Run SSD, S6 with one step and rate, and linear attention with the normaliser ∏ 1/a."""
    query, key, value, step = tokens_of(lab)
    kept = lab.rounded((-RATE * step).exp())
    eta = (1 / kept).cumprod(2).roll(before, 2)[..., None]
    gates = step if tied else torch.ones_like(step)
    reads = lab.attend("ssd", query, key, value, causal=True, alpha=kept, beta=step)
    steps = step[..., None].expand(*step.shape, WIDTH)
    if vector:
        steps = lab.rounded(steps * gate(lab, 0.5, 1.5, "vector", shape=(1, 2, TOKENS, WIDTH)))
    yield lab.equal(
        "S6 with one step a token and one rate = SSD",
        lab.attend("s6", query, key, value, causal=True, step=steps, rate=RATE),
        reads,
        reason="the retention is rounded before it is handed over",
    )
    written = lab.rounded(gates[..., None] * eta * key)
    ways = {**IDENTITY, "normalize": normalize}
    yield lab.equal(
        "linear attention of ψ = Δηb, φ = c, divided by η = ∏ 1/a = SSD",
        lab.attend("linear", query, written, value, causal=True, **ways) / eta,
        reads,
        reason="keys are rounded once more",
    )
    growing = gate(lab, 0, 0.3, "growth", shape=(1, 2, TOKENS)).cumsum(2).roll(-before, 2).exp()
    ratio = torch.cat([torch.ones_like(growing[..., :1]), growing[..., :-1] / growing[..., 1:]], -1)
    asked = lab.rounded(query / growing[..., None])
    if not before:
        yield lab.equal(
            "attention with a growing normaliser = SSD with a = η_(i-1)/η_i and gate 1/η_i",
            lab.attend("linear", asked, key, value, causal=True, **IDENTITY),
            lab.attend("ssd", query, key, value, causal=True, alpha=ratio, beta=1 / growing),
            reason="gates and queries are rounded once more",
        )


def prove_equal(proof: Proof) -> None:
    """S2 for three tokens of one channel, both ways."""
    a, step, b, c, u = (
        sympy.symbols(f"{name}1:4", positive=True) for name in ("a", "Delta", "b", "c", "u")
    )
    state, total, eta = sympy.Integer(0), sympy.Integer(0), sympy.Integer(1)
    for i in range(3):
        eta = eta / a[i]
        state = a[i] * state + step[i] * b[i] * u[i]
        total = total + step[i] * eta * b[i] * u[i]
        proof.equal(
            f"Token {i + 1}: SSD's read is linear attention's, divided by η = ∏ 1/a",
            c[i] * state,
            c[i] * total / eta,
        )
    norm = sympy.symbols("eta1:4", positive=True)
    state, total = sympy.Integer(0), sympy.Integer(0)
    for i in range(3):
        kept = norm[i - 1] / norm[i] if i else sympy.Integer(0)
        state = kept * state + b[i] * u[i] / norm[i]
        total = total + b[i] * u[i]
    proof.equal(
        "Conversely, an SSD with a = η_(i-1)/η_i and gate 1/η_i reads the normalised sum",
        c[2] * state,
        c[2] * total / norm[2],
    )


def measure_apart(
    lab: Lab, vector: bool = True, untied: bool = True, own: bool = True
) -> Iterator[Comparison]:
    """Break each condition, and find the difference that theory says."""
    query, key, value, step = tokens_of(lab)
    # Without negative entries no product of query and key is near zero, to divide by.
    yield from _vector_steps(lab, query.abs(), key.abs(), step, vector)
    kept, free = lab.rounded((-RATE * step).exp()), gate(lab, 0.5, 2, "gate", shape=step.shape)
    reads = lab.attend("ssd", query, key, value, causal=True, alpha=kept, beta=free)
    steps = step[..., None].expand(*step.shape, WIDTH)
    ways = {"causal": True, "step": steps, "rate": RATE}
    tied = lab.attend("s6", query, key, value, **ways)
    yield lab.at_least(
        "untied gate: relative distance of SSD from S6 with the same keys",
        float((reads - tied).norm() / reads.norm()),
        0.1,
    )
    fitted = key * (free / step)[..., None] if untied else key
    yield lab.equal(
        "untied gate: S6 with keys scaled by β/Δ = SSD",
        lab.attend("s6", query, lab.rounded(fitted), value, **ways),
        reads,
        reason="keys and retentions are rounded once more",
    )
    yield from _own_normaliser(lab, value, step, own)


def _vector_steps(
    lab: Lab, query: Tensor, key: Tensor, step: Tensor, vector: bool
) -> Iterator[Comparison]:
    """Compare how two channels read one and the same value."""
    ratios = np.linspace(1, 4, 7)
    steps = step[..., None] * (torch.as_tensor(ratios) if vector else torch.ones(7))
    steps = lab.rounded(steps.double())
    first = torch.zeros(1, 2, TOKENS, 7, dtype=torch.float64)
    first[:, :, 0] = 1
    read = lab.attend("s6", query, key, first, causal=True, step=steps, rate=RATE)
    last = 4
    size = (query[:, :, last] * key[:, :, 0]).sum(-1, keepdim=True)
    whole = (-RATE * steps[:, :, 1 : last + 1].sum(2)).exp() * steps[:, :, 0] * size
    scalar = lab.attend(
        "ssd", query, key, first, causal=True, alpha=(-RATE * step).exp(), beta=step
    )
    wanted = (
        torch.as_tensor(ratios)
        * (-RATE * step[:, :, 1 : last + 1].sum(2))[..., None]
        .mul(torch.as_tensor(ratios - 1))
        .exp()
    )
    yield lab.equal(
        "vector step: the first token's weight in a channel over SSD's",
        (read / scalar)[0, 0, last],
        wanted[0, 0],
        growth=256.0,
        reason="a quotient of two reads whose retentions are rounded at every token",
        axes={"step of the channel over the head's": ratios},
    )
    yield lab.equal("vector step: closed form of the read", read[:, :, last], whole)


def _own_normaliser(lab: Lab, value: Tensor, step: Tensor, own: bool) -> Iterator[Comparison]:
    """Compare second differences in one key: SSD's read is affine in a key, a mean is not."""
    query, key = (lab.normal((1, 2, TOKENS, DIM), name, "+").abs() for name in ("query", "key"))
    push = torch.zeros_like(key)
    push[:, :, 0] = 10.0
    key = lab.rounded(key)
    kept = lab.rounded((-RATE * step).exp())

    def second(read: list[Tensor]) -> Tensor:
        return (read[2] - 2 * read[1] + read[0])[:, :, -1]

    moved = [lab.rounded(key + times * push) for times in range(3)]
    ssd = [lab.attend("ssd", query, each, value, causal=True, alpha=kept) for each in moved]
    yield lab.equal(
        "second difference of SSD's read in one key",
        second(ssd),
        torch.zeros_like(ssd[0][:, :, -1]),
        scale=float(ssd[2].abs().max()),
    )
    ways = {"causal": True, "feature_map": "identity", "normalize": own}
    usual = [lab.attend("linear", query, each, value, **ways) for each in moved]
    sums = [(query[:, :, -1:] @ each.mT)[:, :, 0] for each in moved]
    means = [(w[..., None] * value).sum(2) / w.sum(-1, keepdim=True) for w in sums]
    yield lab.equal(
        "second difference of the normalised read in one key",
        second(usual),
        means[2] - 2 * means[1] + means[0],
        scale=float(usual[2].abs().max()),
    )
    yield lab.at_least(
        "that is not zero: relative size",
        float((means[2] - 2 * means[1] + means[0]).norm() / means[0].norm()),
        0.01,
    )


register(
    Claim(
        id="dynamics.equivalence.scalar-decay",
        title="Linear attention, SSD and S6 with a scalar A are one mechanism",
        paper=PAPER,
        place="linear attention and SSD in the paper's comparison; derived here",
        statement=r"a_i=e^{-\Delta_iA},\quad \eta_i=\prod_{j\leq i}\frac{1}{a_j},\quad "
        r"\psi_i=\Delta_i\eta_ib_i,\quad \phi_i=c_i",
        hypotheses=(
            "The step is one number a token, the rate one number a head.",
            "The normaliser depends on the tokens, not on the query, and does not decrease.",
            "No retention is zero.",
        ),
        finding="confirmed",
        found="Both directions hold to rounding: every normalised attention with a normaliser "
        "that grows is an SSD with a = η_(i-1)/η_i. The product ∏ 1/a overflows long before a "
        "long sequence ends, so that the equivalence is no way to compute.",
        half=True,
        measure=measure_equal,
        prove=prove_equal,
        mutants={
            "normaliser of the token before": {"before": 1},
            "keys without the step": {"tied": False},
            "a step a channel": {"vector": True},
            "the usual normaliser, which depends on the query": {"normalize": True},
        },
        mechanisms=("linear", "ssd", "s6"),
    )
)
register(
    Claim(
        id="dynamics.equivalence.conditions",
        title="A vector step and the usual normaliser break the equivalence; an untied gate "
        "does not",
        paper=PAPER,
        place="the differences that the paper names; derived here",
        statement=r"\Lambda_i=e^{-\Delta_i\otimes A}\ \mathrm{vs.}\ a_iI,\quad "
        r"\eta_i=\sum_j\phi(q_i)^T\psi(k_j)",
        hypotheses=(
            "SSD's gates are functions of their own token.",
            "Keys are positive where they are normalised.",
        ),
        finding="sharpened",
        found="Of the three differences two are real. With a vector step each channel has its own "
        "weights, r e^(-(r-1) a ΣΔ) times SSD's for r times the step. The usual normaliser makes "
        "the read a quotient in every key, where SSD's is affine. That B is tied to Δ is no "
        "loss: keys scaled by β/Δ undo it.",
        measure=measure_apart,
        mutants={
            "S6 with a vector step has one decay": {"vector": False},
            "the tie cannot be undone by the keys": {"untied": False},
            "the normaliser does not matter": {"own": False},
        },
        mechanisms=("linear", "ssd", "s6"),
    )
)
