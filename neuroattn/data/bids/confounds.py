"""Confounds of fMRIPrep by the name of a strategy."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.data.bids.layout import BoldRun, check_filled
from neuroattn.errors import FileError
from neuroattn.names import check_name

#: Name to the arguments of nilearn's ``load_confounds``.
STRATEGIES: dict[str, dict[str, Any]] = {
    "none": {},
    "motion": {"strategy": ["motion"], "motion": "basic"},
    "motion24": {"strategy": ["motion"], "motion": "full"},
    "simple": {"strategy": ["motion", "wm_csf"], "motion": "full", "wm_csf": "basic"},
    "scrubbing": {
        "strategy": ["motion", "wm_csf", "scrub"],
        "motion": "full",
        "wm_csf": "full",
        "scrub": 5,
        "fd_threshold": 0.5,
        "std_dvars_threshold": 1.5,
    },
    "compcor": {
        "strategy": ["high_pass", "motion", "compcor"],
        "motion": "full",
        "compcor": "anat_combined",
        "n_compcor": "all",
    },
    "aroma": {"strategy": ["wm_csf", "ica_aroma"], "wm_csf": "basic", "ica_aroma": "full"},
}


def desc_of(confounds: str) -> str:
    """Return the ``desc`` of the volumes that a strategy is for."""
    return "smoothAROMAnonaggr" if confounds == "aroma" else "preproc"


def confounds_files(run: BoldRun) -> list[Path]:
    """Return the table of fMRIPrep's confounds beside the images of a run, if there is one."""
    own = [f"{k}-{v}" for k, v in run.entities.items() if k not in ("space", "res", "den", "desc")]
    stem = "_".join(own)
    folder = run.images[0].parent
    names = (f"{stem}_desc-confounds_timeseries.tsv", f"{stem}_desc-confounds_regressors.tsv")
    places = [folder / name for name in names]
    return [place for place in places if place.is_symlink() or place.exists()]


def read_confounds(
    run: BoldRun, strategy: str
) -> tuple[NDArray[np.float64] | None, NDArray[np.intp] | None]:
    """Read the confounds of one run.

    Slow drifts are not among them (fMRIPrep's cosines are left out): the model has its own.

    Parameters
    ----------
    run : BoldRun
        Images with fMRIPrep's table beside them.
    strategy : str
        "none"; "motion" (6 parameters); "motion24" (with derivatives and squares); nilearn's
        presets "simple" (motion24, white matter, CSF), "scrubbing" (also leaves volumes out:
        framewise displacement above 0.5 mm or standardised DVARS above 1.5), "compcor" (motion24,
        anatomical CompCor), "aroma" (white matter, CSF; for images that AROMA cleaned).

    Returns
    -------
    confounds : ndarray or None
        (time, regressor), demeaned, of all volumes.
    kept : ndarray or None
        The volumes that are used, where not all are: scrubbing and fMRIPrep's non-steady states.

    Raises
    ------
    FileError
        If the table is missing, empty, or lacks what the strategy needs.
    InputError
        If the strategy is unknown.

    References
    ----------
    Wang et al. (2024), "Continuous evaluation of denoising strategies in resting-state fMRI
    connectivity using fMRIPrep and Nilearn", PLOS Computational Biology 20, e1011942.
    """
    settings = STRATEGIES[check_name("glm.confounds", strategy, STRATEGIES)]
    if not settings:
        return None, None
    tables = confounds_files(run)
    if not tables:
        raise FileError(
            f"glm.confounds={strategy!r}: there is no *_desc-confounds_timeseries.tsv beside "
            f"{run.images[0]}. Raw data have none: give fMRIPrep's folder as derivatives, or "
            "glm.confounds='none'."
        )
    table, kept = _load(run, settings, check_filled(tables[0], "confounds"))
    columns = [c for c in table.columns if not str(c).startswith("cosine")]
    values = np.asarray(table[columns].to_numpy(), dtype=np.float64)
    if not np.isfinite(values).all():
        column = columns[int(np.flatnonzero(~np.isfinite(values).all(axis=0))[0])]
        raise FileError(f"confounds {tables[0]}: column {column!r} has an empty cell in the run.")
    return values, None if kept is None else np.asarray(kept, dtype=np.intp)


def _load(run: BoldRun, settings: dict[str, Any], table: Path) -> tuple[Any, Any]:
    from nilearn.interfaces.fmriprep import load_confounds

    images = [str(path) for path in run.images]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table_and_kept = load_confounds(images if len(images) == 2 else images[0], **settings)
    except (ValueError, OSError, KeyError) as error:
        raise FileError(
            f"confounds {table} cannot serve the strategy {settings['strategy']}: "
            f"{' '.join(str(error).split())}"
        ) from error
    return table_and_kept[0], table_and_kept[1]
