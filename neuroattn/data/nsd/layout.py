"""Where NSD keeps its files, and what is known of each subject."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from neuroattn.errors import InputError, MismatchError
from neuroattn.names import check_name

#: Scanning sessions of subjects 1 to 8.
SESSIONS = (40, 40, 32, 30, 40, 32, 40, 30)
#: Trials of a session as published.
TRIALS = 750
#: Seconds between volumes; NSD does not say it for surfaces, which are made from volumes.
REPETITION_TIME = {"func1pt8mm": 4 / 3, "func1mm": 1.0}
VOLUMES = tuple(REPETITION_TIME)
SURFACES = ("fsaverage", "nativesurface")
PREPARATIONS = ("betas_assumehrf", "betas_fithrf", "betas_fithrf_GLMdenoise_RR")
#: Files of a hemisphere start so.
SIDES = {"left": "lh", "right": "rh"}

_GRIDS = (
    (81, 104, 83),
    (82, 106, 84),
    (81, 106, 82),
    (85, 99, 80),
    (79, 97, 78),
    (85, 113, 83),
    (78, 95, 81),
    (80, 103, 78),
)
_VERTICES = {
    "left": (227021, 239633, 240830, 228495, 197594, 253634, 198770, 224364),
    "right": (226601, 239309, 243023, 227262, 198908, 259406, 200392, 224398),
}


@dataclass(frozen=True)
class Layout:
    """The files of one subject in one space.

    Parameters
    ----------
    root : Path
        The folder that holds ``nsddata``, ``nsddata_betas`` and ``nsddata_stimuli``.
    subject : int
        1 to 8.
    space : str
        One of ``VOLUMES`` and ``SURFACES``.
    preparation : str
        The folder of the betas.
    """

    root: Path
    subject: int
    space: str
    preparation: str

    @property
    def name(self) -> str:
        """The name of the subject's folders, such as "subj01"."""
        return f"subj{self.subject:02d}"

    @property
    def volume(self) -> bool:
        """Whether the betas are on a grid of voxels."""
        return self.space in VOLUMES

    @property
    def betas(self) -> Path:
        """The folder of the betas."""
        return self.root / "nsddata_betas/ppdata" / self.name / self.space / self.preparation

    @property
    def anatomy(self) -> Path:
        """The folder of what was made of a volume: the brain mask, and ``roi``."""
        return self.root / "nsddata/ppdata" / self.name / self.space

    @property
    def rois(self) -> Path:
        """The folder of the ROI files."""
        return self.anatomy / "roi" if self.volume else self.label_folder

    @property
    def label_folder(self) -> Path:
        """The folder of FreeSurfer labels, which also names the labels of the volumes."""
        owner = "fsaverage" if self.space == "fsaverage" else self.name
        return self.root / "nsddata/freesurfer" / owner / "label"

    def roi_files(self, name: str) -> dict[str, Path]:
        """Return the files that may hold a ROI file's labels: "both" (volumes), "left", "right"."""
        ending = ".nii.gz" if self.volume else ".mgz"
        sides = {side: self.rois / f"{mark}.{name}{ending}" for side, mark in SIDES.items()}
        return {"both": self.rois / f"{name}{ending}", **sides} if self.volume else sides

    def ncsnr(self) -> tuple[Path, ...]:
        """Return the files of the noise-ceiling SNR that NSD ships."""
        if self.volume:
            return (self.betas / "ncsnr.nii.gz",)
        return tuple(self.betas / f"{mark}.ncsnr.mgh" for mark in SIDES.values())

    def check_size(self, path: Path, size: tuple[int, ...], side: str = "both") -> None:
        """Refuse a file whose size is known to be another subject's.

        Parameters
        ----------
        path : Path
            Named in the message.
        size : tuple of int
            Shape of a volume (x, y, z), or the number of vertices as a tuple of one.
        side : str
            "left" or "right" for a surface.

        Raises
        ------
        MismatchError
            If it is; says whose.
        """
        owner = self.owner(size, side)
        if owner is not None and owner != self.subject:
            what = "grid" if self.volume else f"{side} hemisphere"
            raise MismatchError(
                f"{path} is of size {times(size)}: this is the {what} of subject {owner}, not of "
                f"subject {self.subject}. Download it again into the folder of {self.name}, or "
                f"give subject={owner}."
            )

    def owner(self, size: tuple[int, ...], side: str = "both") -> int | None:
        """Return the subject whose published grid or mesh has this size, None if nobody's."""
        known: tuple[object, ...] = ()
        if self.space == "func1pt8mm":
            known = _GRIDS
        elif self.space == "nativesurface":
            known = tuple((count,) for count in _VERTICES[side])
        return known.index(size) + 1 if size in known else None


def subject_number(subject: int | str) -> int:
    """Return the number of a subject given as 1 or "subj01".

    Raises
    ------
    InputError
        If NSD has no such subject.
    """
    match = re.fullmatch(r"(?:subj)?0?(\d)", str(subject))
    number = int(match[1]) if match else 0
    if not 1 <= number <= len(SESSIONS):
        raise InputError(f"subject={subject!r} is none of NSD's; give 1 to 8, or 'subj01'.")
    return number


def session_numbers(sessions: int | list[int], subject: int) -> list[int]:
    """Return the numbers of the sessions to read: the first n, or those listed.

    Raises
    ------
    InputError
        If the subject has no such session, or one is listed twice.
    """
    last = SESSIONS[subject - 1]
    numbers = list(range(1, sessions + 1)) if isinstance(sessions, int) else sorted(sessions)
    wrong = [number for number in numbers if not 1 <= number <= last]
    if not numbers or wrong or len(set(numbers)) < len(numbers):
        raise InputError(
            f"sessions={sessions!r}: subject {subject} has sessions 1 to {last}; give how many "
            "of the first ones to read, or a list of different numbers."
        )
    return numbers


def check_choices(space: str, spaces: tuple[str, ...], format: str) -> None:
    """Check that the files of a space come in a format.

    Raises
    ------
    UnknownNameError
        If the space or the format is unknown.
    InputError
        If a format is asked for on a surface, which comes in one alone.
    """
    check_name("space", space, spaces)
    check_name("format", format, ("auto", "hdf5", "nifti"))
    if format != "auto" and space not in VOLUMES:
        only = "mgh" if space == "fsaverage" else "hdf5"
        raise InputError(
            f"format={format!r} with space={space!r}: these betas are published as {only} alone; "
            "leave format='auto'."
        )


def times(size: tuple[int, ...]) -> str:
    """Return a size for people: "81 x 104 x 83"."""
    return " x ".join(map(str, size))
