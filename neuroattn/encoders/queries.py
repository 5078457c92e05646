"""Which learned query each voxel reads: one a ROI, a hemisphere, a parcel or a voxel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.errors import InputError
from neuroattn.names import check_name

QUERY_KINDS: tuple[str, ...] = ("roi", "hemisphere", "parcel", "voxel")


@dataclass(frozen=True)
class QueryMap:
    """The memberships of voxels in queries.

    Attributes
    ----------
    names : tuple of str
        One a query, e.g. ``"left FFA"``.
    voxel, query : ndarray of int64, shape (membership,)
        Voxel and query of each membership, sorted by query and then by voxel; each voxel has at
        least one.
    """

    names: tuple[str, ...]
    voxel: NDArray[np.int64]
    query: NDArray[np.int64]


def query_map(responses: xr.Dataset, kind: str, parcels: int = 0, seed: int = 0) -> QueryMap:
    """Assign queries to the voxels of a response set.

    Parameters
    ----------
    responses : xarray.Dataset
        A response set.
    kind : {"roi", "hemisphere", "parcel", "voxel"}
        ``roi``: one query for each ROI of each hemisphere (and subject) that has voxels, and one
        for the voxels in no ROI; a voxel in several ROIs belongs to several queries.
        ``hemisphere``: one for each hemisphere. ``parcel``: k-means of the voxels' training
        responses within each hemisphere. ``voxel``: one for each voxel.
    parcels : int
        Number of parcels in all (``kind="parcel"`` only), shared between hemispheres by their
        voxels.
    seed : int
        Seed of k-means.

    Raises
    ------
    InputError
        If ``parcels`` is missing or exceeds the number of voxels.
    """
    check_name("queries", kind, QUERY_KINDS)
    count = responses.sizes["voxel"]
    if kind == "voxel":
        index = np.arange(count)
        return QueryMap(tuple(f"voxel {v}" for v in index), index, index)
    sides = _sides(responses)
    if kind == "parcel":
        return _from_labels(_parcels(responses, sides, parcels, seed))
    if kind == "hemisphere":
        return _from_labels(sides)
    members: dict[str, NDArray[np.int64]] = {}
    roi = responses["roi_mask"].values
    for side in sorted(set(sides)):
        here = sides == side
        for name, inside in zip(responses["roi"].values.astype(str), roi, strict=True):
            members[f"{side} {name}"] = np.flatnonzero(here & inside)
        rest = np.flatnonzero(here & ~roi.any(axis=0))
        members[f"{side} rest"] = np.union1d(members.get(f"{side} rest", rest), rest)
    filled = {name: voxels for name, voxels in members.items() if len(voxels)}
    sizes = [len(voxels) for voxels in filled.values()]
    query = np.repeat(np.arange(len(filled)), sizes)
    return QueryMap(tuple(filled), np.concatenate(list(filled.values())), query)


def _sides(responses: xr.Dataset) -> NDArray[np.str_]:
    hemisphere = responses["hemisphere"].values.astype(str)
    subject = responses["subject"].values.astype(str)
    if len(set(subject)) == 1:
        return hemisphere
    return np.char.add(np.char.add(subject, " "), hemisphere)


def _from_labels(labels: NDArray[np.str_]) -> QueryMap:
    names, query = np.unique(labels, return_inverse=True)
    order = np.argsort(query, kind="stable")
    return QueryMap(tuple(str(name) for name in names), order, query[order])


def _parcels(
    responses: xr.Dataset, sides: NDArray[np.str_], parcels: int, seed: int
) -> NDArray[np.str_]:
    names, counts = np.unique(sides, return_counts=True)
    if not len(names) <= parcels <= len(sides):
        raise InputError(
            f"parcels={parcels} must lie between the number of hemispheres ({len(names)}) and "
            f"the number of voxels ({len(sides)})."
        )
    shares = np.ones(len(names), dtype=int)
    for _ in range(parcels - len(names)):
        shares[np.argmax(counts / shares)] += 1
    labels = np.empty(len(sides), dtype=object)
    for name, share in zip(names, shares, strict=True):
        here = np.flatnonzero(sides == name)
        found = np.zeros(len(here), dtype=int)
        if share > 1:
            found = _clusters(responses["response"].values[:, here].T, int(share), seed)
        labels[here] = [f"{name} parcel {label:04d}" for label in found]
    return labels.astype(str)


def _clusters(profiles: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int64]:
    """Return the cluster of each profile (voxel, presentation); none of them is empty."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import PCA

    exact = profiles.astype(np.float64)
    exact -= exact.mean(axis=1, keepdims=True)
    exact /= np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-12)
    reduced = PCA(min(50, *exact.shape), random_state=seed).fit_transform(exact)
    means = MiniBatchKMeans(count, random_state=seed, n_init=3).fit(reduced)
    labels: NDArray[np.int64] = means.labels_.astype(np.int64)
    for empty in np.setdiff1d(np.arange(count), labels):
        largest = np.flatnonzero(labels == np.bincount(labels).argmax())
        labels[largest[-1]] = empty
    return labels
