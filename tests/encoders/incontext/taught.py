"""Subjects whose voxels are drawn from a known prior, that the tests of the meta-training share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

from neuroattn.data.schema import response_set
from neuroattn.encoders.embedding import EmbeddingConfig, fit_embedding
from neuroattn.encoders.incontext.encoder import InContextEncoder
from neuroattn.encoders.voxel_set import VoxelSet, voxel_set
from neuroattn.encoders.weight_prior import WeightPrior

CHANNELS = 5
RAW = {"view": "mean", "normalise": False}
NETWORK = {"width": 12, "heads": 2, "layers": 2, "feedforward": 10, "registers": 2}
EPISODES = {"least": 4, "most": 9, "queries": 6, "steps": 4, "validation": 3}
TRAINING = {"epochs": 2, "batch_size": 3, "learning_rate": 0.01}


def features(images: int = 60, key: str = "k1", seed: int = 0) -> xr.Dataset:
    """One token an image; the columns vary unequally, and not around 0."""
    draw = np.random.default_rng(seed)
    tokens = draw.normal(size=(images, 1, CHANNELS)) * 0.7 ** np.arange(CHANNELS) + 0.5
    return xr.Dataset(
        {"tokens": (("image", "token", "channel"), tokens.astype(np.float32))},
        coords={"image": [f"im{number:03d}" for number in range(images)]},
        attrs={"rows": 1, "columns": 1, "key": key, "basis": f"basis-{key}"},
    )


def embedded(given: xr.Dataset) -> torch.Tensor:
    return torch.from_numpy(given["tokens"].values[:, 0])


def prior(given: xr.Dataset) -> WeightPrior:
    """Steep weights and much noise: what is typical of voxels helps a lot."""
    return WeightPrior.spectral(embedded(given), 1.5, (0.2, 0.8), levels=4)


def responses(
    given: xr.Dataset, images: range | list[int], voxels: int = 7, subject: int = 0, noise: int = 0
) -> xr.Dataset:
    """Responses of a subject, whose weights depend on its number alone."""
    drawn = prior(given).sample(voxels, torch.Generator().manual_seed(subject))
    shown = embedded(given)[list(images)].double()
    signal = (shown @ drawn.weights[:, :-1].T + drawn.weights[:, -1]).numpy()
    noisy = np.random.default_rng([subject, noise]).normal(size=signal.shape)
    return response_set(
        signal + noisy * drawn.noise_sd.numpy(),
        presentation={"image": given["image"].values[list(images)]},
        voxel={
            "subject": f"s{subject}",
            "hemisphere": "left",
            "vertex": np.arange(voxels) + 100 * subject,
        },
        roi={"one": np.arange(voxels) % 2 == 0},
        attrs={"space": "native", "vertices_left": 10_000, "zscored": "session"},
    )


def as_set(given: xr.Dataset, found: xr.Dataset) -> VoxelSet:
    embedding = fit_embedding(EmbeddingConfig(**RAW), given, given["image"].values)  # type: ignore[arg-type]
    return voxel_set(embedding, given, found)


def encoder(**changes: Any) -> InContextEncoder:
    """An encoder that is trained within a second."""
    parts = {"network": NETWORK, "episodes": EPISODES, "optimisation": TRAINING}
    merged = {name: {**each, **changes.pop(name, {})} for name, each in parts.items()}
    return InContextEncoder(embedding=RAW, progress=False, **merged, **changes)


def fitted(**changes: Any) -> InContextEncoder:
    """The same, trained on two subjects."""
    given = features()
    taught = [responses(given, range(50), 7, 0), responses(given, range(10, 60), 5, 1)]
    return encoder(**changes).fit(given, taught)
