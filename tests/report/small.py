"""Small scores and voxels for the tests of the report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from neuroattn.data.schema import response_set
from neuroattn.metrics import Score

ROIS = ("V1", "FFA-1", "nowhere")


def small_scores(
    names: tuple[str, ...] = ("ridge", "transformer"),
    rois: tuple[str, ...] = ROIS,
    images: int = 23,
    voxels: int = 11,
    ceiling: float | None = 0.8,
    metric: str = "explained_variance",
) -> dict[str, Score]:
    """Scores of encoders that get better from first to last; the last ROI is empty."""
    rng = np.random.default_rng(3)
    signal = rng.standard_normal((images, voxels))
    noise = rng.standard_normal((images, voxels))
    coords: dict[str, Any] = {
        "image": [f"image-{index}" for index in range(images)],
        "subject": ("voxel", np.full(voxels, "sub-01")),
    }
    masks = np.zeros((len(rois), voxels), bool)
    masks[0, :5] = True
    masks[1, 4:9] = True
    limits = np.full(voxels, np.nan if ceiling is None else ceiling)
    if ceiling is not None:
        limits[0] = 0.01
    roi = xr.DataArray(masks, dims=("roi", "voxel"), coords={"roi": list(rois)})
    response = xr.DataArray(signal + 0.3 * noise, dims=("image", "voxel"), coords=coords)
    return {
        name: Score.from_predictions(
            response.copy(data=signal * (index + 1) / len(names)),
            response,
            xr.DataArray(limits, dims="voxel"),
            roi=roi,
            repeats=xr.DataArray(np.full(images, 3), dims="image"),
            metric=metric,
            encoder=name,
        )
        for index, name in enumerate(names)
    }


def volume_voxels(subjects: tuple[str, ...] = ("sub-01",)) -> xr.Dataset:
    """Three voxels a subject on a grid of odd sizes with an oblique affine."""
    count = 3 * len(subjects)
    affine = [
        -2.0,
        0.1,
        0.0,
        90.5,
        0.0,
        2.25,
        0.0,
        -126.0,
        0.3,
        0.0,
        2.0,
        -72.0,
        0.0,
        0.0,
        0.0,
        1.0,
    ]
    return response_set(
        np.zeros((2, count)),
        presentation={"image": ["a", "b"]},
        voxel={
            "subject": np.repeat(subjects, 3),
            "hemisphere": "both",
            "i": np.tile([0, 4, 2], len(subjects)),
            "j": np.tile([6, 0, 3], len(subjects)),
            "k": np.tile([1, 8, 5], len(subjects)),
        },
        attrs={"space": "native", "affine": affine, "shape": [5, 7, 9]},
    )


def surface_voxels(
    left: int = 13, right: int = 12, space: str = "fsaverage5", last: int | None = None
) -> xr.Dataset:
    """Five vertices, three on the left; hemispheres of different sizes, in no order."""
    end = right - 1 if last is None else last
    return response_set(
        np.zeros((2, 5)),
        presentation={"image": ["a", "b"]},
        voxel={
            "subject": "sub-01",
            "hemisphere": ["left", "right", "left", "right", "left"],
            "vertex": [7, end, 0, 3, 11],
        },
        attrs={"space": space, "vertices_left": left, "vertices_right": right},
    )


def pixels(png: bytes) -> np.ndarray:
    """Decode a PNG to (height, width, 3)."""
    import io

    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def rows_of(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the index of a table as plain tuples."""
    return [(str(roi), str(encoder)) for roi, encoder in table.index]
