"""The design matrix of one run: a response for each trial, and what is no trial."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.data.bids.events import Trial
from neuroattn.data.bids.hrf import Kernel, response_peak
from neuroattn.errors import InputError, MismatchError

_OVERSAMPLING = 50
_REACH = 24.0  # s before the first volume from which responses may come
# Of a regressor, what the others leave unexplained: below, its beta is rounding error.
_LEAST_OWN = 1e-4


@dataclass(frozen=True)
class Design:
    """The model of one run.

    Parameters
    ----------
    trials : ndarray
        (time, trial, function): the responses to each trial; the first function is the response
        itself, scaled to a peak of 1, the others its derivatives.
    nuisance : ndarray
        (time, regressor): other events, confounds, drift, constant.
    name : str
        Of the run, for messages.
    """

    trials: NDArray[np.float64]
    nuisance: NDArray[np.float64]
    name: str

    @property
    def matrix(self) -> NDArray[np.float64]:
        """All trials and the nuisance side by side, (time, regressor): the LSA model."""
        frames = len(self.nuisance)
        return np.concatenate([self.trials.reshape(frames, -1), self.nuisance], axis=1)

    @property
    def mains(self) -> NDArray[np.intp]:
        """Columns of ``matrix`` that hold the responses themselves, (trial,)."""
        return np.arange(0, self.trials.shape[1] * self.trials.shape[2], self.trials.shape[2])


@dataclass(frozen=True)
class Frames:
    """When the volumes of a run were taken.

    Parameters
    ----------
    times : ndarray
        (time,) s from the start of the run, to which onsets refer.
    tr : float
        Repetition time, s.
    kept : ndarray, optional
        Indices of the volumes that enter the model; left out, all.
    """

    times: NDArray[np.float64]
    tr: float
    kept: NDArray[np.intp] | None = None


def make_design(
    trials: Sequence[Trial],
    others: Sequence[Trial],
    frames: Frames,
    kernel: Kernel,
    *,
    high_pass: float | None = 0.01,
    confounds: NDArray[np.float64] | None = None,
    name: str = "run",
) -> Design:
    """Build the model of one run with nilearn; nothing of another run is in it.

    Parameters
    ----------
    trials : sequence of Trial
        Each gets a regressor of its own, with a peak of 1 (as if all of its response were seen).
    others : sequence of Trial
        One regressor for all of a trial type.
    frames : Frames
        When the volumes were taken.
    kernel : str or callable
        The response function, see :func:`neuroattn.data.bids.hrf.kernels`.
    high_pass : float, optional
        Slow drifts below so many Hz are modelled by cosines; None for a constant alone.
    confounds : ndarray, optional
        (time, regressor) of all volumes.
    name : str
        Of the run, for messages.

    Raises
    ------
    InputError
        If the beta of a trial cannot be told from the rest of the model, or there are more
        regressors than volumes.
    MismatchError
        If ``confounds`` have another number of volumes.
    """
    if confounds is not None and len(confounds) != len(frames.times):
        raise MismatchError(
            f"{name}: the confounds have {len(confounds)} rows, the images {len(frames.times)} "
            "volumes. They are of different runs, or one file is truncated."
        )
    table = _nilearn(trials, others, frames, kernel, high_pass, confounds)
    columns = list(table.columns)
    own = [
        [c for c, column in enumerate(columns) if _belongs(str(column), _trial(number))]
        for number in range(len(trials))
    ]
    matrix = np.asarray(table.to_numpy(), dtype=np.float64)
    step = frames.tr / _OVERSAMPLING
    lengths = [_samples(trial.duration, step) for trial in trials]
    peaks = {length: response_peak(kernel, length, step) for length in set(lengths)}
    scale = np.array([peaks[length] for length in lengths])
    responses = matrix[:, np.array(own)] / scale[:, None]
    nuisance = np.delete(matrix, np.ravel(own), axis=1)
    if frames.kept is not None:
        responses, nuisance = responses[frames.kept], nuisance[frames.kept]
    design = Design(responses, nuisance, name)
    _check(design, trials)
    return design


def _nilearn(
    trials: Sequence[Trial],
    others: Sequence[Trial],
    frames: Frames,
    kernel: Kernel,
    high_pass: float | None,
    confounds: NDArray[np.float64] | None,
) -> Any:
    import pandas
    from nilearn.glm.first_level import make_first_level_design_matrix

    begin, step = float(frames.times[0]), frames.tr / _OVERSAMPLING
    reach = np.ceil(_REACH / frames.tr) * frames.tr
    every = [*trials, *others]
    onset = np.array([event.onset for event in every]) - begin
    if (onset < -_REACH).any():
        raise InputError(
            f"an event begins {-onset.min():.4g} s before the first volume; the model reaches "
            f"back {_REACH:.0f} s. Take it out of the events."
        )
    # Onsets between two samples of nilearn's fine grid: else rounding makes short events of one
    # length a sample longer or shorter, a tenth of half a second.
    sample = np.round((onset + reach) / step) - 0.5
    events = pandas.DataFrame(
        {
            "onset": sample * step - reach,
            "duration": [_samples(event.duration, step) * step for event in every],
            "trial_type": [
                *(_trial(number) for number in range(len(trials))),
                *(f"other {event.kind}" for event in others),
            ],
        }
    )
    with warnings.catch_warnings():
        # What nilearn warns of (zero durations, a singular matrix) is allowed, or checked below.
        warnings.simplefilter("ignore")
        return make_first_level_design_matrix(
            np.arange(len(frames.times)) * frames.tr,
            events,
            hrf_model=kernel,
            drift_model=None if high_pass is None else "cosine",
            high_pass=high_pass or 0.01,
            add_regs=None if confounds is None or not confounds.shape[1] else confounds,
            min_onset=-reach,
            oversampling=_OVERSAMPLING,
        )


def _samples(duration: float, step: float) -> int:
    return max(1, round(duration / step))


def _trial(number: int) -> str:
    return f"trial{number:05d}"


def _belongs(column: str, trial: str) -> bool:
    return column == trial or column.startswith(f"{trial}_")


def _check(design: Design, trials: Sequence[Trial]) -> None:
    matrix, mains = design.matrix, design.mains
    frames, regressors = matrix.shape
    if regressors >= frames:
        raise InputError(
            f"{design.name}: the model has {regressors} regressors for {frames} volumes. Use "
            "fewer confounds, a lower high_pass, or join trials (trials.merge, trials.types)."
        )
    norms = np.linalg.norm(matrix, axis=0)
    if not (norms[mains] > _LEAST_OWN).all():
        number = int(np.flatnonzero(~(norms[mains] > _LEAST_OWN))[0])
        raise InputError(
            f"{design.name}: the response to the trial at {trials[number].onset:.4g} s falls into "
            "no volume that is kept; leave it out with trials.end_margin."
        )
    scaled = matrix / np.where(norms > 0, norms, 1)
    inverse = np.linalg.pinv(scaled, rcond=1e-10)
    # 1 / |row of the pseudo-inverse| is the part of a column that the others do not explain.
    own = 1 / np.maximum(np.linalg.norm(inverse[mains], axis=1), 1e-300)
    exact = np.einsum("rt,tr->r", inverse[mains], scaled[:, mains])
    bad = np.flatnonzero((own < _LEAST_OWN) | (np.abs(exact - 1) > 1e-6))
    if bad.size:
        trial = trials[int(bad[0])]
        raise InputError(
            f"{design.name}: {bad.size} of {len(trials)} trials cannot be told from the rest of "
            f"the model, the first at {trial.onset:.4g} s ({trial.kind or 'no type'}): two trials "
            "at one time, or trials that a confound or the drift explains. Join them with "
            "trials.merge, leave types out (trials.types, trials.others=ignore), or end_margin."
        )
