"""What freezing the gradient at the chunk's start, as Titans' parallel training does, costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.memory.titans_chunk import PAPER
from neuroattn.theory.proof import Proof


def memory_of(lab: Lab, gradient: str, step: float, keys: str) -> Tensor:
    """Return the memory after a chunk of eight tokens, without momentum and forgetting."""
    drawn = lab.keys("sphere", (1, 1, 8, 8), "frozen")
    if keys == "orthogonal":
        drawn = lab.rounded(torch.linalg.qr(drawn)[0])
    state = lab.attend_state(
        "titans",
        drawn,
        drawn,
        lab.normal((1, 1, 8, 4), "frozen values"),
        scale=1.0,
        beta=2 * step,
        gradient=gradient,
        chunk_size=8,
        normalize_keys=False,
    )[1]
    return state["memory"][0, 0]


def first_order(lab: Lab, power: int) -> Array:
    """Return (dim, width): -4 theta^2 sum over i < t of k_t (k_t . k_i) v_i, at theta = 1."""
    key = lab.keys("sphere", (1, 1, 8, 8), "frozen")[0, 0].numpy()
    value = lab.normal((1, 1, 8, 4), "frozen values")[0, 0].numpy()
    earlier = np.tril(key @ key.T, -1 if power == 2 else 0)
    return np.asarray(-4.0 * key.T @ earlier @ value)


def measure_chunk_start(
    lab: Lab,
    power: int = 2,
    keys: str = "orthogonal",
    edge: Callable[[int], float] = lambda size: 1 / size,
) -> Iterator[Comparison]:
    """Subtract the two mechanisms from one another; find where the frozen one diverges."""
    same = [lab.once(memory_of, each, 0.4, keys) for each in ("each token", "chunk start")]
    yield lab.equal("orthogonal keys: both are one", same[0], same[1], growth=8)
    steps = np.array([0.001, 0.003, 0.01, 0.03])
    sizes, wanted = [], np.linalg.norm(first_order(lab, power)) * steps**power
    for step in steps:
        exact, frozen = (
            lab.once(memory_of, each, step, "random") for each in ("each token", "chunk start")
        )
        sizes.append(float((exact - frozen).norm()))
    yield lab.near(
        "distance of the two memories, random keys",
        sizes,
        wanted,
        # Third order in the step; in float32 the difference of two memories is rounded.
        tolerance=wanted * 4 * steps + lab.rounding(64) * steps,
        expected=float((wanted * steps).max()),
        reason="the first order in theta; the next is smaller by about theta",
        axes={"step theta": steps},
    )
    for size in (1, 2, 4, 8, 16):
        near = edge(size) * np.array([0.95, 1.05])
        grown = [lab.once(growth, size, float(step)) for step in near]
        name = f"a repeated key in chunks of {size}: converges below the edge, not above"
        yield lab.exact(name, [each < 1 for each in grown], [True, False])
    many = (1, 2, 4, 8, 16)
    yield lab.equal(
        "residual after a chunk over the one before, theta = 0.2",
        [lab.once(growth, size, 0.2) for size in many],
        [abs(1 - 0.4 / edge(size)) for size in many],
        growth=16,
        axes={"tokens of a chunk": many},
    )


def growth(lab: Lab, size: int, step: float) -> float:
    """Return by what a chunk of one repeated unit key multiplies the residual."""
    tokens = 2 * size
    key = torch.zeros(1, 1, tokens, 3, dtype=torch.float64)
    key[..., 0] = 1.0
    value = torch.ones(1, 1, tokens, 1, dtype=torch.float64)
    read = lab.attend(
        "titans",
        key,
        key,
        value,
        causal=True,
        scale=1.0,
        beta=2 * step,
        gradient="chunk start",
        chunk_size=size,
    )
    residual = read[0, 0, [size - 1, tokens - 1], 0] - 1
    return float((residual[1] / residual[0]).abs())


def prove_chunk_start(proof: Proof) -> None:
    """Write two tokens either way, in two dimensions, from an empty memory."""
    t = sympy.Symbol("theta", positive=True)
    k1, k2 = (sympy.Matrix(sympy.symbols(f"k_{n}1 k_{n}2", real=True)) for n in (1, 2))
    v1, v2 = sympy.symbols("v_1 v_2", real=True)
    first = 2 * t * v1 * k1
    frozen = first + 2 * t * v2 * k2
    exact = first + 2 * t * (v2 - k2.dot(first)) * k2
    proof.say("Both write 2 theta v_1 k_1 first; then the exact one corrects v_2 by what it reads")
    apart = -4 * t**2 * v1 * k1.dot(k2) * k2
    proof.equal("Their difference is of second order in the step", exact - frozen, apart)
    proof.true(
        "and vanishes for orthogonal keys",
        apart.subs({k2[0]: -k1[1], k2[1]: k1[0]}).expand() == sympy.zeros(2, 1),
    )
    size, error = sympy.symbols("C e", positive=True)
    n = sympy.Symbol("n", integer=True)
    after = error - sympy.summation(2 * t * error, (n, 1, size))
    proof.equal("C frozen steps on one unit key", after, error * (1 - 2 * t * size))
    edge = sympy.solve(sympy.Eq(after / error, -1), t)[0]
    proof.equal("overshoot by as much as they started from at", edge, 1 / size)


register(
    Claim(
        id="memory.titans.chunk-start",
        title="Frozen gradients are another mechanism, C times less stable in chunks of C",
        paper=PAPER,
        place="section 3.2, parallel training; the law is derived here",
        statement=r"M^{\mathrm{exact}}-M^{\mathrm{frozen}}=-4\theta^2\sum_{i<t}k_t(k_t\cdot k_i)"
        r"v_i^\top+O(\theta^3),\quad \mathrm{stable\ iff}\ 0<\theta<\frac{1}{C}",
        hypotheses=(
            "No momentum and no forgetting; the memory is linear and empty at first.",
            "For the edge: one unit key is repeated.",
        ),
        finding="sharpened",
        found="The paper trains in chunks whose gradients are all taken at the chunk's start. "
        "That is the recurrence only if the keys of a chunk are orthogonal; otherwise the "
        "memories part in second order of the step, and where a key repeats, the largest "
        "stable step shrinks from 1 to 1/C.",
        mechanisms=("titans",),
        prove=prove_chunk_start,
        measure=measure_chunk_start,
        mutants={
            "they part in first order of the step": {"power": 1},
            "both are one for any keys": {"keys": "random"},
            "the chunk does not change the edge": {"edge": lambda size: 1.0},
            "the edge of a loss with one half": {"edge": lambda size: 2 / size},
        },
    )
)
