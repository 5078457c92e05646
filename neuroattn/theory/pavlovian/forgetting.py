"""What the delta rule holds and what it forgets, pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from neuroattn.attention.registry import State
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.pavlovian.delta import HYPOTHESES, PAPER, drawn, state_after

#: (associations, dim) to a squared norm.
Law = Callable[[int, int], float]


def delta_rule_norm(pairs: int, dim: int) -> float:
    """Return the expected squared Frobenius norm of the memory after one pass."""
    return float(dim * (1 - (1 - 1 / dim) ** pairs))


def _norms(lab: Lab, numbers: tuple[int, ...], dim: int, mechanism: str) -> Array:
    keys, values = drawn(lab, 8000, max(numbers), dim)
    found: list[Array] = []
    state: State | None = None
    for start, stop in zip((0, *numbers), numbers, strict=False):
        part = keys[:, :, start:stop], values[:, :, start:stop]
        state = state_after(lab, mechanism, *part, state)
        found.append(state["memory"].square().sum((-1, -2, -3)).numpy())
    return np.stack(found, axis=1)


def measure_norm(
    lab: Lab, formula: Law = delta_rule_norm, mechanism: str = "delta"
) -> Iterator[Comparison]:
    """Follow the size of the memory while pairs are written."""
    dim, numbers = 6, (1, 2, 4, 6, 8, 12, 16, 24, 32)
    yield lab.mean(
        f"squared norm of the memory, {dim} dimensions",
        lab.once(_norms, numbers, dim, mechanism),
        [formula(number, dim) for number in numbers],
        axes={"associations": numbers},
    )


register(
    Claim(
        id="pavlovian.delta.norm",
        title="The delta rule's memory saturates at d, where the Hebbian one grows without end",
        paper=PAPER,
        place="derived here",
        statement=r"E\|W_N\|_F^2 = d\left(1-(1-\frac{1}{d})^N\right)",
        hypotheses=HYPOTHESES,
        finding="sharpened",
        found="The memory fills like an urn: after N = d writes it holds 1 - 1/e of what it can, "
        "20.4 of 32. The Hebbian memory has squared norm N.",
        mechanisms=("delta",),
        measure=measure_norm,
        half=True,
        mutants={
            "the Hebbian norm": {"formula": lambda n, d: n},
            "full after d writes": {"formula": lambda n, d: min(n, d)},
            "the urn with exp(-N/d)": {"formula": lambda n, d: d * (1 - np.exp(-n / d))},
            "Hebbian writing": {"mechanism": "linear"},
        },
    )
)


def _forgotten(lab: Lab, numbers: tuple[int, ...], dim: int, beta: float) -> Array:
    draws = 4000
    keys = lab.keys("sphere", (draws, 1, max(numbers), dim), "erasing")
    eye = torch.eye(dim, dtype=torch.float64).expand(draws, 1, dim, dim)
    found: list[Array] = []
    state: State = {"memory": eye}
    for start, stop in zip((0, *numbers), numbers, strict=False):
        part = keys[:, :, start:stop]
        state = state_after(lab, "delta", part, torch.zeros_like(part), state, beta=beta)
        found.append(state["memory"].square().sum((-1, -2, -3)).numpy())
    return np.stack(found, axis=1)


def forgetting_factor(writes: int, dim: int) -> float:
    """Return E|prod (I - k k^T)|_F^2 of independent unit keys."""
    return float(dim * (1 - 1 / dim) ** writes)


def measure_forgetting(
    lab: Lab, formula: Law = forgetting_factor, beta: float = 1.0
) -> Iterator[Comparison]:
    """Write nothing (values 0) over a memory that holds the identity."""
    dim, numbers = 16, (2, 4, 8, 12, 16, 20, 32, 48)  # after one, 15 are left in every draw
    yield lab.mean(
        f"what is left of the identity, {dim} dimensions",
        lab.once(_forgotten, numbers, dim, beta),
        [formula(number, dim) for number in numbers],
        axes={"later associations": numbers},
    )


register(
    Claim(
        id="pavlovian.delta.forgetting",
        title="Each later association takes the share 1/d of an old memory's squared norm",
        paper=PAPER,
        place="derived here",
        statement=r"E\left\|\prod_{t=1}^{N}(I-k_tk_t^T)\right\|_F^2 = d\,(1-\frac{1}{d})^N",
        hypotheses=("The keys are independent and uniform on the unit sphere.", "The step is 1."),
        finding="sharpened",
        found="The half-life of an association is d ln 2 writes: error correction forgets like a "
        "decay of 1 - 1/(2d) a trial, which nobody has put in. At d = 16 a memory has 4.40 of 16 "
        "left after 20 writes.",
        mechanisms=("delta",),
        measure=measure_forgetting,
        half=True,
        mutants={
            "exp(-N/d)": {"formula": lambda n, d: d * np.exp(-n / d)},
            "share 2/d, as of the error": {"formula": lambda n, d: d * (1 - 2 / d) ** n},
            "nothing is lost before N = d": {"formula": lambda n, d: max(d - n, 0)},
            "step 1/2": {"beta": 0.5},
        },
    )
)
