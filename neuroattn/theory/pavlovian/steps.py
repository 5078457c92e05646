"""The size of the step: stability, normalised least mean squares, and the implicit step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.pavlovian.delta import PAPER
from neuroattn.theory.proof import Proof


def _one_write(lab: Lab, loudness: tuple[float, ...], normalize_keys: bool) -> tuple[Any, Any]:
    """Return I - beta k k^T for each beta |k|^2, and the residual of many trials on one key."""
    count, dim = len(loudness), 6
    key = lab.rounded(1.5 * lab.keys("sphere", (1, 1, 1, dim), "key")).expand(count, -1, -1, -1)
    squared = float(key[0].square().sum())
    beta = (torch.tensor(loudness, dtype=torch.float64) / squared)[:, None, None]
    given: dict[str, Any] = {"normalize_keys": normalize_keys}
    eye = {"memory": torch.eye(dim, dtype=torch.float64).expand(count, 1, -1, -1)}
    nothing = torch.zeros(count, 1, 1, dim, dtype=torch.float64)
    _, once = lab.attend_state("delta", key, key, nothing, beta=beta, initial_state=eye, **given)
    trials = key.repeat(1, 1, 12, 1)
    ones = torch.ones(count, 1, 12, 1, dtype=torch.float64)
    read = lab.attend("delta", key, trials, ones, beta=beta.expand(-1, -1, 12), **given)
    held = read[:, 0, 0, 0] if not normalize_keys else read[:, 0, 0, 0] / squared**0.5
    return once["memory"][:, 0].numpy(), np.abs(1 - held.numpy())


def measure_stability(
    lab: Lab,
    eigenvalue: Callable[[Array], Array] = lambda x: 1 - x,
    edge: float = 2.0,
    normalize_keys: bool = False,
) -> Iterator[Comparison]:
    """Write one key once over the identity, and twelve times over nothing."""
    loudness = (0.1, 0.25, 0.5, 0.9, 1.3, 1.6, 1.9, 2.1, 2.5, 3.0)
    memory, residual = lab.once(_one_write, loudness, normalize_keys)
    x = np.array(loudness)
    found = np.linalg.eigvalsh((memory + memory.swapaxes(-1, -2)) / 2)
    yield lab.equal(
        "eigenvalue of the write along its key",
        found[:, 0],
        eigenvalue(x),
        axes={"step times squared length of the key": loudness},
    )
    yield lab.equal("the other eigenvalues", found[:, 1:], 1.0)
    yield lab.exact("which steps are stable", residual < 1, (x > 0) & (x < edge))


def prove_stability(proof: Proof) -> None:
    """Factor the characteristic polynomial of a write in three dimensions."""
    x, beta = sympy.symbols("lambda beta")
    k = sympy.Matrix(sympy.symbols("k1:4"))
    squared = (k.T * k)[0]
    write = sympy.eye(3) - beta * k * k.T
    proof.say("A write of step beta multiplies the memory by I - beta k k^T", write)
    proof.equal(
        "Its characteristic polynomial has the roots 1, twice, and 1 - beta |k|^2",
        (x * sympy.eye(3) - write).det(),
        (x - 1) ** 2 * (x - 1 + beta * squared),
    )
    y = sympy.symbols("y", positive=True)
    proof.true(
        "The second is inside the unit circle for 0 < y < 2, y = beta |k|^2",
        sympy.solveset(sympy.Abs(1 - y) < 1, y, sympy.S.Reals) == sympy.Interval.open(0, 2),
    )


register(
    Claim(
        id="pavlovian.delta.stability",
        title="A step is stable if and only if beta times the squared length of the key is below 2",
        paper=PAPER,
        place="derived here",
        statement=r"\mathrm{spec}(I-\beta kk^T) = \{1,\ldots,1,\,1-\beta\|k\|^2\},\quad "
        r"0<\beta\|k\|^2<2",
        hypotheses=("The keys are used as they come, without being divided by their length.",),
        finding="confirmed",
        found="Between 1 and 2 the memory overshoots and still converges; the edge is the classic "
        "one of least mean squares, and depends on the key: a louder stimulus needs a smaller "
        "step, unless its key is normalised.",
        mechanisms=("delta",),
        prove=prove_stability,
        measure=measure_stability,
        half=True,
        mutants={
            "keys of length 1": {"normalize_keys": True},
            "unstable as soon as it overshoots": {"edge": 1.0},
            "the gradient of the squared error without 1/2": {"eigenvalue": lambda x: 1 - 2 * x},
        },
    )
)


NLMS = "Nagumo & Noda (1967), IEEE Transactions on Automatic Control 12, 282-287; " + PAPER
REGULARISER = 1.0
SHARE = 0.8


def _lengths(lab: Lab, lengths: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Return keys and values of ten pairs, and an eleventh whose key has the length wanted."""
    keys = lab.keys("gaussian", (len(lengths), 1, 11, 8), "keys")
    last = keys[:, 0, -1] / keys[:, 0, -1].norm(dim=-1, keepdim=True)
    keys[:, 0, -1] = lab.rounded(last * torch.tensor(lengths, dtype=torch.float64)[:, None])
    values = lab.normal((len(lengths), 1, 11, 4), "values")
    return keys, values, keys.square().sum(-1)


def residual_left(
    lab: Lab, mechanism: str, keys: Tensor, values: Tensor, beta: Tensor, **given: Any
) -> Array:
    """Return which share of the newest pair's residual its write leaves, one a sequence."""
    query = keys[:, :, -1:]
    states = [
        lab.attend(mechanism, query, keys[:, :, :n], values[:, :, :n], beta=beta[:, :, :n], **given)
        for n in (keys.shape[2] - 1, keys.shape[2])
    ]
    before, after = ((each - values[:, :, -1:])[:, 0, 0] for each in states)
    found: Array = ((after * before).sum(-1) / before.square().sum(-1)).numpy()
    return found


def measure_normalised(
    lab: Lab,
    regularised: bool = True,
    normalised: bool = True,
    values_divided: bool = True,
) -> Iterator[Comparison]:
    """Write a pair whose key is short or long; scale all keys; normalise them instead."""
    lengths = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
    keys, values, squared = _lengths(lab, lengths)
    x = np.square(lengths)
    step = SHARE / (REGULARISER + squared) if normalised else torch.full_like(squared, SHARE)
    yield lab.equal(
        "share of the residual that a write leaves",
        residual_left(lab, "delta", keys, values, step, normalize_keys=False),
        1 - SHARE * x / (REGULARISER * regularised + x),
        growth=512,
        scale=1.0,
        reason="the length of the key is rounded, and a quotient",
        axes={"length of the key": lengths},
    )
    given = {"normalize_keys": False}
    reads = []
    for size in (1.0, 7.0):
        scaled = size * keys
        rate = SHARE / scaled.square().sum(-1) if normalised else SHARE + 0 * squared
        reads.append(lab.attend("delta", scaled, scaled, values, beta=rate, **given))
    reason = "keys from a tenth to thirty long"
    yield lab.equal(
        "read with all keys seven times as long", reads[1], reads[0], growth=4096, reason=reason
    )
    part = values / squared.sqrt()[..., None] if values_divided else values
    unit = lab.attend("delta", keys, keys, part, beta=SHARE)
    yield lab.equal(
        "keys divided by their length, and values with them",
        unit,
        reads[0],
        growth=4096,
        reason=reason,
    )


register(
    Claim(
        id="pavlovian.rules.normalised-step",
        title="A step over the squared length of the key makes the delta rule free of scale",
        paper=NLMS,
        place="plausible learning rules; derived here",
        statement=r"v-W_tk = \left(1-\frac{\beta\|k\|^2}{\epsilon+\|k\|^2}\right)(v-W_{t-1}k),"
        r"\quad \beta_t=\frac{\beta}{\epsilon+\|k_t\|^2}",
        hypotheses=("Keys of any length; the step stays between 0 and 2.",),
        finding="sharpened",
        found="Normalised least mean squares is the delta rule with a step of its own for every "
        "token. It is not the delta rule on keys divided by their length, which DeltaNet uses: "
        "that equals it only if each value is divided by the length of its key as well. In terms "
        "of conditioning, DeltaNet does not know how salient a stimulus was.",
        mechanisms=("delta",),
        measure=measure_normalised,
        half=True,
        mutants={
            "one step for all keys": {"normalised": False},
            "without the regulariser": {"regularised": False},
            "keys normalised, values not": {"values_divided": False},
        },
    )
)

LONGHORN = "Liu et al. (2024), Longhorn, arXiv 2407.14207; " + PAPER


def _implicit(lab: Lab, loudness: tuple[float, ...], mechanism: str) -> Array:
    keys, values, squared = _lengths(lab, tuple(1.3 for _ in loudness))
    beta = (torch.tensor(loudness, dtype=torch.float64)[:, None, None] / squared[:, :, -1:]).expand(
        -1, -1, keys.shape[2]
    )
    plain = {"normalize_keys": False} if mechanism == "delta" else {}
    # Only the newest is written with the step in question.
    step = torch.cat([torch.full_like(beta[:, :, :-1], 0.1), beta[:, :, -1:]], dim=-1)
    return residual_left(lab, mechanism, keys, values, step, **plain)


def _distances(lab: Lab, mechanism: str, trials: int) -> Array:
    """Return the distance from the memory that generates the values, before and after trials."""
    keys = 3.0 * lab.keys("gaussian", (1, 1, trials, 8), "trials")
    truth = lab.normal((8, 3), "truth")
    values = keys @ truth
    plain = {"normalize_keys": False} if mechanism == "delta" else {}
    found, state = [truth.norm()], None
    for trial in range(trials):
        here = slice(trial, trial + 1)
        given: dict[str, Any] = {} if state is None else {"initial_state": state}
        given |= {"beta": 2.0, **plain}
        part = keys[:, :, here], values[:, :, here]
        _, state = lab.attend_state(mechanism, part[0], *part, **given)
        found.append((state["memory"][0, 0] - truth).norm())
    return np.array(found)


def measure_implicit(
    lab: Lab,
    mechanism: str = "longhorn",
    factor: Callable[[Array], Array] = lambda x: 1 / (1 + x),
) -> Iterator[Comparison]:
    """Write one pair with small and with huge steps; then many trials with huge steps."""
    loudness = (0.01, 0.03, 0.1, 0.3, 1.0, 1.9, 3.0, 10.0, 100.0, 1000.0)
    yield lab.equal(
        "share of the residual that a write leaves",
        lab.once(_implicit, loudness, mechanism),
        factor(np.array(loudness)),
        growth=512,
        scale=1.0,
        reason="the length of the key is rounded, and a quotient",
        axes={"step times squared length of the key": loudness},
    )
    distance = lab.once(_distances, mechanism, 24)
    yield lab.at_most(
        "distance from the true memory over that of a trial before",
        distance[1:] / distance[:-1],
        1.0,
        slack=lab.rounding(1024),
        reason="a projection towards it; rounding",
        axes={"trial": np.arange(1, 25)},
    )


def prove_implicit(proof: Proof) -> None:
    """Minimise the objective of one implicit step in two dimensions."""
    beta, v = sympy.symbols("beta v", positive=True)
    k = sympy.Matrix(sympy.symbols("k1 k2", real=True))
    old = sympy.Matrix(sympy.symbols("w1 w2", real=True))
    new = sympy.Matrix(sympy.symbols("x1 x2", real=True))
    loss = ((new - old).T * (new - old))[0] / 2 + beta * (v - (new.T * k)[0]) ** 2 / 2
    proof.say("The new memory x minimises |x - w|^2/2 + beta (v - x.k)^2/2", loss)
    found = sympy.solve([sympy.diff(loss, each) for each in new], list(new), dict=True)[0]
    squared, residual = (k.T * k)[0], v - (old.T * k)[0]
    best = new.subs(found)
    proof.equal(
        "That is an explicit step of beta / (1 + beta |k|^2)",
        best,
        old + beta / (1 + beta * squared) * residual * k,
    )
    proof.equal(
        "which leaves 1 / (1 + beta |k|^2) of the residual",
        v - (best.T * k)[0],
        residual / (1 + beta * squared),
    )


register(
    Claim(
        id="pavlovian.rules.implicit-step",
        title="An implicit step shrinks the residual by 1 + beta|k|^2, and is stable at any step",
        paper=LONGHORN,
        place="the implicit update; factor and stability derived here",
        statement=r"v-W_tk = \frac{v-W_{t-1}k}{1+\beta\|k\|^2}",
        hypotheses=(
            "For stability: the values are those of one linear map of the keys.",
            "Keys are used as they come.",
        ),
        finding="confirmed",
        found="A step of 1000 overshoots nothing, where the explicit delta rule diverges beyond 2; "
        "small steps of the two agree to first order.",
        mechanisms=("longhorn",),
        prove=prove_implicit,
        measure=measure_implicit,
        half=True,
        mutants={
            "the explicit step": {"mechanism": "delta"},
            "exp(-beta |k|^2), the continuous limit": {"factor": lambda x: np.exp(-x)},
            "1/(1 + 2 beta |k|^2)": {"factor": lambda x: 1 / (1 + 2 * x)},
        },
    )
)
