"""Image files, decoded when they are read."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from neuroattn.errors import FileError, InputError
from neuroattn.images.base import Images
from neuroattn.images.checks import as_rgb, given_ids, unique
from neuroattn.io import existing

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp")


class ImageFiles(Images):
    """Image files, decoded by Pillow when they are read.

    Grey, palette, CMYK and 16-bit grey files become 8-bit RGB, transparency is laid over
    ``background``, EXIF orientation is applied, of an animation the first frame counts.

    Parameters
    ----------
    files : sequence of str or Path
        One an image; looked at when it is read.
    ids : sequence of str
        One id an image.
    background : tuple of int
        RGB, 0 to 255, seen through transparent pixels.
    """

    def __init__(
        self,
        files: Sequence[str | Path],
        ids: Sequence[str],
        background: tuple[int, int, int] = (127, 127, 127),
    ) -> None:
        self._files = [Path(file) for file in files]
        self.ids = given_ids(ids, len(self._files))
        self._background = tuple(background)
        self._digests: dict[tuple[int, int, int], str] = {}

    def read(self, index: int) -> NDArray[np.uint8]:
        """Decode image ``index``, (height, width, 3).

        Raises
        ------
        FileError
            If the file is missing, truncated or no image; the message names it.
        """
        file = self._files[self._check(index)]
        try:
            with warnings.catch_warnings():
                # Pillow warns of damaged tags, which say nothing about the pixels; damaged
                # pixels are an error below.
                warnings.simplefilter("ignore", UserWarning)
                with Image.open(file) as image:
                    return _decode(image, self._background)
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            size = file.stat().st_size if file.exists() else 0
            raise FileError(
                f"image {self.ids[index]!r} ({file}, {size} bytes) cannot be decoded: {error}. "
                "Copy the file again, or leave it out by another pattern."
            ) from error

    def digest(self, index: int) -> str:
        """Return the SHA-256 of the file's bytes (and of ``background``), without decoding."""
        file = self._files[self._check(index)]
        try:
            facts = file.stat()
            mark = (index, facts.st_size, facts.st_mtime_ns)
            if mark not in self._digests:
                content = file.read_bytes() + repr(self._background).encode()
                self._digests[mark] = hashlib.sha256(content).hexdigest()
        except OSError as error:
            raise FileError(
                f"image {self.ids[index]!r} ({file}) cannot be read: {error.strerror}. "
                "It was there when the folder was listed; put it back or list again."
            ) from error
        return self._digests[mark]


class ImageFolder(ImageFiles):
    """Image files of a folder, sorted by path, read as :class:`ImageFiles`.

    Parameters
    ----------
    path : str or Path
        The folder.
    pattern : str
        Glob below the folder, e.g. ``"shared*.png"`` or ``"**/*"``; files with other endings
        than png, jpg, jpeg, bmp, tif, tiff, gif and webp, and hidden files, are passed over.
    ids : {"stem", "name", "path"}
        What the id is: file name without ending, with ending, or the path below the folder.
    background : tuple of int
        RGB, 0 to 255, seen through transparent pixels.

    Raises
    ------
    FileError
        If the folder is missing or holds no image that fits.
    InputError
        If ``pattern`` leads out of the folder or two files have the same id.
    """

    def __init__(
        self,
        path: str | Path,
        pattern: str = "*",
        ids: str = "stem",
        background: tuple[int, int, int] = (127, 127, 127),
    ) -> None:
        if ids not in ("stem", "name", "path"):
            raise InputError(f"ids={ids!r} is unknown; allowed: 'stem', 'name', 'path'.")
        if ".." in Path(pattern).parts or Path(pattern).is_absolute() or not pattern:
            raise InputError(
                f"pattern={pattern!r} leads out of the folder {path}; "
                "give a pattern below it, such as '*.png' or '**/*'."
            )
        root = existing(path, "image folder")
        if not root.is_dir():
            raise FileError(f"image folder {root} is a file; give the folder that holds it.")
        found = sorted(
            file
            for file in root.glob(pattern)
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
        )
        if not found:
            raise FileError(
                f"image folder {root} holds no file that fits pattern={pattern!r} and ends in "
                f"one of {', '.join(SUFFIXES)}; use '**/*' for images in folders below it."
            )
        labels = {
            "stem": [file.stem for file in found],
            "name": [file.name for file in found],
            "path": [file.relative_to(root).as_posix() for file in found],
        }[ids]
        names = unique(labels, f"{root} with ids={ids!r} (use ids='path')")
        super().__init__(found, names, background)


def _decode(image: Image.Image, background: tuple[int, ...]) -> NDArray[np.uint8]:
    image.load()
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I;16"):
        # Pillow's own conversion clips 16-bit grey at 255 instead of scaling it.
        return as_rgb((np.asarray(turned).astype(np.uint16) >> 8).astype(np.uint8))
    if turned.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {turned.mode!r} have no fixed range; save it with 8 bits")
    if turned.has_transparency_data:
        front = turned.convert("RGBA")
        turned = Image.alpha_composite(Image.new("RGBA", front.size, (*background, 255)), front)
    return np.asarray(turned.convert("RGB"))
