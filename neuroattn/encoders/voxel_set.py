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
    """

    images: tuple[str, ...]
    embedded: torch.Tensor
    response: torch.Tensor
    voxels: xr.Dataset


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
    )
