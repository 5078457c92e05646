"""The volume layout of THINGS-fMRI: a file of responses and one of their images for each run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroattn.data.tables import read_table
from neuroattn.data.things_tables import Trials, image_id
from neuroattn.data.trial_volumes import read_trials, volume_shape
from neuroattn.data.volumes import Grid, check_same_grid
from neuroattn.errors import FileError, MismatchError
from neuroattn.io import existing

RUNS = 10
_CATCH = re.compile(r"(?<![a-z])catch(?!er)")


@dataclass(frozen=True)
class Run:
    """One run: its files, and which of its estimates are of trials with an object.

    Parameters
    ----------
    session, run : int
        From 1.
    betas, conditions : Path
        The volume of estimates and the table of their images.
    """

    session: int
    run: int
    betas: Path
    conditions: Path

    def images(self) -> tuple[list[str], NDArray[np.intp]]:
        """Return the images without catch trials, and the place of each in the volume.

        Raises
        ------
        FileError
            If the table is missing, damaged, or of another form.
        """
        table = read_table(existing(self.conditions, "conditions"))
        if "image_filename" not in table:
            raise FileError(
                f"{self.conditions} has the columns {sorted(table)}; needed is image_filename."
            )
        names = table["image_filename"]
        kept = [place for place, name in enumerate(names) if not is_catch(name)]
        return [image_id(names[place]) for place in kept], np.array(kept, dtype=np.intp)

    def read(self, voxels: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the estimates of some voxels, (trial, voxel), without catch trials."""
        return read_trials(self.betas, voxels)[self.images()[1]]


def is_catch(name: str) -> bool:
    """Say whether the name of an image, with its folders, is that of a catch trial."""
    return _CATCH.search(name.lower()) is not None


def run_files(folder: Path, subject: str, sessions: Sequence[int]) -> list[Run]:
    """Return the runs of some sessions, whether their files are there or not.

    Parameters
    ----------
    folder : Path
        ``betas_vol`` or the folder in it that holds the subjects.
    subject : str
        "01".
    sessions : sequence of int
        From 1.
    """
    found = []
    for session in sessions:
        place = folder / f"sub-{subject}" / f"ses-things{session:02d}"
        for run in range(1, RUNS + 1):
            stem = f"sub-{subject}_ses-things{session:02d}_run-{run:02d}"
            tables = (place / f"{stem}_betas.nii.gz", place / f"{stem}_conditions.tsv")
            found.append(Run(session, run, *tables))
    return found


def read_trials_of(runs: Sequence[Run], tests: set[str]) -> Trials:
    """Return the trials of runs in the order of their volumes.

    Parameters
    ----------
    runs : sequence of Run
        In order.
    tests : set of str
        The repeated images.

    Raises
    ------
    FileError
        If a table is missing or damaged.
    """
    images = [run.images()[0] for run in runs]
    counts = [len(names) for names in images]
    every = [name for names in images for name in names]
    return Trials(
        every,
        np.repeat(np.array([run.session for run in runs], dtype=np.int64), counts),
        np.repeat(np.array([run.run for run in runs], dtype=np.int64), counts),
        np.array([name in tests for name in every], dtype=bool),
    )


def check_run(run: Run, grid: Grid, brain: Path) -> None:
    """See that the volume of a run is on the grid of the mask and fits its table.

    Raises
    ------
    FileError
        If a file is missing or damaged, or the volume has no axis of trials.
    MismatchError
        If the grid is another, or the table has another number of lines.
    """
    existing(run.betas, f"betas of session {run.session}, run {run.run}")
    check_same_grid(run.betas, grid, brain)
    shape = volume_shape(run.betas)
    lines = len(read_table(run.conditions)["image_filename"])
    if len(shape) != 4 or shape[3] != lines:
        raise MismatchError(
            f"{run.betas} has shape {shape}, {run.conditions} lists {lines} conditions; needed is "
            "one volume a line, catch trials included. Copy both again."
        )
