"""With what variance a noisy token predicts the state at a later time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy
import torch
from scipy.integrate import solve_ivp

from neuroattn.errors import InputError
from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.proof import Proof

PAPER = "Racioppo (2025), Attention as an adaptive filter"
RATES = (-1.0, -0.25, 0.0)
PROCESS, MEASURED, FLOOR = 0.8, 0.5, 0.3


def propagated_variance(
    lag: Any,
    rate: float,
    process_noise: float,
    measurement_noise: float,
    floor_noise: float = 0.0,
) -> Any:
    """Return the variance with which a noisy measurement predicts another one later.

    Parameters
    ----------
    lag : float or array
        Time between them, at least 0.
    rate : float
        At which the state decays, at most 0.
    process_noise, measurement_noise, floor_noise : float
        Standard deviations: of what drives the state in a unit of time, of the measurement that is
        carried, and of the one that is predicted; at least 0.

    Returns
    -------
    float or array
        σ² (1 - e^(2 μ lag))/(-2 μ) + η² e^(2 μ lag) + γ², and its limit at μ = 0.

    Raises
    ------
    InputError
        If a lag or a noise is negative, or the rate positive.

    References
    ----------
    Racioppo (2025), arXiv 2509.04154.
    """
    lag = np.asarray(lag, dtype=float)
    noises = {"process_noise": process_noise, "measurement_noise": measurement_noise}
    for name, each in {**noises, "floor_noise": floor_noise, "lag": lag}.items():
        if not np.all(np.asarray(each) >= 0):
            raise InputError(f"{name}={each!r} must be at least 0.")
    if not rate <= 0:
        raise InputError(f"rate={rate!r} must be at most 0: the state would explode.")
    grown = lag if rate == 0 else np.expm1(2 * rate * lag) / (2 * rate)
    kept = measurement_noise**2 * np.exp(2 * rate * lag)
    found = process_noise**2 * grown + kept + floor_noise**2
    return found if np.ndim(found) else float(found)


def told(lab: Lab, rate: float) -> np.ndarray[Any, Any]:
    """Return (lags,) the variances that the mechanism weighs by, from what it reads.

    With keys and queries of zero a weight is its token's precision, times e^(μ lag) on its value.
    """
    lags = 16
    zero = torch.zeros(1, 1, lags, 2, dtype=torch.float64)
    value = torch.eye(lags, dtype=torch.float64)[None, None]
    times = 0.25 * torch.arange(lags, dtype=torch.float64)
    read = lab.attend(
        "adaptive_filter",
        zero[:, :, -1:],
        zero,
        value,
        rate=rate,
        process_noise=PROCESS,
        measurement_noise=MEASURED,
        floor_noise=FLOOR,
        key_times=times,
        query_times=times[-1:],
    )[0, 0, 0].numpy()
    lag = (times[-1] - times).numpy()
    precision = read / np.exp(rate * lag)
    found: np.ndarray[Any, Any] = (precision[-1] / precision)[::-1] * (MEASURED**2 + FLOOR**2)
    return found


def simulated(lab: Lab, rate: float) -> np.ndarray[Any, Any]:
    """Return (draws, lags) squared errors of a measurement carried along simulated paths."""
    draws, step, steps = 8000, 0.75, 5
    # A step of the stochastic equation itself (Ornstein and Uhlenbeck): it has no error of its own.
    kept = np.exp(rate * step)
    noise = PROCESS * (np.sqrt((1 - kept**2) / (-2 * rate)) if rate else np.sqrt(step))
    rng = lab.rng("paths", rate)
    state = rng.normal(size=draws)
    carried = state + MEASURED * rng.normal(size=draws)
    found = []
    for place in range(steps + 1):
        seen = state + FLOOR * rng.normal(size=draws)
        found.append((seen - np.exp(rate * place * step) * carried) ** 2)
        state = kept * state + noise * rng.normal(size=draws)
    return np.stack(found, axis=1)


def integrated(lab: Lab, rate: float) -> np.ndarray[Any, Any]:
    """Return (lags,) variances by integrating dP/dt = 2 μ P + σ², with the floor added."""
    lags = 0.25 * np.arange(16)
    path = solve_ivp(
        lambda _, p: 2 * rate * p + PROCESS**2,
        (0, lags[-1]),
        [MEASURED**2],
        t_eval=lags,
        rtol=1e-10,
        atol=1e-12,
    )
    found: np.ndarray[Any, Any] = path.y[0] + FLOOR**2
    return found


def measure_variance(
    lab: Lab, formula: Callable[..., Any] = propagated_variance
) -> Iterator[Comparison]:
    """Hold the closed form to the mechanism, to simulated paths and to the propagation equation."""
    lags, sparse = 0.25 * np.arange(16), 0.75 * np.arange(6)
    noises = PROCESS, MEASURED, FLOOR
    for rate in RATES:
        yield lab.equal(
            f"variance that the mechanism weighs by, rate {rate}",
            lab.once(told, rate),
            formula(lags, rate, *noises),
            growth=32,
            reason="a ratio of two weights",
            axes={"lag (time)": lags},
        )
        yield lab.mean(
            f"squared error along simulated paths, rate {rate}",
            lab.once(simulated, rate),
            formula(sparse, rate, *noises),
            axes={"lag (time)": sparse},
        )
        yield lab.near(
            f"propagation equation integrated, rate {rate}",
            lab.once(integrated, rate),
            formula(lags, rate, *noises),
            tolerance=1e-10,
            expected=1.5e-11,
            reason="relative tolerance 1e-10 a step of the integrator",
        )


def prove_variance(proof: Proof) -> None:
    """Solve the propagation equation."""
    t, s = sympy.symbols("Delta s", positive=True)
    sigma, eta, gamma = sympy.symbols("sigma eta gamma", positive=True)
    mu = sympy.symbols("mu", negative=True)
    past = sympy.exp(2 * mu * (t - s)) * sigma**2
    noise = sympy.integrate(past, (s, 0, t))
    proof.say(
        "Noise that enters at time s has decayed by e^(mu (Delta - s)) at Delta; in all", past
    )
    proof.equal(
        "Integrated over s",
        noise,
        sigma**2 * (1 - sympy.exp(2 * mu * t)) / (-2 * mu),
    )
    carried = noise + eta**2 * sympy.exp(2 * mu * t)
    proof.equal(
        "With the carried measurement's it solves dP/dDelta = 2 mu P + sigma^2",
        sympy.diff(carried, t),
        2 * mu * carried + sigma**2,
    )
    proof.equal("from P(0) = eta^2", carried.subs(t, 0), eta**2)
    limit = sympy.limit((1 - sympy.exp(2 * mu * t)) / (-2 * mu), mu, 0, "-")
    proof.equal("At mu = 0 noise grows as a random walk's", limit, t)
    stationary = sympy.limit((carried + gamma**2).subs({mu: -1}), t, sympy.oo)
    proof.equal("Long lags forget the measurement (mu = -1)", stationary, sigma**2 / 2 + gamma**2)


register(
    Claim(
        id="adaptive_filter.variance.propagation",
        title="A carried measurement's variance solves the propagation equation",
        paper=PAPER,
        place="propagated covariance of the isotropic filter",
        statement=r"V(\Delta) = \sigma^2\frac{1-e^{2\mu\Delta}}{-2\mu} + \eta^2 e^{2\mu\Delta}"
        r" + \gamma^2, \quad V_{\mu=0} = \sigma^2\Delta + \eta^2 + \gamma^2",
        hypotheses=(
            "The state follows dx = mu x dt + sigma dW with mu <= 0.",
            "The carried measurement has noise eta, the predicted one gamma, all independent.",
        ),
        finding="confirmed",
        found="Simulated paths, the integrated equation and the variances that the mechanism "
        "weighs by agree at rates of -1, -1/4 and 0.",
        mechanisms=("adaptive_filter",),
        prove=prove_variance,
        measure=measure_variance,
        mutants={
            "a decay of mu in place of 2 mu": {
                "formula": lambda lag, rate, *rest: propagated_variance(lag, rate / 2, *rest)
            },
            "a random walk": {
                "formula": lambda lag, rate, *rest: propagated_variance(lag, 0.0, *rest)
            },
            "the floor decays too": {
                "formula": lambda lag, rate, s, e, g: propagated_variance(
                    lag, rate, s, (e**2 + g**2) ** 0.5
                )
            },
        },
    )
)
