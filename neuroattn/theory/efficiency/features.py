"""Learned stand-ins for softmax: Hedgehog's distillation and Mega's laplace function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch
from scipy.special import erf
from torch import Tensor

from neuroattn.attention.linear.hedgehog import distillation_loss
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

TOKENS, DIM = 20, 6
Array = np.ndarray[Any, np.dtype[np.float64]]


def distilled(lab: Lab, steps: int) -> tuple[float, Tensor, Tensor]:
    """Return the loss after some steps, and the weights of Hedgehog and of softmax."""
    query, key = (lab.normal((1, 1, TOKENS, DIM), name) for name in ("query", "key"))
    weight = lab.normal((1, DIM, 2 * DIM), "features") / 2
    with torch.enable_grad():
        weight.requires_grad_()
        optimizer = torch.optim.Adam([weight], lr=0.05)
        for _ in range(steps):
            optimizer.zero_grad()
            torch.autograd.backward(distillation_loss(query, key, weight))
            optimizer.step()
    map_ = lab.rounded(weight.detach())
    eye = torch.eye(TOKENS, dtype=torch.float64)[None, None]
    found = lab.attend("hedgehog", query, key, eye, feature_weight=map_)[0, 0]
    convex = lab.attend("softmax", query, key, eye)[0, 0]
    return float(distillation_loss(query, key, map_)), found, convex


def entropy_of_softmax(convex: Tensor, linear: Tensor) -> float:
    """Return the mean entropy of softmax attention's rows."""
    return float(-(convex * convex.log()).sum(-1).mean())


def divergence_to_softmax(convex: Tensor, linear: Tensor) -> float:
    """Return the mean divergence of the linear rows from softmax, KL(softmax || linear)."""
    return float((convex * (convex / linear).log()).sum(-1).mean())


def measure_distillation(
    lab: Lab,
    bound: Callable[[Tensor, Tensor], float] = entropy_of_softmax,
    gap: Callable[[Tensor, Tensor], float] = divergence_to_softmax,
) -> Iterator[Comparison]:
    """Distil, and split the loss into the entropy and the divergence that is left."""
    steps = (0, 10, 30, 80)
    drawn = [lab.once(distilled, count) for count in steps]
    losses = [loss for loss, _, _ in drawn]
    yield lab.equal(
        "distillation loss (nats a row)",
        losses,
        [bound(convex, linear) + gap(convex, linear) for _, linear, convex in drawn],
        growth=256,
        reason="logs of weights",
        axes={"steps of Adam": steps},
    )
    yield lab.at_least(
        "loss above the entropy of softmax", losses, [bound(c, x) for _, x, c in drawn]
    )
    yield lab.at_least("by how much distillation lowers the loss", losses[0] - losses[-1], 0.05)


def prove_distillation(proof: Proof) -> None:
    """Split a cross-entropy of two weights, and bound the divergence."""
    p, q = sympy.symbols("p q", positive=True)
    cross = -p * sympy.log(q) - (1 - p) * sympy.log(1 - q)
    entropy = cross.subs(q, p)
    divergence = p * sympy.log(p / q) + (1 - p) * sympy.log((1 - p) / (1 - q))
    proof.equal(
        "Cross-entropy is entropy and divergence",
        sympy.expand_log(cross - entropy - divergence, force=True),
        0,
    )
    slope = sympy.diff(cross, q)
    proof.equal("Its slope in q is (q-p)/(q(1-q))", slope, (q - p) / (q * (1 - q)))
    proof.say("negative below q = p and positive above: the least is the entropy", entropy)


def shaped(lab: Lab, function: str, logits: Array) -> Array:
    """Return the weights that Mega gives one key at some logits."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    # The shared projection is silu(b) = 1 whatever the token: logits are the queries' shifts.
    shared = 1.2784645427610738
    named = {
        "gain": one,
        "damping": one,
        "spread": one,
        "readout": one,
        "skip": 0 * one[0],
        "shared_weight": 0 * one,
        "shared_bias": shared * one[0],
        "query_scale": 0 * one[0],
        "key_scale": 0 * one[0],
        "key_shift": one[0],
    }
    found = []
    token = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for each in logits:
        shift = torch.full((1, 1), float(each), dtype=torch.float64)
        read = lab.attend(
            "mega", token, token, token, function=function, query_shift=shift, **named
        )
        found.append(float(read))
    return np.array(found)


def laplace(logits: Array, spread: float = math.sqrt(0.25 / math.pi)) -> Array:
    """Return the published function: a normal distribution's, about sqrt(1/2)."""
    found: Array = 0.5 * (1 + erf((logits - math.sqrt(0.5)) / (spread * math.sqrt(2))))
    return found


def measure_laplace(
    lab: Lab, spread: float = math.sqrt(0.25 / math.pi), centre: float = math.sqrt(0.5)
) -> Iterator[Comparison]:
    """Read the weights of one key over its logit, and their slope where the functions meet."""
    logits = np.linspace(-0.4, 1.8, 12)
    found = lab.once(curve, "laplace")
    yield lab.near(
        "weight of one key, laplace",
        found,
        laplace(logits, spread),
        tolerance=lab.rounding(64),
        expected=lab.rounding(8),
        reason="rounding of a weight of up to 1",
        axes={"logit": logits},
    )
    step = 1 / 32
    ends = np.array([centre - step, centre, centre + step])
    for function, curved in (("laplace", 4.0), ("relu2", 0.0)):
        low, middle, high = shaped(lab, function, ends)
        yield lab.near(
            f"value of {function} at sqrt(1/2)",
            middle,
            0.5,
            tolerance=lab.rounding(64),
            expected=lab.rounding(8),
            reason="rounding",
        )
        yield lab.near(
            f"slope of {function} at sqrt(1/2)",
            (high - low) / (2 * step),
            math.sqrt(2),
            tolerance=curved * 5 * step**2 + lab.rounding(64) / step,
            expected=curved * step**2 + lab.rounding(8) / step,
            reason="a difference over 1/16, whose error is a sixth of the third derivative",
        )


def curve(lab: Lab, function: str) -> Array:
    """Return weights over twelve logits."""
    return shaped(lab, function, np.linspace(-0.4, 1.8, 12))


def prove_laplace(proof: Proof) -> None:
    """Differentiate both functions where they meet."""
    x = sympy.symbols("x", positive=True)
    centre, spread = sympy.sqrt(sympy.Rational(1, 2)), sympy.sqrt(1 / (4 * sympy.pi))
    smooth = (1 + sympy.erf((x - centre) / (spread * sympy.sqrt(2)))) / 2
    half = sympy.Rational(1, 2)
    proof.say("laplace is the distribution function of a normal law", smooth)
    proof.equal(
        "Its value at sqrt(1/2) is that of x^2", smooth.subs(x, centre), (x**2).subs(x, centre)
    )
    proof.equal("namely", smooth.subs(x, centre), half)
    proof.equal(
        "and so is its slope",
        smooth.diff(x).subs(x, centre),
        (x**2).diff(x).subs(x, centre),
    )
    proof.equal("but not its curvature, 0 beside 2", smooth.diff(x, 2).subs(x, centre), 0)


register(
    Claim(
        id="efficiency.hedgehog.entropy",
        title="Hedgehog's distillation cannot fall below the entropy of softmax attention",
        paper="Zhang et al. (2024), The Hedgehog & the Porcupine",
        place="distillation of attention weights; the floor is derived here",
        statement=r"-\sum_j \alpha_j \log \hat\alpha_j = H(\alpha) +"
        r" \mathrm{KL}(\alpha\|\hat\alpha) \geq H(\alpha)",
        hypotheses=("Both sets of weights are positive and sum to one in every row.",),
        finding="confirmed",
        found="80 steps lower the loss; what is left above the entropy is the divergence, so "
        "that a loss is to be judged beside this floor and not beside zero.",
        mechanisms=("hedgehog", "softmax"),
        prove=prove_distillation,
        measure=measure_distillation,
        mutants={
            "a floor of zero": {"bound": lambda convex, linear: 0.0},
            "the divergence the other way round": {
                "gap": lambda convex, linear: divergence_to_softmax(linear, convex)
            },
            "the entropy of the linear weights": {
                "bound": lambda convex, linear: entropy_of_softmax(linear, convex)
            },
        },
    )
)
register(
    Claim(
        id="efficiency.mega.laplace",
        title="Mega's laplace function meets relu squared in value and slope",
        paper="Ma et al. (2022), Mega: moving average equipped gated attention",
        place="equation 16",
        statement=r"f(x) = \frac{1}{2}\left[1+\mathrm{erf}\left(\frac{x-\mu}{\sigma\sqrt{2}}\right)"
        r"\right],\ \mu = \sqrt{1/2},\ \sigma = \sqrt{1/4\pi}: \quad f(\mu) = \mu^2 = \frac{1}{2},"
        r"\ f'(\mu) = 2\mu",
        hypotheses=("One key, so that the division of logits by the length drops out.",),
        finding="confirmed",
        found="Both are 1/2 with slope sqrt(2) at sqrt(1/2); the curvatures are 0 and 2.",
        mechanisms=("mega",),
        prove=prove_laplace,
        measure=measure_laplace,
        mutants={
            "the variance taken for the spread": {"spread": 0.25 / math.pi},
            "functions that meet at 1/2": {"centre": 0.5},
        },
    )
)
