"""The group map: each new voxel takes the average encoder of the training voxels at its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from neuroattn.encoders.adaptive import AdaptiveEncoder
from neuroattn.encoders.embedding import EmbeddingConfig
from neuroattn.encoders.inputs import voxel_table
from neuroattn.encoders.ridge import deal_folds, fit_ridge
from neuroattn.encoders.voxel_set import VoxelSet
from neuroattn.errors import InputError, MismatchError
from neuroattn.names import check_name

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

__all__ = ["GroupAverageEncoder"]

_BY = ("place", "roi")
#: Spaces whose ``vertex`` counts the vertices of an fsaverage mesh.
_SURFACES = ("fsaverage", "fsaverage5", "challenge")
_SIDES = ("both", "left", "right")
_MESH = ("vertices_left", "vertices_right")
#: A spread below this share of the largest entry is rounding.
_CONSTANT = 1e-6


class GroupAverageEncoder(AdaptiveEncoder):
    """The encoder of a new voxel is the average of those of the training subjects' voxels there.

    ``fit`` gives every voxel of the training subjects a linear encoder: ridge over the embedding,
    one scale for all columns, the penalty of each voxel cross-validated by image, the intercept
    not penalised. ``adapt`` then averages weights and intercepts, unweighted, over training voxels
    of the same place or ROI. **It reads no response of the new subject**, only where the voxels
    are: more images of the context change nothing. It is what any method that does read responses
    has to beat.

    Nothing is made up where there is no training voxel: such voxels are refused, and
    :meth:`covered` says which they are.

    Parameters
    ----------
    embedding : EmbeddingConfig or mapping, optional
        How an image becomes one vector.
    by : {"place", "roi"}
        "place": on a surface, the training voxels of the same vertex and hemisphere of the same
        mesh; in a volume in MNI space, the ``neighbours`` nearest training voxels, however far
        they are. "roi": all training voxels that share an ROI with the voxel, each once, ROIs
        being matched by name; no common space is needed.
    neighbours : int
        In a volume, how many training voxels are averaged, of all training subjects together; of
        those at equal distance any. All, where the training has fewer.
    alphas : sequence of float, optional
        Candidate penalties, as for :class:`~neuroattn.encoders.RidgeEncoder`.
    folds : int
        Folds of the cross-validation.
    seed : int
        Deals the images into folds.

    Attributes
    ----------
    group_weights_ : torch.Tensor
        (training voxel, E) float32
    group_intercept_ : torch.Tensor
        (training voxel) float32
    group_places_ : torch.Tensor
        (training voxel), (training voxel, 3) or (training voxel, roi): number of the vertex,
        position in mm, or membership.
    frame_ : dict
        What places are: the kind ("surface", "volume", "roi"), and the mesh, the grid or the
        names of the ROIs.

    References
    ----------
    Yu et al. (2025), Meta-Learning an In-Context Transformer Model of Human Higher Visual Cortex,
    arXiv 2505.15813: the map of the other subjects on fsaverage as a baseline.
    """

    group_weights_: torch.Tensor
    group_intercept_: torch.Tensor
    group_places_: torch.Tensor
    frame_: dict[str, Any]

    def __init__(
        self,
        embedding: EmbeddingConfig | Mapping[str, Any] | None = None,
        by: str = "place",
        neighbours: int = 8,
        alphas: Sequence[float] | None = None,
        folds: int = 5,
        seed: int = 0,
    ) -> None:
        self.embedding = embedding
        self.by = by
        self.neighbours = neighbours
        self.alphas = alphas
        self.folds = folds
        self.seed = seed

    def covered(self, responses: xr.Dataset) -> NDArray[np.bool_]:
        """Return which voxels have training voxels to be averaged, (voxel).

        In a volume all have. ``responses.isel(voxel=encoder.covered(responses))`` keeps those.

        Parameters
        ----------
        responses : xarray.Dataset
            Response set of the new subject.

        Raises
        ------
        InputError
            If the voxels have no place in a common space, or there are no ROIs.
        MismatchError
            If the mesh or the grid is not that of the training.
        """
        self._require_fitted()
        return self._covered(self._place(voxel_table(responses)))

    def _learn(self, sets: list[VoxelSet], validation: list[VoxelSet]) -> None:
        check_name("by", self.by, _BY)
        if self.neighbours < 1:
            raise InputError(f"neighbours={self.neighbours} must be at least 1.")
        self.frame_ = reduce(_merged, (_frame(each.voxels, self.by) for each in sets))
        places = [_positions(each.voxels, self.frame_) for each in sets]
        fitted = [self._ridge(each) for each in sets]
        self.group_weights_ = torch.cat([weights for weights, _ in fitted])
        self.group_intercept_ = torch.cat([intercept for _, intercept in fitted])
        self.group_places_ = torch.from_numpy(np.concatenate(places))

    def _ridge(self, subject: VoxelSet) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weights (voxel, E) and intercepts (voxel) for the embedding as it is."""
        embedded = subject.embedded.double()
        mean = embedded.mean(0)
        unit = (embedded - mean).square().mean().sqrt()
        if unit <= _CONSTANT * embedded.abs().max():
            raise InputError(
                f"all {len(embedded)} training images have the same embedding: nothing can be "
                "learned from them. Check the features and the embedding's view."
            )
        folds = deal_folds(subject.images, self.folds, self.seed)
        fit = fit_ridge((embedded - mean) / unit, subject.response, self.alphas, folds)
        weights = fit.weights / unit
        return weights.T.float().contiguous(), (fit.intercept - mean @ weights).float()

    def write(self, context: VoxelSet) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the encoders of new voxels, see :meth:`AdaptiveEncoder.write`."""
        place = self._place(context.voxels)
        missing = np.flatnonzero(~self._covered(place))
        if missing.size:
            what = "share no ROI with" if self.by == "roi" else "are at no vertex of"
            raise InputError(
                f"{missing.size} of {len(place)} voxels {what} the training's voxels (first: voxel "
                f"{missing[0]}): there is no group average for them. Keep the others with "
                "responses.isel(voxel=encoder.covered(responses))."
            )
        averages, row = self._averages(place)
        weights = averages @ self.group_weights_.numpy()
        intercept = averages @ self.group_intercept_.numpy()
        return torch.from_numpy(weights[row]), torch.from_numpy(intercept[row])

    def _place(self, voxels: xr.Dataset) -> NDArray[Any]:
        own = _frame(voxels, self.by)
        _merged(self.frame_, own)
        return _positions(voxels, self.frame_)

    def _covered(self, place: NDArray[Any]) -> NDArray[np.bool_]:
        there = self.group_places_.numpy()
        if self.frame_["kind"] == "volume":
            return np.ones(len(place), dtype=bool)
        if self.frame_["kind"] == "roi":
            return np.asarray((place & there.any(axis=0)).any(axis=1))
        return np.isin(place, there)

    def _averages(self, place: NDArray[Any]) -> tuple[csr_matrix, NDArray[np.intp]]:
        """Return averages over training voxels (row, training voxel), and each voxel's row."""
        there = self.group_places_.numpy()
        if self.frame_["kind"] == "volume":
            from scipy.spatial import cKDTree

            count = min(self.neighbours, len(there))
            _, nearest = cKDTree(there).query(place, k=np.arange(1, count + 1))
            everyone = np.arange(len(place))
            return _averaging(np.repeat(everyone, count), nearest.ravel(), len(there)), everyone
        distinct, row = np.unique(place, axis=0, return_inverse=True)
        if self.frame_["kind"] == "roi":
            group, member = np.nonzero(distinct.astype(np.int64) @ there.T)
        else:
            at = np.minimum(np.searchsorted(distinct, there), len(distinct) - 1)
            member = np.flatnonzero(distinct[at] == there)
            group = at[member]
        return _averaging(group, member, len(there)), row.reshape(-1)

    def _prior_state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors = {
            "weights": self.group_weights_,
            "intercept": self.group_intercept_,
            "places": self.group_places_,
        }
        return tensors, dict(self.frame_)

    def _restore_prior(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        self.group_weights_, self.group_intercept_ = tensors["weights"], tensors["intercept"]
        self.group_places_, self.frame_ = tensors["places"], dict(state)


def _averaging(group: NDArray[Any], member: NDArray[Any], members: int) -> csr_matrix:
    """Return the matrix (group, member) whose product with values is their mean in each group."""
    from scipy.sparse import csr_matrix

    size = np.bincount(group)
    share = (1 / size[group]).astype(np.float32)
    return csr_matrix((share, (group, member)), shape=(len(size), members))


def _frame(voxels: xr.Dataset, by: str) -> dict[str, Any]:
    """Return what says where voxels are, as plain data."""
    attrs = voxels.attrs
    space = str(attrs.get("space", "none"))
    if by == "roi":
        names = [str(name) for name in voxels["roi"].values] if "roi_mask" in voxels else []
        if not names:
            raise InputError(
                "by='roi' needs ROIs, and the voxels have none (roi_mask is missing or empty). "
                "Give responses with ROIs, or take by='place'."
            )
        return {"kind": "roi", "names": names}
    if space in _SURFACES and "vertex" in voxels.coords:
        return {"kind": "surface", **{name: attrs.get(name) for name in _MESH}}
    if space == "MNI" and "i" in voxels.coords:
        return {"kind": "volume", "affine": attrs["affine"], "shape": attrs["shape"]}
    raise InputError(
        f"by='place' needs a space that subjects share, and the voxels are in space {space!r} with "
        f"the coordinates {', '.join(sorted(map(str, voxels.coords)))}: needed are vertex in "
        f"{', '.join(_SURFACES)}, or i, j, k in MNI. Bring the responses there, or take by='roi'."
    )


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return the frame that holds for both."""
    if first["kind"] == second["kind"] == "roi":
        return {**first, "names": list(dict.fromkeys([*first["names"], *second["names"]]))}
    different = [
        f"{name} ({first.get(name)} and {second.get(name)})"
        for name in dict.fromkeys([*first, *second])
        if not _agree(name, first.get(name), second.get(name))
    ]
    if different:
        raise MismatchError(
            f"response sets differ in {', '.join(different)}: by='place' compares voxels of one "
            "mesh or one grid. Bring them to one, or take by='roi'."
        )
    return {name: value if second[name] is None else second[name] for name, value in first.items()}


def _agree(name: str, one: Any, other: Any) -> bool:
    # A set of one hemisphere does not know how many vertices the other has. Frames of different
    # kinds do not have the same entries, and the kind is entry enough to differ in.
    if None in (one, other):
        return True
    if name == "affine":
        return np.allclose(one, other, rtol=0, atol=1e-4)
    return bool(one == other)


def _positions(voxels: xr.Dataset, frame: Mapping[str, Any]) -> NDArray[Any]:
    """Return one position a voxel: number of the vertex, mm (3), or membership (roi)."""
    if frame["kind"] == "surface":
        side = np.searchsorted(_SIDES, voxels["hemisphere"].values.astype(str))
        return np.asarray(side * 2**32 + voxels["vertex"].values, dtype=np.int64)
    if frame["kind"] == "volume":
        indices = np.stack([voxels[axis].values for axis in "ijk"], axis=1)
        affine = np.reshape(frame["affine"], (4, 4))
        return np.asarray(indices @ affine[:3, :3].T + affine[:3, 3], dtype=np.float64)
    own = {str(name): row for row, name in enumerate(voxels["roi"].values)}
    masks = voxels["roi_mask"].values
    nowhere = np.zeros(masks.shape[1], dtype=bool)
    return np.stack([masks[own[n]] if n in own else nowhere for n in frame["names"]], axis=1)
