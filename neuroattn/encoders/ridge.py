"""The ridge encoder: one linear model a voxel, its penalty cross-validated by image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import xarray as xr

from neuroattn.encoders.base import Encoder, align
from neuroattn.encoders.feature_views import VIEWS, View, fit_view
from neuroattn.encoders.gram_ridge import ridge_cv, ridge_fit
from neuroattn.encoders.kernel_ridge import kernel_ridge_cv
from neuroattn.errors import InputError
from neuroattn.names import check_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Candidate penalties by default: 20 from 0.1 to 1e8, evenly spaced in their logarithm. Columns
#: are scaled so that the eigenvalues of XᵀX sum to images times columns.
ALPHAS = tuple(float(alpha) for alpha in np.logspace(-1, 8, 20))

_SOLVERS = ("auto", "gram", "himalaya")
_PREDICT_BLOCK = 1024


class RidgeFit(NamedTuple):
    """Ridge regressions with cross-validated penalties, one a voxel.

    Attributes
    ----------
    alphas : torch.Tensor
        (voxel) float64, the chosen penalties.
    scores : torch.Tensor
        (voxel) float64, minus the mean squared error of the chosen penalty, averaged over folds.
    weights : torch.Tensor
        (column, voxel)
    intercept : torch.Tensor
        (voxel)
    """

    alphas: torch.Tensor
    scores: torch.Tensor
    weights: torch.Tensor
    intercept: torch.Tensor


def deal_folds(
    images: Iterable[str], folds: int, seed: int, group_by: str | None = None
) -> torch.Tensor:
    """Return the fold (image) of each of some different images.

    Raises
    ------
    InputError
        If ``folds`` is not 2 to the number of images (or groups), or an id is without the mark
        ``group_by``.
    """
    from neuroattn.data.split import folds_by_image, groups_by_mark

    ids = [str(image) for image in images]
    groups = None if group_by is None else groups_by_mark(ids, group_by)
    dealt = folds_by_image(xr.Dataset(coords={"image": ids}), folds, seed, groups)
    fold_of = {image: fold for fold, split in enumerate(dealt) for image in split["test"]}
    return torch.tensor([fold_of[image] for image in ids])


def fit_ridge(
    design: torch.Tensor,
    responses: torch.Tensor,
    alphas: Sequence[float] | None,
    folds: torch.Tensor,
    solver: str = "auto",
) -> RidgeFit:
    """Choose each voxel's penalty by cross-validation, then fit on all presentations.

    Parameters
    ----------
    design : torch.Tensor
        (presentation, column)
    responses : torch.Tensor
        (presentation, voxel)
    alphas : sequence of float, optional
        Candidate penalties, positive (default: ``ALPHAS``).
    folds : torch.Tensor
        (presentation) integer: the fold in which a presentation is held out.
    solver : {"auto", "gram", "himalaya"}
        As for :class:`RidgeEncoder`.

    Raises
    ------
    InputError
        If a penalty is not positive, or the solver is unknown.
    """
    check_name("solver", solver, _SOLVERS)
    candidates = torch.tensor(ALPHAS if alphas is None else list(alphas), dtype=torch.float64)
    gram = len(design) >= design.shape[1] if solver == "auto" else solver == "gram"
    if not gram:
        return RidgeFit(*kernel_ridge_cv(design, responses, candidates, folds))
    best, scores = ridge_cv(design, responses, candidates, folds)
    weights, intercept = ridge_fit(design, responses, best)
    chosen = scores.gather(0, (candidates[:, None] == best).int().argmax(0)[None])[0]
    return RidgeFit(best, chosen, weights, intercept)


class RidgeEncoder(Encoder):
    """Linear encoder with a ridge penalty per voxel, chosen by cross-validation over images.

    Columns of the design matrix are centred and scaled by the training images; columns that do
    not vary are left out. The intercept is not penalised. Repeated presentations of an image enter
    as they are, and stand in the same fold.

    Parameters
    ----------
    view : {"flatten", "mean", "class", "pca"}
        What a row of the design matrix is: every token and channel, the mean over tokens, the
        class token, or ``components`` principal components of the flattened features.
    components : int, optional
        For ``view="pca"`` alone.
    alphas : sequence of float, optional
        Candidate penalties, positive (default: 20 from 0.1 to 1e8).
    folds : int
        Folds of the cross-validation, 2 to the number of training images.
    solver : {"auto", "gram", "himalaya"}
        "gram": our solver (:mod:`neuroattn.encoders.gram_ridge`), fast where presentations
        outnumber columns; "himalaya": kernel ridge, where columns outnumber presentations; "auto"
        picks by that rule. Both choose the same penalties.
    seed : int
        Deals the images into folds.
    standardise : bool
        Divide each column by its own standard deviation. If false, all columns are divided by one
        number, the root of their mean variance: columns that vary more are shrunk less, and the
        default penalties mean the same.
    group_by : str, optional
        A mark in the image ids: what stands before its last occurrence is a group that stands in
        one fold. With "-" the samples of one film, "friends-s01e02a-00123", are held out together;
        penalties chosen on neighbours in time would be too weak.

    Attributes
    ----------
    alphas_ : numpy.ndarray
        (voxel) chosen penalties.
    weights_ : numpy.ndarray
        (column, voxel) float32, for the columns of the view, centred and scaled.
    intercept_ : numpy.ndarray
        (voxel) float32.
    cv_scores_ : numpy.ndarray
        (voxel) minus the mean squared error of the chosen penalty, averaged over folds, in squared
        units of the responses.
    view_ : View
        Means, scales and components of the design matrix.

    Examples
    --------
    >>> from neuroattn.encoders import RidgeEncoder
    >>> RidgeEncoder(view="mean", folds=3).get_params()["folds"]
    3

    References
    ----------
    Dupré la Tour, Eickenberg, Nunez-Elizalde, Gallant (2022), Feature-space selection with banded
    ridge regression, NeuroImage 264, 119728.
    """

    alphas_: NDArray[np.float64]
    weights_: NDArray[np.float32]
    intercept_: NDArray[np.float32]
    cv_scores_: NDArray[np.float64]
    view_: View

    def __init__(
        self,
        view: str = "flatten",
        components: int | None = None,
        alphas: Sequence[float] | None = None,
        folds: int = 5,
        solver: str = "auto",
        seed: int = 0,
        standardise: bool = True,
        group_by: str | None = None,
    ) -> None:
        self.view = view
        self.components = components
        self.alphas = alphas
        self.folds = folds
        self.solver = solver
        self.seed = seed
        self.standardise = standardise
        self.group_by = group_by

    def _fit(
        self, features: xr.Dataset, responses: xr.Dataset, validation: xr.Dataset | None
    ) -> None:
        check_name("view", self.view, VIEWS)
        check_name("solver", self.solver, _SOLVERS)
        rows, presented = np.unique(align(features, responses), return_inverse=True)
        images = features["image"].values[rows]
        folds = deal_folds(images, self.folds, self.seed, self.group_by)[presented]
        view = fit_view(self.view, features, rows, self.components, self.standardise)
        _check_memory(len(presented), view.columns, responses.sizes["voxel"], self.view)
        design = view.transform(features, rows)
        if not np.array_equal(presented, np.arange(len(rows))):
            design = design[presented]
        Y = torch.from_numpy(np.ascontiguousarray(responses["response"].values, dtype=np.float32))
        fitted = fit_ridge(design, Y, self.alphas, folds, self.solver)
        self.view_ = view
        self.alphas_, self.cv_scores_ = fitted.alphas.numpy(), fitted.scores.numpy()
        self.weights_, self.intercept_ = fitted.weights.numpy(), fitted.intercept.numpy()

    def _predict(self, features: xr.Dataset, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        weights, intercept = torch.from_numpy(self.weights_), torch.from_numpy(self.intercept_)
        predicted = torch.empty(len(rows), len(intercept), dtype=torch.float32)
        for start in range(0, len(rows), _PREDICT_BLOCK):
            block = slice(start, min(start + _PREDICT_BLOCK, len(rows)))
            design = self.view_.transform(features, rows[block])
            predicted[block] = torch.addmm(intercept, design, weights)
        return np.asarray(predicted.numpy())

    def _state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        learned = {
            "alphas": self.alphas_,
            "cv_scores": self.cv_scores_,
            "intercept": self.intercept_,
            "weights": self.weights_,
        }
        tensors = {name: torch.from_numpy(array) for name, array in learned.items()}
        return {**tensors, **self.view_.tensors()}, {}

    def _restore(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        self.view_ = View.restored(self.view, tensors)
        self.alphas_ = tensors["alphas"].numpy()
        self.cv_scores_ = tensors["cv_scores"].numpy()
        self.intercept_ = tensors["intercept"].numpy()
        self.weights_ = tensors["weights"].numpy()


def _check_memory(presentations: int, columns: int, voxels: int, view: str) -> None:
    """Refuse what cannot fit before hours are spent on it."""
    design, weights = 4 * presentations * columns, 4 * columns * voxels
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if design + weights > there:
        raise InputError(
            f"view={view!r} makes {columns} columns: {presentations} presentations and {voxels} "
            f"voxels need {(design + weights) / 2**30:.1f} GiB, and this machine has "
            f"{there / 2**30:.1f} GiB. Take view='pca' with a number of components, or 'mean'."
        )
