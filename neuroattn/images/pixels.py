"""Pixels: another size, another type."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize a (rows, columns, 3) uint8 image by Pillow: bicubic, antialiased when it shrinks."""
    if image.shape[:2] == (height, width):
        return image
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def to_float(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return a uint8 image as float32 from 0 (black) to 1 (white)."""
    return image.astype(np.float32) / np.float32(255)
