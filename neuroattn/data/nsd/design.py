"""Which image was shown in which trial: NSD's two design files, joined and compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.data.nsd.layout import TRIALS
from neuroattn.data.nsd.matlab import read_matlab, whole_numbers
from neuroattn.errors import FileError, MismatchError
from neuroattn.io import existing

Ids = NDArray[np.int64]
_PRESENTED = 3


@dataclass(frozen=True)
class Design:
    """The trials of a subject in the order of the experiment, all numbers counted from 0.

    Parameters
    ----------
    path : Path
        ``nsd_expdesign.mat``.
    shown : ndarray
        (subject, trial) the 73k id of the image, of all subjects.
    shared : ndarray
        Sorted 73k ids of the images that are shown to all subjects.
    runs : ndarray or None
        (session, trial in it) the run, from 1, where the file tells.
    """

    path: Path
    shown: Ids
    shared: Ids
    runs: Ids | None

    @property
    def trials(self) -> int | None:
        """Trials of a session; None where the file does not tell."""
        if self.runs is not None:
            return int(self.runs.shape[1])
        return TRIALS if self.shown.shape[1] % TRIALS == 0 else None

    def images(self, subject: int, sessions: list[int], trials: int) -> Ids:
        """Return the images of some sessions (numbered from 1) of so many trials.

        Raises
        ------
        MismatchError
            If there are more sessions than the design has trials for.
        """
        count = self.shown.shape[1]
        if max(sessions) * trials > count:
            raise MismatchError(
                f"{self.path} has {count} trials; session {max(sessions)} of {trials} trials each "
                f"needs {max(sessions) * trials}. The design has too few trials: download it "
                "again, or read fewer sessions."
            )
        starts = (np.array(sessions) - 1) * trials
        rows: Ids = self.shown[subject - 1, (starts[:, None] + np.arange(trials)).ravel()]
        return rows

    def seen_by_all(self, sessions: int, trials: int) -> Ids:
        """Return the shared images that each subject saw three times in the first sessions."""
        early = self.shown[:, : sessions * trials]
        often = [
            np.isin(self.shared, ids[counts >= _PRESENTED])
            for ids, counts in (np.unique(row, return_counts=True) for row in early)
        ]
        return self.shared[np.all(often, axis=0)]


def read_design(path: Path) -> Design:
    """Read ``nsd_expdesign.mat``, all numbers of which count from 1.

    Parameters
    ----------
    path : Path
        The file, of MATLAB version 5 or 7.3.

    Raises
    ------
    FileError
        If it is missing, damaged or holds other numbers than NSD's.
    """
    arrays = read_matlab(path, ("masterordering", "subjectim", "sharedix"), ("stimpattern",))
    table = whole_numbers(path, "subjectim", arrays["subjectim"], 1, 10**6)
    if table.ndim != 2 or len(table) > table.shape[1]:
        raise FileError(
            f"MATLAB file {path}: 'subjectim' has shape {table.shape}; needed: (subject, image)."
        )
    order = whole_numbers(path, "masterordering", arrays["masterordering"], 1, table.shape[1])
    shared = whole_numbers(path, "sharedix", arrays["sharedix"], 1, 10**6).ravel() - 1
    if not all(np.isin(shared, row - 1).all() for row in table):
        raise FileError(
            f"MATLAB file {path}: 'sharedix' names images that not every row of 'subjectim' has; "
            "shared images are those that all subjects saw."
        )
    shown = table[:, order.ravel() - 1] - 1
    return Design(path, shown, np.unique(shared), _runs(path, arrays.get("stimpattern")))


def _runs(path: Path, pattern: Any | None) -> Ids | None:
    """Return the run of each trial of a session from (session, run, slot), 1 where one is."""
    if pattern is None:
        return None
    filled = whole_numbers(path, "stimpattern", pattern, 0, 1)
    counts = filled.sum(axis=(1, 2)) if filled.ndim == 3 else np.zeros(2)
    if filled.ndim != 3 or len(set(counts.tolist())) > 1:
        raise FileError(
            f"MATLAB file {path}: 'stimpattern' has shape {filled.shape} and {counts.min():g} to "
            f"{counts.max():g} trials a session; needed: (session, run, slot), equally many."
        )
    return np.stack([np.nonzero(session)[0] + 1 for session in filled]).astype(np.int64)


@dataclass(frozen=True)
class StimulusTable:
    """``nsd_stim_info_merged.csv``, the columns that one subject needs; rows by 73k id.

    Parameters
    ----------
    path : Path
        The file.
    coco : ndarray
        COCO id of each image.
    part : list of str
        COCO's own split of each.
    crop : list of str
        The fractions cut off (top, bottom, left, right), as written there.
    shared : ndarray
        bool, shown to all subjects.
    trials : ndarray
        (image, repetition) the subject's trial from 1, 0 for never.
    """

    path: Path
    coco: Ids
    part: list[str]
    crop: list[str]
    shared: NDArray[np.bool_]
    trials: Ids


def read_stimulus_table(path: Path, subject: int) -> StimulusTable:
    """Read what the stimulus table says of the images and of one subject's trials.

    Parameters
    ----------
    path : Path
        ``nsd_stim_info_merged.csv``.
    subject : int
        1 to 8.

    Raises
    ------
    FileError
        If it is missing, damaged, or lacks a column.
    """
    import pandas as pd

    repeats = [f"subject{subject}_rep{repeat}" for repeat in range(_PRESENTED)]
    columns = ["cocoId", "cocoSplit", "cropBox", "nsdId", "shared1000", *repeats]
    whole = dict.fromkeys(("cocoId", "nsdId", *repeats), "int64")
    place = existing(path, "stimulus table")
    try:
        table = pd.read_csv(place, usecols=columns, dtype=whole, keep_default_na=False)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise FileError(
            f"stimulus table {place} is truncated or lacks a column: {error}. Needed are "
            f"{', '.join(columns)}; download it again."
        ) from error
    table = table.sort_values("nsdId")
    flags = table["shared1000"].astype(str).str.lower()
    if table["nsdId"].tolist() != list(range(len(table))) or not flags.isin(_FLAGS).all():
        raise FileError(
            f"stimulus table {place}: nsdId goes from {table['nsdId'].min()} to "
            f"{table['nsdId'].max()} in {len(table)} lines, shared1000 holds "
            f"{sorted(flags.unique())[:4]}; needed: each number from 0 once, and True or False."
        )
    return StimulusTable(
        place,
        table["cocoId"].to_numpy(),
        table["cocoSplit"].astype(str).tolist(),
        table["cropBox"].astype(str).tolist(),
        flags.map(_FLAGS).to_numpy(dtype=bool),
        table[repeats].to_numpy(),
    )


_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def compare(design: Design, table: StimulusTable, subject: int) -> None:
    """Check that both files show the same image in each trial, and share the same images.

    Parameters
    ----------
    design : Design
        All trials.
    table : StimulusTable
        Of the same subject.
    subject : int
        1 to 8.

    Raises
    ------
    MismatchError
        If they differ; names the first trial and both images.
    """
    shown = design.shown[subject - 1]
    ids, repeats = np.nonzero(table.trials > 0)
    trials = table.trials[ids, repeats] - 1
    said = np.full(max(len(shown), trials.max(initial=-1) + 1), -1)
    said[trials] = ids
    wrong = np.flatnonzero(said[: len(shown)] != shown)
    if len(wrong) or len(said) > len(shown):
        first = wrong[0] if len(wrong) else len(shown)
        theirs = f"nsd-{said[first]:05d}" if said[first] >= 0 else "no image"
        ours = f"nsd-{shown[first]:05d}" if first < len(shown) else "no image"
        raise MismatchError(
            f"{design.path} shows {ours} in trial {first + 1} of subject {subject}, {table.path} "
            f"says {theirs}; {max(len(wrong), len(said) - len(shown))} of {len(shown)} trials "
            "disagree. One of the two was changed or is another version: download both again."
        )
    if not np.array_equal(np.flatnonzero(table.shared), design.shared):
        raise MismatchError(
            f"{design.path} has {len(design.shared)} shared images, {table.path} has "
            f"{np.count_nonzero(table.shared)} or others; download both again."
        )
