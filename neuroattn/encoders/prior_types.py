"""The types that voxels are taken to be of before anything is learned about types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from neuroattn.encoders.evidence import Reduced
from neuroattn.encoders.voxel_set import VoxelSet
from neuroattn.encoders.weight_prior import WeightPrior
from neuroattn.errors import InputError

__all__ = ["Assignment", "assign"]

#: The type of voxels in no ROI.
NO_ROI = "no ROI"


@dataclass(frozen=True)
class Assignment:
    """First types of the voxels of several subjects.

    Attributes
    ----------
    names : tuple of str
        Of the K types.
    log_weights : tuple of torch.Tensor
        (K, voxel) of each subject: log of a voxel's share in each type.
    """

    names: tuple[str, ...]
    log_weights: tuple[torch.Tensor, ...]


def assign(
    sets: Sequence[VoxelSet],
    subjects: Sequence[Reduced],
    prior: WeightPrior,
    types: int | str,
    seed: int,
) -> Assignment:
    """Give each voxel a first type.

    Parameters
    ----------
    sets : sequence of VoxelSet
        Subjects, with their ROIs.
    subjects : sequence of Reduced
        Their images and responses.
    prior : WeightPrior
        Of one type; first estimates of the weights are its posterior means.
    types : int or "roi"
        Number of clusters of the directions of these weights, voxels counting by the squared
        length, so that those without signal decide nothing; "roi": the ROIs, a voxel of several
        in equal parts, and one more type if there are voxels of none.
    seed : int
        Of k-means.

    Returns
    -------
    Assignment

    Raises
    ------
    InputError
        If ``types`` is neither, there are fewer voxels than types, or there are no ROIs.
    """
    if types == "roi":
        return _by_roi(sets)
    voxels = sum(one.response.shape[1] for one in sets)
    if isinstance(types, bool) or not isinstance(types, int) or not 1 <= types <= voxels:
        raise InputError(
            f"types={types!r} for {voxels} voxels; give 'roi', or a whole number from 1 to the "
            "number of voxels."
        )
    if types == 1:
        shares = [torch.ones(1, one.response.shape[1], dtype=torch.float64) for one in sets]
    else:
        labels = _clusters([prior.read(one).weights[:, :-1] for one in subjects], types, seed)
        shares = [(one == torch.arange(types)[:, None]).double() for one in labels]
    names = tuple(str(number + 1) for number in range(types))
    return Assignment(names, tuple(one.log() for one in shares))


def _clusters(weights: list[torch.Tensor], types: int, seed: int) -> Sequence[torch.Tensor]:
    from sklearn.cluster import KMeans

    rows = torch.cat(weights)
    length = rows.norm(dim=1)
    directions = rows / torch.where(length > 0, length, 1.0)[:, None]
    means = KMeans(types, n_init=4, random_state=seed)
    labels = means.fit_predict(directions.numpy(), sample_weight=length.square().numpy())
    return torch.split(torch.from_numpy(np.asarray(labels)), [len(one) for one in weights])


def _by_roi(sets: Sequence[VoxelSet]) -> Assignment:
    masks = []
    for number, one in enumerate(sets):
        if "roi_mask" not in one.voxels or not one.voxels["roi_mask"].values.any():
            raise InputError(
                f"types='roi', but response set {number} has no ROI with voxels. Give a number of "
                "types, or responses with ROIs."
            )
        names = map(str, one.voxels["roi"].values)
        masks.append(dict(zip(names, one.voxels["roi_mask"].values, strict=True)))
    found = list(dict.fromkeys(name for mask in masks for name in mask if mask[name].any()))
    if any(not np.any(list(mask.values()), axis=0).all() for mask in masks):
        found.append(NO_ROI)
    shares = []
    for one, mask in zip(sets, masks, strict=True):
        nowhere = np.zeros(one.response.shape[1], dtype=bool)
        mask[NO_ROI] = ~np.any(list(mask.values()), axis=0)
        share = np.array([mask.get(name, nowhere) for name in found], dtype=np.float64)
        shares.append(torch.from_numpy(share / share.sum(0)).log())
    return Assignment(tuple(found), tuple(shares))
