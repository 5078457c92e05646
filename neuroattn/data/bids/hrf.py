"""Haemodynamic response functions by name, and from a library file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import FileError, InputError
from neuroattn.io import existing
from neuroattn.names import check_name

#: What nilearn takes as ``hrf_model``: one of its names, or (repetition time, oversampling) to
#: samples.
Kernel: TypeAlias = str | Callable[..., NDArray[np.float64]]

NAMES = (
    "spm",
    "spm + derivative",
    "spm + derivative + dispersion",
    "glover",
    "glover + derivative",
    "glover + derivative + dispersion",
)
#: Seconds between the rows of a library file.
LIBRARY_STEP = 0.1
_LIBRARY = "library:"
_TAIL = 40.0


def kernels(hrf: str) -> list[Kernel]:
    """Return the response functions that a name stands for.

    Parameters
    ----------
    hrf : str
        A name of nilearn's ("spm", "glover", each also "+ derivative" and "+ derivative +
        dispersion"), ``"library:PATH"`` (a text file of one response function a column, rows
        0.1 s apart: the best one of each voxel is used) or ``"library:PATH:7"`` (one column of
        it, counted from 0, for all voxels).

    Returns
    -------
    list
        One for each choice that a voxel has; mostly a single one.

    Raises
    ------
    InputError
        If the name is unknown, or the library has no such column.
    FileError
        If the library file is missing or is no table of numbers.

    References
    ----------
    Prince et al. (2022), "Improving the accuracy of single-trial fMRI response estimates using
    GLMsingle", eLife 11:e77599 (the library). Glover (1999), NeuroImage 9, 416-429.
    """
    if hrf == "fir":
        raise InputError(
            "hrf='fir' gives several numbers a trial; a response set needs one. Choose an hrf "
            f"among {', '.join(NAMES)} or library:PATH; neuroattn.data.bids.fir_response "
            "estimates the shape of the response."
        )
    if not hrf.startswith(_LIBRARY):
        return [check_name("hrf", hrf, NAMES)]
    path, column = _place(hrf.removeprefix(_LIBRARY))
    table = read_library(path)
    if column is None:
        return [LibraryResponse(table[:, number]) for number in range(table.shape[1])]
    if not 0 <= column < table.shape[1]:
        raise InputError(
            f"hrf={hrf!r}: {path} has the columns 0 to {table.shape[1] - 1}; give one of them."
        )
    return [LibraryResponse(table[:, column])]


def read_library(path: str | Path) -> NDArray[np.float64]:
    """Read a library of response functions, (time, function), rows 0.1 s apart.

    Parameters
    ----------
    path : str or Path
        Numbers separated by tabs or spaces, one line a time point, no header.

    Raises
    ------
    FileError
        If the file is missing or holds no such table.
    """
    place = existing(path, "HRF library")
    try:
        table = np.loadtxt(place, ndmin=2)
    except (ValueError, OSError) as error:
        raise FileError(f"HRF library {place} is no table of numbers: {error}.") from error
    if len(table) < 2 or not np.isfinite(table).all() or not (table.max(axis=0) > 0).all():
        raise FileError(
            f"HRF library {place} has shape {table.shape} and columns that are not finite or "
            "never rise above 0; needed: (time, function), a response each."
        )
    return np.asarray(table, dtype=np.float64)


class LibraryResponse:
    """A response function of samples 0.1 s apart, as nilearn calls it; goes to other processes.

    Parameters
    ----------
    samples : ndarray
        (time,); zero after the last one.
    """

    __name__ = "library"

    def __init__(self, samples: NDArray[np.float64]) -> None:
        self._samples = samples

    def __call__(self, t_r: float, oversampling: int = 50) -> NDArray[np.float64]:
        """Return samples ``t_r / oversampling`` s apart.

        Parameters
        ----------
        t_r : float
            Repetition time, s.
        oversampling : int
            Samples of a repetition time.
        """
        step = t_r / oversampling
        times = np.arange(len(self._samples)) * LIBRARY_STEP
        wanted = np.arange(0, times[-1] + step / 2, step)
        values = np.interp(wanted, times, self._samples)
        # Over the sum of |h|: a library function may sum to 0.
        return np.asarray(values / np.abs(values).sum())


def response_peak(kernel: Kernel, samples: int, step: float) -> float:
    """Return the highest value of the modelled response to one event of amplitude 1.

    Parameters
    ----------
    kernel : str or callable
        As :func:`kernels` returns; of a set with derivatives the response itself.
    samples : int
        Length of the event.
    step : float
        Seconds between samples, as in the design matrix.

    Returns
    -------
    float
        By which a column of the design is divided, so that a beta is the height of the peak.
    """
    from nilearn.glm.first_level import compute_regressor

    # Half a sample less: nilearn ends an event at the next sample of its grid.
    duration = (samples - 0.5) * step
    frames = np.arange(0, duration + _TAIL, step)
    main: Any = kernel.split(" + ")[0] if isinstance(kernel, str) else kernel
    response, _ = compute_regressor(
        np.array([[0.0], [duration], [1.0]]), main, frames, oversampling=1, min_onset=0
    )
    return float(response[:, 0].max())


def _place(text: str) -> tuple[str, int | None]:
    path, colon, column = text.rpartition(":")
    return (path, int(column)) if colon and column.isdigit() else (text, None)
