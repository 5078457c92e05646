"""Encoders that learn how voxels are, and then write new voxels' encoders from a few images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
import xarray as xr

from neuroattn.data.transforms import average_repetitions
from neuroattn.encoders.base import Encoder, align
from neuroattn.encoders.config import as_config
from neuroattn.encoders.embedding import Embedding, EmbeddingConfig, fit_embedding
from neuroattn.encoders.inputs import check_finite, describe_features
from neuroattn.encoders.provenance import Learned, joined, learned_from
from neuroattn.encoders.voxel_set import VoxelSet, voxel_set
from neuroattn.errors import InputError, MismatchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neuroattn.metrics import Score

__all__ = ["LEAST_CONTEXT", "AdaptiveEncoder", "chosen_images"]

#: Fewest context images that an encoder is written from.
LEAST_CONTEXT = 2


class AdaptiveEncoder(Encoder):
    """Base of the encoders that are written for voxels never seen before, without training.

    ``fit`` learns from the voxels of other subjects, ``adapt`` reads pairs of images and responses
    of the new voxels (the *context*) and writes for each voxel weights over an embedding of the
    image, and an intercept. ``predict`` and ``score`` are of the adapted voxels.

    Attributes
    ----------
    embedding_ : Embedding
        Turns the tokens of an image into one vector.
    weights_ : numpy.ndarray
        (voxel, feature) float32, of the adapted voxels.
    intercept_ : numpy.ndarray
        (voxel) float32.
    context_ : tuple of str
        The images that the weights were written from; empty before ``adapt``.
    zscored_ : str
        How the responses of the training were standardised ("none" or "session").
    learned_from_ : dict
        "subjects" and "images" that ``fit`` (and what it started from) has read responses of.
    """

    embedding: EmbeddingConfig | Mapping[str, Any] | None
    embedding_: Embedding
    weights_: NDArray[np.float32]
    intercept_: NDArray[np.float32]
    context_: tuple[str, ...]
    zscored_: str
    learned_from_: Learned

    def fit(
        self,
        features: xr.Dataset,
        responses: xr.Dataset | Sequence[xr.Dataset],
        validation: xr.Dataset | Sequence[xr.Dataset] | None = None,
    ) -> Self:
        """Learn from many voxels how voxels are.

        Parameters
        ----------
        features : xarray.Dataset
            ``tokens (image, token, channel)`` of all images; rows are found by image id.
        responses : xarray.Dataset or sequence of them
            Response sets of other subjects than those to come; each may be of images of its own.
        validation : xarray.Dataset or sequence of them, optional
            As many sets of the same voxels with other images, watched by encoders that are
            trained by gradient descent.

        Returns
        -------
        AdaptiveEncoder
            Itself; call :meth:`adapt` next.

        Raises
        ------
        MismatchError
            If responses are of images without features, or the sets do not belong together.
        InputError
            If responses or features contain NaN or infinity, or there is nothing to fit.
        """
        sets, held_out = _sets(responses), _sets(validation)
        if not sets or len(held_out) not in (0, len(sets)):
            raise InputError(
                f"responses are {len(sets)} sets and validation {len(held_out)}: give at least "
                "one set, and as many for validation, or none."
            )
        for each in (*sets, *held_out):
            align(features, each)
            check_finite(each)
        zscored, facts = _one_scale([*sets, *held_out]), describe_features(features)
        config = as_config("embedding", self.embedding, EmbeddingConfig)
        # A fit that fails must not leave an encoder that is half the old and half the new one.
        self.__dict__.pop("features_", None)
        seen = np.unique(np.concatenate([each["image"].values.astype(str) for each in sets]))
        self.embedding_ = fit_embedding(config, features, seen)
        self._forget()
        self._learn(
            [voxel_set(self.embedding_, features, average_repetitions(each)) for each in sets],
            [voxel_set(self.embedding_, features, average_repetitions(each)) for each in held_out],
        )
        self.features_, self.zscored_ = facts, zscored
        self.learned_from_ = learned_from(
            (each, each["image"].values.tolist()) for each in (*sets, *held_out)
        )
        return self

    def adapt(
        self, features: xr.Dataset, responses: xr.Dataset, images: Iterable[str] | None = None
    ) -> Self:
        """Write the encoders of new voxels from pairs of images and responses.

        Parameters
        ----------
        features : xarray.Dataset
            Features of the basis of the training.
        responses : xarray.Dataset
            Responses of the new voxels, standardised as those of the training were; repetitions
            are averaged first.
        images : iterable of str, optional
            The context: only these images are read (default: all of ``responses``).

        Returns
        -------
        AdaptiveEncoder
            Itself, now of these voxels.

        Raises
        ------
        MismatchError
            If the features are of another basis, an image has no features or no response, or the
            responses are standardised otherwise.
        InputError
            If there are fewer than two images, responses or features contain NaN, or a voxel's
            responses do not vary.
        """
        self._check_features(features)
        self._check_scale(responses)
        shown = chosen_images(responses, images)
        align(features, shown)
        check_finite(shown)
        averaged = average_repetitions(shown)
        if averaged.sizes["presentation"] < LEAST_CONTEXT:
            raise InputError(
                f"the context has {averaged.sizes['presentation']} image: an encoder is written "
                f"from at least {LEAST_CONTEXT} pairs of image and response. Give more."
            )
        _check_varying(averaged)
        context = voxel_set(self.embedding_, features, averaged)
        weights, intercept = self._adapt_to(context)
        self.weights_ = np.ascontiguousarray(weights.float().cpu().numpy())
        self.intercept_ = np.ascontiguousarray(intercept.float().cpu().numpy())
        self.context_ = context.images
        self.voxels_ = context.voxels
        return self

    def written(self) -> xr.Dataset:
        """Return the written encoders.

        Returns
        -------
        xarray.Dataset
            ``weights (voxel, feature)`` and ``intercept (voxel)``, float32: a prediction is
            ``embedding @ weights + intercept``, in the units of the training responses.
        """
        self._require_adapted()
        return xr.Dataset(
            {
                "weights": (("voxel", "feature"), self.weights_),
                "intercept": ("voxel", self.intercept_),
            },
            coords=self.voxels_["voxel"].coords,
            attrs={"images": len(self.context_), "embedding": self.embedding_.config.view},
        )

    def predict(self, features: xr.Dataset, images: Iterable[str] | None = None) -> xr.DataArray:
        """Predict the responses of the adapted voxels, see :meth:`Encoder.predict`."""
        self._require_adapted()
        return super().predict(features, images)

    def score(
        self,
        features: xr.Dataset,
        responses: xr.Dataset,
        threshold: float = 0.1,
        metric: str = "explained_variance",
    ) -> Score:
        """Score predictions of images that the encoder was not written from.

        Parameters, returns and further errors as :meth:`Encoder.score`.

        Raises
        ------
        InputError
            If images of ``responses`` are in the context, or there are none.
        """
        self._require_adapted()
        self._check_features(features)
        align(features, responses)
        leaked = sorted(set(responses["image"].values.astype(str).tolist()) & set(self.context_))
        if leaked:
            raise InputError(
                f"{len(leaked)} of the scored images are in the context that the encoders were "
                f"written from (first: {leaked[:3]}): such a score says nothing. Score other "
                "images, or adapt without these."
            )
        return super().score(features, responses, threshold, metric)

    @abstractmethod
    def _learn(self, sets: list[VoxelSet], validation: list[VoxelSet]) -> None:
        """Learn from the voxels of the training subjects."""

    @abstractmethod
    def write(self, context: VoxelSet) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the encoders of new voxels and stay as it is; :meth:`adapt` takes them over.

        Parameters
        ----------
        context : VoxelSet
            Embedded images and responses.

        Returns
        -------
        weights : torch.Tensor
            (voxel, E)
        intercept : torch.Tensor
            (voxel)
        """

    def _adapt_to(self, context: VoxelSet) -> tuple[torch.Tensor, torch.Tensor]:
        """Write for :meth:`adapt`, and keep what else is known of the voxels."""
        return self.write(context)

    @abstractmethod
    def _prior_state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return what was learned in training: tensors by name, and plain JSON data."""

    @abstractmethod
    def _restore_prior(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Set what was learned in training from what ``_prior_state`` returned."""

    def _fit(
        self, features: xr.Dataset, responses: xr.Dataset, validation: xr.Dataset | None
    ) -> None:
        """Never called: :meth:`fit` takes several sets."""
        self.fit(features, responses, validation)

    def _forget(self) -> None:
        """Have no voxels, as before ``adapt``."""
        nothing = np.zeros((0, self.embedding_.width), np.float32)
        self.weights_, self.intercept_, self.context_ = nothing, nothing[:, 0], ()
        self.voxels_ = xr.Dataset(coords={"subject": ("voxel", np.zeros(0, dtype="<U1"))})

    def _predict(self, features: xr.Dataset, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        embedded = self.embedding_.transform(features, rows)
        weights, intercept = torch.from_numpy(self.weights_), torch.from_numpy(self.intercept_)
        return np.asarray(torch.addmm(intercept, embedded, weights.T).numpy())

    def _state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors, state = self._prior_state()
        own = {
            "weights": torch.from_numpy(self.weights_),
            "intercept": torch.from_numpy(self.intercept_),
            **self.embedding_.tensors(),
        }
        plain = {
            "context": list(self.context_),
            "zscored": self.zscored_,
            "learned": self.learned_from_,
            "prior": state,
        }
        return {**own, **{f"prior_{name}": value for name, value in tensors.items()}}, plain

    def _restore(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        config = as_config("embedding", self.embedding, EmbeddingConfig)
        self.embedding_ = Embedding.restored(config, tensors)
        self.weights_ = tensors["weights"].numpy()
        self.intercept_ = tensors["intercept"].numpy()
        self.context_, self.zscored_ = tuple(state["context"]), str(state["zscored"])
        self.learned_from_ = joined(state["learned"], {})
        prior = {
            name.removeprefix("prior_"): value
            for name, value in tensors.items()
            if name.startswith("prior_")
        }
        self._restore_prior(prior, state["prior"])

    def _require_fitted(self) -> None:
        if not hasattr(self, "features_"):
            raise InputError(
                f"This {type(self).__name__} is not fitted: call fit(features, responses) with "
                "other subjects' responses, or load a fitted one with neuroattn.load(directory)."
            )

    def _require_adapted(self) -> None:
        self._require_fitted()
        if not self.context_:
            raise InputError(
                f"This {type(self).__name__} has no voxels yet: call adapt(features, responses) "
                "with a few images of the new subject first."
            )

    def _check_scale(self, responses: xr.Dataset) -> None:
        found = str(responses.attrs.get("zscored", "none"))
        if found != self.zscored_:
            raise MismatchError(
                f"responses have zscored={found!r}, but this {type(self).__name__} learned from "
                f"responses with zscored={self.zscored_!r}: what it writes would be in other "
                "units. Prepare both alike, with neuroattn.data.prepare(responses)."
            )


def _sets(responses: xr.Dataset | Sequence[xr.Dataset] | None) -> list[xr.Dataset]:
    if responses is None:
        return []
    return [responses] if isinstance(responses, xr.Dataset) else list(responses)


def _one_scale(sets: list[xr.Dataset]) -> str:
    found = sorted({str(each.attrs.get("zscored", "none")) for each in sets})
    if len(found) > 1:
        raise MismatchError(
            f"the response sets have zscored={' and '.join(map(repr, found))}: one prior cannot "
            "hold for both. Prepare all alike, with neuroattn.data.prepare(responses)."
        )
    return found[0]


def chosen_images(responses: xr.Dataset, images: Iterable[str] | None) -> xr.Dataset:
    """Return the presentations of some images; all of them for None.

    Parameters
    ----------
    responses : xarray.Dataset
        A response set.
    images : iterable of str, optional
        Ids; their order plays no role.

    Raises
    ------
    MismatchError
        If an image has no response.
    """
    if images is None:
        return responses
    if not hasattr(images, "__iter__"):
        raise InputError(f"images={images!r} must be ids of images; choose_context chooses some.")
    ids = np.asarray(images) if hasattr(images, "__array__") else images
    wanted = list(dict.fromkeys(map(str, ids)))
    shown = responses["image"].values.astype(str)
    missing = sorted(set(wanted) - set(shown))
    if missing:
        raise MismatchError(
            f"{len(missing)} of {len(wanted)} context images have no response (first: "
            f"{missing[:3]}). Choose among the images of the responses."
        )
    return responses.isel(presentation=np.flatnonzero(np.isin(shown, wanted)))


def _check_varying(averaged: xr.Dataset) -> None:
    values = averaged["response"].values
    flat = np.flatnonzero(np.ptp(values, axis=0) == 0)
    if flat.size:
        raise InputError(
            f"{flat.size} of {values.shape[1]} voxels have the same response to all "
            f"{len(values)} context images (first: voxel {flat[0]}): nothing can be read from "
            "them. Drop them, or give other images."
        )
