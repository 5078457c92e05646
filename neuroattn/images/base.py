"""The interface of a collection of images, and collections made of others."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.images.checks import as_rgb, check_image, given_ids, unique
from neuroattn.names import did_you_mean


class Images(ABC):
    """A fixed, ordered collection of images, each with an id that no other has.

    Attributes
    ----------
    ids : tuple of str
        One unique id an image, in reading order.
    """

    ids: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.ids)

    @abstractmethod
    def read(self, index: int) -> NDArray[np.uint8]:
        """Return image ``index`` as uint8 of shape (height, width, 3), RGB, 0 to 255."""

    def digest(self, index: int) -> str:
        """Return the SHA-256 (hexadecimal) of the content and size of image ``index``."""
        image = self.read(index)
        head = "x".join(map(str, image.shape)).encode()
        return hashlib.sha256(head + np.ascontiguousarray(image).tobytes()).hexdigest()

    def find(self, ids: Iterable[str]) -> list[int]:
        """Return the positions of ``ids``.

        Raises
        ------
        MismatchError
            If an id is not among these images; the message names the first one.
        """
        places = {name: index for index, name in enumerate(self.ids)}
        wanted = [str(name) for name in ids]
        missing = [name for name in wanted if name not in places]
        if missing:
            raise MismatchError(
                f"{len(missing)} of {len(wanted)} image ids are not among these {len(self)} "
                f"images, the first is {missing[0]!r}{did_you_mean(missing[0], places)}. "
                "Check how the ids are made (with or without the file ending?)."
            )
        return [places[name] for name in wanted]

    def subset(
        self, indices: Sequence[int] | NDArray[np.integer[Any]], ids: Sequence[str] | None = None
    ) -> Images:
        """Return the images at ``indices``, in that order, reading from this collection.

        Parameters
        ----------
        indices : sequence of int
            Positions.
        ids : sequence of str, optional
            Other ids for them.
        """
        return ImageSubset(self, indices, ids)

    def _check(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise InputError(f"index={index} is outside the {len(self)} images (0 to n - 1).")
        return int(index)


class ImageSubset(Images):
    """Some images of another collection, by position; made by :meth:`Images.subset`."""

    def __init__(
        self,
        images: Images,
        indices: Sequence[int] | NDArray[np.integer[Any]],
        ids: Sequence[str] | None = None,
    ) -> None:
        self._parent = images
        self._indices = [images._check(int(index)) for index in indices]
        if ids is None:
            self.ids = unique([images.ids[index] for index in self._indices], "indices")
        else:
            self.ids = given_ids(ids, len(self._indices))

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return image ``index`` of the subset, (height, width, 3)."""
        return self._parent.read(self._indices[self._check(index)])

    def digest(self, index: int) -> str:
        """Return the digest that the parent gives for the same image."""
        return self._parent.digest(self._indices[self._check(index)])


class JoinedImages(Images):
    """The images of several collections, one after the other; an id that several hold comes once.

    Parameters
    ----------
    parts : sequence of Images
        At least one.

    Raises
    ------
    InputError
        If there is none.
    MismatchError
        If an id stands for different images.
    """

    def __init__(self, parts: Sequence[Images]) -> None:
        if not len(parts):
            raise InputError("parts is empty: give at least one collection of images.")
        self._places: dict[str, tuple[Images, int]] = {}
        for part in parts:
            for index, name in enumerate(part.ids):
                first, place = self._places.setdefault(name, (part, index))
                if first is not part and not _same(first, place, part, index):
                    raise MismatchError(
                        f"image id {name!r} stands for different images in two collections. Give "
                        "ids that are the same only where the images are."
                    )
        self.ids = tuple(self._places)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return image ``index`` as uint8 (height, width, 3)."""
        images, place = self._places[self.ids[self._check(index)]]
        return images.read(place)

    def digest(self, index: int) -> str:
        """Return the digest of image ``index``."""
        images, place = self._places[self.ids[self._check(index)]]
        return images.digest(place)


class ImageArray(Images):
    """Images that are in memory.

    Parameters
    ----------
    array : ndarray or sequence of ndarray
        uint8 of shape (image, height, width) or (image, height, width, 3), or a list of
        (height, width[, 3]) arrays whose sizes may differ. Kept, not copied.
    ids : sequence of str, optional
        One id an image; by default the position with five digits ("00000", "00001", ...).
    """

    def __init__(
        self,
        array: NDArray[np.uint8] | Sequence[NDArray[np.uint8]],
        ids: Sequence[str] | None = None,
    ) -> None:
        for position, image in enumerate(array):
            check_image(image, f"array[{position}]")
        self._array = array
        self.ids = given_ids(ids, len(array))

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return image ``index``, (height, width, 3); grey is repeated over RGB."""
        return as_rgb(self._array[self._check(index)])


class NamedStimuli(Images):
    """Images of which only the ids are known; to read one is an error that says why.

    For features that are looked up by id (categories, ratings, a stimulus table).

    Parameters
    ----------
    ids : sequence of str
        Unique ids.
    reason : str
        Why there are no pixels and where they could be had: a sentence for the error.
    """

    def __init__(self, ids: Sequence[str], reason: str) -> None:
        self.ids = unique([str(name) for name in ids], "ids")
        self.reason = reason

    def read(self, index: int) -> NDArray[np.uint8]:
        """Refuse.

        Raises
        ------
        FileError
            Always.
        """
        raise FileError(
            f"image {self.ids[self._check(index)]!r} has no pixels here: {self.reason} Use "
            "features that are looked up by id (Labels, StimulusTable)."
        )

    def digest(self, index: int) -> str:
        """Return the SHA-256 of the id, all that is known."""
        return hashlib.sha256(f"named {self.ids[self._check(index)]}".encode()).hexdigest()


def _same(one: Images, index: int, other: Images, place: int) -> bool:
    if one.digest(index) == other.digest(place):
        return True
    # A folder's digest is of the file, an array's of the pixels: the same image may have both.
    return np.array_equal(one.read(index), other.read(place))
