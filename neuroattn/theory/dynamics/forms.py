"""Claims: chunked = parallel = recurrent, with the sequence split anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.attention.registry import State
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.dynamics.eigenvalues import transition
from neuroattn.theory.dynamics.simulation import PAPER, gate
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

TOKENS, DIM, WIDTH = 33, 5, 3
CHUNKS = (1, 3, 8, 64)
SPLITS = (1, 2, 7, 16, 32)
Array = np.ndarray[Any, np.dtype[Any]]


def tokens_of(lab: Lab) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key (unit length, to rounding) and value."""
    query = lab.normal((1, 1, TOKENS, DIM), "query")
    key = lab.keys("sphere", (1, 1, TOKENS, DIM), "key")
    return query, key, lab.normal((1, 1, TOKENS, WIDTH), "value")


def products_of(steps: Array, writes: Array, query: Array, value: Array) -> Array:
    """Return y_i = Σ_j q_iᵀ Λ_i ⋯ Λ_(j+1) b_j v_jᵀ, every product multiplied out on its own.

    Parameters
    ----------
    steps, writes : array
        Λ (tokens, dim, dim) and b (tokens, dim).
    query, value : array
        (tokens, dim) and (tokens, width).
    """
    reads = np.zeros((len(query), value.shape[-1]))
    for i in range(len(query)):
        asked = query[i]
        for j in range(i, -1, -1):
            reads[i] += (asked @ writes[j]) * value[j]
            asked = asked @ steps[j]
    return reads


def split_read(
    lab: Lab, name: str, place: int, carried: bool, per_token: dict[str, Tensor], **given: Any
) -> Tensor:
    """Return the reads when the sequence is cut after ``place`` tokens and the state handed on."""
    query, key, value = tokens_of(lab)
    parts: list[Tensor] = []
    state: State | None = None
    for here in (slice(0, place), slice(place, None)):
        asked, keyed, valued = (each[:, :, here] for each in (query, key, value))
        gates = {which: each[:, :, here] for which, each in per_token.items()}
        more: dict[str, Any] = {"initial_state": state} if state is not None and carried else {}
        read, state = lab.attend_state(
            name, asked, keyed, valued, causal=True, **gates, **given, **more
        )
        parts.append(read)
    return torch.cat(parts, 2)[0, 0]


def compare(
    lab: Lab,
    said: str,
    name: str,
    wanted: Array,
    carried: bool,
    per_token: dict[str, Tensor],
    **given: Any,
) -> Iterator[Comparison]:
    """Compare all sizes of chunks, and all splits, with the products multiplied out."""
    query, key, value = tokens_of(lab)
    chunks = [
        lab.attend(name, query, key, value, causal=True, chunk_size=size, **per_token, **given)[
            0, 0
        ]
        for size in CHUNKS
    ]
    yield lab.equal(f"{said}: all forms, chunks of {CHUNKS}", torch.stack(chunks), wanted[None])
    splits = [split_read(lab, name, at, carried, per_token, **given) for at in SPLITS]
    yield lab.equal(f"{said}: split after {SPLITS}", torch.stack(splits), wanted[None])


def measure_decays(lab: Lab, carried: bool = True, own: bool = False) -> Iterator[Comparison]:
    """Compare retention, Lightning and SSD."""
    alpha = gate(lab, 0.3, 1, "alpha", shape=(1, 1, TOKENS))
    query, key, value = (each[0, 0].numpy() for each in tokens_of(lab))
    fixed = lab.rounded(torch.tensor(0.875)).item()
    cases: tuple[tuple[str, dict[str, Any], dict[str, Tensor], Array, float], ...] = (
        ("retention", {"decay": fixed}, {}, np.full(TOKENS, fixed), DIM**-0.5),
        ("lightning", {"decay": fixed}, {}, np.full(TOKENS, fixed), 1.0),
        ("ssd", {}, {"alpha": alpha}, alpha[0, 0].numpy(), 1.0),
    )
    for name, given, per_token, kept, scale in cases:
        steps = kept[:, None, None] * np.eye(DIM)
        writes = key * kept[:, None] if own else key
        wanted = products_of(steps, writes, scale * query, value)
        yield from compare(lab, name, name, wanted, carried, per_token, **given)


def prove_decays(proof: Proof) -> None:
    """Two tokens of one channel, from any memory."""
    a, k, q, v = (sympy.symbols(f"{name}1:3") for name in "akqv")
    before = sympy.symbols("M0")
    first = a[0] * before + k[0] * v[0]
    second = a[1] * first + k[1] * v[1]
    proof.say("Token by token, the memory after two tokens", sympy.expand(second))
    left = sympy.Matrix([[1, 0], [a[1], 1]])
    scores = sympy.Matrix(2, 2, lambda i, j: q[i] * k[j] if i >= j else 0)
    inside = left.multiply_elementwise(scores) * sympy.Matrix(v)
    earlier = sympy.Matrix([q[0] * a[0], q[1] * a[0] * a[1]]) * before
    reads = sympy.Matrix([q[0] * first, q[1] * second])
    proof.equal(
        "The block's reads: pairs inside it, and the memory before it", inside + earlier, reads
    )
    block = a[0] * a[1] * before + a[1] * k[0] * v[0] + k[1] * v[1]
    proof.equal("The block's memory", block, second)


def wy(key: Array, step: Array, solve: bool = True) -> Array:
    """Return Λ_n ⋯ Λ_1 of delta steps as I - Kᵀ W with one triangular solve.

    Parameters
    ----------
    key, step : array
        (tokens, dim) and (tokens).
    solve : bool
        False leaves the solve out, which is right to first order in the step only.
    """
    lower = np.eye(len(key)) + np.tril(step[:, None] * (key @ key.T), -1)
    rows = step[:, None] * key
    return np.asarray(
        np.eye(key.shape[1]) - key.T @ (np.linalg.solve(lower, rows) if solve else rows)
    )


def measure_deltas(
    lab: Lab, carried: bool = True, solve: bool = True, swapped: bool = False
) -> Iterator[Comparison]:
    """Compare DeltaNet and gated delta, and DeltaNet's transition with the WY form."""
    alpha = gate(lab, 0.3, 1, "alpha", shape=(1, 1, TOKENS))
    beta = gate(lab, 0, 2, "beta", shape=(1, 1, TOKENS))
    query, key, value = (each[0, 0].numpy() for each in tokens_of(lab))
    kept, step = alpha[0, 0].numpy(), beta[0, 0].numpy()
    outer, one = step[:, None, None] * key[:, :, None] * key[:, None], np.eye(DIM)
    unit = {"normalize_keys": False}
    both = {"alpha": alpha, "beta": beta}
    rules: dict[str, tuple[str, Array, dict[str, Tensor], dict[str, Any]]] = {
        "delta": ("delta", one - outer, {"beta": beta}, unit),
        "gated delta, decay first": (
            "gated_delta",
            kept[:, None, None] * one - (outer if swapped else kept[:, None, None] * outer),
            both,
            unit,
        ),
        "gated delta, error first": (
            "gated_delta",
            kept[:, None, None] * one - (kept[:, None, None] * outer if swapped else outer),
            both,
            {**unit, "order": "error first"},
        ),
    }
    for said, (name, steps, per_token, given) in rules.items():
        wanted = products_of(steps, step[:, None] * key, query, value)
        yield from compare(lab, said, name, wanted, carried, per_token, **given)
    numbers = (1, 2, 4, 8, 16, 33)
    tensor = tokens_of(lab)[1]
    found: list[Array] = []
    factored: list[Array] = []
    for n in numbers:
        found.append(transition(lab, "delta", tensor[:, :, :n], beta=beta[:, :, :n], **unit)[0])
        factored.append(wy(key[:n], step[:n], solve))
    yield lab.equal(
        f"delta: Λ_n ⋯ Λ_1 = I - KᵀW for n of {numbers}", np.stack(found), np.stack(factored)
    )
    sizes = [np.linalg.norm(each) for each in found]
    yield lab.equal(
        "delta: Frobenius norm of Λ_n ⋯ Λ_1",
        sizes,
        [np.linalg.norm(each) for each in factored],
        axes={"tokens": numbers},
    )


def prove_deltas(proof: Proof) -> None:
    """Multiply two steps in two dimensions, and write a gated block from any memory."""
    b = sympy.symbols("beta1:3")
    keys = [sympy.Matrix(sympy.symbols(f"k{i}_1:3")) for i in (1, 2)]
    one = sympy.eye(2)
    steps = [one - b[i] * keys[i] * keys[i].T for i in range(2)]
    rows = [b[0] * keys[0].T]
    rows.append(b[1] * (keys[1].T - (keys[1].T * keys[0])[0] * rows[0]))
    proof.say("The second row of W after the triangular solve", rows[1].applyfunc(sympy.factor))
    whole = one - keys[0] * rows[0] - keys[1] * rows[1]
    proof.equal("Λ_2 Λ_1 = I - k_1 w_1ᵀ - k_2 w_2ᵀ", steps[1] * steps[0], whole)
    k, a, v = (sympy.symbols(f"{name}1:3") for name in ("k", "alpha", "v"))
    before = sympy.symbols("W0")
    memory = before
    for i in range(2):
        memory = a[i] * memory + b[i] * k[i] * (v[i] - a[i] * k[i] * memory)
    change = [b[0] * (v[0] - a[0] * k[0] * before)]
    change.append(b[1] * (v[1] - a[1] * k[1] * (a[0] * before + k[0] * change[0])))
    block = a[0] * a[1] * before + a[1] * k[0] * change[0] + k[1] * change[1]
    proof.equal("One channel, gated: the block's memory from its two changes", block, memory)


register(
    Claim(
        id="dynamics.forms.decays",
        title="Decay attention: chunked, parallel and recurrent are one, wherever it is split",
        paper="Sun et al. (2023), Retentive network; Dao & Gu (2024), Transformers are SSMs; "
        "Qin et al. (2024), Lightning Attention-2",
        place="their parallel, recurrent and chunkwise forms",
        statement=r"y_i=\sum_{j\leq i}q_i^T\Lambda_i\cdots\Lambda_{j+1}b_jv_j^T",
        hypotheses=("The state after the first part is handed to the second.",),
        finding="confirmed",
        found="Equal to rounding for chunks of 1, 3, 8 and more than all tokens, and for splits "
        "anywhere, also inside a chunk.",
        half=True,
        measure=measure_decays,
        prove=prove_decays,
        mutants={
            "the state is not handed on": {"carried": False},
            "a token decays when it is written": {"own": True},
        },
        mechanisms=("retention", "lightning", "ssd"),
    )
)
register(
    Claim(
        id="dynamics.forms.deltas",
        title="Delta rules: chunked (WY), parallel and recurrent are one, wherever split",
        paper="Yang et al. (2024), Parallelizing linear transformers with the delta rule; Yang, "
        "Kautz & Hatamizadeh (2024), Gated delta networks; " + PAPER,
        place="the WY representation of the chunked form",
        statement=r"\Lambda_n\cdots\Lambda_1=I-K^TW,\quad "
        r"(I+\mathrm{tril}(\mathrm{diag}(\beta)KK^T,-1))W=\mathrm{diag}(\beta)K",
        hypotheses=("The state after the first part is handed to the second.",),
        finding="confirmed",
        found="Equal to rounding in all forms, for both orders of the gated rule, any chunk and "
        "any split. The triangular solve is what makes it exact: without it, it holds to first "
        "order in β.",
        half=True,
        measure=measure_deltas,
        prove=prove_deltas,
        mutants={
            "the state is not handed on": {"carried": False},
            "W without the triangular solve": {"solve": False},
            "the two orders exchanged": {"swapped": True},
        },
        mechanisms=("delta", "gated_delta"),
    )
)
