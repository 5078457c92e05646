"""Small features and responses that the encoder tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from neuroattn.data.schema import response_set

ROWS, COLUMNS, CHANNELS, VOXELS = 2, 3, 5, 7


def small_features(images: int = 40, seed: int = 0, key: str = "k1", **sizes: int) -> xr.Dataset:
    """Features of images "im0", "im1", ... with a class token."""
    draw = np.random.default_rng(seed)
    channels = sizes.get("channels", CHANNELS)
    tokens = sizes.get("rows", ROWS) * COLUMNS
    return xr.Dataset(
        {
            "tokens": (
                ("image", "token", "channel"),
                draw.normal(2, 3, (images, tokens, channels)).astype(np.float32),
            ),
            "class_token": (
                ("image", "channel"),
                draw.normal(-1, 2, (images, channels)).astype(np.float32),
            ),
        },
        coords={"image": [f"im{i}" for i in range(images)]},
        attrs={"rows": tokens // COLUMNS, "columns": COLUMNS, "key": key, "basis": f"basis-{key}"},
    )


def small_responses(
    features: xr.Dataset, images: list[int], noise: float = 0.5, seed: int = 1, **more: Any
) -> xr.Dataset:
    """Responses, linear in the flattened features, to presentations of ``images`` (rows)."""
    flat = features["tokens"].values.reshape(features.sizes["image"], -1).astype(float)
    # The weights do not follow the seed: training and test responses are of the same voxels.
    weights = np.random.default_rng(9).normal(size=(flat.shape[1], VOXELS)) / flat.shape[1] ** 0.5
    draw = np.random.default_rng(seed)
    signal = flat[images] @ weights
    masks = np.arange(VOXELS) % 2 == 0
    return response_set(
        signal + noise * draw.normal(size=signal.shape),
        presentation={"image": features["image"].values[images]},
        voxel={
            "subject": "s1",
            "hemisphere": ["left"] * 3 + ["right"] * (VOXELS - 3),
            "vertex": np.arange(VOXELS) * 11,
        },
        roi={"even": masks, "tail": np.arange(VOXELS) > 3, "empty": np.zeros(VOXELS, bool)},
        attrs={
            "space": "fsaverage",
            "vertices_left": 163842,
            "vertices_right": 163842,
            "source": "simulated",
        },
        **more,
    )
