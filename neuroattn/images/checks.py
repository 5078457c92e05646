"""What every image is: uint8 RGB; what every id is: unique."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import InputError, MismatchError


def as_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image with three channels; grey is repeated."""
    if image.ndim == 2:
        image = image[..., None]
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def check_image(image: Any, name: str) -> None:
    """Raise an :class:`InputError` if an array is no image."""
    shape, kind = getattr(image, "shape", None), getattr(image, "dtype", type(image).__name__)
    fits = shape is not None and (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3))
    if not fits or kind != np.uint8 or 0 in shape:  # type: ignore[operator]
        raise InputError(
            f"{name} is {kind} of shape {shape}; an image is uint8 of shape (height, width) "
            "or (height, width, 3), 0 to 255, and not empty."
        )


def given_ids(ids: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Return ids that were given, or positions with five digits."""
    if ids is None:
        return tuple(f"{index:05d}" for index in range(count))
    if len(ids) != count:
        raise MismatchError(f"ids has {len(ids)} entries for {count} images; give one an image.")
    return unique([str(name) for name in ids], "ids")


def unique(ids: Sequence[str], where: str) -> tuple[str, ...]:
    """Return ids as a tuple if none occurs twice."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise InputError(f"image id {name!r} occurs twice in {where}; ids must be unique.")
        seen.add(name)
    return tuple(ids)
