"""NSD-synthetic: 284 artificial stimuli in the subjects of NSD, to test encoders out of domain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.data import sessions as streaming
from neuroattn.data.nsd.base import NsdReader
from neuroattn.data.nsd.design import Ids
from neuroattn.data.nsd.layout import VOLUMES
from neuroattn.data.nsd.matlab import read_matlab, whole_numbers
from neuroattn.data.nsd.stimuli import DATASET, brick
from neuroattn.data.sessions import Session, SourceFile
from neuroattn.data.split import Split
from neuroattn.data.tables import numbers, read_table
from neuroattn.errors import FileError
from neuroattn.images import Images, JoinedImages

#: Stimuli that are the same for all subjects; the others are tuned to each subject's colours.
SHARED, STIMULI = 220, 284
_DESIGN = "nsddata/experiments/nsdsynthetic/nsdsynthetic_expdesign.mat"
_FOLDER = "nsddata_stimuli/stimuli/nsdsynthetic"


class NSDSynthetic(NsdReader):
    """The NSD-synthetic session of one subject of NSD, in percent signal change.

    The voxels are those of :class:`NSD` with the same space and ROIs. Pixels are as stored; they
    were shown on a display of linear luminance, so that encoders trained on photographs may want
    their square root (of 0 to 1).

    Parameters
    ----------
    path : str
        The folder that holds ``nsddata``, ``nsddata_betas`` and ``nsddata_stimuli``.
    subject : int or str
        1 to 8, or "subj01".
    space : {"func1pt8mm", "func1mm", "nativesurface"}
        Volumes or surface of the subject.
    preparation : str
        "nsdsyntheticbetas_fithrf" or "nsdsyntheticbetas_fithrf_GLMdenoise_RR".
    format : {"auto", "hdf5", "nifti"}
        Which file of a volume to read; "auto" is HDF5 where it is there.
    roi : sequence of str, optional
        As for :class:`NSD`.
    trials : str, optional
        A table (CSV, TSV) with one line a trial and the column ``stimulus``, 1 to 284 (the 220
        shared stimuli come first, then the 64 of the subject), and if known ``run``. By default
        ``masterordering`` of NSD's ``nsdsynthetic_expdesign.mat``.

    References
    ----------
    Gifford, Cichy, Naselaris and Kay (2026), "A 7T fMRI dataset of synthetic images for
    out-of-distribution modeling of vision", arXiv:2503.06286. Allen et al. (2022), Nature
    Neuroscience 25, 116-126.
    """

    spaces = (*VOLUMES, "nativesurface")
    preparations = ("nsdsyntheticbetas_fithrf", "nsdsyntheticbetas_fithrf_GLMdenoise_RR")
    reference = "Gifford et al. (2026), NSD-synthetic; Allen et al. (2022)"

    def __init__(
        self,
        path: str,
        subject: int | str,
        space: str = "func1pt8mm",
        preparation: str = "nsdsyntheticbetas_fithrf_GLMdenoise_RR",
        format: str = "auto",
        roi: Sequence[str] | None = None,
        trials: str | None = None,
    ) -> None:
        super().__init__(path, subject, space, preparation, format, roi)
        self.trials = trials

    def files(self) -> list[SourceFile]:
        """Return the trials, the label files, the betas, and the stimuli."""
        return [
            SourceFile(self._trials_path, "trials: which stimulus in which trial"),
            *self._source_files([1], "NSD-synthetic"),
            *(SourceFile(path, "stimuli, read for features alone", False) for path in self._bricks),
        ]

    def sessions(self) -> list[Session]:
        """Return the one session.

        Raises
        ------
        FileError
            If the trials cannot be read.
        """
        files = tuple(self._betas_paths(1).values())
        return [Session("NSD-synthetic", len(self._shown[0]), files)]

    def labels(self) -> xr.Dataset:
        """Return everything but the responses.

        Raises
        ------
        FileError
            If a file is missing, truncated or not what NSD publishes.
        MismatchError
            If files do not belong together.
        """
        shown, runs = self._shown
        self._open(1, len(shown))
        return streaming.labels(
            presentation={"image": [self._id(row) for row in shown], "session": 1, "run": runs},
            voxel={"subject": self._layout.name, **self._selection.columns},
            roi=self._selection.roi,
            attrs=self._attrs("NSD-synthetic"),
        )

    def read(self, index: int) -> Iterator[NDArray[np.float32]]:
        """Yield the values of the session as pieces (trial, some voxels), 64 MiB at most each.

        Parameters
        ----------
        index : int
            0.

        Raises
        ------
        FileError
            If the file is missing, truncated, or has trials without values.
        MismatchError
            If it is of another subject or space, or has another number of trials.
        """
        yield from self._pieces(self._open(index + 1, len(self._shown[0])))

    def stimuli(self) -> Mapping[str, Sequence[str | int]]:
        """Return the stimuli shown, sorted; ``shared`` is 1 for those of all subjects."""
        rows, shown = np.unique(self._shown[0], return_counts=True)
        whole = rows.tolist()
        root, bricks = Path(self.path), self._bricks
        names = [path.relative_to(root).as_posix() for path in bricks]
        return {
            "image": [self._id(row) for row in whole],
            "file": [names[row >= SHARED] for row in whole],
            "dataset": [DATASET] * len(whole),
            "index": [row - SHARED * (row >= SHARED) for row in whole],
            "shared": [int(row < SHARED) for row in whole],
            "shown": shown.tolist(),
        }

    def images(self) -> Images:
        """Return the stimuli shown: "nsdsynthetic-007", or "nsdsynthetic-subj01-230" if colour.

        Raises
        ------
        FileError
            If a stimulus file is missing or damaged.
        MismatchError
            If it holds another number of stimuli than published.
        """
        rows = np.unique(self._shown[0])
        common, own = self._bricks
        parts = (
            (common, rows[rows < SHARED], 0, SHARED),
            (own, rows[rows >= SHARED] - SHARED, SHARED, STIMULI - SHARED),
        )
        return JoinedImages(
            [
                brick(path, wanted, lambda row, start=start: self._id(row + start), count)  # type: ignore[misc]
                for path, wanted, start, count in parts
                if len(wanted)
            ]
        )

    def splits(self) -> Mapping[str, Split]:
        """Return "synthetic": every stimulus is for testing what was trained elsewhere."""
        rows = np.unique(self._shown[0])
        return {"synthetic": Split.from_lists(test=[self._id(row) for row in rows.tolist()])}

    def _stem(self, session: int) -> str:
        return "betas_nsdsynthetic"

    def _id(self, row: int) -> str:
        owner = "" if row < SHARED else f"{self._layout.name}-"
        return f"nsdsynthetic-{owner}{row:03d}"

    @property
    def _bricks(self) -> tuple[Path, Path]:
        folder = Path(self.path) / _FOLDER
        own = f"nsdsynthetic_colorstimuli_{self._layout.name}.hdf5"
        return folder / "nsdsynthetic_stimuli.hdf5", folder / own

    @property
    def _trials_path(self) -> Path:
        return Path(self.path) / _DESIGN if self.trials is None else Path(self.trials)

    @cached_property
    def _shown(self) -> tuple[Ids, Ids]:
        """The stimulus of each trial, from 0, and its run, 0 where it is not known."""
        path = self._trials_path
        if self.trials is None:
            if not path.exists():
                raise FileError(
                    f"trials of NSD-synthetic {path} do not exist; download "
                    "nsdsynthetic_expdesign.mat there, or give trials=, a table with the column "
                    f"'stimulus' (1 to {STIMULI}), one line a trial."
                )
            array = read_matlab(path, ("masterordering",))["masterordering"]
            shown = whole_numbers(path, "masterordering", array, 1, STIMULI).ravel()
            return shown - 1, np.zeros(len(shown), dtype=np.int64)
        table = read_table(path)
        if "stimulus" not in table:
            raise FileError(f"table {path} has the columns {list(table)}; needed: 'stimulus'.")
        shown = numbers(table["stimulus"], "stimulus", path, int)
        shown = whole_numbers(path, "stimulus", shown, 1, STIMULI)
        given = table.get("run", ["0"] * len(shown))
        return shown - 1, numbers(given, "run", path, int)
