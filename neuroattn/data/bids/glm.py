"""Single-trial betas of one run: all trials at once (LSA), or one against the rest (LSS)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from neuroattn.data.bids.design import Design
from neuroattn.errors import InputError
from neuroattn.names import check_name

MODELS = ("lsa", "lss")
NOISE_MODELS = ("ols", "ar1")
_BINS = 100  # as nilearn: one model for each hundredth of the autocorrelation

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Glm:
    """How betas are estimated.

    Parameters
    ----------
    model : {"lsa", "lss"}
        "lsa": one model with a regressor each trial. "lss": a model each trial, with one
        regressor for it and one for all other trials; less noisy where trials are close.
    hrf : str
        See :func:`neuroattn.data.bids.hrf.kernels`.
    noise_model : {"ar1", "ols"}
        Autocorrelated noise of first order, as nilearn estimates it, or white.
    high_pass : float, optional
        Drifts below so many Hz are modelled by cosines; None for a constant alone.
    confounds : str
        A strategy by name, see :func:`neuroattn.data.bids.confounds.read_confounds`.
    tr : float, optional
        Repetition time in seconds, where the files say none or a wrong one.
    """

    model: str = "lsa"
    hrf: str = "spm"
    noise_model: str = "ar1"
    high_pass: float | None = 0.01
    confounds: str = "none"
    tr: float | None = None

    def check(self) -> None:
        """Raise an error where a setting is none of those allowed.

        Raises
        ------
        InputError
            Names the setting, what came and what is allowed.
        """
        check_name("glm.model", self.model, MODELS)
        check_name("glm.noise_model", self.noise_model, NOISE_MODELS)
        for name in ("high_pass", "tr"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"glm.{name}={value} must be above 0, or null.")


def lsa(signal: Float64, design: Design, noise_model: str = "ar1") -> Float64:
    """Estimate the betas of all trials in one model, by nilearn's ``run_glm``.

    Parameters
    ----------
    signal : ndarray
        (time, voxel), no voxel constant.
    design : Design
        Of the run.
    noise_model : {"ar1", "ols"}
        Of the noise.

    Returns
    -------
    ndarray
        (trial, voxel).
    """
    from nilearn.glm.first_level import run_glm

    labels, results = run_glm(signal, design.matrix, noise_model=noise_model, bins=_BINS)
    betas = np.empty((len(design.mains), signal.shape[1]))
    for label, result in results.items():
        betas[:, labels == label] = result.theta[design.mains]
    return betas


class SeparateModels:
    """The models of LSS: each trial against all others together.

    Exactly what a loop over nilearn's ``run_glm`` gives, without the loop: nuisance is taken out
    once (Frisch-Waugh-Lovell), and the weights of a trial and an autocorrelation are computed once.

    Parameters
    ----------
    design : Design
        Of the run.
    noise_model : {"ar1", "ols"}
        Of the noise.

    References
    ----------
    Mumford et al. (2012), "Deconvolving BOLD activation in event-related designs for multivoxel
    pattern classification analyses", NeuroImage 59, 2636-2643 (LS-S).
    """

    def __init__(self, design: Design, noise_model: str = "ar1") -> None:
        self._design, self._noise_model = design, noise_model
        self._nuisance: dict[float, Float64] = {}
        self._known: dict[tuple[int, float], Float64] = {}

    def betas(self, signal: Float64) -> Float64:
        """Return the betas of ``signal`` (time, voxel), none constant, as (trial, voxel)."""
        count = self._design.trials.shape[1]
        if self._noise_model == "ols":
            weights = np.stack([self._weights(number, 0.0) for number in range(count)])
            return np.asarray(weights @ signal)
        left = signal - self._projected(signal, 0.0)
        by_voxel = np.ascontiguousarray(signal.T)
        result = np.empty((count, signal.shape[1]))
        for number in range(count):
            regressors = self._regressors(number)
            own = regressors - self._projected(regressors, 0.0)
            residual = left - own @ (np.linalg.pinv(own) @ left)
            levels, place = np.unique(_autocorrelation(residual), return_inverse=True)
            table = np.stack([self._weights(number, float(level)) for level in levels])
            result[number] = np.einsum("vt,vt->v", table[place], by_voxel)
        return result

    def _regressors(self, number: int) -> Float64:
        trials = self._design.trials
        if trials.shape[1] == 1:
            return trials[:, 0]
        rest = trials.sum(axis=1) - trials[:, number]
        return np.concatenate([trials[:, number], rest], axis=1)

    def _projected(self, values: Float64, level: float) -> Float64:
        """Return what the whitened nuisance explains of ``values``."""
        if level not in self._nuisance:
            whitened = _whitened(self._design.nuisance, level)
            left, strength, _ = np.linalg.svd(whitened, full_matrices=False)
            self._nuisance[level] = left[:, strength > strength[0] * 1e-10]
        basis = self._nuisance[level]
        return np.asarray(basis @ (basis.T @ values))

    def _weights(self, number: int, level: float) -> Float64:
        """Return what the signal (time,) is multiplied with: the whitening is in the weights."""
        if (number, level) not in self._known:
            whitened = _whitened(self._regressors(number), level)
            own = whitened - self._projected(whitened, level)
            weights = np.linalg.pinv(own)[0]
            weights[:-1] -= level * weights[1:]
            self._known[number, level] = weights
        return self._known[number, level]


def estimators(designs: Sequence[Design], settings: Glm) -> list[Callable[[Float64], Float64]]:
    """Return what estimates the betas of a run, signal (time, voxel) to (trial, voxel).

    Parameters
    ----------
    designs : sequence of Design
        One each response function; an estimator for each comes back.
    settings : Glm
        Model and noise model.
    """
    if settings.model == "lss":
        return [SeparateModels(design, settings.noise_model).betas for design in designs]
    return [partial(lsa, design=design, noise_model=settings.noise_model) for design in designs]


def estimate(
    signal: Float64, models: Sequence[Callable[[Float64], Float64]], choice: NDArray[np.intp]
) -> Float64:
    """Estimate single-trial betas of a run, each voxel by the model that was chosen for it.

    Parameters
    ----------
    signal : ndarray
        (time, voxel), no voxel constant, at least one voxel.
    models : sequence of callable
        As :func:`estimators` returns.
    choice : ndarray
        (voxel,) number of the voxel's model.

    Returns
    -------
    ndarray
        (trial, voxel).
    """
    parts = {number: models[number](signal[:, choice == number]) for number in np.unique(choice)}
    betas = np.empty((len(next(iter(parts.values()))), signal.shape[1]))
    for number, part in parts.items():
        betas[:, choice == number] = part
    return betas


def unexplained(signal: Float64, designs: Sequence[Design]) -> Float64:
    """Return the sum of squares that each design leaves of the signal, (design, voxel).

    Parameters
    ----------
    signal : ndarray
        (time, voxel).
    designs : sequence of Design
        With the same nuisance.
    """
    result = np.empty((len(designs), signal.shape[1]))
    for number, design in enumerate(designs):
        basis, strength, _ = np.linalg.svd(design.matrix, full_matrices=False)
        basis = basis[:, strength > strength[0] * 1e-10]
        result[number] = (signal**2).sum(axis=0) - ((basis.T @ signal) ** 2).sum(axis=0)
    return result


def _whitened(values: Float64, level: float) -> Float64:
    result = values.copy()
    result[1:] -= level * values[:-1]
    return result


def _autocorrelation(residual: Float64) -> Float64:
    """Return the Yule-Walker estimate of each column, cut to hundredths toward 0."""
    power = np.einsum("tv,tv->v", residual, residual) / len(residual)
    lagged = np.einsum("tv,tv->v", residual[1:], residual[:-1]) / (len(residual) - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.where(power > 0, lagged / power, 0.0)
    return np.asarray((level * _BINS).astype(int) / _BINS)
