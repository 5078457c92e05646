"""Crosstalk: what the other associations add to the one that is retrieved."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import sympy
from torch import Tensor

from neuroattn.errors import InputError
from neuroattn.names import check_name
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import KEY_LAWS, Lab
from neuroattn.theory.proof import Proof

PAPER = "Qiao (2025), Understanding Transformers through the Lens of Pavlovian Conditioning"


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
        If ``pairs`` or ``dim`` is below 1, or there is no such law.

    References
    ----------
    Qiao (2025), arXiv 2508.08289; the variance is derived here.
    """
    check_name("law", law, KEY_LAWS)
    for name, number in {"pairs": pairs, "dim": dim}.items():
        if number < 1:
            raise InputError(f"{name}={number!r} must be at least 1.")
    return (pairs - 1) / dim + (2 / dim if law == "gaussian" else 0.0)


def retrieval_errors(lab: Lab, law: str, pairs: int, dim: int, mechanism: str) -> Tensor:
    """Return (draws,) squared errors of recalling the first of the associations."""
    draws, width = 2000, 16
    keys = lab.keys(law, (draws, 1, pairs, dim), "keys", pairs)
    values = lab.normal((draws, 1, pairs, width), "values", pairs) / width**0.5
    plain = {"feature_map": "identity", "normalize": False} if mechanism == "linear" else {}
    read = lab.attend(mechanism, keys[:, :, :1], keys, values, scale=1.0, **plain)
    return (read - values[:, :, :1]).square().sum((-1, -2, -3))


def measure_variance(
    lab: Lab,
    formula: Callable[[int, int, str], float] = crosstalk_variance,
    mechanism: str = "linear",
) -> Iterator[Comparison]:
    """Retrieve one of N associations through linear attention, for each law of the keys."""
    dim, numbers = 64, (8, 32, 128)
    for law in KEY_LAWS:
        drawn = [lab.once(retrieval_errors, law, pairs, dim, mechanism) for pairs in numbers]
        yield lab.mean(
            f"squared error of retrieval, {law} keys",
            np.stack([each.numpy() for each in drawn], axis=1),
            [formula(pairs, dim, law) for pairs in numbers],
            axes={"associations": numbers},
        )


def prove_variance(proof: Proof) -> None:
    """Derive the variance from the second moment of a unit key."""
    d, n, s = sympy.symbols("d N s", positive=True)
    proof.say("Retrieval is the target and the crosstalk of the others, each of variance", s**2 / d)
    angle = sympy.symbols("t", real=True)
    second = sympy.integrate(sympy.cos(angle) ** 2, (angle, 0, 2 * sympy.pi)) / (2 * sympy.pi)
    proof.equal("On the circle the squared cosine averages to 1/d", second, sympy.Rational(1, 2))
    proof.equal("N-1 independent terms add up", (n - 1) * s**2 / d, s**2 * (n - 1) / d)


register(
    Claim(
        id="pavlovian.crosstalk.variance",
        title="The error of retrieval grows with (N-1)/d, and Gaussian keys add 2/d",
        paper=PAPER,
        place="associative retrieval; the constants are derived here",
        statement=r"E\|\hat y(k_i)-v_i\|^2 = s^2\left[\frac{N-1}{d}+\mathrm{var}\|k\|^2\right]",
        hypotheses=(
            "The keys are independent, of one law with expected squared length 1.",
            "The values are independent of the keys, with mean 0 and expected squared length s^2.",
            "The read is linear, without normaliser.",
        ),
        finding="sharpened",
        found="The abstract gives the order only; the law of the keys matters by 2/d.",
        mechanisms=("linear",),
        prove=prove_variance,
        measure=measure_variance,
        mutants={
            "Gaussian keys without 2/d": {"formula": lambda n, d, law: (n - 1) / d},
            "N instead of N-1": {"formula": lambda n, d, law: crosstalk_variance(n + 1, d, law)},
            "softmax in place of the linear read": {"mechanism": "softmax"},
        },
    )
)
