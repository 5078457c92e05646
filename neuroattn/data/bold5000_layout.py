"""How BOLD5000 is laid out: subjects, sessions, runs, and where its files are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from neuroattn.data.bold5000_rois import roi_files
from neuroattn.data.bold5000_stimuli import PRESENTED, REPEATED
from neuroattn.errors import InputError
from neuroattn.names import check_name

TRIALS_PER_RUN = 37
#: Sessions of each subject, and which of them have ten runs; the others have nine.
SESSIONS = {"CSI1": 15, "CSI2": 15, "CSI3": 15, "CSI4": 9}
TEN_RUNS = {
    "CSI1": (1, 2, 3, 5, 7, 10, 15),
    "CSI2": (1, 3, 4, 5, 11, 12, 14),
    "CSI3": (1, 3, 5, 6, 7, 11, 15),
    "CSI4": (1, 4, 9),
}
#: The published volumes of each subject.
SHAPES = {
    "CSI1": (71, 89, 72),
    "CSI2": (72, 92, 70),
    "CSI3": (72, 88, 67),
    "CSI4": (70, 89, 70),
}


def published_rows(subject: str) -> dict[int, int]:
    """Return the trials of each session of a subject, from 1."""
    return {
        number: TRIALS_PER_RUN * (10 if number in TEN_RUNS[subject] else 9)
        for number in range(1, SESSIONS[subject] + 1)
    }


def whose_shape(shape: tuple[int, ...]) -> str:
    """Return "(the shape of CSI2)" for a volume that is a subject's, else empty text."""
    owner = next((name for name, known in SHAPES.items() if known == tuple(shape)), "")
    return f" (the shape of {owner})" if owner else ""


def whose_trials(trials: int) -> str:
    """Return "(as many as CSI4 has)" for a number of trials that is a subject's, else ""."""
    owners = [name for name in SESSIONS if sum(published_rows(name).values()) == trials]
    return f" (as many as {' or '.join(owners)} has)" if owners else ""


@dataclass(frozen=True)
class Places:
    """Where the files of one subject are.

    Parameters
    ----------
    path, subject, preparation, masks, stimuli
        As for :class:`neuroattn.data.BOLD5000`.
    """

    path: str
    subject: str
    preparation: str
    masks: str | None
    stimuli: str | None

    def __post_init__(self) -> None:
        check_name("subject", self.subject, SESSIONS)
        if not re.fullmatch(r"TYP[A-Z]{2}(-[A-Z]+)*", self.preparation):
            raise InputError(
                f"preparation={self.preparation!r} is no part of a file name such as "
                "'TYPED-FITHRF-GLMDENOISE-RR', 'TYPEC-FITHRF-GLMDENOISE', 'TYPEB-FITHRF' or "
                "'TYPEA-ASSUMEHRF'."
            )

    def _file(self, ending: str) -> Path:
        root, name = Path(self.path), f"{self.subject}_{ending}"
        deeper = root / self.subject / name
        return deeper if deeper.exists() and not (root / name).exists() else root / name

    def betas(self, number: int) -> Path:
        """Return the volume of a session, from 1."""
        return self._file(f"GLMbetas-{self.preparation}_ses-{number:02d}.nii.gz")

    @property
    def brain(self) -> Path:
        """The brain mask."""
        return self._file("brainmask.nii.gz")

    @property
    def names(self) -> Path:
        """The list of the image of each trial."""
        return self._file("imgnames.txt")

    @property
    def stimuli_folder(self) -> Path:
        """The folder that holds ``Scene_Stimuli``."""
        if self.stimuli is not None:
            return Path(self.stimuli)
        root = Path(self.path)
        return root if (root / "Scene_Stimuli").is_dir() else root / "BOLD5000_Stimuli"

    @property
    def presented(self) -> Path:
        """The folder of the images."""
        return self.stimuli_folder / PRESENTED

    @property
    def lists(self) -> Path:
        """The folder of the lists that the images were shown from."""
        return self.stimuli_folder / "Stimuli_Presentation_Lists"

    @property
    def repeated(self) -> Path:
        """The list of the images that were repeated."""
        folder = self.stimuli_folder
        places = [folder / "Scene_Stimuli", self.presented, folder, Path(self.path)]
        return next((p / REPEATED for p in places if (p / REPEATED).exists()), places[0] / REPEATED)

    def roi_volumes(self) -> dict[tuple[str, str], Path]:
        """Return the mask of each (side, ROI); none where ``masks`` is empty text."""
        if self.masks == "":
            return {}
        root, subject = Path(self.path), f"sub-{self.subject}"
        places = [
            root / "derivatives/spm" / subject,
            root / "ds001499/derivatives/spm" / subject,
            root / subject,
            root / "masks",
            root,
        ]
        if self.masks is not None:
            places = [Path(self.masks) / subject, Path(self.masks)]
        folder = next((p for p in places if any(p.glob(f"{subject}_mask-*.nii.gz"))), places[0])
        return roi_files(lambda label: folder / f"{subject}_mask-{label}.nii.gz")

    def roi_tables(self) -> dict[tuple[str, str], Path]:
        """Return the table of each (side, ROI)."""
        root = Path(self.path)
        places = [root / "BOLD5000_GLMsingle_ROI_betas/py", root / "py", root]
        stem = f"{self.subject}_GLMbetas-{self.preparation}_allses_"
        folder = next((p for p in places if any(p.glob(f"{stem}*.npy"))), places[0])
        return roi_files(lambda label: folder / f"{stem}{label}.npy")
