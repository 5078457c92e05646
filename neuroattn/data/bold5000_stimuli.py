"""The images of BOLD5000: one name for each spelling, and where its file is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath

from neuroattn.errors import FileError
from neuroattn.images import SUFFIXES
from neuroattn.io import existing

#: The folder of the images below the unpacked ``BOLD5000_Stimuli.zip``.
PRESENTED = Path("Scene_Stimuli/Presented_Stimuli")
REPEATED = "repeated_stimuli_113_list.txt"
_COCO = re.compile(r"^coco_(train|val)2014_")
_VALIDATION_SHARE = 10


def image_id(name: str) -> str:
    """Return the id of an image from a name of a list: no folder, no ending, no ``rep_``.

    Examples
    --------
    >>> image_id("rep_COCO_train2014_000000211198.jpg")
    'COCO_train2014_000000211198'
    """
    file = PureWindowsPath(name.strip()).name
    stem, dot, ending = file.rpartition(".")
    bare = stem if dot and f".{ending.lower()}" in SUFFIXES else file
    return bare.removeprefix("rep_")


def key(image: str) -> str:
    """Return what all spellings of an image share: lower case, without COCO's prefix."""
    return _COCO.sub("", image.lower())


def collection(image: str) -> str:
    """Return which collection an image is of, by its name: "ImageNet", "COCO" or "Scene"."""
    if re.fullmatch(r"n\d{8}_\d+", image):
        return "ImageNet"
    return "COCO" if re.fullmatch(r"\d{6,}", key(image)) else "Scene"


def read_list(path: Path, what: str) -> list[str]:
    """Read image ids from a text file with one name a line.

    Raises
    ------
    FileError
        If the file is missing, is no text, or has an empty line between names.
    """
    try:
        text = existing(path, what).read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise FileError(f"{what} {path} is no UTF-8 text: {error}.") from error
    lines = text.rstrip().splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise FileError(
                f"{what} {path}, line {number} is empty; needed is one name a line: an empty line "
                "would shift all that follow."
            )
    if not lines:
        raise FileError(f"{what} {path} is empty; needed is one name a line.")
    return [image_id(line) for line in lines]


def one_spelling(images: Sequence[str]) -> list[str]:
    """Return the ids with every image spelled as it is the first time it occurs."""
    first: dict[str, str] = {}
    return [first.setdefault(key(image), image) for image in images]


def presentation_lists(folder: Path, subject: str, sessions: Iterable[int]) -> list[str]:
    """Read the names from ``Stimuli_Presentation_Lists``, session by session, run by run.

    Parameters
    ----------
    folder : Path
        ``BOLD5000_Stimuli/Stimuli_Presentation_Lists``.
    subject : str
        "CSI1".
    sessions : iterable of int
        Sessions, from 1, in order.

    Raises
    ------
    FileError
        If the lists of a session are missing, or a run is missing among them.
    """
    names: list[str] = []
    for session in sessions:
        place = folder / subject / f"{subject}_sess{session:02d}"
        runs = {}
        for file in sorted(existing(place, "presentation lists").glob("*.txt")):
            match = re.search(r"run-?(\d+)$", file.stem)
            if match:
                runs[int(match[1])] = file
        if sorted(runs) != list(range(1, len(runs) + 1)) or not runs:
            raise FileError(
                f"{place} has the lists of runs {sorted(runs)}; needed are runs 1, 2, ... without "
                "a gap. Unpack BOLD5000_Stimuli.zip again."
            )
        for run in sorted(runs):
            names += read_list(runs[run], "presentation list")
    return names


def part_of(image: str) -> str:
    """Return "validation" for one image in ten, else "train"; the same for every subject.

    The rule: the first eight hexadecimal digits of the SHA-256 of the image's lower-case name
    without COCO's prefix, modulo ten, are 0.
    """
    number = int(hashlib.sha256(key(image).encode()).hexdigest()[:8], 16)
    return "validation" if number % _VALIDATION_SHARE == 0 else "train"
