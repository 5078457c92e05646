"""The shape of the response without an assumed one: a finite impulse response by trial type."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.data.bids.reader import BIDS, RunModel
from neuroattn.errors import InputError

Float64 = NDArray[np.float64]


def fir_response(reader: BIDS, length: float = 40.0) -> xr.Dataset:
    """Estimate the time course after the onset of a trial, and how well it predicts other runs.

    Each trial type has a number for each volume after the onset: delay d holds volumes that begin
    d to d + 1 repetition times after an onset. Drift and confounds are taken out of every run;
    events of types that are no trials (``trials.others``) are not in this model.

    Parameters
    ----------
    reader : BIDS
        Trials with a column ``trial_type``; without one, all count as one type.
    length : float
        How long the response is followed, s.

    Returns
    -------
    xarray.Dataset
        ``response (trial_type, delay, voxel)``, percent signal change, of all runs together;
        ``held_out_r (voxel)``: the correlation of a run's time series (without drift and
        confounds) with the prediction of the model fitted on all other runs, mean over runs; NaN
        for a voxel that is undefined in a run. ``delay`` is in s.

    Raises
    ------
    InputError
        If ``length`` is shorter than a volume, there is one run only, or runs have different
        repetition times.

    References
    ----------
    Dale (1999), "Optimal experimental design for event-related fMRI", Human Brain Mapping 8,
    109-114.
    """
    models = reader.models
    tr = models[0].frames.tr
    other = [model.frames.tr for model in models if abs(model.frames.tr - tr) > 1e-3]
    if other:
        raise InputError(
            f"runs have repetition times of {tr:g} s and {other[0]:g} s; a delay is a volume, so "
            "they must be the same. Choose runs with entities."
        )
    bins = int(np.ceil(length / tr - 1e-9))
    if bins < 1 or len(models) < 2:
        raise InputError(
            f"length={length} s gives {bins} delays of {tr:g} s, from {len(models)} run(s); needed "
            "are at least 1 and 2."
        )
    kinds = sorted({trial.kind for model in models for trial in model.trials})
    designs, signals = [], []
    for index, model in enumerate(models):
        basis = _nuisance(reader, model)
        design, signal = _columns(model, kinds, bins), reader.series(index)
        designs.append(design - basis @ (basis.T @ design))
        signals.append(signal - basis @ (basis.T @ signal))
    squares = [design.T @ design for design in designs]
    products = [d.T @ s for d, s in zip(designs, signals, strict=True)]
    weights = np.linalg.pinv(sum(squares)) @ sum(products)
    fits = []
    for design, signal, square, product in zip(designs, signals, squares, products, strict=True):
        others = np.linalg.pinv(sum(squares) - square) @ (sum(products) - product)
        fits.append(_correlation(signal, design @ others))
    return xr.Dataset(
        {
            "response": (
                ("trial_type", "delay", "voxel"),
                weights.reshape(len(kinds), bins, -1),
            ),
            "held_out_r": ("voxel", np.mean(fits, axis=0)),
        },
        coords={"trial_type": kinds, "delay": np.arange(bins) * tr},
    )


def _columns(model: RunModel, kinds: list[str], bins: int) -> Float64:
    """Return how many onsets each delay counts, (kept volume, trial type x delay)."""
    frames = model.frames
    times = frames.times if frames.kept is None else frames.times[frames.kept]
    design = np.zeros((len(times), len(kinds), bins))
    for trial in model.trials:
        delay = np.floor((times - trial.onset) / frames.tr + 1e-9).astype(int)
        inside = np.flatnonzero((delay >= 0) & (delay < bins))
        # Two onsets between the same volumes are twice the response.
        design[inside, kinds.index(trial.kind), delay[inside]] += 1
    return design.reshape(len(times), -1)


def _nuisance(reader: BIDS, model: RunModel) -> Float64:
    """Return an orthonormal basis of drift, confounds and constant, (kept volume, regressor)."""
    from nilearn.glm.first_level import make_first_level_design_matrix

    table = make_first_level_design_matrix(
        model.frames.times,
        drift_model=None if reader.glm.high_pass is None else "cosine",
        high_pass=reader.glm.high_pass or 0.01,
        add_regs=model.confounds,
    ).to_numpy()
    left, strength, _ = np.linalg.svd(
        table if model.frames.kept is None else table[model.frames.kept], full_matrices=False
    )
    return np.asarray(left[:, strength > strength[0] * 1e-10])


def _correlation(one: Float64, other: Float64) -> Float64:
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))
        return np.asarray((one * other).sum(axis=0) / scale)
