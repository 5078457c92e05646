"""The voxels of a subject and the embedded images that they saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from neuroattn.encoders.embedding import Embedding
from neuroattn.encoders.inputs import align, voxel_table
from neuroattn.errors import InputError

__all__ = ["VoxelSet", "voxel_set"]


@dataclass(frozen=True)
class VoxelSet:
    """Pairs of images and responses that all voxels of a set share.

    Attributes
    ----------
    images : tuple of str
        Ids, each once.
    embedded : torch.Tensor
        (image, E) float32
    response : torch.Tensor
        (image, voxel) float32
    voxels : xarray.Dataset
        Coordinates, ROIs and attributes of the voxels, see
        :func:`neuroattn.encoders.inputs.voxel_table`.
    repeats : torch.Tensor, optional
        (image) float64: how many presentations each response averages; None: alike.
    """

    images: tuple[str, ...]
    embedded: torch.Tensor
    response: torch.Tensor
    voxels: xr.Dataset
    repeats: torch.Tensor | None = None


def voxel_set(embedding: Embedding, features: xr.Dataset, averaged: xr.Dataset) -> VoxelSet:
    """Return the voxel set of an averaged response set.

    Raises
    ------
    MismatchError
        If images have no features.
    InputError
        If features of these images contain NaN or infinity.
    """
    embedded = embedding.transform(features, align(features, averaged))
    images = tuple(averaged["image"].values.astype(str).tolist())
    broken = np.flatnonzero(~torch.isfinite(embedded).all(dim=1).numpy())
    if broken.size:
        raise InputError(
            f"the features of {broken.size} of {len(images)} images hold NaN or infinity (first: "
            f"{images[broken[0]]!r}). Extract them again, or drop the presentations of these "
            "images."
        )
    return VoxelSet(
        images=images,
        embedded=embedded,
        response=torch.from_numpy(
            np.ascontiguousarray(averaged["response"].values, dtype=np.float32)
        ),
        voxels=voxel_table(averaged),
        repeats=_repeats(averaged),
    )


def _repeats(averaged: xr.Dataset) -> torch.Tensor:
    """Return how many presentations the response to each image averages; at least 1."""
    if "repeats" not in averaged.coords:
        return torch.ones(averaged.sizes["presentation"], dtype=torch.float64)
    # 0 or less stands for unknown.
    return torch.from_numpy(np.maximum(averaged["repeats"].values, 1).astype(np.float64))
