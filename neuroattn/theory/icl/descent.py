"""Gradient descent in context, plain and debiased, as linear attention does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import sympy
import torch

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Array, Comparison
from neuroattn.theory.icl.risks import (
    debiased_gd_risk,
    gd_risk,
    optimal_preconditioner,
    optimal_step,
    preconditioned_risk,
)
from neuroattn.theory.icl.task import PAPER, TASK, descend, draw, squared_error
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

LENGTHS = (10, 20, 40, 100)
STEPS = (0.25, 0.5, 0.75, 1.0, 1.25)
DRAWS = 20000

Risk = Callable[[int, int, float, float], float]


def errors_by_length(lab: Lab, rule: str, step: float) -> Array:
    """Return (draws, lengths) squared errors."""
    tasks = [draw(lab, DRAWS, length, 5) for length in LENGTHS]
    found = [squared_error(task, descend(lab, task, step, rule)) for task in tasks]
    return torch.stack(found, -1).numpy()


def errors_by_step(lab: Lab, rule: str) -> Array:
    """Return (draws, steps) squared errors, with labels as noisy as they are large."""
    task = draw(lab, 2 * DRAWS, 3, 4, 1.0)
    found = [squared_error(task, descend(lab, task, step, rule)) for step in STEPS]
    return torch.stack(found, -1).numpy()


def measure_descent(lab: Lab, rule: str, formula: Risk) -> Iterator[Comparison]:
    """Run the predictor through linear attention and compare its squared error."""
    yield lab.mean(
        f"risk of {rule}, d = 5, noise .1, step .897",
        lab.once(errors_by_length, rule, 0.897),
        [formula(length, 5, 0.1, 0.897) for length in LENGTHS],
        axes={"context length": LENGTHS},
    )
    yield lab.mean(
        f"risk of {rule}, L = 3, d = 4, noise 1",
        lab.once(errors_by_step, rule),
        [formula(3, 4, 1.0, step) for step in STEPS],
        axes={"step": STEPS},
    )


def measure_gd(lab: Lab, formula: Risk = gd_risk, rule: str = "gd") -> Iterator[Comparison]:
    """Measure plain gradient descent."""
    yield from measure_descent(lab, rule, formula)


def measure_debiased(
    lab: Lab, formula: Risk = debiased_gd_risk, rule: str = "debiased"
) -> Iterator[Comparison]:
    """Measure debiased gradient descent."""
    yield from measure_descent(lab, rule, formula)


def best_errors(lab: Lab) -> Array:
    """Return (draws, lengths, 2) squared errors of the two rules, each with its best step."""
    found = []
    for length in LENGTHS:
        task = draw(lab, DRAWS, length, 5)
        for rule in ("gd", "debiased"):
            step = optimal_step(length, 5, 0.1, rule)
            found.append(squared_error(task, descend(lab, task, step, rule)))
    return torch.stack(found, -1).numpy().reshape(DRAWS, len(LENGTHS), 2)


def advantage(length: int, dim: int, noise: float) -> float:
    """Return by how much plain gradient descent is better, each with its best step."""
    spread = dim * (1 + noise)
    return (1 + spread) / ((length + 1 + spread) * (length + spread))


def measure_comparison(
    lab: Lab, gain: Callable[[int, int, float], float] = advantage
) -> Iterator[Comparison]:
    """Compare the two rules on the same draws."""
    errors = lab.once(best_errors)
    yield lab.mean(
        "how much better plain gradient descent is than debiased",
        errors[..., 1] - errors[..., 0],
        [gain(length, 5, 0.1) for length in LENGTHS],
        axes={"context length": LENGTHS},
    )
    yield lab.near(
        "difference of the two least risks",
        [debiased_gd_risk(n, 5) - gd_risk(n, 5) for n in LENGTHS],
        [gain(n, 5, 0.1) for n in LENGTHS],
        tolerance=1e-12,
        expected=1e-13,
        reason="the same number, written in two ways",
    )


#: Standard deviations of the covariates along four axes, that a rotation hides.
SPREADS = (0.5, 1.0, 1.5, 2.0)


def rotated(lab: Lab) -> tuple[torch.Tensor, Array]:
    """Return a root of the covariance, to be multiplied from the right, and the covariance."""
    turn, _ = np.linalg.qr(lab.rng("rotation").standard_normal((len(SPREADS),) * 2))
    root = turn * np.array(SPREADS) @ turn.T
    return torch.tensor(root), root @ root


def preconditioners(covariance: Array, length: int) -> dict[str, Array]:
    """Return what the heads may compare covariates by."""
    size = len(covariance)
    return {
        "the identity": np.eye(size) / np.trace(covariance) * size / 2,
        "the inverse covariance": np.linalg.inv(covariance) * 0.7,
        "the best": optimal_preconditioner(covariance, length),
    }


def covariate_errors(lab: Lab, length: int) -> dict[str, Array]:
    """Return (draws,) squared errors for each preconditioner and rule."""
    root, covariance = rotated(lab)
    task = draw(lab, DRAWS, length, len(SPREADS), 0.1, root)
    return {
        f"{name}, {rule}": squared_error(
            task, descend(lab, task, 1.0, rule, torch.tensor(matrix))
        ).numpy()
        for name, matrix in preconditioners(covariance, length).items()
        for rule in ("gd", "debiased")
    }


def measure_covariates(
    lab: Lab, formula: Callable[..., float] = preconditioned_risk
) -> Iterator[Comparison]:
    """Measure gradient descent on rotated covariates of unequal spread."""
    lengths = (8, 16, 32, 64)
    _, covariance = rotated(lab)
    found = [lab.once(covariate_errors, length) for length in lengths]
    for name in found[0]:
        kind, rule = name.rsplit(", ", 1)
        yield lab.mean(
            f"risk, preconditioned by {name}",
            np.stack([each[name] for each in found], -1),
            [
                formula(covariance, preconditioners(covariance, n)[kind], n, 0.1, rule)
                for n in lengths
            ],
            axes={"context length": lengths},
        )


def _isotropic(covariance: Array, matrix: Array, length: int, noise: float, rule: str) -> float:
    size = len(covariance)
    return preconditioned_risk(
        np.eye(size) * np.trace(covariance) / size, matrix, length, noise, rule
    )


def measure_best_preconditioner(
    lab: Lab, best: Callable[..., Array] = optimal_preconditioner
) -> Iterator[Comparison]:
    """Minimise the exact risk over all matrices and compare with the closed form."""
    from scipy.optimize import minimize

    _, covariance = rotated(lab)
    size = len(covariance)
    for rule in ("gd", "debiased"):
        for length in (6, 60):
            found = minimize(
                lambda flat, n=length, rule=rule: preconditioned_risk(
                    covariance, flat.reshape(size, size), n, 0.1, rule
                ),
                np.zeros(size * size),
                method="BFGS",
                options={"gtol": 1e-7},
            )
            yield lab.near(
                f"best preconditioner, {rule}, L = {length}",
                found.x.reshape(size, size),
                best(covariance, length, 0.1, rule),
                tolerance=3e-5,
                expected=4e-6,
                reason="gradients of the minimiser are differences of risks",
            )


def prove_gd(proof: Proof) -> None:
    """Derive the risk for one covariate from the moments of a normal, and the best step."""
    length, noise, eta, dim = sympy.symbols("L sigma2 eta d", positive=True)
    proof.say("d = 1: the prediction is η (β S + E) x, with S the mean of x², E that of x ε")
    second = sympy.Integer(1)
    fourth = sympy.integrate(
        _x**4 * sympy.exp(-(_x**2) / 2) / sympy.sqrt(2 * sympy.pi), (_x, -sympy.oo, sympy.oo)
    )
    square = sympy.simplify((length * fourth + length * (length - 1) * second) / length**2)
    proof.equal("E S² counts equal and unequal pairs of tokens", square, 1 + 2 / length)
    risk = noise + 1 - 2 * eta + eta**2 * (square + noise / length)
    general = 1 + noise - 2 * eta + eta**2 * (1 + (dim + 1 + noise * dim) / length)
    proof.equal("The risk agrees with the formula at d = 1", risk, general.subs(dim, 1))
    best = sympy.solve(sympy.diff(general, eta), eta)[0]
    proof.equal("The best step", best, length / (length + 1 + dim * (1 + noise)))
    proof.equal("The least risk", general.subs(eta, best), 1 + noise - best)


def prove_comparison(proof: Proof) -> None:
    """Show that plain gradient descent is the better one for every length and dimension."""
    length, spread, eta, noise = sympy.symbols("L D eta sigma2", positive=True)
    plain = 1 + noise - 2 * eta + eta**2 * (length + 1 + spread) / length
    share = (length - 1) / length
    debiased = 1 + noise - 2 * eta * share + eta**2 * share * (length + spread) / length
    proof.say("With D = d(1 + σ²), the two risks have their minima where they are flat", plain)
    least = [
        sympy.simplify(risk.subs(eta, sympy.solve(sympy.diff(risk, eta), eta)[0]))
        for risk in (plain, debiased)
    ]
    gain = (1 + spread) / ((length + 1 + spread) * (length + spread))
    proof.equal("Debiased less plain", least[1] - least[0], gain)
    proof.true("It is positive for every L, d and σ²", gain.is_positive, gain)


_x = sympy.symbols("x", real=True)

register(
    Claim(
        id="icl.risk.gd",
        title="One step of gradient descent in context has this risk",
        paper=PAPER,
        place="gradient descent as a baseline; the risk is derived here",
        statement=r"R=1+\sigma^2-2\eta+\eta^2\left(1+\frac{d+1+\sigma^2 d}{L}\right)",
        hypotheses=TASK,
        finding="sharpened",
        found=(
            "The exact risk at every length: .2414 at L = 40, d = 5, σ² = .1 and step .897, "
            "with the best step .860 it is .2398."
        ),
        mechanisms=("linear",),
        prove=prove_gd,
        measure=measure_gd,
        mutants={
            "the noise added twice": {"formula": lambda n, d, s, eta: gd_risk(n, d, s, eta) + s},
            "an exact covariance": {"formula": lambda n, d, s, eta: (1 - eta) ** 2 + s},
            "no label noise in the context": {
                "formula": lambda n, d, s, eta: gd_risk(n, d, 0.0, eta) + s
            },
            "covariates less their mean": {"rule": "debiased"},
        },
    )
)
register(
    Claim(
        id="icl.risk.debiased",
        title="One step of debiased gradient descent has this risk",
        paper=PAPER,
        place="debiased gradient descent; the risk is derived here",
        statement=(r"R=1+\sigma^2-2\eta\frac{L-1}{L}+\eta^2\frac{(L-1)(L+d+\sigma^2 d)}{L^2}"),
        hypotheses=(*TASK, "The mean of the covariates in the context is subtracted from each."),
        finding="sharpened",
        found=(
            "The exact risk, .2432 at L = 40, d = 5, σ² = .1 and step .897; with the best step "
            "L/(L + d + σ²d) it is .2429. The subtracted mean costs one degree of freedom."
        ),
        mechanisms=("linear",),
        measure=measure_debiased,
        mutants={
            "the noise added twice": {
                "formula": lambda n, d, s, eta: debiased_gd_risk(n, d, s, eta) + s
            },
            "the formula of plain gradient descent": {"formula": gd_risk},
            "the mean is not subtracted": {"rule": "gd"},
        },
    )
)
register(
    Claim(
        id="icl.risk.gd-beats-debiased",
        title="Plain gradient descent with its best step is always better than debiased",
        paper=PAPER,
        place="comparison with gradient descent; derived here",
        statement=(
            r"R^*_{\mathrm{debiased}}-R^*_{\mathrm{plain}}"
            r"=\frac{1+d(1+\sigma^2)}{(L+1+d(1+\sigma^2))(L+d(1+\sigma^2))}>0"
        ),
        hypotheses=(*TASK, "Each rule has its own best step."),
        finding="sharpened",
        found=(
            "At every length and dimension, by .0031 at L = 40, d = 5. What two softmax heads "
            "outperform is one softmax head, not gradient descent."
        ),
        mechanisms=("linear",),
        prove=prove_comparison,
        measure=measure_comparison,
        mutants={
            "debiased is the better one": {"gain": lambda n, d, s: -advantage(n, d, s)},
            "they are the same": {"gain": lambda n, d, s: 0.0},
        },
    )
)
register(
    Claim(
        id="icl.covariates.risk",
        title="On covariates of any covariance, a preconditioned step has this risk",
        paper=PAPER,
        place="non-isotropic covariates; the risk is derived here",
        statement=(
            r"R=\frac{\mathrm{tr}\Sigma}{d}+\sigma^2-\frac{2}{d}\mathrm{tr}\,\Sigma A\Sigma"
            r"+\frac{L+1}{Ld}\mathrm{tr}\,\Sigma M\Sigma"
            r"+\frac{\mathrm{tr}\,M\Sigma}{L}\left(\frac{\mathrm{tr}\Sigma}{d}+\sigma^2\right),"
            r"\quad M=A\Sigma A^\top"
        ),
        hypotheses=(
            "Covariates are N(0, Σ), in the context and in the query; β ~ N(0, I/d).",
            "The predictor is linear in the labels, Σ y x · A x_q / L; KQ is A up to a factor.",
        ),
        finding="sharpened",
        found=(
            "Exact for every Σ, A and length, plain and debiased, from the second moment of a "
            "Wishart matrix."
        ),
        mechanisms=("linear",),
        measure=measure_covariates,
        mutants={
            "covariates taken as isotropic of the same trace": {"formula": _isotropic},
            "the noise added twice": {
                "formula": lambda c, a, n, s, r: preconditioned_risk(c, a, n, s, r) + s
            },
            "an infinite context": {
                "formula": lambda c, a, n, s, r: preconditioned_risk(c, a, 10**9, s, r)
            },
        },
    )
)
register(
    Claim(
        id="icl.covariates.preconditioner",
        title="The best preconditioner lies between the identity and the inverse covariance",
        paper=PAPER,
        place="non-isotropic covariates; derived here, plain rule as in Ahn et al. (2023)",
        statement=(
            r"A^*=L\left[(f+1)\Sigma+(\mathrm{tr}\Sigma+\sigma^2 d)I\right]^{-1},"
            r"\quad f=L\ \mathrm{or}\ L-1"
        ),
        hypotheses=(
            "Covariates are N(0, Σ), in the context and in the query; β ~ N(0, I/d).",
            "One step of gradient descent, plain (f = L) or debiased (f = L - 1).",
        ),
        finding="sharpened",
        found=(
            "KQ proportional to the identity is right for isotropic covariates only; KQ "
            "proportional to Σ⁻¹ is the limit of a long context. The minimum over all matrices is "
            "symmetric and commutes with Σ."
        ),
        measure=measure_best_preconditioner,
        mutants={
            "the inverse covariance": {"best": lambda c, n, s, r: np.linalg.inv(c)},
            "the identity": {
                "best": lambda c, n, s, r: (
                    np.eye(len(c)) * np.trace(optimal_preconditioner(c, n)) / 4
                )
            },
            "the plain rule's for the debiased": {
                "best": lambda c, n, s, r: optimal_preconditioner(c, n, s)
            },
        },
    )
)
