"""Decay as trace conditioning: a stimulus fades, and with it what it interferes with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import sympy
import torch

from neuroattn.errors import InputError
from neuroattn.theory.arguments import check_whole
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.pavlovian.capacities import check_positive
from neuroattn.theory.pavlovian.crosstalk import PAPER
from neuroattn.theory.pavlovian.delta import check_counts
from neuroattn.theory.proof import Proof


def decay_crosstalk(pairs: int, dim: int, decay: float, lag: int) -> float:
    """Return the power of the crosstalk in reading an association of a memory that fades.

    Parameters
    ----------
    pairs : int
        Number of associations, at least 1.
    dim : int
        Dimension of the keys, at least 1; they have unit length.
    decay : float
        What is left of the memory after one association, above 0 and at most 1.
    lag : int
        How many associations were written after the one that is read, 0 to ``pairs`` - 1.

    Returns
    -------
    float
        [(1 - γ^2N)/(1 - γ²) - γ^2lag]/dim, beside a target of size γ^lag; in units of the
        expected squared length of a value.

    Raises
    ------
    InputError
        If ``pairs`` or ``dim`` is below 1, or ``decay`` or ``lag`` out of range.

    References
    ----------
    Derived here, for the trace decay of Qiao (2025), arXiv 2508.08289.
    """
    check_counts(pairs=pairs, dim=dim)
    check_decay(decay)
    check_whole("lag", lag, 0, pairs - 1)
    return (load(pairs, decay) - decay ** (2 * lag)) / dim


def load(pairs: float, decay: float) -> float:
    """Return the sum of the squared decays of that many associations."""
    return pairs if decay == 1 else (1 - decay ** (2 * pairs)) / (1 - decay**2)


def check_decay(decay: Any) -> None:
    """Raise an :class:`InputError` for a decay that is not above 0 and at most 1."""
    if check_positive("decay", decay) > 1:
        raise InputError(f"decay={decay!r} must be above 0 and at most 1.")


LAGS = (0, 1, 2, 4, 8, 16, 32, 48)


def crosstalk_at(
    lab: Lab,
    mechanism: str,
    pairs: int,
    dim: int,
    decay: float,
    lags: tuple[int, ...],
    draws: int = 2000,
    width: int = 4,
) -> Array:
    """Return (draws, lags) powers of what is read besides the target."""
    keys = lab.keys("sphere", (draws, 1, pairs, dim), "keys", pairs, decay)
    values = lab.normal((draws, 1, pairs, width), "values", pairs, decay) / width**0.5
    where = [pairs - 1 - lag for lag in lags]
    read = lab.attend(mechanism, keys[:, :, where], keys, values, decay=decay, scale=1.0)
    target = values[:, :, where] * (decay ** torch.tensor(lags, dtype=torch.float64))[:, None]
    noise: Array = (read - target).square().sum(-1)[:, 0].numpy()
    return noise


def measure_trace(
    lab: Lab,
    formula: Callable[[int, int, float, int], float] = decay_crosstalk,
    fade: Callable[[float, int], float] = lambda decay, lag: decay**lag,
) -> Iterator[Comparison]:
    """Read stimuli of several ages out of a memory that fades."""
    dim, pairs = 64, 64
    axes = {"associations written after it": LAGS}
    for mechanism, decay in (("retention", 0.8), ("retention", 0.98), ("lightning", 0.9)):
        alone = torch.eye(pairs, dtype=torch.float64)[None, None]
        where = [pairs - 1 - lag for lag in LAGS]
        ones = alone.diagonal(dim1=-2, dim2=-1)[..., None]
        read = lab.attend(mechanism, alone[:, :, where], alone, ones, decay=decay, scale=1.0)
        yield lab.equal(
            f"trace of a stimulus that no other overlaps, {mechanism}, decay {decay}",
            read.flatten(),
            [fade(decay, lag) for lag in LAGS],
            growth=256.0,
            reason="a decay is rounded once and multiplied up to 48 times",
            axes=axes,
        )
        yield lab.mean(
            f"crosstalk of a memory that fades, {mechanism}, decay {decay}",
            lab.once(crosstalk_at, mechanism, pairs, dim, decay, LAGS),
            [formula(pairs, dim, decay, lag) for lag in LAGS],
            axes=axes,
        )


def prove_trace(proof: Proof) -> None:
    """Write four associations with decay, and sum the squared decays of the others."""
    g, d, n, lag = sympy.symbols("gamma d N l", positive=True)
    keys, values = sympy.symbols("k1:5"), sympy.symbols("v1:5")
    memory = sympy.Integer(0)
    for key, value in zip(keys, values, strict=True):
        memory = g * memory + value * key
    proof.equal(
        "Four writes W ← γW + v kᵀ, in one dimension",
        memory,
        sum(g ** (3 - i) * values[i] * keys[i] for i in range(4)),
    )
    proof.say("The crosstalk of each other item has power γ^(2·age)/d")
    ages = sum(g ** (2 * age) for age in range(4))
    proof.equal(
        "Together, for the second of the four (lag 2)",
        sympy.cancel((1 - g**8) / (1 - g**2)) - g**4,
        ages - g**4,
    )
    sum_to = (1 - g ** (2 * n)) / (1 - g**2)
    proof.equal(
        "One more write multiplies the geometric sum by γ² and adds 1",
        sum_to.subs(n, n + 1),
        g**2 * sum_to + 1,
    )
    proof.equal("which starts at 1", sympy.simplify(sum_to.subs(n, 1)), 1)
    proof.equal("Without decay the load is N", sympy.limit(sum_to, g, 1), n)
    proof.say("So the crosstalk at lag l is", (sum_to - g ** (2 * lag)) / d)


register(
    Claim(
        id="pavlovian.decay.trace",
        title="A trace fades as γ^l, and its crosstalk is that of 1/(1-γ²) associations",
        paper=PAPER,
        place="decay as stimulus-trace decay, in the later versions; the variance is derived here",
        statement=r"\hat y = \gamma^{\ell} v + \xi,\quad E\|\xi\|^2 = \frac{s^2}{d}"
        r"\left[\frac{1-\gamma^{2N}}{1-\gamma^2} - \gamma^{2\ell}\right]",
        hypotheses=(
            "The keys are independent and uniform on the unit sphere.",
            "The values are independent of the keys and of one another, with mean 0.",
            "The read is linear, with one decay for all and without rotation of the keys.",
        ),
        finding="confirmed",
        found="Retention and Lightning Attention are trace conditioning: the response to a "
        "stimulus falls by γ with every association that follows it, and the interference "
        "saturates at a load of 1/(1-γ²) however long the stream. At d = 64 and γ = .98 the "
        "crosstalk is .35 of a fresh target where a memory without decay has .98 after 64 "
        "associations.",
        mechanisms=("retention", "lightning"),
        prove=prove_trace,
        measure=measure_trace,
        mutants={
            "1 - γ in place of 1 - γ²": {
                "formula": lambda n, d, g, lag: ((1 - g**n) / (1 - g) - g**lag) / d,
            },
            "the memory does not fade": {"formula": lambda n, d, g, lag: (n - 1) / d},
            "the newest association fades already": {"fade": lambda g, lag: g ** (lag + 1)},
            "the target counted as crosstalk": {"formula": lambda n, d, g, lag: load(n, g) / d},
        },
    )
)
