"""Efficient attention: a mixture, but of low rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.errors import InputError
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

TOKENS = 24
DIMS = (1, 2, 4, 6, 8, 12, 16)


def low_rank_error(weights: Any, rank: int) -> float:
    """Return the least squared error of a matrix of a rank for given attention weights.

    Parameters
    ----------
    weights : array
        (queries, keys)
    rank : int
        At least 0.

    Returns
    -------
    float
        Sum of the squares of all singular values but the ``rank`` largest (Eckart-Young).

    Raises
    ------
    InputError
        If the weights are no matrix or ``rank`` is negative.
    """
    weights = np.asarray(weights, dtype=float)
    if weights.ndim != 2:
        raise InputError(f"weights {weights.shape} must be (queries, keys).")
    if rank < 0:
        raise InputError(f"rank={rank!r} must be at least 0.")
    return float(np.square(np.linalg.svd(weights, compute_uv=False)[rank:]).sum())


def both(lab: Lab, dim: int, mechanism: str) -> tuple[Tensor, Tensor]:
    """Return the weights of a mechanism and of softmax, read from the values 1."""
    query, key = (2 * lab.normal((1, 1, TOKENS, dim), name, dim) for name in ("query", "key"))
    eye = torch.eye(TOKENS, dtype=torch.float64)[None, None]
    found, convex = (lab.attend(name, query, key, eye)[0, 0] for name in (mechanism, "softmax"))
    return found, convex


def measure_rank(
    lab: Lab, formula: Callable[[int], int] = lambda dim: dim, mechanism: str = "efficient"
) -> Iterator[Comparison]:
    """Count the rank over the dimension, and hold the error to the spectrum of softmax."""
    pairs = [lab.once(both, dim, mechanism) for dim in DIMS]
    found = torch.stack([each for each, _ in pairs])
    yield lab.equal("row sums", found.sum(-1), torch.ones(len(DIMS), TOKENS))
    yield lab.at_least("least weight", float(found.min()), 0.0)
    ranks = [int(torch.linalg.matrix_rank(each, rtol=lab.rounding(32))) for each in found]
    yield lab.near(
        "rank of the weights",
        ranks,
        [formula(dim) for dim in DIMS],
        tolerance=0.0,
        expected=0.0,
        reason="whole numbers",
        axes={"dim": DIMS},
    )
    errors = [float((each - convex).square().sum()) for each, convex in pairs]
    yield lab.at_least(
        "squared error for softmax attention, above the tail of its spectrum",
        errors,
        [
            low_rank_error(convex.numpy(), formula(dim))
            for dim, (_, convex) in zip(DIMS, pairs, strict=True)
        ],
        axes={"dim": DIMS},
    )


def prove_rank(proof: Proof) -> None:
    """Write the weights of two queries, three keys and two channels."""
    query = sympy.Matrix(2, 2, sympy.symbols("q1:3_1:3", positive=True))
    key = sympy.Matrix(3, 2, sympy.symbols("k1:4_1:3", positive=True))
    proof.say("Exponentials of two queries and three keys, two channels each: positive numbers")
    left = sympy.Matrix(2, 2, lambda i, c: query[i, c] / sum(query.row(i)))
    right = sympy.Matrix(3, 2, lambda j, c: key[j, c] / sum(key.col(c)))
    ones = sympy.ones(3, 1)
    proof.equal("Each channel's shares over the keys sum to one", right.T * ones, sympy.ones(2, 1))
    proof.equal(
        "and each query's over the channels: so do the rows",
        left * right.T * ones,
        sympy.ones(2, 1),
    )
    a = sympy.Matrix(3, 1, sympy.symbols("a1:4"))
    b = sympy.Matrix(3, 1, sympy.symbols("b1:4"))
    proof.equal("One channel is one outer product, of rank one", (a * b.T).det(), 0)


register(
    Claim(
        id="efficiency.efficient.rank",
        title="Efficient attention's rows are mixtures, of rank dim at most",
        paper="Shen et al. (2021), Efficient attention: attention with linear complexities",
        place="the two normalisations; the bound by the spectrum is derived here",
        statement=r"A = \rho_q(Q)\,\rho_k(K)^\top: \quad A\mathbf{1} = \mathbf{1},\ A \geq 0,\ "
        r"\mathrm{rank}\,A \leq d, \quad \|A - A_{soft}\|^2 \geq \sum_{i > d} \sigma_i^2",
        hypotheses=("Queries and keys are in general position.", "There is no causal order."),
        finding="sharpened",
        found="The rank is dim exactly for dim below the length. Softmax attention of the same "
        "queries and keys has full rank: the tail of its spectrum is an error that no values undo.",
        mechanisms=("efficient", "softmax"),
        prove=prove_rank,
        measure=measure_rank,
        mutants={
            "softmax attention has that rank": {"mechanism": "softmax"},
            "a rank lost to the normaliser": {"formula": lambda dim: max(dim - 1, 1)},
        },
    )
)
