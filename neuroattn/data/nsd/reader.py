"""The main experiment of the Natural Scenes Dataset: 73,000 images, eight subjects, 7 tesla."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.data import sessions as streaming
from neuroattn.data.nsd.base import NsdReader
from neuroattn.data.nsd.betas import open_betas
from neuroattn.data.nsd.design import (
    Design,
    Ids,
    StimulusTable,
    compare,
    read_design,
    read_stimulus_table,
)
from neuroattn.data.nsd.layout import (
    PREPARATIONS,
    SESSIONS,
    SURFACES,
    TRIALS,
    VOLUMES,
    session_numbers,
    subject_number,
)
from neuroattn.data.nsd.splits import image_ids, published_splits
from neuroattn.data.nsd.stimuli import DATASET, STIMULI, brick
from neuroattn.data.sessions import Session, SourceFile
from neuroattn.data.split import Split
from neuroattn.errors import MismatchError
from neuroattn.images import Images

_DESIGN = "nsddata/experiments/nsd/nsd_expdesign.mat"
_TABLE = "nsddata/experiments/nsd/nsd_stim_info_merged.csv"


class NSD(NsdReader):
    """One subject of the Natural Scenes Dataset, as published, in percent signal change.

    Every trial is a presentation. Voxels that NSD marks as invalid in a session (0 in all its
    trials) are NaN in that session.

    Parameters
    ----------
    path : str
        The folder that holds ``nsddata``, ``nsddata_betas`` and ``nsddata_stimuli``.
    subject : int or str
        1 to 8, or "subj01".
    space : {"func1pt8mm", "func1mm", "fsaverage", "nativesurface"}
        Volumes of the subject, the surface of fsaverage, or the subject's own.
    preparation : str
        "betas_assumehrf", "betas_fithrf", or "betas_fithrf_GLMdenoise_RR" (NSD's b1, b2, b3).
    format : {"auto", "hdf5", "nifti"}
        Which files of a volume to read; "auto" is HDF5 where it is there. The numbers are the
        same, HDF5 reads faster.
    sessions : int or sequence of int, optional
        The first so many, or those listed (from 1); by default all that the subject has.
    roi : sequence of str, optional
        Keep the voxels in any of these ROIs; also names of label files ("streams": all its
        labels), "brainmask" (volumes) and "all". By default "nsdgeneral".

    References
    ----------
    Allen et al. (2022), "A massive 7T fMRI dataset to bridge cognitive neuroscience and
    artificial intelligence", Nature Neuroscience 25, 116-126.
    """

    spaces = (*VOLUMES, *SURFACES)
    preparations = PREPARATIONS
    shipped_repeats = 3
    reference = "Allen et al. (2022), Nature Neuroscience 25, 116-126"

    def __init__(
        self,
        path: str,
        subject: int | str,
        space: str = "func1pt8mm",
        preparation: str = "betas_fithrf_GLMdenoise_RR",
        format: str = "auto",
        sessions: int | Sequence[int] | None = None,
        roi: Sequence[str] | None = None,
    ) -> None:
        super().__init__(path, subject, space, preparation, format, roi)
        self.sessions_wanted = sessions

    def files(self) -> list[SourceFile]:
        """Return the design, the label files, the betas, the shipped ncsnr and the stimuli."""
        root = self._layout.root
        return [
            SourceFile(root / _DESIGN, "design: which image in which trial"),
            SourceFile(root / _TABLE, "stimulus table"),
            *self._source_files(self._numbers, "session {}"),
            *(SourceFile(path, "shipped ncsnr", False) for path in self._layout.ncsnr()),
            SourceFile(root / STIMULI, "stimuli, read for features alone", False),
        ]

    def sessions(self) -> list[Session]:
        """Return the sessions to read, in the order of scanning.

        Raises
        ------
        FileError, MismatchError
            If the first session or the design cannot be read.
        """
        return [
            Session(f"session {number}", self._trials, tuple(self._betas_paths(number).values()))
            for number in self._numbers
        ]

    def labels(self) -> xr.Dataset:
        """Return everything but the responses, having checked each file against the others.

        Raises
        ------
        FileError
            If a file is missing, truncated or not what NSD publishes; the message names it.
        MismatchError
            If files do not belong together: another subject, grid, mesh or design, or two
            sessions with the same numbers.
        """
        images = self._images
        self._check_files()
        return streaming.labels(
            presentation={
                "image": image_ids(images),
                "session": np.repeat(self._numbers, self._trials),
                "run": self._runs(),
            },
            voxel={"subject": self._layout.name, **self._selection.columns},
            roi=self._selection.roi,
            attrs=self._attrs("Natural Scenes Dataset"),
        )

    def read(self, index: int) -> Iterator[NDArray[np.float32]]:
        """Yield the values of a session as pieces (trial, some voxels), 64 MiB at most each.

        Parameters
        ----------
        index : int
            Position in :meth:`sessions`.

        Raises
        ------
        FileError
            If the file is missing, truncated, or has trials without values.
        MismatchError
            If it is of another subject or space.
        """
        yield from self._pieces(self._open(self._numbers[index], self._trials))

    def stimuli(self) -> Mapping[str, Sequence[str | int]]:
        """Return the images of the sessions read, sorted: where each is, and what is known of it.

        Besides the usual columns: ``coco_id``, ``coco_split``, ``crop_box`` (fractions cut off at
        top, bottom, left, right), ``shared`` (1 for the images of all subjects) and ``shown`` (in
        how many trials of the sessions read).
        """
        numbers, shown = np.unique(self._images, return_counts=True)
        table, rows = self._table, numbers.tolist()
        return {
            "image": image_ids(numbers),
            "file": [STIMULI] * len(rows),
            "dataset": [DATASET] * len(rows),
            "index": rows,
            "coco_id": table.coco[numbers].tolist(),
            "coco_split": [table.part[row] for row in rows],
            "crop_box": [table.crop[row] for row in rows],
            "shared": table.shared[numbers].astype(int).tolist(),
            "shown": shown.tolist(),
        }

    def images(self) -> Images:
        """Return the images of the sessions read, sorted, with ids such as "nsd-00013".

        Raises
        ------
        FileError
            If the stimulus file is missing or damaged.
        MismatchError
            If it holds another number of images than the stimulus table lists.
        """
        path = self._layout.root / STIMULI
        count = len(self._table.coco)
        return brick(path, np.unique(self._images), lambda row: f"nsd-{row:05d}", count)

    def splits(self) -> Mapping[str, Split]:
        """Return "shared515", "shared1000" and "unique"; see :func:`.published_splits`."""
        return published_splits(self._design, self._images, self._trials)

    def shipped_ncsnr(self) -> NDArray[np.float64] | None:
        """Return the noise-ceiling SNR that NSD ships of the kept voxels, None if it is not there.

        Returns
        -------
        ndarray or None
            (voxel,), from all sessions of the subject, whichever are read here.

        Raises
        ------
        MismatchError
            If the map is on another grid or mesh.
        """
        return self._values(self._layout.ncsnr())

    def _stem(self, session: int) -> str:
        return f"betas_session{session:02d}"

    @cached_property
    def _design(self) -> Design:
        return read_design(self._layout.root / _DESIGN)

    @cached_property
    def _table(self) -> StimulusTable:
        table = read_stimulus_table(self._layout.root / _TABLE, self._layout.subject)
        compare(self._design, table, self._layout.subject)
        return table

    @cached_property
    def _images(self) -> Ids:
        return self._design.images(self._layout.subject, self._numbers, self._trials)

    @cached_property
    def _trials(self) -> int:
        """Trials of a session, as the design or else the first file of betas has them."""
        if self._design.trials is not None:
            return self._design.trials
        first = session_numbers(self._asked or 1, self._layout.subject)[0]
        path = next(iter(self._betas_paths(first).values()))
        return open_betas(path).trials if path.exists() else TRIALS

    @property
    def _asked(self) -> int | list[int] | None:
        given = self.sessions_wanted
        return given if given is None or isinstance(given, int) else list(given)

    @cached_property
    def _numbers(self) -> list[int]:
        """The sessions to read: those asked for, or all of the subject that the design has."""
        subject = subject_number(self.subject)
        if self._asked is not None:
            return session_numbers(self._asked, subject)
        last = SESSIONS[subject - 1]
        if not (self._layout.root / _DESIGN).exists():
            return list(range(1, last + 1))
        length = self._design.shown.shape[1]
        count = min(last, max(1, length // self._trials))
        beyond = [
            path
            for number in range(count + 1, last + 1)
            for path in self._betas_paths(number).values()
            if path.exists()
        ]
        if beyond:
            raise MismatchError(
                f"{self._design.path} has {length} trials, enough for {count} sessions, but "
                f"{beyond[0]} exists. The design has too few trials: download it again, or give "
                f"sessions={count}."
            )
        return list(range(1, count + 1))

    def _runs(self) -> NDArray[np.int64]:
        """Return the run of each presentation, from 1; 0 where the design does not tell."""
        runs = self._design.runs
        if runs is None or max(self._numbers) > len(runs):
            return np.zeros(len(self._images), dtype=np.int64)
        return np.concatenate([runs[number - 1] for number in self._numbers])

    def _check_files(self) -> None:
        """Open every session, and look for one that is there under two numbers."""
        seen: dict[tuple[str, str], int] = {}
        _ = self._table  # compares both files of the design
        for number in self._numbers:
            for side, betas in self._open(number, self._trials).items():
                keep = self._selection.keep[side]
                digest = betas.fingerprint(keep) if len(keep) else None
                first = seen.setdefault((side, digest), number) if digest else number
                if first != number:
                    raise MismatchError(
                        f"{betas.path} holds the same numbers as session {first}: one of the two "
                        "is a copy under a wrong name. Download both again."
                    )
