"""Voxels drawn from a known prior, that the tests of empirical Bayes share."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from neuroattn.encoders.voxel_set import VoxelSet
from neuroattn.encoders.weight_prior import Drawn, WeightPrior


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def with_intercept(embedded: torch.Tensor) -> torch.Tensor:
    return torch.cat([embedded, torch.ones_like(embedded[:, :1])], dim=1)


def subject(
    prior: WeightPrior, embedded: torch.Tensor, voxels: int, seed: int
) -> tuple[VoxelSet, Drawn]:
    """Voxels of a prior that see these images, with the truth; float64 throughout."""
    generator = torch.Generator().manual_seed(seed)
    drawn = prior.sample(voxels, generator)
    noise = torch.randn(len(embedded), voxels, generator=generator, dtype=torch.float64)
    response = with_intercept(embedded) @ drawn.weights.T + drawn.noise_sd * noise
    images = tuple(f"s{seed}-{number}" for number in range(len(embedded)))
    return VoxelSet(images, embedded, response, xr.Dataset()), drawn


def with_rois(voxel_set: VoxelSet, **masks: np.ndarray) -> VoxelSet:
    table = xr.Dataset(
        {"roi_mask": (("roi", "voxel"), np.array(list(masks.values()), dtype=bool))},
        coords={"roi": list(masks)},
    )
    return VoxelSet(voxel_set.images, voxel_set.embedded, voxel_set.response, table)
