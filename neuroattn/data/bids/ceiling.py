"""The signal-to-noise ratio of a category, from repeats of it, without all betas in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import InputError

Float64 = NDArray[np.float64]


class ConditionNcsnr:
    """ncsnr of conditions (categories) that several trials repeat, session by session.

    With z the betas of a voxel standardised within each session (mean 0, variance 1, ddof 1),
    over trials t of conditions c with n_c trials in all and mean z̄_c:

    - noise variance = Σ_c Σ_{t in c} (z_t - z̄_c)² / Σ_c (n_c - 1), over conditions with n_c > 1
    - ncsnr = √(max(1 - noise variance, 0) / noise variance)

    The ceiling of single trials, ncsnr² / (ncsnr² + 1), is then the share of their variance that
    belongs to the condition: the best that an encoder which knows only the condition can explain.
    What tells trials of one condition apart (their images) counts as noise.

    Parameters
    ----------
    conditions : sequence of str
        Of every trial that will come.
    voxels : int
        Number of voxels.

    Raises
    ------
    InputError
        If no condition has two trials.

    References
    ----------
    Allen et al. (2022), A massive 7T fMRI dataset, Methods, "Noise ceiling estimation", with
    conditions for images.
    """

    def __init__(self, conditions: Sequence[str], voxels: int) -> None:
        self._names, counts = np.unique(np.asarray(conditions), return_counts=True)
        if not (counts > 1).any():
            raise InputError(
                f"trials.repeats: none of the {len(counts)} conditions has two trials; a ceiling "
                "needs repeats."
            )
        self._counts = counts
        self._sum = np.zeros((len(counts), voxels))
        # Sums of squares can only be had for all conditions together: those of one trial, whose
        # square is all theirs, are taken out one by one.
        self._square = np.zeros(voxels)

    def add(self, betas: NDArray[np.floating], conditions: Sequence[str]) -> None:
        """Add a whole session.

        Parameters
        ----------
        betas : ndarray
            (trial, voxel).
        conditions : sequence of str
            Of each trial.
        """
        place = np.searchsorted(self._names, np.asarray(conditions))
        single = self._counts[place] < 2
        member = np.zeros((len(self._names), len(place)))
        member[place, np.arange(len(place))] = 1
        width = max(1, (1 << 22) // len(betas))
        for start in range(0, betas.shape[1], width):
            block = slice(start, start + width)
            values = betas[:, block].astype(np.float64)
            values -= values.mean(axis=0)
            with np.errstate(divide="ignore", invalid="ignore"):
                values /= values.std(axis=0, ddof=1)
            self._sum[:, block] += member @ values
            self._square[block] += (values[~single] ** 2).sum(axis=0)

    def value(self) -> Float64:
        """Return ncsnr (voxel,), 0 or more; NaN for a voxel that is NaN or constant."""
        repeated = self._counts > 1
        counts = self._counts[repeated]
        between = (self._sum[repeated] ** 2 / counts[:, None]).sum(axis=0)
        noise = np.maximum(self._square - between, 0) / (counts - 1).sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.sqrt(np.maximum(1 - noise, 0) / noise))
