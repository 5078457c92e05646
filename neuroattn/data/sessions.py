"""Published layouts that are read one session at a time, so that no machine is too small."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from neuroattn.data.reader import Reader
from neuroattn.data.rules import validate
from neuroattn.data.schema import ResponseSet, assembled
from neuroattn.errors import MismatchError


@dataclass(frozen=True)
class SourceFile:
    """One file that a reader reads, or a folder of images.

    Parameters
    ----------
    path : Path
        Where it is, or should be.
    what : str
        What is in it, for people: "betas of session 3".
    required : bool
        False if it is used only where it is there.
    """

    path: Path
    what: str
    required: bool = True


@dataclass(frozen=True)
class Session:
    """The unit in which a layout is read: a scanning session, a run, an episode.

    Parameters
    ----------
    name : str
        Shown while it is read and in messages: "session 3".
    rows : int
        Its presentations.
    files : tuple of Path
        What its values are read from.
    """

    name: str
    rows: int
    files: tuple[Path, ...]


class SessionReader(Reader):
    """A published layout, read session by session; also read whole as any :class:`Reader`."""

    @abstractmethod
    def files(self) -> list[SourceFile]:
        """Return every file that is read, whether it is there or not."""

    @abstractmethod
    def sessions(self) -> list[Session]:
        """Return the sessions in the order of the presentations."""

    @abstractmethod
    def labels(self) -> xr.Dataset:
        """Return the response set without ``response``, see :func:`labels`."""

    @abstractmethod
    def read(self, index: int) -> Iterator[NDArray[np.float32]]:
        """Yield the values of a session as consecutive pieces (its presentations, some voxels)."""

    @abstractmethod
    def stimuli(self) -> Mapping[str, Sequence[str | int]]:
        """Return the columns of the stimulus index, one entry an image.

        ``image`` is the id, ``file`` the file that holds it relative to the source ("" if none),
        ``dataset`` its place in an HDF5 file ("" if none), ``index`` its row there (-1 if none);
        further columns are what else is known.
        """

    #: How often an image was shown that the shipped ncsnr is estimated from; None: twice or more.
    shipped_repeats: int | None = None

    def shipped_ncsnr(self) -> NDArray[np.float64] | None:
        """Return the ncsnr (voxel) that the data set ships, None if it does not."""
        return None

    def options(self) -> dict[str, Any]:
        """Return the arguments of the constructor, which stores each under its own name.

        ``sessions`` is the exception, for it is a method too: stored as ``sessions_wanted``.
        """
        stored = vars(self)
        names = inspect.signature(type(self)).parameters
        given = {name: stored.get(name, stored.get(f"{name}_wanted")) for name in names}
        return {n: list(value) if isinstance(value, tuple) else value for n, value in given.items()}

    def responses(self) -> ResponseSet:
        """Read all sessions into memory.

        Raises
        ------
        FileError
            If a file is missing, truncated or not what the layout says.
        MismatchError
            If files do not belong together.
        """
        known = self.labels()
        parts = self.sessions()
        rows, voxels = known.sizes["presentation"], known.sizes["voxel"]
        values = np.empty((rows, voxels), dtype=np.float32)
        for index, (here, part) in enumerate(zip(session_rows(parts), parts, strict=True)):
            column = 0
            for piece in checked(self.read(index), part, voxels):
                values[here, column : column + piece.shape[1]] = piece
                column += piece.shape[1]
        return validate(with_response(known, values))


def labels(
    *,
    presentation: Mapping[str, ArrayLike],
    voxel: Mapping[str, ArrayLike],
    roi: Mapping[str, ArrayLike] | None = None,
    ncsnr: ArrayLike | None = None,
    ceiling: ArrayLike | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Build a response set without its values, and check it.

    Parameters
    ----------
    presentation, voxel, roi, ncsnr, ceiling, attrs
        As for :func:`neuroattn.data.response_set`; a column that is one value stands for all, but
        one column of each must have its full length.

    Returns
    -------
    xarray.Dataset
        Coordinates, ``roi_mask`` and attributes, no ``response``.

    Raises
    ------
    InputError
        If a rule of the schema is broken.
    MismatchError
        If lengths differ.
    """
    count = max(np.size(column) for column in presentation.values())
    voxels = max(np.size(column) for column in voxel.values())
    nothing = np.broadcast_to(np.float32(0), (count, voxels))
    whole = assembled(nothing, presentation, voxel, roi, ncsnr, ceiling, attrs)
    return validate(whole, values=False).drop_vars("response")


def with_response(known: xr.Dataset, values: Any) -> ResponseSet:
    """Return labels with their values (presentation, voxel)."""
    whole = known.assign(response=(("presentation", "voxel"), values))
    return whole[["response", *known.data_vars]]


def session_rows(parts: Sequence[Session]) -> list[slice]:
    """Return the rows of each session among all presentations."""
    ends = np.cumsum([part.rows for part in parts]).tolist()
    return [slice(end - part.rows, end) for part, end in zip(parts, ends, strict=True)]


def checked(
    pieces: Iterable[NDArray[np.float32]], part: Session, voxels: int
) -> Iterator[NDArray[np.float32]]:
    """Pass pieces on and see that they are float32, of all rows, and cover all voxels once.

    Raises
    ------
    MismatchError
        If they are not; names the session and its files.
    """
    seen = 0
    for piece in pieces:
        seen += piece.shape[1]
        if piece.dtype != np.float32 or len(piece) != part.rows or seen > voxels:
            raise MismatchError(
                f"{part.name} ({_names(part)}): voxels {seen - piece.shape[1]} to {seen} came as "
                f"{piece.dtype} {piece.shape}; needed are {part.rows} presentations of {voxels} "
                "voxels, float32."
            )
        yield piece
    if seen != voxels:
        raise MismatchError(f"{part.name} ({_names(part)}) has {seen} voxels instead of {voxels}.")


def rebatched(
    pieces: Iterable[NDArray[np.float32]], rows: int, width: int
) -> Iterator[NDArray[np.float32]]:
    """Yield the same columns in pieces of exactly ``width`` (the last one may be narrower).

    Parameters
    ----------
    pieces : iterable of ndarray
        (rows, some columns), consecutive.
    rows, width : int
        Shape of what is yielded, which is **overwritten by the next one**.
    """
    held = np.empty((rows, width), dtype=np.float32)
    have = 0
    for piece in pieces:
        taken = 0
        while taken < piece.shape[1]:
            some = min(width - have, piece.shape[1] - taken)
            held[:, have : have + some] = piece[:, taken : taken + some]
            have, taken = have + some, taken + some
            if have == width:
                yield held
                have = 0
    if have:
        yield held[:, :have]


def _names(part: Session) -> str:
    return ", ".join(str(path) for path in part.files[:2])
