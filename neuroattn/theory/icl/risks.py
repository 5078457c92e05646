"""Exact risks of gradient descent, plain and debiased, and of the best predictor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from neuroattn.errors import InputError
from neuroattn.names import check_name
from neuroattn.theory.arguments import check_whole
from neuroattn.theory.comparison import Array

#: How a linear predictor reads the context: as it is, or with its mean subtracted.
DESCENTS: tuple[str, ...] = ("gd", "debiased")


def check_task(length: int, dim: int, noise: float) -> None:
    """Raise an :class:`InputError` unless there is such a regression task.

    Parameters
    ----------
    length : int
        Number of examples in the context, at least 1.
    dim : int
        Dimension of the covariates, at least 1.
    noise : float
        Variance of the label noise, at least 0.
    """
    check_whole("length", length, 1)
    check_whole("dim", dim, 1)
    if isinstance(noise, bool) or not (math.isfinite(noise) and noise >= 0):
        raise InputError(f"noise={noise!r} is a variance; it must be finite and at least 0.")


def optimal_step(length: int, dim: int, noise: float = 0.1, rule: str = "gd") -> float:
    """Return the step size with the least risk.

    Parameters
    ----------
    length, dim, noise
        As in :func:`gd_risk`.
    rule : {"gd", "debiased"}
        Plain or debiased gradient descent.

    Returns
    -------
    float
        The step, in units in which a long context without noise needs 1.

    Raises
    ------
    InputError
        If an argument is out of its range.
    """
    check_name("rule", rule, DESCENTS)
    check_task(length, dim, noise)
    spread = dim * (1 + noise)
    return length / (length + spread + (1 if rule == "gd" else 0))


def gd_risk(length: int, dim: int, noise: float = 0.1, step: float | None = None) -> float:
    """Return the risk of one step of gradient descent from zero.

    The predictor is (step / length) Σ y_l x_l · x_q, with x ~ N(0, I), y = β · x + ε,
    β ~ N(0, I / dim), ε ~ N(0, noise), the queried label with noise of its own.

    Parameters
    ----------
    length : int
        Number of examples in the context, at least 1.
    dim : int
        Dimension of the covariates, at least 1.
    noise : float
        Variance of the label noise, at least 0; it is part of the risk, once.
    step : float, optional
        Size of the step; the one with the least risk by default.

    Returns
    -------
    float
        Expected squared error; predicting 0 has 1 + noise.

    Raises
    ------
    InputError
        If an argument is out of its range.

    References
    ----------
    The setting of He et al. (2025), arXiv 2503.12734; the risk is derived here.
    """
    eta = optimal_step(length, dim, noise) if step is None else _step(step)
    check_task(length, dim, noise)
    return 1 + noise - 2 * eta + eta**2 * (1 + (dim + 1 + noise * dim) / length)


def debiased_gd_risk(length: int, dim: int, noise: float = 0.1, step: float | None = None) -> float:
    """Return the risk of debiased gradient descent: covariates less their mean in the context.

    The predictor is (step / length) Σ y_l (x_l - x̄) · x_q.

    Parameters
    ----------
    length, dim, noise, step
        As in :func:`gd_risk`.

    Returns
    -------
    float
        Expected squared error.

    Raises
    ------
    InputError
        If an argument is out of its range.

    References
    ----------
    He et al. (2025), arXiv 2503.12734; the risk is derived here.
    """
    eta = optimal_step(length, dim, noise, "debiased") if step is None else _step(step)
    check_task(length, dim, noise)
    share = (length - 1) / length
    return 1 + noise - 2 * eta * share + eta**2 * share * (length + dim + noise * dim) / length


def _step(step: float) -> float:
    if not math.isfinite(step):
        raise InputError(f"step={step!r} must be finite.")
    return float(step)


def _matrix(name: str, matrix: Any, dim: int | None = None) -> Array:
    found = np.asarray(matrix, dtype=float)
    square = found.ndim == 2 and found.shape[0] == found.shape[1] and found.size > 0
    if not square or not np.isfinite(found).all() or (dim is not None and len(found) != dim):
        wanted = "square" if dim is None else f"{dim} x {dim} as the covariance"
        raise InputError(
            f"{name} has shape {found.shape}; it must be {wanted}, with finite numbers."
        )
    return found


def _covariance(covariance: Any) -> Array:
    found = _matrix("covariance", covariance)
    if not np.allclose(found, found.T, rtol=1e-12) or np.linalg.eigvalsh(found)[0] <= 0:
        raise InputError("covariance must be symmetric with positive eigenvalues.")
    return found


def preconditioned_risk(
    covariance: Any, preconditioner: Any, length: int, noise: float = 0.1, rule: str = "gd"
) -> float:
    """Return the risk of a preconditioned step on covariates of any covariance.

    The predictor is (1 / length) Σ y_l x_lᵀ A x_q, with x ~ N(0, Σ), β ~ N(0, I / dim); for the
    rule ``"debiased"`` with x_l - x̄ in place of x_l. The heads' product KQ is A up to a factor.

    Parameters
    ----------
    covariance : array
        Σ, (dim, dim), symmetric with positive eigenvalues.
    preconditioner : array
        A, (dim, dim), any.
    length : int
        Number of examples in the context, at least 1.
    noise : float
        Variance of the label noise, at least 0.
    rule : {"gd", "debiased"}
        Plain or debiased.

    Returns
    -------
    float
        Expected squared error.

    Raises
    ------
    InputError
        If an argument is out of its range.

    References
    ----------
    Derived here, from the second moment of a Wishart matrix. For the plain rule the minimiser is
    that of Ahn et al. (2023), Transformers learn to implement preconditioned gradient descent.
    """
    check_name("rule", rule, DESCENTS)
    sigma = _covariance(covariance)
    dim = len(sigma)
    check_task(length, dim, noise)
    a = _matrix("preconditioner", preconditioner, dim)
    freedom = length - 1 if rule == "debiased" else length
    signal = np.trace(sigma) / dim
    spread = a @ sigma @ a.T
    bent = np.trace(sigma @ spread @ sigma) / dim
    square = (freedom + 1) * bent + np.trace(spread @ sigma) * (signal + noise)
    cross = np.trace(sigma @ a @ sigma) / dim
    return float(signal + noise - 2 * freedom / length * cross + freedom / length**2 * square)


def optimal_preconditioner(
    covariance: Any, length: int, noise: float = 0.1, rule: str = "gd"
) -> Array:
    """Return the preconditioner with the least :func:`preconditioned_risk`.

    It is L [(f + 1) Σ + (tr Σ + dim · noise) I]⁻¹ with f = L degrees of freedom, L - 1 if
    debiased: between the identity, for a short context, and Σ⁻¹, for a long one.

    Parameters
    ----------
    covariance, length, noise, rule
        As in :func:`preconditioned_risk`.

    Returns
    -------
    array
        (dim, dim).

    Raises
    ------
    InputError
        If an argument is out of its range.
    """
    check_name("rule", rule, DESCENTS)
    sigma = _covariance(covariance)
    dim = len(sigma)
    check_task(length, dim, noise)
    freedom = length - 1 if rule == "debiased" else length
    inner = (freedom + 1) * sigma + (np.trace(sigma) + dim * noise) * np.eye(dim)
    return np.asarray(length * np.linalg.inv(inner))


def bayes_risk(
    length: int, dim: int, noise: float = 0.1, *, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the risk of the best predictor, ridge regression with penalty dim · noise.

    Parameters
    ----------
    length, dim, noise
        As in :func:`gd_risk`; the noise above 0.
    draws : int
        Contexts that are drawn; all else is averaged exactly.
    seed : int
        Of the draws.

    Returns
    -------
    risk, spread : float
        Expected squared error, and its standard error over the draws.

    Raises
    ------
    InputError
        If an argument is out of its range.

    References
    ----------
    Derived here: noise · (1 + E tr(XᵀX + dim · noise · I)⁻¹).
    """
    check_task(length, dim, noise)
    if noise <= 0:
        raise InputError(f"noise={noise!r} must be above 0 for the best predictor to be ridge.")
    check_whole("draws", draws, 2)
    x = np.random.default_rng(seed).standard_normal((draws, length, dim))
    gram = np.einsum("bli,blj->bij", x, x) + dim * noise * np.eye(dim)
    risks = noise * (1 + np.trace(np.linalg.inv(gram), axis1=1, axis2=2))
    return float(risks.mean()), float(risks.std(ddof=1) / math.sqrt(draws))


def _check_limit(ratio: float, noise: float) -> None:
    if not (math.isfinite(ratio) and ratio > 0):
        raise InputError(f"ratio={ratio!r} is dim / length; it must be finite and above 0.")
    if not (math.isfinite(noise) and noise > 0):
        raise InputError(f"noise={noise!r} is a variance; it must be finite and above 0.")


def bayes_limit(ratio: float, noise: float) -> float:
    """Return the limit of :func:`bayes_risk` as dim / length tends to a ratio.

    Parameters
    ----------
    ratio : float
        dim / length, above 0.
    noise : float
        Variance of the label noise, above 0.

    Returns
    -------
    float
        The risk, with the noise of the queried label.

    Raises
    ------
    InputError
        If an argument is out of its range.
    """
    _check_limit(ratio, noise)
    root = math.sqrt(4 * noise + (noise + (1 - ratio) / ratio) ** 2)
    return (noise + (ratio - 1) / ratio + root) / 2


def gd_limit(ratio: float, noise: float) -> float:
    """Return the limit of the least risk of gradient descent, plain or debiased.

    Parameters
    ----------
    ratio, noise
        As in :func:`bayes_limit`.

    Returns
    -------
    float
        The risk, with the noise of the queried label.

    Raises
    ------
    InputError
        If an argument is out of its range.
    """
    _check_limit(ratio, noise)
    return 1 + noise - 1 / (1 + ratio * (1 + noise))
