"""Memora: exponentiated gradients on the simplex, and what its closed form minimises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch
from scipy.optimize import minimize
from torch import Tensor

from neuroattn.errors import InputError
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

PAPER = (
    "Behrouz, Razaviyayn, Zhong & Mirrokni (2025), It's all connected: test-time memorization, "
    "attentional bias, retention, and online optimization (Miras)"
)


def memora_gates(step: float, retention: float) -> tuple[float, float]:
    """Return the power of the old memory and the write strength of Memora.

    They make ``softmax(power log W' - strength g)`` the minimiser over the simplex of
    ``<W, g> + KL(W, W')/step + sum(W log W)/retention``.

    Parameters
    ----------
    step : float
        eta of the paper, above 0.
    retention : float
        alpha of the paper, above 0; infinite for plain exponentiated gradients.

    Returns
    -------
    power, strength : float
        1 - lambda and eta'.

    Raises
    ------
    InputError
        If one is not above 0.

    References
    ----------
    Behrouz et al. (2025), Memora, arXiv 2504.13173.
    """
    for name, number in {"step": step, "retention": retention}.items():
        if not number > 0:
            raise InputError(f"{name}={number!r} must be above 0.")
    if step == retention == np.inf:
        raise InputError(f"step={step!r} must be finite where retention={retention!r} is not.")
    total = 1 / retention + 1 / step
    return 1 - (1 / retention) / total, 1 / total


def objective(logits: Array, before: Array, slope: Array, step: float, retention: float) -> float:
    """Return what Memora minimises, at the softmax of some logits."""
    now = np.exp(logits - logits.max())
    now /= now.sum()
    log = np.log(now)
    kept = now @ (log - np.log(before))
    return float(now @ slope + kept / step + now @ log / retention)


def minimiser(before: Array, slope: Array, step: float, retention: float) -> Array:
    """Return the minimiser over the simplex, numerically."""

    def gradient(logits: Array) -> Array:
        now = np.exp(logits - logits.max())
        now /= now.sum()
        along = slope + (np.log(now) - np.log(before)) / step + np.log(now) / retention
        return np.asarray(now * (along - now @ along))

    found = minimize(
        lambda logits: objective(logits, before, slope, step, retention),
        np.zeros(len(before)),
        jac=gradient,
        method="BFGS",
        options={"gtol": 1e-10, "maxiter": 1000},
    )
    now = np.exp(found.x - found.x.max())
    return np.asarray(now / now.sum())


def written(lab: Lab, power: float, strength: float) -> tuple[Array, Array, Array]:
    """Return memory, slope of the loss and memory after the mechanism writes one token."""
    dim, width = 6, 3
    before = lab.rounded(lab.normal((1, 1, dim, width), "before").log_softmax(-2))
    key = lab.keys("sphere", (1, 1, 1, dim), "key")
    value = lab.normal((1, 1, 1, width), "value")
    state = lab.attend_state(
        "memora",
        key,
        key,
        value,
        alpha=power,
        beta=strength,
        scale=1.0,
        normalize_keys=False,
        initial_state={"log_memory": before, "written": torch.ones(1, 1, 1, 1).double()},
    )[1]
    memory = before.exp()[0, 0]
    slope: Tensor = key[0, 0].mT @ (key[0, 0] @ memory - value[0, 0])
    return memory.numpy(), slope.numpy(), state["log_memory"][0, 0].exp().numpy()


def measure_memora(
    lab: Lab, gates: Callable[[float, float], tuple[float, float]] = memora_gates
) -> Iterator[Comparison]:
    """Minimise numerically for a range of retentions; look for anything lower nearby."""
    step, retentions = 1.5, np.array([0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1000.0])
    found, wanted, uniform = [], [], []
    for retention in retentions:
        before, slope, after = lab.once(written, *gates(step, float(retention)))
        best = [
            minimiser(before[:, c] / before[:, c].sum(), slope[:, c], step, float(retention))
            for c in range(before.shape[1])
        ]
        found.append(after)
        wanted.append(np.stack(best, axis=1))
        uniform.append(float(np.abs(after - 1 / len(after)).sum()) / 2)
    allowed = 3e-8 + lab.rounding(32)
    said: dict[str, Any] = {
        "tolerance": allowed,
        "expected": allowed / 10,
        "reason": "where scipy's BFGS stops, at a slope of 1e-10, and rounding",
    }
    yield lab.near("memory after one write", found, wanted, **said)
    yield lab.near(
        "weight of the first channel",
        [each[0, 0] for each in found],
        [each[0, 0] for each in wanted],
        axes={"retention alpha": retentions},
        **said,
    )
    total = np.stack(found).sum(1)
    yield lab.equal(
        "weights of every value channel sum to 1", total, np.ones_like(total), growth=16
    )
    rises = np.diff([float(np.abs(each - 1 / len(each)).sum()) for each in found])
    yield lab.at_least("less retention penalty, farther from uniform", rises, 0.0)
    before, slope, after = lab.once(written, *gates(step, float("inf")))
    plain = before * np.exp(-step * slope)
    plain /= plain.sum(0)
    yield lab.equal("without it: exponentiated gradients", after, plain, growth=32)


def prove_memora(proof: Proof) -> None:
    """Solve the stationary point on the simplex."""
    eta, alpha = sympy.symbols("eta alpha", positive=True)
    names = ("W", "P", "g")
    weights, before, slope = (sympy.symbols(f"{name}_1:3", positive=True) for name in names)
    rate = 1 / alpha + 1 / eta
    lam, strength = (1 / alpha) / rate, 1 / rate
    value = sum(
        w * g + w * sympy.log(w / p) / eta + w * sympy.log(w) / alpha
        for w, p, g in zip(weights, before, slope, strict=True)
    )
    proof.say("On the simplex minimise", value)
    closed = [p ** (1 - lam) * sympy.exp(-strength * g) for p, g in zip(before, slope, strict=True)]
    proof.say("The closed form, before it is divided by its sum", sympy.Matrix(closed))
    slopes = [
        sympy.expand_log(sympy.diff(value, w).subs(w, sympy.Symbol("Z", positive=True) * c))
        for w, c in zip(weights, closed, strict=True)
    ]
    proof.equal("There all channels have one slope, as a simplex needs", slopes[0], slopes[1])
    curved = sympy.diff(value, weights[0], 2)
    proof.equal("and the objective is convex", curved, rate / weights[0])
    limits = [sympy.limit(each, alpha, sympy.oo) for each in (lam, strength)]
    proof.equal("alpha to infinity keeps the memory as it is", limits[0], 0)
    proof.equal("and leaves the step eta", limits[1], eta)


register(
    Claim(
        id="memory.miras.memora",
        title="Memora's update is the minimiser of its objective over the simplex",
        paper=PAPER,
        place="Memora: KL retention on the simplex; derived here",
        statement=r"\mathrm{argmin}_{W\in\Delta}\langle W,g\rangle+\frac{1}{\eta}\mathrm{KL}(W\|W')"
        r"+\frac{1}{\alpha}\sum W\log W\ \propto\ W'^{1-\lambda}e^{-\eta' g},\quad "
        r"\lambda=\frac{1/\alpha}{1/\alpha+1/\eta},\ \eta'=\frac{1}{1/\alpha+1/\eta}",
        hypotheses=(
            "Each value channel's weights over the key channels are a distribution.",
            "g is the gradient of half the squared error of one association.",
        ),
        finding="confirmed",
        found="The registered update is the numerical minimiser. The retention penalty does two "
        "things at once: it draws the memory to the uniform one, and it shortens the step, eta' < "
        "eta; an implementation that keeps eta learns too fast.",
        mechanisms=("memora",),
        prove=prove_memora,
        measure=measure_memora,
        mutants={
            "the step is not shortened": {"gates": lambda e, a: (memora_gates(e, a)[0], e)},
            "lambda of the step instead of the retention": {
                "gates": lambda e, a: (1 - memora_gates(e, a)[0], memora_gates(e, a)[1])
            },
            "no retention penalty": {"gates": lambda e, a: (1.0, e)},
        },
    )
)
