"""Image files of a folder under the names that responses have for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from neuroattn.errors import FileError, InputError
from neuroattn.images import ImageFolder


def files_by_name(folder: Path, ids: Sequence[str], spelling: Callable[[str], str]) -> list[Path]:
    """Find the file of each image at any depth below a folder.

    Parameters
    ----------
    folder : Path
        Holds the files.
    ids : sequence of str
        The images wanted.
    spelling : callable
        Gives what an id and the path of its file share, such as the name without ending.

    Returns
    -------
    list of Path
        One an image, in the order of ``ids``.

    Raises
    ------
    FileError
        If the folder holds no images, an image is not among them, or two files fit one name.
    """
    places: dict[str, list[str]] = {}
    for name in ImageFolder(folder, "**/*", ids="path").ids:
        places.setdefault(spelling(name), []).append(name)
    for image in ids:
        found = places.get(spelling(image), [])
        if len(found) != 1:
            raise FileError(
                f"image {image!r} has {len(found)} files below {folder} "
                f"({', '.join(found[:3]) or 'none fits'}); needed is one. Unpack the images again "
                "into an empty folder."
            )
    return [folder / places[spelling(image)][0] for image in ids]


def below(files: Sequence[Path], source: Path) -> list[str]:
    """Return files relative to the source, as a stimulus index names them.

    Raises
    ------
    InputError
        If one lies elsewhere: what was converted finds its images below the source.
    """
    for file in files:
        if not file.is_relative_to(source):
            raise InputError(
                f"stimuli_folder: {file} is not below {source}, where the stimulus index of a "
                "converted data set finds its images. Move or link the folder into it."
            )
    return [file.relative_to(source).as_posix() for file in files]
