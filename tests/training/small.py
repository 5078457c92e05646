"""A small module, features and responses that the training tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from neuroattn.data.schema import response_set
from neuroattn.data.transforms import average_repetitions
from neuroattn.training.module import EncoderModule, EncoderNetwork

TOKENS, CHANNELS, VOXELS = 4, 3, 5


class LinearNetwork(EncoderNetwork):
    """Mean over tokens, then linear; remembers precision and calibration."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(CHANNELS, VOXELS)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("calibrated", torch.zeros(2))
        self.dtypes: set[torch.dtype] = set()

    def forward(self, tokens: Tensor) -> Tensor:
        predicted: Tensor = self.linear(self.dropout(tokens.float().mean(dim=1)))
        self.dtypes.add(predicted.dtype)
        return predicted

    def statistics(self, tokens: Tensor, response: Tensor) -> dict[str, Tensor]:
        count = torch.tensor(float(len(tokens)))
        return {"sum": response.sum(), "count": count}

    def calibrate(self, statistics: Any) -> None:
        self.calibrated.copy_(torch.stack([statistics["sum"], statistics["count"]]))


class LinearModule(EncoderModule):
    """Trains :class:`LinearNetwork`."""

    dropout = 0.0

    def build(self, features: xr.Dataset, responses: xr.Dataset, seed: int) -> EncoderNetwork:
        return LinearNetwork(self.dropout)

    def encoder(self, features: xr.Dataset, responses: xr.Dataset, seed: int) -> Any:
        return self


def small_features(images: int = 31, seed: int = 0) -> xr.Dataset:
    """Features of images "im00", "im01", ..."""
    tokens = np.random.default_rng(seed).normal(size=(images, TOKENS, CHANNELS))
    return xr.Dataset(
        {"tokens": (("image", "token", "channel"), tokens.astype(np.float32))},
        coords={"image": [f"im{index:02d}" for index in range(images)]},
        attrs={"rows": 2, "columns": 2, "key": "k", "basis": "b"},
    )


def small_responses(features: xr.Dataset, rows: range | list[int]) -> xr.Dataset:
    """Averaged responses, linear in the mean token, to the images ``rows``."""
    draw = np.random.default_rng(5)
    weights = draw.normal(size=(CHANNELS, VOXELS))
    mean = features["tokens"].values.mean(axis=1)
    signal = mean @ weights + 0.3 * draw.normal(size=(len(mean), VOXELS)) + 1.0
    made = response_set(
        signal[list(rows)].astype(np.float32),
        presentation={"image": features["image"].values[list(rows)]},
        voxel={
            "subject": "s1",
            "hemisphere": ["left"] * 2 + ["right"] * 3,
            "vertex": np.arange(VOXELS),
        },
        roi={"early": np.arange(VOXELS) < 3, "late": np.arange(VOXELS) > 1},
        attrs={"space": "fsaverage", "vertices_left": 163842, "vertices_right": 163842},
    )
    return average_repetitions(made)
