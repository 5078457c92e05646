"""A feature store of drawn tokens, to read from as training does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.features.base import FeatureBasis
from neuroattn.features.store import FeatureStore
from neuroattn.images import ImageArray, Images
from neuroattn.training.dataset import ImageResponses


class DrawnTokens(FeatureBasis):
    """Standard normal tokens, drawn from the index of the image."""

    def __init__(self, rows: int, columns: int, channels: int) -> None:
        self.name, self.grid, self.channels = "drawn", (rows, columns), channels

    def extract(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        shape = self.grid[0] * self.grid[1], self.channels
        seeds = [int.from_bytes(image.tobytes()[:8], "little") for image in images]
        return np.stack(
            [np.random.default_rng(s).standard_normal(shape, np.float32) for s in seeds]
        )

    def spec(self) -> dict[str, Any]:
        return {"grid": list(self.grid), "channels": self.channels}


def _images(count: int) -> Images:
    pixels = np.zeros((count, 2, 2, 3), np.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = np.arange(count) % 256, np.arange(count) // 256
    return ImageArray(pixels)


def fill(folder: str | Path, images: int, rows: int, columns: int, channels: int) -> xr.Dataset:
    """Fill a store (or open the one that is there) and return its memory-mapped features."""
    store = FeatureStore(folder)
    return store.fill(DrawnTokens(rows, columns, channels), _images(images), progress=False)


def dataset(features: xr.Dataset, voxels: int) -> ImageResponses:
    """Return what training reads: tokens from the store, drawn responses of every image."""
    ids = features["image"].values
    draw = np.random.default_rng(0)
    return ImageResponses(features, ids, draw.standard_normal((len(ids), voxels), np.float32))
