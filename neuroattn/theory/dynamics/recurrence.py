"""Claims S1 and S3: normalised attention and SSD as recurrences and as masked matrices."""

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

IDENTITY = {"feature_map": "identity", "normalize": False, "scale": 1.0}


def paper_row(
    asked: Tensor,
    keyed: Tensor,
    value: Tensor,
    eta: Tensor,
    *,
    late: int = 0,
    power: int = 1,
    gated: bool = True,
) -> Tensor:
    """Run h_i = (η_(i-1)/η_i) h_(i-1) + ψ_i v_iᵀ/η_i and read φ_iᵀ h_i; eta (…, tokens, 1).

    ``late``, ``power`` and ``gated`` make it wrong: η of tokens before, its inverse, no 1/η in B.
    """
    state = value.new_zeros(*value.shape[:2], keyed.shape[-1], value.shape[-1])
    rows = []
    for token in range(value.shape[2]):
        now, before = (max(token - late - back, 0) for back in (0, 1))
        kept = (eta[:, :, before] / eta[:, :, now])[..., None] ** power
        write = keyed[:, :, token, :, None] * value[:, :, token, None]
        state = kept * state + (write / eta[:, :, token, :, None] if gated else write)
        rows.append(asked[:, :, token, None] @ state)
    return torch.cat(rows, 2)


def measure_normalised(
    lab: Lab, late: int = 0, power: int = 1, gated: bool = True
) -> Iterator[Comparison]:
    """Compare normalised reads with the recurrence that has the normaliser in its state."""
    tokens, dim, width = 48, 6, 5
    wrong: dict[str, Any] = {"late": late, "power": power, "gated": gated}
    query, key = (lab.normal((2, 2, tokens, dim), name).abs() for name in ("query", "key"))
    value = lab.normal((2, 2, tokens, width), "value")
    eta = (query * key.cumsum(2)).sum(-1, keepdim=True)
    yield lab.equal(
        "η of the usual normaliser, Σ φᵀψ",
        lab.attend("linear", query, key, value, causal=True, feature_map="identity"),
        paper_row(query, key, value, eta, **wrong),
    )
    eta = gate(lab, -1, 1, "eta", shape=(2, 2, tokens, 1)).exp()
    rounded = lab.rounded(query / eta)
    yield lab.equal(
        "η = exp of a number of the token (normalised attention)",
        lab.attend("linear", rounded, key, value, causal=True, **IDENTITY),
        paper_row(query, key, value, eta, **wrong),
        growth=64.0,
        reason="the query is rounded once more after the division",
    )
    count = torch.arange(1, tokens + 1)
    same = torch.ones(1, 1, tokens, 1, dtype=torch.float64)
    first = torch.zeros_like(same)
    first[:, :, 0] = 1
    yield lab.equal(
        "weight of the first of equal tokens: the states decay as (i-1)/i",
        lab.attend("linear", same, same, first, causal=True, feature_map="identity").flatten(),
        paper_row(same, same, first, count[None, None, :, None].double(), **wrong).flatten(),
        axes={"token": count.numpy()},
    )


def prove_normalised(proof: Proof) -> None:
    """S1 for three tokens of one channel."""
    names = ("phi", "psi", "eta", "v")
    phi, psi, eta, v = (sympy.symbols(f"{name}1:4", nonzero=True) for name in names)
    state = sympy.Integer(0)
    for i in range(3):
        kept = eta[i - 1] / eta[i] if i else sympy.Integer(0)
        state = kept * state + psi[i] * v[i] / eta[i]
        proof.say(f"Step {i + 1} of the recurrence, h_{i + 1}", sympy.expand(state))
        total = sum(phi[i] * psi[j] * v[j] for j in range(i + 1)) / eta[i]
        proof.equal(f"Its read is the normalised attention of token {i + 1}", phi[i] * state, total)


def segment(alpha: np.ndarray, first: int, last: int) -> float:
    """Return a_(first+1) ⋯ a_last by multiplication, 1 if there is none."""
    product = 1.0
    for place in range(first + 1, last + 1):
        product *= float(alpha[place])
    return product


def _from_own(alpha: np.ndarray, first: int, last: int) -> float:
    return segment(alpha, first - 1, last)


def _before_last(alpha: np.ndarray, first: int, last: int) -> float:
    return segment(alpha, first, last - 1)


def measure_segments(
    lab: Lab, product: Callable[[np.ndarray, int, int], float] = segment
) -> Iterator[Comparison]:
    """Compare SSD with the masked matrix, entry by entry."""
    tokens, dim, width = 64, 5, 4
    query, key = (lab.normal((1, 1, tokens, dim), name) for name in ("query", "key"))
    value = lab.normal((1, 1, tokens, width), "value")
    alpha = gate(lab, 0.2, 1, "alpha", shape=(1, 1, tokens))
    found = np.zeros((tokens, width))
    c, b, u, a = (each.numpy()[0, 0] for each in (query, key, value, alpha))
    for i in range(tokens):
        for j in range(i + 1):
            found[i] += product(a, j, i) * float(c[i] @ b[j]) * u[j]
    yield lab.equal(
        "SSD = (L ∘ C Bᵀ) u, 64 tokens",
        lab.attend("ssd", query, key, value, causal=True, alpha=alpha)[0, 0],
        found,
    )
    same = torch.ones(1, 1, tokens, 1, dtype=torch.float64)
    first = torch.zeros_like(same)
    first[:, :, 0] = 1
    left = lab.attend("ssd", same, same, first, causal=True, alpha=alpha).flatten()
    shown = 20
    yield lab.equal(
        "what is left of the first token",
        left[:shown],
        [product(a, 0, i) for i in range(shown)],
        axes={"token": np.arange(1, shown + 1)},
    )


def prove_segments(proof: Proof) -> None:
    """S3 for three tokens of one channel."""
    a, b, c, u = (sympy.symbols(f"{name}1:4") for name in "abcu")
    state, reads = sympy.Integer(0), []
    for i in range(3):
        state = a[i] * state + b[i] * u[i]
        reads.append(c[i] * state)
    mask = sympy.Matrix(3, 3, lambda i, j: sympy.prod(a[j + 1 : i + 1]) if i >= j else 0)
    proof.say("The mask of segment products, L", mask)
    both = sympy.Matrix(c) * sympy.Matrix([b])
    masked = mask.multiply_elementwise(both) * sympy.Matrix(u)
    proof.equal("The recurrence's reads are (L ∘ c bᵀ) u", sympy.Matrix(reads), masked)
    inverse = sympy.Matrix(3, 3, lambda i, j: 1 if i == j else -a[i] if i == j + 1 else 0)
    proof.say("A matrix with the retentions beside its diagonal", inverse)
    proof.equal("L is the inverse of the bidiagonal matrix", mask * inverse, sympy.eye(3))


register(
    Claim(
        id="dynamics.recurrence.normalised",
        title="Normalised attention is a recurrence that decays by the ratio of normalisers",
        paper=PAPER,
        place="the row of normalised attention in the paper's table",
        statement=r"y_i=\sum_{j\leq i}\frac{\phi(q_i)^T\psi(k_j)}{\eta_i}v_j,\quad "
        r"\Lambda_i=\frac{\eta_{i-1}}{\eta_i}",
        hypotheses=("No normaliser is zero.", "The weights separate into features."),
        finding="confirmed",
        found="It holds for any normaliser, also one that depends on the query. For equal tokens "
        "the transition is (i-1)/i: a running mean, whose memory is never full.",
        half=True,
        measure=measure_normalised,
        prove=prove_normalised,
        mutants={
            "normaliser of the token before": {"late": 1},
            "the ratio upside down": {"power": -1},
            "B without the normaliser": {"gated": False},
        },
        mechanisms=("linear",),
    )
)
register(
    Claim(
        id="dynamics.recurrence.segments",
        title="The SSD recurrence is a masked product of matrices",
        paper="Dao & Gu (2024), Transformers are SSMs; " + PAPER,
        place="structured state space duality; the framework's row of SSD",
        statement=r"y=(L\circ CB^T)u,\quad L_{ij}=\prod_{t=j+1}^{i}a_t\quad(i\geq j)",
        hypotheses=("One retention a head and token.",),
        finding="confirmed",
        found="The product begins after the token that is written: its own retention does not "
        "touch it. L is the inverse of a bidiagonal matrix, which is why a recurrence computes it.",
        half=True,
        measure=measure_segments,
        prove=prove_segments,
        mutants={
            "the product begins at the token itself": {"product": _from_own},
            "the product ends one token early": {"product": _before_last},
        },
        mechanisms=("ssd",),
    )
)
