"""Softmax heads: one, two opposite ones, and what they tend to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import sympy
import torch

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.icl.exact import debiasing_constant, risk_form, softmax_risk
from neuroattn.theory.icl.risks import debiased_gd_risk, gd_risk, optimal_step
from neuroattn.theory.icl.task import PAPER, TASK, descend, draw, heads, squared_error
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

LENGTHS = (10, 20, 40, 80)
DRAWS = 6000
#: One head at the optimum of the approximate loss, L = 40, d = 5; a pair like trained ones.
SINGLE = ((5**-0.5,), (5**0.5 / (1 + math.e * 5 * 1.1 / 40),))
PAIR = ((0.13, -0.13), (3.45, -3.45))
Heads = tuple[tuple[float, ...], tuple[float, ...]]


def differences(lab: Lab, omegas: tuple[float, ...], same_sign: bool) -> Array:
    """Return (draws, omegas) differences of two heads from debiased descent of step 1."""
    task = draw(lab, DRAWS, 40, 5)
    target = descend(lab, task, 1.0, "debiased")
    found = []
    for omega in omegas:
        mu = 1 / (2 * omega)
        signs = ((omega, omega), (mu, mu)) if same_sign else ((omega, -omega), (mu, -mu))
        found.append(heads(lab, task, *signs) - target)
    return torch.stack(found, -1).numpy()


def measure_limit(
    lab: Lab, power: float = 2.0, constant: float = 1.0, same_sign: bool = False
) -> Iterator[Comparison]:
    """Shrink ω with 2ωμ = 1 and compare the difference with its law."""
    omegas = (0.0125, 0.025, 0.05, 0.1)
    found = lab.once(differences, omegas, same_sign)
    wanted = constant * debiasing_constant(40, 5)
    size = np.sqrt((found**2).mean(0))
    yield lab.mean(
        "(softmax heads - debiased GD)² / ω⁴ at ω = .0125",
        found[:, 0] ** 2 / omegas[0] ** (2 * power),
        wanted**2,
    )
    yield lab.near(
        "slope of log rms over log ω",
        np.polyfit(np.log(omegas[:3]), np.log(size[:3]), 1)[0],
        power,
        tolerance=0.02,
        expected=0.005,
        reason="the next term is of fourth order",
    )
    spread = found.std(0) / math.sqrt(2 * DRAWS)
    law = [wanted * omega**power for omega in omegas]
    yield lab.near(
        "rms difference of two opposite softmax heads from debiased GD",
        size,
        law,
        tolerance=np.array(law) * 0.2,
        expected=float(max(law)) * 0.1 + float(spread.max()),
        reason="heavy tails of the draws, and the fourth order, 2 % at ω = .05 and 10 % at .1",
        axes={"omega": omegas},
    )


def prove_limit(proof: Proof) -> None:
    """Expand two opposite heads over three tokens."""
    w = sympy.symbols("omega")
    z = sympy.symbols("z_1:4")
    n = len(z)
    partition = sum(sympy.exp(w * each) for each in z)
    weight = sympy.exp(w * z[0]) / partition
    mean = sum(z) / n
    centred = [each - mean for each in z]
    second, third = (sum(each**k for each in centred) / n for k in (2, 3))
    proof.say("Weight of token 1 of three, at sharpness ω, with logits ωz", weight)
    proof.say(
        "Heads ±ω that write ±1/(2ω) keep the odd orders of the weight, divided by ω: the even "
        "ones cancel, so that what they add to is W₁ + W₃ω² + O(ω⁴)"
    )
    orders = [weight.diff(w, k).subs(w, 0) / sympy.factorial(k) for k in (1, 3)]
    proof.equal("W₁ is the centred logit over n", orders[0], centred[0] / n)
    proof.equal(
        "W₃ is its third cumulant over n",
        orders[1],
        (centred[0] ** 3 - 3 * centred[0] * second - third) / (6 * n),
    )


def errors(lab: Lab, pattern: Heads) -> Array:
    """Return (draws, lengths) squared errors of softmax heads."""
    tasks = [draw(lab, DRAWS, length, 5) for length in LENGTHS]
    found = [squared_error(task, heads(lab, task, *pattern)) for task in tasks]
    return torch.stack(found, -1).numpy()


def measure_heads(
    lab: Lab,
    formula: Callable[..., float] = softmax_risk,
    single: Heads = SINGLE,
) -> Iterator[Comparison]:
    """Run one softmax head and two opposite ones and compare with the quadrature."""
    for name, run, said in (("one head", single, SINGLE), ("two opposite heads", PAIR, PAIR)):
        yield lab.mean(
            f"risk of {name}, d = 5, noise .1",
            lab.once(errors, run),
            [formula(*said, n, 5, 0.1) for n in LENGTHS],
            axes={"context length": LENGTHS},
        )


def least_risk(omega: tuple[float, ...], length: int, dim: int, noise: float = 0.1) -> float:
    """Return the risk with the best μ."""
    gain, form = risk_form(omega, length, dim, noise)
    mu = np.linalg.lstsq(form, gain, rcond=1e-12)[0]
    return float(1 + noise - mu @ gain)


def optima(lab: Lab, length: int) -> tuple[float, float, float, float]:
    """Return the best ω and the risk of one head, and of two opposite heads."""
    from scipy.optimize import minimize_scalar

    found: list[float] = []
    for pattern in (lambda w: (w,), lambda w: (w, -w)):
        best = minimize_scalar(
            lambda w, pattern=pattern: least_risk(pattern(w), length, 5),
            bounds=(0.02, 0.85),
            method="bounded",
            options={"xatol": 2e-3},
        )
        found += [float(best.x), float(best.fun)]
    return found[0], found[1], found[2], found[3]


def measure_published(lab: Lab, floors: int = 1) -> Iterator[Comparison]:
    """Compare the published errors of trained models with the least exact risks."""
    _, one, _, two = lab.once(optima, 40)
    yield lab.near(
        "published readings for H = 1, 2, 4, 8 less the noise floor, and the least exact risk",
        np.array([0.5060, 0.3410, 0.3448, 0.3357]) - 0.1 * floors,
        [one, two, two, two],
        tolerance=0.012,
        expected=0.004,
        reason="readings of published figures: errors of trained models over a few thousand "
        "prompts. More heads than two gain less than .001, so that two stand for 4 and 8",
    )


def gains(lab: Lab, omegas: tuple[float, ...]) -> Array:
    """Return (draws, omegas): by how much two opposite heads are better than debiased GD."""
    task = draw(lab, 2 * DRAWS, 10, 5)
    step = optimal_step(10, 5, 0.1, "debiased")
    target = squared_error(task, descend(lab, task, step, "debiased"))
    found = []
    for omega in omegas:
        gain, form = risk_form((omega, -omega), 10, 5, 0.1)
        mu = (gain[0] - gain[1]) / (form[0, 0] + form[1, 1] - 2 * form[0, 1])
        found.append(target - squared_error(task, heads(lab, task, (omega, -omega), (mu, -mu))))
    return torch.stack(found, -1).numpy()


def exact_gain(omega: float) -> float:
    """Return the same from the exact risks."""
    return debiased_gd_risk(10, 5) - least_risk((omega, -omega), 10, 5)


def approximate_gain(omega: float) -> float:
    """Return the same from the approximate loss."""
    kappa = 1.1 / 10
    pair = omega**2 / (omega**2 + kappa * math.sinh(5 * omega**2))
    return pair - 1 / (1 + kappa * 5)


#: Best ω and how much two opposite heads gain by it, at lengths of 10, 20 and 40.
BEST = ((0.3633, 0.1236, 0.0708), (4.5236e-3, 2.875e-4, 3.304e-5))


def measure_finite(
    lab: Lab,
    gain: Callable[[float], float] = exact_gain,
    best: tuple[tuple[float, ...], tuple[float, ...]] = BEST,
) -> Iterator[Comparison]:
    """Compare two opposite heads with debiased GD in a short context, on the same draws."""
    omegas = (0.1, 0.25, 0.363, 0.5)
    yield lab.mean(
        "how much better two opposite heads are than debiased GD, L = 10, d = 5",
        lab.once(gains, omegas),
        [gain(omega) for omega in omegas],
        axes={"omega": omegas},
    )
    lengths = (10, 20, 40)
    found = [lab.once(optima, length) for length in lengths]
    axes = {"context length": lengths}
    yield lab.near(
        "best ω of two opposite heads",
        [each[2] for each in found],
        best[0],
        tolerance=5e-4,
        expected=5e-5,
        reason="a flat minimum, sought to .002; the values said are derived here",
        axes=axes,
    )
    yield lab.near(
        "by how much they are better than debiased GD at that ω",
        [debiased_gd_risk(n, 5) - each[3] for n, each in zip(lengths, found, strict=True)],
        best[1],
        tolerance=4e-7,
        expected=4e-8,
        reason="quadrature; the values said are derived here",
        axes=axes,
    )


def growing_errors(lab: Lab, train: int, lengths: tuple[int, ...]) -> Array:
    """Return (draws, lengths, 2) squared errors: softmax heads, and linear with 1 / train."""
    found = []
    for length in lengths:
        task = draw(lab, DRAWS, length, 5)
        found.append(squared_error(task, heads(lab, task, *PAIR)))
        # Weights that hold 1 / train: the read itself does not know how long its context is.
        found.append(squared_error(task, descend(lab, task, 0.897 * length / train)))
    return torch.stack(found, -1).numpy().reshape(-1, len(lengths), 2)


def measure_length(
    lab: Lab,
    softmax: Callable[[int], float] = lambda n: softmax_risk(*PAIR, n, 5),
    linear: Callable[[int], float] = lambda n: gd_risk(n, 5, 0.1, 0.897 * n / 20),
) -> Iterator[Comparison]:
    """Read contexts up to four times as long as those of training, L = 20."""
    lengths = (10, 20, 40, 80)
    found = lab.once(growing_errors, 20, lengths)
    for name, place, law in (("softmax heads", 0, softmax), ("linear, 1/L_train", 1, linear)):
        yield lab.mean(
            f"risk of {name} of L = 20 at other lengths",
            found[..., place],
            [law(n) for n in lengths],
            axes={"context length": lengths},
        )


register(
    Claim(
        id="icl.opposite.debiased-limit",
        title="Two opposite softmax heads tend to debiased gradient descent as ω²",
        paper=PAPER,
        place="two heads and debiased gradient descent; rate and constant are derived here",
        statement=(
            r"\sqrt{E(\hat y_{\pm\omega}-\hat y_{\mathrm{debiased}})^2}"
            r"=c\,\eta\,\omega^2+O(\omega^4),\quad 2\omega\mu=\eta"
        ),
        hypotheses=(*TASK, "Two softmax heads ±ω that write ±μ, with ωμ held fixed."),
        finding="sharpened",
        found=(
            "Second order, because opposite heads cancel the even orders of the softmax; the "
            "constant is the third cumulant of the logits, in closed form: 1.241 at L = 40, d = 5 "
            "and step .897."
        ),
        mechanisms=("softmax", "linear"),
        prove=prove_limit,
        measure=measure_limit,
        mutants={
            "first order": {"power": 1.0},
            "third order": {"power": 3.0},
            "the third moment for the third cumulant": {"constant": 15**0.5 / 6**0.5},
            "heads of one sign": {"same_sign": True},
        },
    )
)
register(
    Claim(
        id="icl.opposite.risk",
        title="One softmax head has a risk of .41, two opposite ones .243",
        paper=PAPER,
        place="one head and several; the exact risk is derived here",
        statement=(
            r"R=1+\sigma^2-\frac{2}{d}E\,r\mu\cdot m(r)"
            r"+E\,\mu^\top\left(\frac{v(r)}{d}+\left(\frac{d-1}{d}+\sigma^2\right)q(r)\right)\mu"
        ),
        hypotheses=(*TASK, "Each head has KQ = ω I and writes μ times the label."),
        finding="sharpened",
        found=(
            "The risk of any number of softmax heads is exact at every length and dimension: "
            "along the query the covariates are single numbers, m = E Σps, v = E ΣpsΣp's, "
            "q = E Σpp', averaged over the length r of the query. At L = 40, d = 5 one head's "
            "least risk is .404, two opposite heads' .2428."
        ),
        mechanisms=("softmax",),
        measure=measure_heads,
        mutants={
            "the noise added twice": {
                "formula": lambda w, m, n, d, s: softmax_risk(w, m, n, d, s) + s
            },
            "debiased gradient descent for any heads": {
                "formula": lambda w, m, n, d, s: debiased_gd_risk(n, d, s, float(np.dot(w, m)))
            },
            "scale 1/sqrt(d+1) left in the logits": {"single": ((5**-0.5 / 6**0.5,), SINGLE[1])},
        },
    )
)
register(
    Claim(
        id="icl.opposite.noise-floor",
        title="The published errors of trained models hold the noise floor twice",
        paper=PAPER,
        place="figures of the error of trained models, H = 1, 2, 4, 8",
        statement=r"R_{\mathrm{published}}=R+\sigma^2",
        hypotheses=(*TASK, "L = 40, d = 5, σ² = .1, as in the figures."),
        finding="refuted",
        found=(
            "The code adds σ² to an error whose label has noise already. Less .1, the published "
            ".5060 and .3410 are the least exact risks of one head, .404, and of two, .243. A "
            "search over four heads found .242; the .2357 that is left for 8 is lower by .006, as "
            "the draws of a few thousand prompts leave open."
        ),
        measure=measure_published,
        mutants={
            "the figures as they stand": {"floors": 0},
            "one floor too many": {"floors": 2},
        },
    )
)
register(
    Claim(
        id="icl.opposite.short-contexts",
        title="In short contexts the best two heads are not small, and beat debiased GD",
        paper=PAPER,
        place="optimality of debiased gradient descent; derived here",
        statement=r"\min_\omega R(\pm\omega)<R^*_{\mathrm{debiased}},\quad\omega^*>0",
        hypotheses=(*TASK, "Two softmax heads ±ω that write ±μ, with the best μ; d = 5, σ² = .1."),
        finding="sharpened",
        found=(
            "Debiased gradient descent is the limit ω → 0; the exact risk has its minimum at a "
            "finite ω: .0708 at L = 40, where it gains .00003, .124 at L = 20, where it gains "
            ".0003, and .363 at L = 10, where it gains .0045."
        ),
        mechanisms=("softmax", "linear"),
        measure=measure_finite,
        mutants={
            "the approximate loss, least at ω = 0": {"gain": approximate_gain},
            "one of them with the noise twice": {"gain": lambda w: exact_gain(w) - 0.1},
            "the optimum at ω → 0, where nothing is gained": {"best": ((0.0,) * 3, (0.0,) * 3)},
        },
    )
)
register(
    Claim(
        id="icl.opposite.length",
        title="Softmax heads keep their step in longer contexts; linear attention multiplies it",
        paper=PAPER,
        place="length generalisation; the risk of the linear transformer is derived here",
        statement=r"R_{\mathrm{linear}}(kL)=R_{\mathrm{GD}}(kL;\,k\eta)",
        hypotheses=(*TASK, "Weights of L = 20 are kept; the linear read is not normalised."),
        finding="confirmed",
        found=(
            "Two softmax heads fall from .368 at the training length to .178 at four times it; the "
            "linear transformer, whose weights hold 1/L, rises from .372 to 7.84: its step is four "
            "times too long."
        ),
        mechanisms=("softmax", "linear"),
        measure=measure_length,
        mutants={
            "the linear read normalises": {"linear": lambda n: gd_risk(n, 5, 0.1, 0.897)},
            "softmax multiplies its step too": {
                "softmax": lambda n: gd_risk(n, 5, 0.1, 0.897 * n / 20)
            },
            "a shorter step for a longer context": {
                "linear": lambda n: gd_risk(n, 5, 0.1, 0.897 * 20 / n)
            },
        },
    )
)
