"""Label maps that a data set ships as pickles, read without executing anything from the file."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from neuroattn.errors import FileError
from neuroattn.io import existing

#: A label map has a few dozen short entries; a larger file is something else.
MAX_BYTES = 2**20
_INTEGERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")


def read_label_map(path: str | Path) -> dict[int, str]:
    """Read a pickled ``.npy`` that holds one dictionary of integer label to name.

    Nothing in the file is imported or called: the handful of numpy names that such a file needs
    are answered by inert stand-ins, every other name is refused.

    Parameters
    ----------
    path : str or Path
        A ``.npy`` file with a 0-dimensional object array, as ``numpy.save(path, {0: "V1"})``
        writes it.

    Returns
    -------
    dict of int to str

    Raises
    ------
    FileError
        If the file is missing, truncated, too large, asks for a global that is not allowed, or
        holds anything but integers and text; the message names the file.
    """
    place = existing(path, "label map")
    try:
        content = place.read_bytes()
    except OSError as error:
        raise FileError(f"label map {place} cannot be read: {error.strerror}.") from error
    if len(content) > MAX_BYTES:
        raise FileError(
            f"label map {place} has {len(content)} bytes; a map of labels has at most {MAX_BYTES}. "
            "This is another file."
        )
    stream = io.BytesIO(content)
    _check_header(stream, place)
    try:
        value = _Unpickler(stream, place).load()
    except (
        pickle.UnpicklingError,
        EOFError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as error:
        raise FileError(
            f"label map {place} ({len(content)} bytes) is truncated or damaged: {error}. "
            "Copy it again, or put the map beside it as JSON."
        ) from error
    return _labels(value, place)


def _check_header(stream: io.BytesIO, place: Path) -> None:
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"npy version {version}, known are (1, 0) and (2, 0)")
    except ValueError as error:
        raise FileError(f"label map {place} is no whole .npy file: {error}.") from error
    if dtype != np.dtype(object) or shape != ():
        raise FileError(
            f"label map {place} is {dtype} of shape {shape}; needed is one pickled dictionary "
            "(object, shape ())."
        )


class _Inert:
    """A stand-in for a numpy name: holds what it is called with, does nothing."""

    __slots__ = ("what",)
    what: str

    def __init__(self, what: str) -> None:
        object.__setattr__(self, "what", what)

    def __setattr__(self, name: str, value: object) -> None:
        raise ValueError(f"it sets {name!r} on {self.what}")


class _Array(_Inert):
    """The array that numpy would build: remembers its elements."""

    __slots__ = ("elements",)
    elements: list[object] | None

    def __init__(self) -> None:
        super().__init__("an array")
        object.__setattr__(self, "elements", None)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or type(state[4]) is not list:
            raise ValueError(f"the state of an array is {type(state).__name__}")
        object.__setattr__(self, "elements", state[4])


class _Type(_Inert):
    """A numpy type: remembers its code, such as ``i8``; its byte order is taken to be little."""

    __slots__ = ("code", "order")
    code: str
    order: str

    def __init__(self, code: str) -> None:
        super().__init__("a type")
        object.__setattr__(self, "code", code)
        object.__setattr__(self, "order", "<")

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|"):
            object.__setattr__(self, "order", state[1])


class _Call(_Inert):
    """A numpy function: answers by one of our own."""

    __slots__ = ("function",)
    function: Callable[..., Any]

    def __init__(self, what: str, function: Callable[..., Any]) -> None:
        super().__init__(what)
        object.__setattr__(self, "function", function)

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


def _make_type(code: str, *_: object) -> _Type:
    return _Type(str(code))


def _make_array(*_: object) -> _Array:
    return _Array()


def _make_scalar(kind: object, raw: object) -> int | str:
    if not isinstance(kind, _Type) or not isinstance(raw, bytes):
        raise ValueError(f"a scalar is made of {type(kind).__name__} and {type(raw).__name__}")
    if kind.code in _INTEGERS:
        return int.from_bytes(
            raw, "big" if kind.order == ">" else "little", signed=kind.code[0] == "i"
        )
    if kind.code[:1] == "U":
        return raw.decode("utf-32-be" if kind.order == ">" else "utf-32-le").rstrip("\0")
    raise ValueError(f"a scalar is of type {kind.code!r}")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise ValueError(f"text is encoded as {encoding!r}")
    return text.encode("latin1")


def _allowed() -> dict[tuple[str, str], object]:
    # numpy 1 wrote `numpy.core`, numpy 2 writes `numpy._core`; protocol 2 spells bytes by _codecs.
    names: dict[tuple[str, str], object] = {
        ("numpy", "ndarray"): _Inert("numpy.ndarray"),
        ("numpy", "dtype"): _Call("numpy.dtype", _make_type),
        ("_codecs", "encode"): _Call("_codecs.encode", _encode),
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names[core, "_reconstruct"] = _Call("_reconstruct", _make_array)
        names[core, "scalar"] = _Call("scalar", _make_scalar)
    return names


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, place: Path) -> None:
        super().__init__(stream)
        self._place = place
        self._names = _allowed()

    def find_class(self, module: str, name: str) -> object:
        """Return the inert stand-in of a numpy name; refuse every other."""
        if (module, name) not in self._names:
            raise FileError(
                f"label map {self._place} asks for {module}.{name}, which a map of labels does "
                "not need; nothing was executed. Do not trust this file: get it from its source "
                "again, or put the map beside it as JSON."
            )
        return self._names[module, name]

    def persistent_load(self, pid: object) -> object:
        """Refuse references to outside the file."""
        raise pickle.UnpicklingError(f"it refers to an object {pid!r} outside the file")


def _labels(value: object, place: Path) -> dict[int, str]:
    elements = value.elements if isinstance(value, _Array) else None
    content = elements[0] if elements and len(elements) == 1 else None
    if type(content) is not dict:
        raise FileError(f"label map {place} holds {type(content).__name__}, not one dictionary.")
    for key, name in content.items():
        # Types, not values: a nested value can be printed for hours.
        if type(key) is not int or type(name) is not str:
            raise FileError(
                f"label map {place} maps {type(key).__name__} to {type(name).__name__}; "
                "allowed are integers to text."
            )
    return dict(content)
