"""Crosstalk: what the other associations add to the one that is retrieved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import sympy
from torch import Tensor

from neuroattn.names import check_name
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import KEY_LAWS, Lab
from neuroattn.theory.pavlovian.delta import check_counts
from neuroattn.theory.proof import Proof

PAPER = "Qiao (2025), Understanding Transformers through the Lens of Pavlovian Conditioning"
#: Linear attention as the memory of the paper: no feature map, no normaliser, no scale.
PLAIN: dict[str, Any] = {"feature_map": "identity", "normalize": False, "scale": 1.0}


def crosstalk_variance(pairs: int, dim: int, law: str = "sphere") -> float:
    """Return the expected squared error of retrieving one of several Hebbian associations.

    Parameters
    ----------
    pairs : int
        Number of associations, at least 1.
    dim : int
        Dimension of the keys, at least 1.
    law : {"sphere", "gaussian", "rademacher"}
        Of the keys, each with an expected squared length of 1.

    Returns
    -------
    float
        In units of the expected squared length of a value.

    Raises
    ------
    InputError
        If ``pairs`` or ``dim`` is no whole number of at least 1, or there is no such law.

    References
    ----------
    Qiao (2025), arXiv 2508.08289; the variance is derived here.
    """
    check_name("law", law, KEY_LAWS)
    check_counts(pairs=pairs, dim=dim)
    return (pairs - 1) / dim + (2 / dim if law == "gaussian" else 0.0)


def split(keys: Array, values: Array, length: float = 2.0) -> tuple[Array, Array]:
    """Return the targets and the crosstalk (..., N, width) of reading every key, by sums.

    ``length`` is the power of the key's length that multiplies the target, 2 for the truth.
    """
    target = values * np.linalg.norm(keys, axis=-1, keepdims=True) ** length
    crosstalk = np.zeros_like(values)
    for i, j in product(range(keys.shape[-2]), repeat=2):
        if i != j:
            angle = (keys[..., i, :] * keys[..., j, :]).sum(-1, keepdims=True)
            crosstalk[..., i, :] += angle * values[..., j, :]
    return target, crosstalk


def _read_all(lab: Lab, feature_map: str, normalize: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return keys of several lengths, values, what is read at each key, and the memory."""
    keys = lab.keys("gaussian", (3, 2, 13, 7), "keys")
    values = lab.normal((3, 2, 13, 5), "values")
    plain = {**PLAIN, "feature_map": feature_map, "normalize": normalize}
    read, state = lab.attend_state("linear", keys, keys, values, **plain)
    return keys, values, read, state["memory"]


def measure_split(
    lab: Lab, length: float = 2.0, feature_map: str = "identity", normalize: bool = False
) -> Iterator[Comparison]:
    """Read every stored key of a random memory."""
    keys, values, read, memory = lab.once(_read_all, feature_map, normalize)
    target, crosstalk = split(keys.numpy(), values.numpy(), length)
    yield lab.equal("what is read at the stored keys", read, target + crosstalk)
    written = np.einsum("...nd,...nv->...dv", keys.numpy(), values.numpy())
    yield lab.equal("the memory, the sum of outer products", memory, written)


def prove_split(proof: Proof) -> None:
    """Write three associations in two dimensions, and read the first."""
    keys = [sympy.Matrix(sympy.symbols(f"k{i}_1:3", real=True)) for i in (1, 2, 3)]
    values = [sympy.Matrix(sympy.symbols(f"v{i}_1:3", real=True)) for i in (1, 2, 3)]
    memory = sympy.zeros(2, 2)
    for key, value in zip(keys, values, strict=True):
        memory += value * key.T
    proof.say("The Hebbian memory of three associations, the sum of outer products v kᵀ", memory)
    length = (keys[0].T * keys[0])[0]
    others = [(keys[0].T * key)[0] * value for key, value in zip(keys[1:], values[1:], strict=True)]
    proof.equal(
        "Read at the first key: the target times its squared length, and the crosstalk",
        memory * keys[0],
        values[0] * length + others[0] + others[1],
    )
    across = {keys[1][0]: -keys[0][1], keys[1][1]: keys[0][0]}
    proof.equal(
        "A second key at a right angle adds nothing", others[0].subs(across), sympy.zeros(2, 1)
    )
    query = sympy.Matrix(sympy.symbols("q_1:3", real=True))
    entries = sympy.symbols("w_11 w_12 w_21 w_22", real=True)
    free = sympy.Matrix(2, 2, entries)
    misses = [value - free * key for key, value in zip(keys, values, strict=True)]
    loss = sum((miss.T * miss)[0] for miss in misses) / 2
    slopes = [-sympy.diff(loss, each).subs(dict.fromkeys(entries, 0)) for each in entries]
    step = sympy.Matrix(2, 2, slopes)
    proof.equal(
        "One step of gradient descent on the sum of ½|v - Wk|², from W = 0, reads the same",
        step * query,
        memory * query,
    )


register(
    Claim(
        id="pavlovian.crosstalk.split",
        title="What is read at a stored key is its value and crosstalk of the others",
        paper=PAPER,
        place="attention as a transient associative memory",
        statement=r"\hat y(k_i) = v_i\|k_i\|^2 + \sum_{j \neq i} v_j\,(k_j\cdot k_i)",
        hypotheses=("The read is linear, without feature map and normaliser, at scale 1.",),
        finding="confirmed",
        found="Un-normalised linear attention is the Hebbian memory exactly: written by outer "
        "products of value and key, read by a product with the query. The target comes back times "
        "the squared length of its key, which is why the law of that length enters the error.",
        mechanisms=("linear",),
        prove=prove_split,
        measure=measure_split,
        mutants={
            "the target at size 1 whatever its key's length": {"length": 0.0},
            "the target times the length of its key": {"length": 1.0},
            "the normaliser left on": {"normalize": True},
            "the default feature map left on": {"feature_map": "elu"},
        },
        half=True,
    )
)


def retrieval_errors(lab: Lab, law: str, pairs: int, dim: int, feature_map: str) -> Tensor:
    """Return (draws,) squared errors of recalling one of the first eight associations."""
    draws, width = 1000 if pairs < 10 else 200, 16
    keys = lab.keys(law, (draws, 1, pairs, dim), "keys", pairs)
    values = lab.normal((draws, 1, pairs, width), "values", pairs) / width**0.5
    plain = {**PLAIN, "feature_map": feature_map}
    read = lab.attend("linear", keys[:, :, :8], keys, values, **plain)
    errors: Tensor = (read - values[:, :, :8]).square().sum(-1).mean((-1, -2))
    return errors


def measure_variance(
    lab: Lab,
    formula: Callable[[int, int, str], float] = crosstalk_variance,
    feature_map: str = "identity",
) -> Iterator[Comparison]:
    """Retrieve N associations through linear attention, for each law of the keys."""
    dim, numbers = 64, (2, 8, 32, 96)
    for law in KEY_LAWS:
        drawn = [lab.once(retrieval_errors, law, pairs, dim, feature_map) for pairs in numbers]
        yield means(
            lab,
            f"squared error of retrieval, {law} keys",
            drawn,
            [formula(pairs, dim, law) for pairs in numbers],
            {"associations": numbers},
        )


def means(lab: Lab, name: str, drawn: Any, predicted: Any, axes: Any) -> Comparison:
    """Compare means of several numbers of independent draws; see :meth:`Lab.mean`."""
    arrays = [np.asarray(each) for each in drawn]
    spread = [float(each.std(ddof=1)) / len(each) ** 0.5 for each in arrays]
    means = [float(each.mean()) for each in arrays]
    draws = min(map(len, arrays))
    return lab.estimate(name, means, spread, predicted, draws=draws, axes=axes)


def prove_variance(proof: Proof) -> None:
    """Take the expectation over values, then over keys, of three associations in the plane."""
    s = sympy.Symbol("s", positive=True)
    values = sympy.symbols("v1:4", real=True)
    length, near, far = sympy.symbols("l c2 c3", real=True)
    error = values[0] * length + values[1] * near + values[2] * far - values[0]
    square = sympy.Poly(sympy.expand(error**2), *values)
    proof.say("The error at the first of three keys, its squared length l and cosines c", error)
    over_values = sum(
        coefficient * s**2
        for powers, coefficient in square.terms()
        if all(power % 2 == 0 for power in powers)
    )
    proof.equal(
        "Squared and averaged over values of mean 0 and variance s²: the mixed terms vanish",
        over_values,
        s**2 * ((length - 1) ** 2 + near**2 + far**2),
    )
    turn = sympy.symbols("t", real=True)
    cosine = sympy.integrate(sympy.cos(turn) ** 2, (turn, 0, 2 * sympy.pi)) / (2 * sympy.pi)
    averaged = over_values.subs({near**2: cosine, far**2: cosine})
    proof.equal(
        "Averaged over keys on the circle, N = 3 and d = 2: (N-1)/d",
        averaged.subs(length, 1),
        s**2 * sympy.Rational(2, 2),
    )
    x, y = sympy.symbols("x y", real=True)
    density = sympy.exp(-(x**2 + y**2)) / sympy.pi

    def mean(what: Any) -> Any:
        whole = (sympy.S.NegativeInfinity, sympy.S.Infinity)
        inner = sympy.integrate(sympy.expand(what) * density, (x, *whole))
        return sympy.integrate(inner, (y, *whole))

    proof.equal("Gaussian keys in the plane have squared length 1 on average", mean(x**2 + y**2), 1)
    proof.equal(
        "and a variance of it of 2/d, which the target adds to the error",
        mean((x**2 + y**2 - 1) ** 2),
        sympy.Rational(2, 2),
    )


register(
    Claim(
        id="pavlovian.crosstalk.variance",
        title="The error of retrieval grows with (N-1)/d, and Gaussian keys add 2/d",
        paper=PAPER,
        place="associative retrieval; the constants are derived here",
        statement=r"E\|\hat y(k_i)-v_i\|^2 = s^2\left[\frac{N-1}{d}+\mathrm{var}\|k\|^2\right]",
        hypotheses=(
            "The keys are independent, of one law with expected squared length 1 and of "
            "covariance I/d.",
            "The values are independent of the keys and of one another, with mean 0 and expected "
            "squared length s^2.",
            "The read is linear, without normaliser.",
        ),
        finding="sharpened",
        found="The abstract gives the order only. The interference of the N-1 others is (N-1)/d "
        "for every law of keys with uncorrelated coordinates: .484 of the target's power at "
        "N = 32, d = 64. Keys whose length varies add its variance, 2/d for Gaussian ones, even to "
        "a memory of a single pair.",
        mechanisms=("linear",),
        prove=prove_variance,
        measure=measure_variance,
        mutants={
            "Gaussian keys without 2/d": {"formula": lambda n, d, law: (n - 1) / d},
            "N instead of N-1": {"formula": lambda n, d, law: crosstalk_variance(n + 1, d, law)},
            "the default feature map left on": {"feature_map": "elu"},
        },
        half=True,
    )
)
