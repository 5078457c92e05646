"""Exact risk of a layer of softmax heads at any length and dimension, by quadrature."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.stats import norm

from neuroattn.errors import InputError
from neuroattn.theory.arguments import check_whole
from neuroattn.theory.comparison import Array
from neuroattn.theory.icl.risks import check_task

#: The largest |omega| sqrt(dim): logits of that standard deviation make a softmax nearly hard.
SHARPEST = 2.0


def check_heads(omega: Any, mu: Any) -> tuple[Array, Array]:
    """Return the heads' strengths as arrays, or raise an :class:`InputError`.

    Parameters
    ----------
    omega, mu : float or array
        One number a head, of one shape.
    """
    found = [np.atleast_1d(np.asarray(each, dtype=float)) for each in (omega, mu)]
    for name, each in zip(("omega", "mu"), found, strict=True):
        if each.ndim != 1 or not each.size or not np.isfinite(each).all():
            raise InputError(
                f"{name} has shape {each.shape}; needed are finite numbers, one a head."
            )
    if len(found[0]) != len(found[1]):
        raise InputError(
            f"omega has {len(found[0])} heads and mu {len(found[1])}; give one number a head."
        )
    return found[0], found[1]


def head_moments(omega: Any, length: int, dim: int, *, nodes: int = 20) -> tuple[Array, Array]:
    """Return what the risk of softmax heads needs of their weights.

    Head h reads Σ_l softmax_l(ω_h x_l · x_q) y_l with weight μ_h, and the risk is a quadratic form
    in μ. Along the query, of length r, the covariates are numbers s_l ~ N(0, 1), and a head's
    weights are p_l ∝ exp(ω r s_l); products of two heads' weights are averaged exactly with
    1/(ZZ') = ∫∫ exp(-tZ - uZ') dt du, in which the tokens are independent.

    Parameters
    ----------
    omega : float or array
        ω of each head.
    length, dim
        Of the task.
    nodes : int
        For the length of the query.

    Returns
    -------
    drift : array
        (heads,): E Σ_l p_l x_l · x_q.
    overlap : array
        (2, heads, heads): E (Σ_l p_l s_l)(Σ_l p'_l s_l), and E Σ_l p_l p'_l.
    """
    omegas, _ = check_heads(omega, omega)
    check_task(length, dim, 0.0)
    sharpest = float(np.abs(omegas).max()) * math.sqrt(dim)
    if sharpest > SHARPEST:
        raise InputError(
            f"omega={float(np.abs(omegas).max())!r} is too sharp for the quadrature in dim={dim}: "
            f"|omega| sqrt(dim) is {sharpest:.3g} and may be at most {SHARPEST:g}."
        )
    radii, mass = _query_lengths(dim, check_whole("nodes", nodes, 1))
    seen = mass > 1e-13
    radii, mass = radii[seen], mass[seen]
    heads = len(omegas)
    overlap, drift = np.zeros((2, heads, heads)), np.zeros(heads)
    for radius, share in zip(radii, mass, strict=True):
        for i in range(heads):
            for j in range(i, heads):
                pair = share * _overlap(omegas[i] * radius, omegas[j] * radius, length)
                overlap[:, i, j] += pair
                if j > i:
                    overlap[:, j, i] += pair
                else:
                    # Stein: E Σ p s = a (1 - E Σ p²) for weights p ∝ exp(a s).
                    drift[i] += radius**2 * omegas[i] * (share - pair[1])
    return drift, overlap


def _query_lengths(dim: int, nodes: int) -> tuple[Array, Array]:
    """Return lengths of a normal vector and their chances, by Gauss and Laguerre.

    Half the square has the density r^(dim/2 - 1) e^-r. Nodes and chances are the eigenvalues of the
    Jacobi matrix and the squares of its eigenvectors' first entries (Golub and Welsch), which sum
    to one: nothing overflows in high dimension.
    """
    power, order = dim / 2 - 1, np.arange(nodes)
    after = order[1:]
    half, vectors = eigh_tridiagonal(2 * order + 1 + power, np.sqrt(after * (after + power)))
    return np.sqrt(2 * np.maximum(half, 0.0)), np.square(vectors[0])


def _overlap(a: float, b: float, length: int) -> Array:
    """Return E (Σ p s)(Σ p' s) and E Σ p p' for weights p ∝ exp(a s) and p' ∝ exp(b s)."""
    reach = 9.0 + abs(a) + abs(b)
    # An exponential of an exponential turns within 1 / slope.
    points = 2 * math.ceil(reach * max(4.0, 2.5 * max(abs(a), abs(b)))) + 1
    s = np.linspace(-reach, reach, points)
    mass = norm.pdf(s) * (s[1] - s[0])
    (left, left_read, dt), (right, right_read, du) = (_laplace(x, s, length) for x in (a, b))

    def mean(one: Array, weight: Array, other: Array) -> Array:
        return np.asarray((one * (mass * weight)) @ other.T)

    plain = np.ones_like(s)
    rest = mean(left, plain, right)
    alone = length * dt * du * rest ** (length - 1)
    same = (alone * mean(left_read, plain, right_read)).sum()
    square = (alone * mean(left_read, s**2, right_read)).sum()
    if length > 1:
        apart = mean(left_read, s, right) * mean(left, s, right_read)
        square += length * (length - 1) * dt * du * (rest ** (length - 2) * apart).sum()
    return np.array([square, same])


def _laplace(slope: float, s: Array, length: int) -> tuple[Array, Array, float]:
    """Return exp(-t e^(slope s)), t e^(slope s) times it, (t, s), and the step in log t."""
    # The sum of exponentials lies between that of the smallest and that of the largest terms.
    centre = -math.log(length) - slope**2 / 2
    low, high = centre - 22.0, centre + 6.0 + slope**2 / 2 + 3 * abs(slope)
    logs, step = np.linspace(low, high, math.ceil((high - low) / 0.35) + 1, retstep=True)
    exponent = np.minimum(logs[:, None] + slope * s[None, :], 50.0)
    rate = np.exp(exponent)
    return np.exp(-rate), np.exp(exponent - rate), float(step)


def softmax_risk(omega: Any, mu: Any, length: int, dim: int, noise: float = 0.1) -> float:
    """Return the exact risk of a layer of softmax heads on in-context linear regression.

    The predictor is Σ_h μ_h Σ_l softmax_l(ω_h x_l · x_q) y_l; the task is that of
    :func:`gd_risk`.

    Parameters
    ----------
    omega : float or array
        ω of each head: how sharply it compares, its KQ is ω times the identity.
    mu : float or array
        μ of each head: what it writes, its OV.
    length : int
        Number of examples in the context, at least 1.
    dim : int
        Dimension of the covariates, at least 1.
    noise : float
        Variance of the label noise, at least 0.

    Returns
    -------
    float
        Expected squared error, to about 6 digits.

    Raises
    ------
    InputError
        If an argument is out of its range.

    References
    ----------
    The model is that of He et al. (2025), arXiv 2503.12734; the risk is derived here, where the
    paper approximates it.
    """
    omegas, mus = check_heads(omega, mu)
    check_task(length, dim, noise)
    gain, form = risk_form(omegas, length, dim, noise)
    return float(1 + noise - 2 * mus @ gain + mus @ form @ mus)


def risk_form(omega: Any, length: int, dim: int, noise: float) -> tuple[Array, Array]:
    """Return b and Q of the risk 1 + noise - 2 μ·b + μᵀQμ of softmax heads."""
    drift, (square, same) = head_moments(omega, length, dim)
    return drift / dim, square / dim + ((dim - 1) / dim + noise) * same


def debiasing_constant(length: int, dim: int, noise: float = 0.1) -> float:
    """Return how far two opposite softmax heads are from debiased gradient descent.

    With heads ±ω that write ±μ and 2ωμ = 1, the root mean square of their difference from
    debiased gradient descent with step 1 is this constant times ω² as ω → 0.

    Parameters
    ----------
    length, dim, noise
        As in :func:`softmax_risk`; the length at least 2.

    Returns
    -------
    float
        The constant; it is proportional to the step.

    Raises
    ------
    InputError
        If an argument is out of its range.

    References
    ----------
    Derived here: the difference is the third cumulant of the logits, and the moments of
    standardised normal samples are those of a point on a sphere.
    """
    check_task(length, dim, noise)
    if length < 2:
        raise InputError(f"length={length!r} must be at least 2 for a mean to be subtracted.")
    n = float(length)
    scale = (n - 1) * (n + 1) * (n + 3) / n**3
    sixth = 15 * (n - 1) ** 2 / ((n + 1) * (n + 3))
    fourth = 3 * (n - 1) / (n + 1)
    skew = 6 * (n - 2) / ((n + 1) * (n + 3))
    cubes = n / 36 * scale * (sixth - 6 * fourth + 9 - skew)
    tails = 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5)) + (fourth - 3) ** 2
    along = n**2 / 36 * scale * (n + 5) / n * tails
    radius = dim * (dim + 2) * (dim + 4)
    return math.sqrt(radius / n**2 * ((along + (dim - 1) * cubes) / dim + noise * cubes))
