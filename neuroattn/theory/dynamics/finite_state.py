"""Claim: the rank of the weights counts the states; softmax needs one a key."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.errors import InputError
from neuroattn.theory.arguments import check_whole
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.dynamics.simulation import PAPER
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

#: A prime below 2^61: a rank modulo it is never above the rank over the rationals.
PRIME = 2**61 - 1


def is_number(value: object) -> bool:
    """Whether something is a real number, which a truth is not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def state_size(weights: Tensor, tolerance: float = 1e-10) -> int:
    """Return the fewest states a channel with which a recurrence can compute causal weights.

    All that a later output knows of the earlier inputs goes through the state, so that the block
    of weights (later outputs, earlier inputs) has a rank of at most N at every token; the largest
    of these ranks is reached by a minimal realisation.

    Parameters
    ----------
    weights : Tensor
        (tokens, tokens), queries by keys.
    tolerance : float
        Singular values below this share of the largest count as zero; in (0, 1).

    Raises
    ------
    InputError
        If the weights are not square, or the tolerance is out of its range.

    References
    ----------
    Dewilde & van der Veen (1998), Time-varying systems and computations, the Hankel operators.
    """
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1]:
        raise InputError(f"weights have shape {tuple(weights.shape)}; needed is (tokens, tokens).")
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance={tolerance!r} must be above 0 and below 1.")
    most = 0
    for token in range(1, len(weights)):
        values = torch.linalg.svdvals(weights[token:, :token].double())
        most = max(most, int((values > tolerance * values[0]).sum()))
    return most


def exponential_rank(keys: list[int], base: int = 2) -> int:
    """Return the rank of the Gram matrix base^(k_i k_j) of integer keys, exactly from below.

    Parameters
    ----------
    keys : list of int
        Not negative.
    base : int
        At least 2: the scale of the logits is its logarithm.

    Returns
    -------
    int
        The rank modulo a prime of 61 bits, which the rank over the rationals is not below.

    Raises
    ------
    InputError
        If a key is no integer of at least 0, or the base is below 2.
    """
    base = check_whole("base", base, 2)
    keys = [check_whole("key", each, 0) for each in keys]
    rows = [[pow(base, a * b, PRIME) for b in keys] for a in keys]
    rank = 0
    for column in range(len(keys)):
        pivot = next((r for r in range(rank, len(rows)) if rows[r][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        inverse = pow(rows[rank][column], -1, PRIME)
        top = [entry * inverse % PRIME for entry in rows[rank]]
        for r in range(rank + 1, len(rows)):
            factor = rows[r][column]
            if factor:
                rows[r] = [(x - factor * y) % PRIME for x, y in zip(rows[r], top, strict=True)]
        rank += 1
    return rank


#: Mechanism, parameters, and the states that it needs a channel at dim 4.
SIZES: dict[str, tuple[str, dict[str, Any], int]] = {
    "linear, identity": ("linear", {"feature_map": "identity", "normalize": False}, 4),
    "linear, elu, normalised": ("linear", {}, 4),
    "linear, Taylor of order 2": ("linear", {"feature_map": "taylor", "scale": 1.0}, 15),
    "ssd": ("ssd", {"alpha": 0.95}, 4),
    "delta": ("delta", {"beta": 0.5}, 4),
    "titans with momentum": ("titans", {"beta": 0.3, "momentum": 0.7, "alpha": 0.9}, 8),
    "a window of 6": ("neighborhood", {"window": 6}, 5),
    # On the sphere, because the rank of rounded numbers shows only where they are well apart.
    "softmax, half of the tokens asking for the other half": ("softmax", {"scale": 64.0}, 10**9),
}


def counted(lab: Lab, said: str, tokens: int) -> int:
    """Return the states that a mechanism needs while the second half asks for the first's keys."""
    name, given, _ = SIZES[said]
    half, dim = tokens // 2, 4
    key = lab.keys("sphere", (1, 1, tokens, dim), "keys", tokens)
    if name != "softmax":
        key = lab.normal((1, 1, tokens, dim), "keys", tokens)
    query = torch.cat([key[:, :, half:], key[:, :, :half]], 2)
    unit = torch.eye(tokens, dtype=torch.float64)[None, None]
    weights = lab.attend(name, query, key, unit, causal=True, **given)[0, 0]
    return state_size(weights, max(1e-10, lab.rounding(64.0)))


def ranked(lab: Lab, keys: tuple[int, ...]) -> int:
    """Return the exact rank of the exponential's Gram matrix."""
    return exponential_rank(list(keys))


def measure_size(
    lab: Lab, repeated: bool = False, states: int | None = None
) -> Iterator[Comparison]:
    """Count the states that each mechanism needs, over the number of tokens."""
    # Halves above or well below the states: square blocks may be singular but for rounding.
    numbers = np.array([10, 18, 24, 34, 44])
    for said, (name, _, size) in SIZES.items():
        most = states if states is not None and name == "softmax" else size
        yield lab.near(
            f"states of {said}",
            [lab.once(counted, said, n) for n in numbers.tolist()],
            np.minimum(most, numbers // 2),
            tolerance=0.0,
            expected=0.0,
            reason="exact: a whole number",
            axes={"tokens": numbers},
        )
    for n in (5, 20, 60):
        keys = (*range(n - 1), 0 if repeated else n - 1)
        found = lab.once(ranked, keys)
        yield lab.exact(f"rank of 2^(k_i k_j) for {n} distinct keys", found, n)


def prove_size(proof: Proof) -> None:
    """Show that the Gram matrix of the exponential is regular, whatever the number of keys."""
    z = sympy.symbols("z", positive=True)
    for n in (2, 3, 4):
        gram = sympy.Matrix(n, n, lambda i, j: z ** (i * j))
        product = sympy.prod(z**j - z**i for j in range(n) for i in range(j))
        proof.equal(
            f"Keys 0 … {n - 1} and z = e^s: det exp(s k_i k_j) is Vandermonde's",
            gram.det(),
            product,
        )
    proof.say("No factor z^j - z^i vanishes for z > 1: rank n for every n")
    a, b = sympy.symbols("a b", real=True)
    pair = sympy.Matrix(
        [[sympy.exp(a * a), sympy.exp(a * b)], [sympy.exp(a * b), sympy.exp(b * b)]]
    )
    proof.equal(
        "Any two keys: the determinant vanishes only where (a - b)² = 0",
        pair.det(),
        sympy.exp(2 * a * b) * (sympy.exp((a - b) ** 2) - 1),
    )


register(
    Claim(
        id="dynamics.finite-state.rank",
        title="Softmax needs as many states as keys; every recurrent mechanism a fixed number",
        paper=PAPER,
        place="the statement that softmax attention has an infinite state; derived here",
        statement=r"N\geq\max_t\,\mathrm{rank}\,W_{i\geq t,\,j<t},\quad "
        r"\mathrm{rank}\,[e^{k_i\cdot k_j}]_{n\times n}=n",
        hypotheses=("The keys are distinct.", "A state is a linear function of the values."),
        finding="sharpened",
        found="The rank of the weights from the past to the future counts the states exactly: d "
        "for linear attention, SSD and the delta rule, 2d for Titans with momentum, the features "
        "for a Taylor map, w - 1 for a window, and n/2 of n tokens for softmax. Exact integers "
        "give rank n up to 60 keys, and Vandermonde's determinant for every number.",
        measure=measure_size,
        prove=prove_size,
        mutants={
            "a key that comes twice": {"repeated": True},
            "softmax with four states": {"states": 4},
            "softmax with the states of a Taylor map": {"states": 15},
        },
        mechanisms=("softmax", "linear", "ssd", "delta", "titans", "neighborhood"),
    )
)
