"""The overlap as a kernel: its spectrum, and the linear attention that it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import sympy
import torch
from torch import Tensor

from neuroattn.attention.memory import intersection as exact
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof
from neuroattn.theory.sdm.overlap import PAPER

Spectrum = Callable[[int, int], Sequence[int]]


def corners(n: int) -> Tensor:
    """Return all addresses (2**n, n) as 1 and -1."""
    bits = torch.arange(2**n)[:, None] >> torch.arange(n) & 1
    return (2 * bits - 1).double()


def indicators(addresses: Tensor, neurons: Tensor, radius: int) -> Tensor:
    """Return (..., neurons): 1 where an address is within the radius of a neuron, 0 elsewhere."""
    apart = (addresses[..., :, None, :] != neurons).sum(-1)
    return (apart <= radius).double()


def gram_eigenvalues(lab: Lab, n: int, radius: int) -> tuple[list[float], float]:
    """Return the eigenvalue of sdm's weights, in neurons, for the parity of w bits, w = 0 to n.

    With the largest entry by which a parity is not an eigenvector.
    """
    every = corners(n)[None, None]
    gram = lab.weights("sdm", every, every, radius=radius, normalize=False)[0, 0] * 2.0**n
    parities = torch.cat([torch.ones(2**n, 1).double(), corners(n).cumprod(-1)], dim=-1)
    values = (parities * (gram @ parities)).mean(0)
    return values.tolist(), float((gram @ parities - values * parities).abs().max())


def unshifted(n: int, radius: int) -> list[int]:
    """Return the spectrum with the polynomials of the whole cube in place of one bit less."""
    return [
        exact.ball(n, radius) ** 2,
        *(exact.krawtchouk(n, radius, w) ** 2 for w in range(1, n + 1)),
    ]


def unsquared(n: int, radius: int) -> list[int]:
    """Return the spectrum of one ball, whose signs vary."""
    rest = (exact.krawtchouk(n - 1, radius, w - 1) for w in range(1, n + 1))
    return [exact.ball(n, radius), *rest]


def measure_spectrum(lab: Lab, formula: Spectrum = exact.spectrum) -> Iterator[Comparison]:
    """Invert the kernel exactly, and diagonalise the mechanism's weights."""
    for n, radius in ((16, 5), (9, 3), (33, 10)):
        values, table = formula(n, radius), exact.circle_table(n, radius)
        yield lab.exact(
            f"2^n I(x) from the spectrum, n = {n}, d = {radius}",
            [
                sum(value * exact.krawtchouk(n, w, x) for w, value in enumerate(values))
                for x in range(n + 1)
            ],
            [2**n * shared for shared in table],
        )
        yield lab.exact("no eigenvalue is negative", [v >= 0 for v in values], [True] * (n + 1))
    n = 8
    for radius in (2, 3):
        found, residual = lab.once(gram_eigenvalues, n, radius)
        yield lab.equal(
            f"eigenvalues of sdm's weights between all addresses, n = {n}, d = {radius}",
            found,
            formula(n, radius),
            growth=64,
            axes={"bits in the parity w": range(n + 1)},
        )
        yield lab.near(
            f"parities are eigenvectors, n = {n}, d = {radius}",
            residual,
            0.0,
            tolerance=1e-9,
            expected=1e-10,
            reason="sums of 256 integers",
        )


def prove_spectrum(proof: Proof) -> None:
    """Transform the ball, square it, and invert a small case."""
    z, n, w = sympy.symbols("z n w", positive=True)
    proof.say(
        "The overlap is the convolution of a ball with itself; on the cube its eigenvalues are "
        "the squares of the ball's transform, the sum of K_s(w) for s = 0 ... d, whose generating "
        "function is that of K_s(w) over 1-z",
        (1 - z) ** w * (1 + z) ** (n - w) / (1 - z),
    )
    proof.equal(
        "which is that of the Krawtchouk polynomials of n-1 bits at w-1",
        (1 - z) ** w * (1 + z) ** (n - w) / (1 - z),
        (1 - z) ** (w - 1) * (1 + z) ** ((n - 1) - (w - 1)),
    )
    proof.say("so the eigenvalues are K_d(w-1)^2 of n-1 bits, and never negative")
    table, values = sympy.Matrix([[5, 2, 2, 0, 0]]), sympy.Matrix([[25, 9, 1, 1, 9]])
    for weight in range(1, 5):
        transform = sympy.Poly(sympy.expand((1 - z) ** (weight - 1) * (1 + z) ** (4 - weight)), z)
        root = transform.coeff_monomial(z)
        proof.equal(f"n = 4, d = 1, w = {weight}: K_1 squared", root**2, values[weight])
    matrix = sympy.Matrix(5, 5, lambda a, b: exact.krawtchouk(4, a, b))
    proof.equal("and the spectrum gives 16 I(x)", values * matrix, 16 * table)


register(
    Claim(
        id="sdm.kernel.spectrum",
        title="The overlap is a positive semi-definite kernel with squared Krawtchouk eigenvalues",
        paper=PAPER,
        place="not in the paper; derived here",
        statement=r"2^n I_{n,d}(x)=\sum_{w=0}^{n}\lambda_w K_w(x),\quad \lambda_0=|B|^2,\quad "
        r"\lambda_w=\left[K_d^{(n-1)}(w-1)\right]^2\geq 0",
        hypotheses=("The neurons are the 2^n corners of the cube.",),
        finding="sharpened",
        found="SDM is a kernel method with an explicit spectrum: eigenvalues are squares of "
        "integers and can vanish, so that some functions of the address are stored not at all.",
        mechanisms=("sdm",),
        prove=prove_spectrum,
        measure=measure_spectrum,
        mutants={
            "polynomials of n bits in place of n-1": {"formula": unshifted},
            "spectrum of one ball, not squared": {"formula": unsquared},
        },
    )
)


def drawn(lab: Lab, n: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values, (2, 2, tokens, ...); queries are near keys."""
    key = lab.normal((2, 2, tokens, n), "keys", n).sign()
    flips = 1.0 - 2.0 * (torch.rand(key.shape, generator=lab.generator("flips", n)) < 0.15)
    return key * flips, key, lab.normal((2, 2, tokens, 5), "values", n)


def linear_read(
    lab: Lab, n: int, features: str, normalize: bool, causal: bool, radius: int
) -> Tensor:
    """Read through linear attention over what the neurons see."""
    query, key, value = lab.once(drawn, n, 12)
    neurons = corners(n)
    if features == "indicator":
        query, key = (indicators(each, neurons, radius) for each in (query, key))
    elif features == "sign":
        query, key = (2 * indicators(each, neurons, radius) - 1 for each in (query, key))
    return lab.attend(
        "linear",
        query,
        key,
        value,
        feature_map="identity",
        normalize=normalize,
        scale=1.0,
        causal=causal,
    )


def measure_linear(
    lab: Lab, features: str = "indicator", narrower: int = 0
) -> Iterator[Comparison]:
    """Compare sdm, in all its forms, with linear attention over indicator features."""
    n, radius = 10, 3
    query, key, value = lab.once(drawn, n, 12)
    for normalize in (False, True):
        for causal in (False, True):
            given = {"radius": radius, "normalize": normalize, "causal": causal}
            found = lab.attend("sdm", query, key, value, **given)
            told = lab.once(linear_read, n, features, normalize, causal, radius - narrower)
            yield lab.equal(
                f"sdm and linear attention, normalize={normalize}, causal={causal}",
                found,
                told if normalize else told / 2**n,
                growth=256,
            )
    _, state = lab.attend_state("sdm", query, key, value, radius=radius)
    written = indicators(key, corners(n), radius - narrower).mT @ value
    yield lab.equal(
        "what is written, sum of feature and value", state["memory"], written, growth=64
    )


def prove_linear(proof: Proof) -> None:
    """Write two values to the neurons of a cube of 3 bits, and read one."""
    first, second = sympy.symbols("v_1 v_2")
    addresses = [[(number >> bit) & 1 for bit in range(3)] for number in range(8)]

    def near(address: list[int]) -> sympy.Matrix:
        apart = [sum(a != b for a, b in zip(address, place, strict=True)) for place in addresses]
        return sympy.Matrix([int(distance <= 1) for distance in apart])

    one, two, query = near([0, 0, 0]), near([1, 1, 0]), near([0, 0, 0])
    memory = one * first + two * second
    proof.say("n = 3, d = 1: the neurons after writing v_1 at 000 and v_2 at 110", memory.T)
    proof.equal(
        "Reading at 000 adds up those near: I(0) v_1 + I(2) v_2",
        (query.T * memory)[0],
        exact.intersection(3, 1, 0) * first + exact.intersection(3, 1, 2) * second,
    )
    proof.equal(
        "which is linear attention with the indicators as features",
        (query.T * memory)[0],
        query.dot(one) * first + query.dot(two) * second,
    )


register(
    Claim(
        id="sdm.kernel.linear-attention",
        title="SDM is linear attention whose features say which neurons are near",
        paper=PAPER,
        place="not stated there; derived here",
        statement=r"I_{n,d}(q,k)=\phi(q)^\top\phi(k),\quad \phi_r(x)=1[\mathrm{Ham}(x,a_r)\leq d],"
        r"\quad y=\phi(q)^\top\sum_j\phi(k_j)v_j^\top",
        hypotheses=("Values are written to, and read from, every neuron within the radius.",),
        finding="sharpened",
        found="The paper likens SDM to softmax attention, approximately. It is linear attention, "
        "exactly, with one binary feature a neuron and a state of fixed size: normalised or not, "
        "causal or not, to the last digits.",
        mechanisms=("sdm", "linear"),
        prove=prove_linear,
        measure=measure_linear,
        mutants={
            "neurons strictly inside the radius": {"narrower": 1},
            "1 and -1 as features": {"features": "sign"},
            "the bits themselves as features": {"features": "none"},
        },
    )
)
