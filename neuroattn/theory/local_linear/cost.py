"""What local linear attention holds in memory, and how many iterations it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from neuroattn.attention.dispatch import attend
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.local_linear.plane import PAPER
from neuroattn.theory.proof import Proof

#: Queries a block, and tokens.
CHUNK, LENGTHS = 16, (64, 128, 256, 512)
#: A way to read: its form and parameters.
WAYS: dict[str, dict[str, Any]] = {
    "all pairs at once": {"form": "parallel"},
    "blocks, one matrix a query": {"form": "chunked", "solver": "direct"},
    "blocks, conjugate gradients": {"form": "chunked", "solver": "conjugate gradients"},
}
TOKENS, DIM, RIDGE = 24, 6, 0.1


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation makes, in numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and look at what it made."""
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor):
                size = each.untyped_storage().nbytes() // each.element_size()
                self.numbers = max(self.numbers, size)
        return made


def largest(lab: Lab, way: str, tokens: int, dim: int) -> int:
    """Return the numbers in the largest tensor of one read."""
    given = dict(WAYS[way])
    if given["form"] == "chunked":
        given["chunk_size"] = CHUNK
    drawn = [lab.normal((1, 1, tokens, dim), name, tokens, dim).cpu() for name in "qkv"]
    seen = Largest()
    with seen:
        attend("local_linear", *drawn, backend="reference", **given)
    return seen.numbers


def size(way: str, n: int, d: int) -> int:
    """Return what the largest tensor holds, for n queries and n keys of d channels."""
    if way == "all pairs at once":
        return n * n * d
    return n * max(CHUNK, d * d if way == "blocks, one matrix a query" else d)


def measure_memory(lab: Lab, sizes: Callable[[str, int, int], int] = size) -> Iterator[Comparison]:
    """Watch every tensor that a read makes, over the number of tokens."""
    for way in WAYS:
        for dim in (4, 16):
            found = [lab.once(largest, way, n, dim) for n in LENGTHS]
            yield lab.near(
                f"numbers in the largest tensor, {way}, d = {dim}",
                found,
                [sizes(way, n, dim) for n in LENGTHS],
                tolerance=0.0,
                expected=0.0,
                reason="a count",
                axes={"tokens": LENGTHS},
            )
    query, key, value = (lab.normal((1, 1, 8, 3), name) for name in "qkv")
    ways = ("direct", "conjugate gradients")
    read = [lab.attend("local_linear", query, key, value, solver=each) for each in ways]
    yield lab.equal("both solvers read the same", read[1], read[0], growth=4096)


def krylov(lab: Lab, power: int = 0) -> Array:
    """Return (iterations, queries, channels): the read with the best slope of a Krylov space.

    ``power`` more or fewer dimensions than iterations: the mistake.
    """
    query, key, value = (each[0, 0].numpy() for each in lab.once(cloud))
    found = np.zeros((DIM, TOKENS, value.shape[-1]))
    for place, q in enumerate(query):
        logits = key @ q / np.sqrt(DIM)
        p = np.exp(logits - logits.max())
        p /= p.sum()
        mean = p @ key
        matrix = (key - mean).T @ ((key - mean) * p[:, None]) + RIDGE * np.eye(DIM)
        wanted = mean - q
        for count in range(1, DIM + 1):
            columns = [wanted]
            for _ in range(min(max(count + power, 1), DIM) - 1):
                grown = matrix @ columns[-1]
                columns.append(grown / np.linalg.norm(grown))
            basis = np.linalg.qr(np.stack(columns, axis=1))[0]
            slope = basis @ np.linalg.solve(basis.T @ matrix @ basis, basis.T @ wanted)
            found[count - 1, place] = (p * (1 - (key - mean) @ slope)) @ value
    return found


def cloud(lab: Lab) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values (1, 1, tokens, dim)."""
    query, key, value = (lab.normal((1, 1, TOKENS, DIM), f"cloud {name}") for name in "qkv")
    return query, key, value


def iterated(lab: Lab) -> Array:
    """Return (iterations, queries, channels): the mechanism's reads after each iteration."""
    given: dict[str, Any] = {
        "form": "chunked",
        "backend": "reference",
        "solver": "conjugate gradients",
    }
    reads = [
        attend("local_linear", *lab.once(cloud), ridge=RIDGE, tolerance=0.0, iterations=n, **given)
        for n in range(1, DIM + 1)
    ]
    return torch.stack(reads)[:, 0, 0].numpy()


def measure_iterations(lab: Lab, power: int = 0) -> Iterator[Comparison]:
    """Stop after each iteration, and compare with the best slope of the Krylov space."""
    found, wanted = lab.once(iterated), lab.once(krylov, power)
    yield lab.near(
        "reads after 1 to d iterations",
        found,
        wanted,
        tolerance=1e-9,
        expected=1e-10,
        reason="float64: late directions of a Krylov space lose digits, here up to ten",
    )
    exact = lab.attend("local_linear", *lab.once(cloud), ridge=RIDGE)[0, 0].numpy()
    yield lab.near(
        "largest error of a read that is stopped",
        np.abs(found - exact).max(axis=(1, 2)),
        np.abs(wanted - exact).max(axis=(1, 2)),
        tolerance=lab.rounding(2**20),
        expected=lab.rounding(2**17),
        reason="the closed solve is rounded as the dtype of the settings is",
        axes={"iterations": range(1, DIM + 1)},
    )


def prove_iterations(proof: Proof) -> None:
    """Solve two equations by two steps of conjugate gradients."""
    a, b, c, u, v = sympy.symbols("a b c u v", positive=True)
    matrix, wanted = sympy.Matrix([[a, b], [b, c]]), sympy.Matrix([u, v])
    proof.say("Two channels, with covariance and ridge", matrix)
    found, residual = sympy.zeros(2, 1), wanted
    direction = residual
    for number in (1, 2):
        square = residual.dot(residual)
        step = square / direction.dot(matrix * direction)
        found = found + step * direction
        before, residual = residual, (residual - step * matrix * direction).applyfunc(sympy.factor)
        proof.equal(
            f"residual {number} is at right angles to the one before", residual.dot(before), 0
        )
        direction = residual + residual.dot(residual) / square * direction
    proof.equal("after the second nothing is left of the residual", residual, sympy.zeros(2, 1))


register(
    Claim(
        id="local_linear.cost.memory",
        title="Conjugate gradients form neither n n d differences nor n matrices of d d",
        paper=PAPER,
        place="the two naive costs of the abstract; the counts are derived here",
        statement=r"n^2 d\ \mathrm{(all\ pairs)},\quad "
        r"n\,\max(c,d^2)\ \mathrm{(a\ matrix\ a\ query)},\quad "
        r"n\,\max(c,d)\ \mathrm{(conjugate\ gradients)}",
        hypotheses=(
            "As many queries as keys, one head, values of d channels; no gradients are kept.",
            "Blocks of c queries, so that the weights of a block are c n numbers.",
        ),
        finding="confirmed",
        found="Counted in every tensor that a read makes: the closed form for all pairs holds "
        "n n d numbers, blocks with one matrix a query n d d once d exceeds the root of the block, "
        "and blocks with conjugate gradients a block of weights, linear in n and in d.",
        mechanisms=("local_linear",),
        measure=measure_memory,
        mutants={
            "pairs without their channels": {
                "sizes": lambda way, n, d: n * n if way == "all pairs at once" else size(way, n, d)
            },
            "a matrix a query for conjugate gradients too": {
                "sizes": lambda way, n, d: (
                    n * n * d if way == "all pairs at once" else n * max(CHUNK, d * d)
                )
            },
        },
    )
)
register(
    Claim(
        id="local_linear.cost.iterations",
        title="d iterations of conjugate gradients are exact, and fewer are best in their space",
        paper=PAPER,
        place="its solver; a property of conjugate gradients (Hestenes & Stiefel, 1952)",
        statement=r"r_t=\mathrm{argmin}_{r\in\mathcal{K}_t}\Vert r-r^\ast\Vert_A,"
        r"\quad A=\mathrm{Cov}_p(k)+\lambda I,\quad r_d=r^\ast",
        hypotheses=("The ridge is above 0.", "The iteration starts from a slope of 0."),
        finding="confirmed",
        found="The published limit of 32 iterations is exact for heads of up to 32 channels; with "
        "more, each iteration still gives the best slope of its Krylov space.",
        mechanisms=("local_linear",),
        prove=prove_iterations,
        measure=measure_iterations,
        mutants={
            "one iteration fewer": {"power": -1},
            "one iteration more": {"power": 1},
        },
    )
)
