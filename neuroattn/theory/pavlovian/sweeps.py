"""The delta rule over repeated trials: Kaczmarz sweeps to the pseudo-inverse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.attention.registry import State
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.pavlovian.delta import PAPER, state_after
from neuroattn.theory.proof import Proof

KACZMARZ = "Kaczmarz (1937), Bulletin de l'Academie Polonaise des Sciences A35, 355-357; " + PAPER


def swept(
    lab: Lab, keys: Tensor, values: Tensor, sweeps: Sequence[int], mechanism: str = "delta"
) -> list[Tensor]:
    """Return the memory (batch, 1, dim, value_dim) after each number of sweeps, in order."""
    found: list[Tensor] = []
    state: State | None = None
    for start, stop in zip((0, *sweeps), sweeps, strict=False):
        key, value = (each.repeat(1, 1, stop - start, 1) for each in (keys, values))
        state = state_after(lab, mechanism, key, value, state)
        found.append(state["memory"])
    return found


def sweep_map(keys: Array, values: Array) -> tuple[Array, Array]:
    """Return (A, B) of one sweep over unit keys (pairs, dim): memory to A @ memory + B."""
    kept, added = np.eye(keys.shape[1]), np.zeros((keys.shape[1], values.shape[1]))
    for key, value in zip(keys, values, strict=True):
        erase = np.eye(len(key)) - np.outer(key, key)
        kept, added = erase @ kept, erase @ added + np.outer(key, value)
    return kept, added


def _two_keys(lab: Lab, cosines: tuple[float, ...], mechanism: str) -> tuple[Array, Array, Array]:
    values = lab.normal((len(cosines), 1, 2, 4), "values")
    sines = [(1 - c * c) ** 0.5 for c in cosines]
    pairs = [[[1.0, 0.0], [c, s]] for c, s in zip(cosines, sines, strict=True)]
    keys = lab.rounded(torch.tensor(pairs, dtype=torch.float64)[:, None])
    memories = swept(lab, keys, values, (1, 2, 4), mechanism)
    error = np.stack([(keys @ each - values)[:, 0, 0].numpy() for each in memories])
    return error, values[:, 0, 0].numpy(), values[:, 0, 1].numpy()


def measure_two_keys(
    lab: Lab,
    power: Callable[[int], int] = lambda sweeps: 2 * sweeps - 1,
    mechanism: str = "delta",
) -> Iterator[Comparison]:
    """Write two pairs in turn, over and over, and recall the first."""
    cosines = (-0.9, -0.75, -0.5, -0.25, 0.125, 0.25, 0.5, 0.75, 0.875, 0.9375)
    errors, first, second = lab.once(_two_keys, cosines, mechanism)
    c = np.array(cosines)
    spoilt = c[:, None] * first - second
    for sweeps, error in zip((1, 2, 4), errors, strict=True):
        share = -(error * spoilt).sum(-1) / (spoilt**2).sum(-1)
        yield lab.equal(
            f"error of the first over c v1 - v2, sweep {sweeps}",
            share,
            c ** power(sweeps),
            growth=256,
            reason="divided by the length of c v1 - v2",
            axes={"cosine of the keys": cosines},
        )
        yield lab.equal(
            f"its direction, sweep {sweeps}", error, -share[:, None] * spoilt, scale=1.0
        )


def prove_two_keys(proof: Proof) -> None:
    """Write two keys in turn and read the first; then a sweep on any error that is left."""
    c, v1, v2, e = sympy.symbols("c v1 v2 e", real=True)
    m = sympy.symbols("m", integer=True, positive=True)
    k1, k2 = sympy.Matrix([1, 0]), sympy.Matrix([c, sympy.sqrt(1 - c**2)])

    def write(memory: Any, key: Any, value: Any) -> Any:
        return memory + (value - (memory * key)[0]) * key.T

    memory = write(write(sympy.zeros(1, 2), k1, v1), k2, v2)
    proof.say("Keys of unit length and cosine c, written in turn; the memory, a row, is", memory)
    proof.equal("It recalls the second pair", (memory * k2)[0], v2)
    proof.equal(
        "and errs on the first by -c (c v1 - v2)", (memory * k1)[0] - v1, -c * (c * v1 - v2)
    )
    x, y = sympy.symbols("x y", real=True)
    rows = sympy.Matrix([[x, y]])
    held = sympy.solve([(rows * k1)[0] - v1 - e, (rows * k2)[0] - v2], [x, y], dict=True)[0]
    again = write(write(rows.subs(held), k1, v1), k2, v2)
    proof.equal(
        "Of an error e on the first and none on the second, a sweep leaves c^2 e",
        (again * k1)[0] - v1,
        c**2 * e,
    )
    after = -(c ** (2 * m - 1)) * (c * v1 - v2)
    proof.equal("Hence -c^(2m-1) (c v1 - v2) after m", after.subs(m, m + 1), c**2 * after)


register(
    Claim(
        id="pavlovian.delta.two-keys",
        title="Of two overlapping associations, repetition shrinks the error by the cosine squared",
        paper=KACZMARZ,
        place="derived here",
        statement=r"W_{2m}k_1-v_1 = -c^{2m-1}(c\,v_1-v_2)",
        hypotheses=("Two unit keys of cosine c, written in turn, m times.", "The step is 1."),
        finding="confirmed",
        found="The first sweep leaves the whole cosine, as Hebbian writing does; each further one "
        "takes the factor c^2, so that at a cosine of 0.94 a tenth takes 19 sweeps.",
        mechanisms=("delta",),
        prove=prove_two_keys,
        measure=measure_two_keys,
        half=True,
        mutants={
            "c^m: one factor a sweep": {"power": lambda m: m},
            "c^(2m)": {"power": lambda m: 2 * m},
            "Hebbian writing": {"mechanism": "linear"},
        },
    )
)


def _kaczmarz(lab: Lab, sweeps: tuple[int, ...], mechanism: str) -> Any:
    keys = lab.keys("sphere", (1, 1, 8, 32), "keys")
    values = lab.normal((1, 1, 8, 5), "values")
    memories = swept(lab, keys, values, sweeps, mechanism)
    return keys[0, 0].numpy(), values[0, 0].numpy(), [each[0, 0].numpy() for each in memories]


def _pseudo_inverse(keys: Array, values: Array) -> Array:
    found: Array = np.linalg.pinv(keys) @ values
    return found


def measure_kaczmarz(
    lab: Lab,
    limit: Callable[[Array, Array], Array] = _pseudo_inverse,
    per_sweep: int = 1,
    mechanism: str = "delta",
) -> Iterator[Comparison]:
    """Repeat the same pairs, sweep after sweep."""
    sweeps = (1, 2, 3, 4, 6, 8, 12, 16, 300)
    keys, values, memories = lab.once(_kaczmarz, sweeps, mechanism)
    best, kept = limit(keys, values), sweep_map(keys, values)[0]
    reason = "the keys are up to a tenth from orthogonal, in a few hundred writes"
    yield lab.equal(f"memory after {sweeps[-1]} sweeps", memories[-1], best, reason=reason)
    powers = [np.linalg.matrix_power(kept, m * per_sweep) for m in sweeps]
    yield lab.equal(
        "distance of the memory from its limit",
        [np.linalg.norm(memory - best) for memory in memories[:-1]],
        [np.linalg.norm(power @ best) for power in powers[:-1]],
        growth=256,
        reason=reason,
        axes={"sweeps": sweeps[:-1]},
    )


register(
    Claim(
        id="pavlovian.delta.kaczmarz",
        title="Repeating the pairs takes the delta rule to the pseudo-inverse, at a known rate",
        paper=KACZMARZ,
        place="derived here",
        statement=r"W_m = W_\infty + (W_0-W_\infty)\,P^m,\quad W_\infty = VK^{+},\quad "
        r"P=\prod_i (I-k_ik_i^T)",
        hypotheses=("The keys are independent and of unit length.", "The step is 1."),
        finding="confirmed",
        found="Delta-rule trials are Kaczmarz' projections: the error at every sweep is given by "
        "the powers of one product of projections, and the limit is the memory of least norm that "
        "recalls all pairs, not the Hebbian one.",
        mechanisms=("delta",),
        measure=measure_kaczmarz,
        half=True,
        mutants={
            "the limit is ridge regression": {
                "limit": lambda k, v: k.T @ np.linalg.solve(k @ k.T + 0.1 * np.eye(len(k)), v)
            },
            "the limit is the Hebbian memory": {"limit": lambda k, v: k.T @ v},
            "two contractions a sweep": {"per_sweep": 2},
            "Hebbian writing": {"mechanism": "linear"},
        },
    )
)


def _sets(lab: Lab) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return keys, values and the memory after 300 sweeps of each set of keys."""
    values = lab.normal((1, 1, 33, 4), "values")
    keys = lab.keys("sphere", (1, 1, 33, 32), "keys")
    mixed = keys[:, :, :6].clone()
    mixed[:, :, 3] = (mixed[:, :, 0] + mixed[:, :, 1]) / (mixed[:, :, 0] + mixed[:, :, 1]).norm()
    found = {}
    for name, each in {"free": keys[:, :, :6], "mixed": mixed, "many": keys}.items():
        shown = values[:, :, : each.shape[2]]
        memory = swept(lab, each, shown, (300,))[0]
        found[name] = (each[0, 0], shown[0, 0], memory[0, 0])
    return found


def _limit_error(keys: Array, values: Array) -> float:
    kept, added = sweep_map(keys, values)
    memory = np.linalg.pinv(np.eye(len(kept)) - kept, rcond=1e-10) @ added
    return float(np.square(keys @ memory - values).sum())


def error_after(keys: Array, values: Array, sweeps: int) -> float:
    """Return the squared error of the memory after so many sweeps from nothing."""
    kept, added = sweep_map(keys, values)
    memory = np.zeros_like(added)
    for _ in range(sweeps):
        memory = kept @ memory + added
    return float(np.square(keys @ memory - values).sum())


def least_error(keys: Array, values: Array) -> float:
    """Return the least squared error that any linear memory of the pairs can have."""
    return float(np.square(values - keys @ np.linalg.pinv(keys, rcond=1e-6) @ values).sum())


def measure_independence(
    lab: Lab, law: Callable[[Array, Array], float] = _limit_error, sweeps: int = 300
) -> Iterator[Comparison]:
    """Repeat pairs whose keys are independent, dependent though few, and too many."""
    sets = lab.once(_sets)
    errors = {name: float((k @ w - v).square().sum()) for name, (k, v, w) in sets.items()}
    arrays = {name: (k.numpy(), v.numpy()) for name, (k, v, _) in sets.items()}
    yield lab.equal(
        "squared error, 6 independent keys", errors["free"], law(*arrays["free"]), scale=1.0
    )
    yield lab.equal(
        "squared error, 6 keys of which one is the sum of two",
        errors["mixed"],
        law(*arrays["mixed"]),
        growth=512,
        reason="keys rounded to unit length only",
    )
    yield lab.equal(
        "squared error, 33 keys in 32, on the way to its limit",
        errors["many"],
        error_after(*arrays["many"], sweeps),
        growth=4096,
        reason="9,900 writes",
    )
    full = {name: np.linalg.matrix_rank(k, tol=1e-3) == len(k) for name, (k, _) in arrays.items()}
    recalled = [error < 1e-8 for error in errors.values()]
    yield lab.exact(
        "which sets are recalled", recalled, [law(*each) < 1e-8 for each in arrays.values()]
    )
    yield lab.exact("those of independent keys", recalled, [bool(each) for each in full.values()])


register(
    Claim(
        id="pavlovian.delta.independence",
        title="Repeated trials recall everything exactly if and only if the keys are independent",
        paper=KACZMARZ,
        place="derived here",
        statement=r"\lim_m \|W_mK-V\| = 0 \;\Leftrightarrow\; \mathrm{rank}\,K = N",
        hypotheses=(
            "The keys have unit length, the values are in general position.",
            "The step is 1, and the pairs are repeated in the same order.",
        ),
        finding="sharpened",
        found="N not above d is not enough: of six keys in 32 dimensions, one that is the sum of "
        "two others spoils recall for ever. Then the rule settles on a cycle, with the last pair "
        "exact, whose error is above that of least squares.",
        mechanisms=("delta",),
        measure=measure_independence,
        mutants={
            "exact whenever N is not above d": {
                "law": lambda k, v: 0.0 if len(k) <= k.shape[1] else _limit_error(k, v)
            },
            "the rule reaches least squares": {"law": least_error},
            "one sweep is enough": {"sweeps": 1},
        },
    )
)
