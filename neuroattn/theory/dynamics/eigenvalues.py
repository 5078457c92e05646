"""Claims on eigenvalues: of one step of the delta rules, and bounds on products of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.dynamics.simulation import PAPER, gate
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

Formula = Callable[[np.ndarray], np.ndarray]


def transition(lab: Lab, name: str, key: Tensor, **given: Any) -> np.ndarray:
    """Return what a mechanism's tokens do to its memory: Λ_n ⋯ Λ_1, (batch, dim, dim).

    The memory begins as the unit matrix, and all values are zero.

    Parameters
    ----------
    lab : Lab
        What runs the mechanism.
    name : str
        The mechanism.
    key : Tensor
        (batch, 1, tokens, dim)
    **given
        The mechanism's parameters.
    """
    batch, _, tokens, dim = key.shape
    nothing = torch.zeros(batch, 1, tokens, dim, dtype=torch.float64)
    begin = torch.eye(dim, dtype=torch.float64).expand(batch, 1, -1, -1)
    _, state = lab.attend_state(
        name, key, key, nothing, causal=True, initial_state={"memory": begin}, **given
    )
    return np.asarray(state["memory"][:, 0].numpy())


ALPHA, STEP, DIM = 0.75, 0.5, 4
#: What is left of the memory along the key, at x = β |k|².
ALONG: dict[str, Formula] = {
    "delta": lambda x: 1 - x,
    "decay first": lambda x: ALPHA * (1 - x),
    "error first": lambda x: ALPHA - x,
    "longhorn": lambda x: 1 / (1 + x),
}


def measure_delta(
    lab: Lab, along: Formula = ALONG["delta"], longhorn: Formula = ALONG["longhorn"]
) -> Iterator[Comparison]:
    """Take the eigenvalues of one step over the loudness of its key."""
    loudness = np.linspace(0, 3, 13)
    direction = lab.keys("sphere", (13, 1, 1, DIM), "key")
    key = lab.rounded(direction * torch.as_tensor((loudness / STEP) ** 0.5)[:, None, None, None])
    real = STEP * key.square().sum((1, 2, 3)).numpy()
    cases: dict[str, tuple[str, dict[str, Any], Formula, float]] = {
        "delta": ("delta", {"normalize_keys": False}, along, 1.0),
        "gated delta, decay first": (
            "gated_delta",
            {"normalize_keys": False, "alpha": ALPHA},
            lambda x: ALPHA * along(x),
            ALPHA,
        ),
        "gated delta, error first": (
            "gated_delta",
            {"normalize_keys": False, "alpha": ALPHA, "order": "error first"},
            lambda x: along(x) - (1 - ALPHA),
            ALPHA,
        ),
        "Longhorn": ("longhorn", {}, longhorn, 1.0),
    }
    for said, (name, given, formula, across) in cases.items():
        found = np.linalg.eigvalsh(transition(lab, name, key, beta=STEP, **given))
        rest = np.full((13, DIM - 1), across)
        wanted = np.sort(np.concatenate([formula(real)[:, None], rest], axis=1), axis=1)
        yield lab.equal(f"{said}: all {DIM} eigenvalues", found, wanted, scale=1.0)
        erased = found.sum(1) - (DIM - 1) * across
        yield lab.equal(
            f"{said}: eigenvalue along the key",
            erased,
            formula(real),
            scale=1.0,
            axes={"β|k|²": loudness},
        )
        radius = np.abs(found).max(1)
        yield lab.equal(f"{said}: spectral radius", radius, np.maximum(across, abs(formula(real))))


def prove_delta(proof: Proof) -> None:
    """Derive the eigenvalues from the characteristic polynomial, for three channels."""
    beta, x, alpha = sympy.symbols("beta lambda alpha")
    k = sympy.Matrix(sympy.symbols("k1:4"))
    loud, one = (k.T * k)[0], sympy.eye(3)
    proof.equal(
        "det(λ - (I - β k kᵀ))",
        (x * one - (one - beta * k * k.T)).det(),
        (x - 1) ** 2 * (x - 1 + beta * loud),
    )
    proof.equal(
        "k itself is the eigenvector of 1 - β|k|²",
        (one - beta * k * k.T) * k,
        (1 - beta * loud) * k,
    )
    proof.equal(
        "error first: det(λ - (αI - β k kᵀ))",
        (x * one - (alpha * one - beta * k * k.T)).det(),
        (x - alpha) ** 2 * (x - alpha + beta * loud),
    )
    step, length = sympy.symbols("c s")
    two, plane = sympy.Matrix(sympy.symbols("k1:3")), sympy.eye(2)
    proof.equal(
        "Longhorn, two channels: (I - c k kᵀ)(I + β k kᵀ) differs from I along k kᵀ only",
        (plane - step * two * two.T) * (plane + beta * two * two.T),
        plane + (beta - step - step * beta * (two.T * two)[0]) * two * two.T,
    )
    implicit = beta / (1 + beta * length)
    gap = beta - step * (1 + beta * length)
    proof.say("by this factor, with s = |k|²", gap)
    proof.equal("which c = β/(1 + β s) makes vanish: an inverse", gap.subs(step, implicit), 0)
    proof.equal("The eigenvalue along k", 1 - implicit * length, 1 / (1 + beta * length))


def measure_bounds(
    lab: Lab, strength: float = 2.0, loud: bool = False, constant: bool = False
) -> Iterator[Comparison]:
    """Bound the norms of products of many steps, and show which transition exceeds 1."""
    numbers, shape = (1, 2, 8, 40), (20, 1, 40)
    key = lab.normal((*shape, DIM), "key")
    alpha = gate(lab, 0, 1, "alpha", shape=shape)
    beta = gate(lab, 0, strength, "beta", shape=shape)
    step = gate(lab, 0, 1, "step", shape=(*shape, DIM))
    unit = {"normalize_keys": not loud}
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "retention": ("retention", {}),
        "ssd": ("ssd", {"alpha": alpha}),
        "s6": ("s6", {"step": step, "rate": 0.5}),
        "delta, unit keys, β up to 2": ("delta", {"beta": beta, **unit}),
        "gated delta, unit keys, β up to 2": (
            "gated_delta",
            {"beta": beta, "alpha": alpha, **unit},
        ),
        "Longhorn, any keys, any β": ("longhorn", {"beta": lab.rounded(50 * beta)}),
    }
    for said, (name, given) in cases.items():
        worst = []
        for number in numbers:
            now = {k: v[:, :, :number] if isinstance(v, Tensor) else v for k, v in given.items()}
            steps = transition(lab, name, key[:, :, :number], **now)
            worst.append(np.linalg.norm(steps, 2, axis=(1, 2)).max())
        yield lab.at_most(
            f"{said}: largest norm of a product of steps",
            worst,
            1.0,
            slack=lab.rounding(64.0),
            reason="an inequality, to rounding",
            axes={"steps": numbers},
        )
    yield from _normalisers(lab, key[:1], constant)


def _normalisers(lab: Lab, key: Tensor, constant: bool) -> Iterator[Comparison]:
    """Read η_(i-1)/η_i off the weights of the first token."""
    tokens, keys = key.shape[2], key.abs()
    same = lab.normal((1, 1, 1, DIM), "query").abs().expand(-1, -1, tokens, -1)
    loudness = gate(lab, 0.1, 2, "loudness", shape=(1, 1, tokens, 1))
    various = same if constant else lab.rounded(same * loudness)
    first = torch.zeros(1, 1, tokens, 1, dtype=torch.float64)
    first[:, :, 0] = 1
    ratios = []
    for query in (various, same):
        weight = lab.attend("linear", query, keys, first, causal=True, feature_map="identity")
        state = (weight / (query @ keys[:, :, :1].mT)).flatten()
        ratios.append((state[1:] / state[:-1]).numpy())
    eta = (various * keys.cumsum(2)).sum(-1).flatten()
    yield lab.equal(
        "normalised attention: Λ_i = η_(i-1)/η_i",
        ratios[0],
        (eta[:-1] / eta[1:]).numpy(),
        axes={"token": np.arange(2, tokens + 1)},
    )
    yield lab.at_least("queries of different length: the largest Λ_i", ratios[0].max(), 1.1)
    yield lab.at_most("one query throughout: the largest Λ_i", ratios[1].max(), 1.0)


register(
    Claim(
        id="dynamics.eigenvalues.delta",
        title="A delta step has one eigenvalue 1 - β|k|², all others are 1",
        paper="Yang et al. (2024), Parallelizing linear transformers with the delta rule; " + PAPER,
        place="derived here",
        statement=r"\mathrm{spec}(I-\beta kk^T)=\{1-\beta\|k\|^2,1,\ldots,1\}",
        hypotheses=("The step and the key are real.",),
        finding="confirmed",
        found="The radius is 1 for β|k|² up to 2 and β|k|² - 1 beyond. Decay first multiplies all "
        "by α; error first subtracts 1 - α from all, so that it may turn negative at β|k|² = α. "
        "Longhorn's 1/(1 + β|k|²) is inside (0, 1] for every key.",
        half=True,
        measure=measure_delta,
        prove=prove_delta,
        mutants={
            "the length, not its square": {"along": lambda x: 1 - (STEP * x) ** 0.5},
            "unit keys taken for granted": {"along": lambda x: 1 - STEP + 0 * x},
            "Longhorn with an explicit step": {"longhorn": lambda x: 1 - x},
        },
        mechanisms=("delta", "gated_delta", "longhorn"),
    )
)
register(
    Claim(
        id="dynamics.eigenvalues.bounds",
        title="Decays and unit-key delta rules never grow; the usual normaliser's transition may",
        paper=PAPER,
        place="the paper's reading of eigenvalues as memory; derived here",
        statement=r"\|\Lambda_n\cdots\Lambda_1\|_2\leq 1,\quad \frac{\eta_{i-1}}{\eta_i}>1"
        r"\ \mathrm{possible}",
        hypotheses=(
            "Retentions are in [0, 1].",
            "For the delta rules β|k|² is in [0, 2]; their Λ is symmetric.",
        ),
        finding="sharpened",
        found="Symmetric steps with eigenvalues in [-1, 1] bound every product of them. Normalised "
        "attention's Λ = η_(i-1)/η_i exceeds 1 whenever a query matches the memory less than the "
        "one before: it is stable all the same, because C and B make up for it. Eigenvalues of Λ "
        "alone say nothing of such a system.",
        measure=measure_bounds,
        mutants={
            "β up to 4": {"strength": 4.0},
            "keys as they come": {"loud": True},
            "the query does not matter to the normaliser": {"constant": True},
        },
        mechanisms=("retention", "ssd", "s6", "delta", "gated_delta", "longhorn", "linear"),
    )
)
