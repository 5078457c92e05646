"""Simulated features and responses with a known truth, for encoders that are trained."""

from __future__ import annotations

import numpy as np
import xarray as xr

from neuroattn.data.schema import response_set

ROWS, COLUMNS, CHANNELS = 3, 5, 4
TOKENS = ROWS * COLUMNS


def make_features(images: int = 240, seed: int = 0, dtype: str = "float32") -> xr.Dataset:
    """Tokens of noise; one token an image, the target, is marked in channel 0."""
    draw = np.random.default_rng(seed)
    tokens = draw.normal(size=(images, TOKENS, CHANNELS))
    tokens[..., 0] = 0.1 * tokens[..., 0]
    target = draw.integers(0, TOKENS, images)
    tokens[np.arange(images), target, 0] += 3.0
    # Raw features are far from standardised.
    tokens = tokens * [1.0, 5.0, 0.2, 1.0] + [0.0, 20.0, -1.0, 3.0]
    return xr.Dataset(
        {
            "tokens": (("image", "token", "channel"), tokens.astype(dtype)),
            "target": ("image", target),
        },
        coords={"image": [f"im{i}" for i in range(images)]},
        attrs={"rows": ROWS, "columns": COLUMNS, "key": "k", "basis": "b"},
    )


def standardised(features: xr.Dataset) -> np.ndarray:
    tokens = features["tokens"].values.astype(float)
    return (tokens - tokens.mean((0, 1))) / tokens.std((0, 1))


def as_responses(features: xr.Dataset, signal: np.ndarray, noise: float = 0.3) -> xr.Dataset:
    """Add noise and labels: the first half of the voxels is left, all are in ROI "A"."""
    voxels = signal.shape[1]
    noisy = signal + noise * np.random.default_rng(7).normal(size=signal.shape)
    return response_set(
        noisy,
        presentation={"image": features["image"].values},
        voxel={
            "subject": "s1",
            "hemisphere": np.where(np.arange(voxels) < voxels // 2, "left", "right"),
        },
        roi={"A": np.ones(voxels, bool), "odd": np.arange(voxels) % 2 == 1},
        ceiling=np.full(voxels, 1 / (1 + noise**2)),
    )


#: The token that each voxel of :func:`static_responses` reads.
PLACES = np.array([0, 4, 7, 7, 10, 14])


def static_responses(features: xr.Dataset) -> xr.Dataset:
    """Each voxel reads the one token of :data:`PLACES`, the same in every image."""
    weights = np.random.default_rng(1).normal(size=(len(PLACES), CHANNELS))
    # Channel 0 is mostly flat: what is read is in the others.
    weights[:, 1] += np.sign(weights[:, 1])
    signal = np.einsum("ivc,vc->iv", standardised(features)[:, PLACES], weights)
    return as_responses(features, signal / signal.std(0))


def routed_responses(features: xr.Dataset, voxels: int = 6) -> xr.Dataset:
    """Each voxel reads the marked token, wherever it is."""
    weights = np.random.default_rng(2).normal(size=(voxels, CHANNELS))
    content = standardised(features)[np.arange(features.sizes["image"]), features["target"].values]
    signal = content[:, 1:] @ weights[:, 1:].T
    return as_responses(features, signal / signal.std(0))
