"""A gate on the read: what becomes of the rank that a head can write."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import sympy
import torch
from torch import Tensor

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

WIDTH, RANK, TOKENS = 16, 3, 48
GATES = (1, 2, 3, 4, 5, 6, 8)


def lifted(gates: int) -> int:
    """Return the rank of reads of rank 3 under gates of a rank, in a head 16 wide."""
    return min(RANK * gates, WIDTH)


def read(lab: Lab, gates: int, mechanism: str) -> Tensor:
    """Return reads (tokens, width) of values of rank 3 under gates whose sigmoids have a rank."""
    query, key = (lab.normal((1, 1, TOKENS, 8), name) for name in ("query", "key"))
    value = lab.normal((1, 1, TOKENS, RANK), "inner") @ lab.normal((1, 1, RANK, WIDTH), "outer")
    given = {}
    if mechanism == "gated":
        rng = lab.rng("gates", gates)
        # Entries of a product of positive factors, within 0.1 and 0.9 for their logits' sake.
        mixed = rng.dirichlet([0.4] * gates, TOKENS) @ rng.uniform(0.1, 0.9, (gates, WIDTH))
        given["gate"] = torch.logit(torch.from_numpy(mixed))[None, None]
    return lab.attend(mechanism, query, key, value, scale=1.0, **given)[0, 0]


def rank_of(lab: Lab, found: Tensor) -> int:
    """Return the rank beyond rounding."""
    return int(torch.linalg.matrix_rank(found, rtol=lab.rounding(64)))


def measure_rank(
    lab: Lab, formula: Callable[[int], int] = lifted, mechanism: str = "gated"
) -> Iterator[Comparison]:
    """Count the rank of gated reads over the rank of the gates."""
    yield lab.near(
        "rank of the reads",
        [rank_of(lab, lab.once(read, gates, mechanism)) for gates in GATES],
        [formula(gates) for gates in GATES],
        tolerance=0.0,
        expected=0.0,
        reason="whole numbers",
        axes={"rank of the gates": GATES},
    )
    yield lab.exact("rank without a gate", rank_of(lab, lab.once(read, 1, "softmax")), RANK)


def prove_rank(proof: Proof) -> None:
    """Write the gated read as a sum over the gates' rank."""
    a, b, c, d = (sympy.Matrix(2, 1, sympy.symbols(f"{name}1:3")) for name in "abcd")
    e, f = (sympy.Matrix(2, 1, sympy.symbols(f"{name}1:3")) for name in "ef")
    one = (a * b.T).multiply_elementwise(c * d.T)
    proof.equal(
        "A product of entries of two matrices of rank one has rank one",
        one,
        a.multiply_elementwise(c) * b.multiply_elementwise(d).T,
    )
    proof.equal("The gate of a head, one number a token, keeps rank one", one.det(), 0)
    two = (a * b.T + e * f.T).multiply_elementwise(c * d.T)
    proof.equal(
        "Gates of rank g and reads of rank r make g r such terms; here g = 2, r = 1",
        two,
        a.multiply_elementwise(c) * b.multiply_elementwise(d).T
        + e.multiply_elementwise(c) * f.multiply_elementwise(d).T,
    )
    proof.true(
        "and the rank is 2 in general", bool(sympy.expand(two.det()) != 0), two.det().factor()
    )


register(
    Claim(
        id="normalization.gated.rank",
        title="A gate on the read multiplies its rank by that of the gates, up to the head's width",
        paper="Qiu et al. (2025), Gated attention for large language models",
        place="the gate breaks the low rank of W_V W_O; the count is derived here",
        statement=r"\mathrm{rank}(\sigma(G) \odot AVW) = \min(d_v,\ \mathrm{rank}\,\sigma(G)"
        r"\cdot\mathrm{rank}\,VW)",
        hypotheses=(
            "Tokens, values and gates are in general position.",
            "The gate has a number for each channel, and no token sees less than all.",
        ),
        finding="sharpened",
        found="The gate lifts the rank only inside the width of the head, and by a factor: reads "
        "of rank 3 have rank 3, 6, ..., 16 under gates of rank 1, 2, ..., 6 and more. A gate by "
        "head (rank 1) lifts nothing.",
        mechanisms=("gated", "softmax"),
        prove=prove_rank,
        measure=measure_rank,
        mutants={
            "no gate": {"mechanism": "softmax"},
            "ranks that add": {"formula": lambda gates: min(RANK + gates, WIDTH)},
            "any gate gives the whole width": {"formula": lambda gates: WIDTH},
        },
    )
)
