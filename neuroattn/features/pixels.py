"""The image itself on a token grid: the baseline that every other basis has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import InputError
from neuroattn.features.base import FeatureBasis
from neuroattn.images import resize, to_float


class Pixels(FeatureBasis):
    """Pixels of the resized image: the mean colour of each cell, or all of its pixels.

    Parameters
    ----------
    size : int
        Height and width in pixels after resizing; a multiple of ``grid``.
    grid : int
        Rows and columns of the token grid.
    average : bool
        True: three channels, the cell's mean red, green and blue, 0 to 1. False: every pixel of
        the cell, channel ``(row * side + column) * 3 + colour`` with ``side = size / grid``.
    """

    name = "pixels"

    def __init__(self, size: int = 112, grid: int = 14, average: bool = True) -> None:
        if min(size, grid) < 1 or size % grid:
            raise InputError(
                f"size={size} with grid={grid}: both are at least 1 and size is a multiple of grid."
            )
        self.size, self.average = size, bool(average)
        self.grid = (grid, grid)
        self.channels = 3 if average else 3 * (size // grid) ** 2

    def extract(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return tokens, float32 of shape (image, grid * grid, channel), 0 to 1."""
        grid, side = self.grid[0], self.size // self.grid[0]
        tokens = np.empty((len(images), grid * grid, self.channels), np.float32)
        for place, image in enumerate(images):
            pixels = to_float(resize(image, self.size, self.size))
            cells = pixels.reshape(grid, side, grid, side, 3).swapaxes(1, 2)
            cells = cells.mean(axis=(2, 3)) if self.average else cells
            tokens[place] = cells.reshape(grid * grid, self.channels)
        return tokens

    def spec(self) -> dict[str, Any]:
        """Return the arguments."""
        facts = {"size": self.size, "grid": list(self.grid), "average": self.average}
        return {"version": 1, **facts}
