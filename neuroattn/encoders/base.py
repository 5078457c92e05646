"""What every encoder shares: scikit-learn manners, checks of its inputs, scoring, saving."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xarray as xr
from sklearn.base import BaseEstimator

from neuroattn.encoders.inputs import (
    align,
    check_finite,
    describe_features,
    rows_of,
    voxel_table,
)
from neuroattn.encoders.saving import check_weights, plain, read_encoder, write_encoder
from neuroattn.errors import InputError, MismatchError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from neuroattn.metrics import Score

__all__ = ["Encoder", "align"]


class Encoder(BaseEstimator, ABC):  # type: ignore[misc]
    """Base of the encoders: the constructor only stores, ``fit`` learns, ``predict`` applies.

    A subclass takes plain data (numbers, strings, lists of them) in its constructor and writes
    four hooks: ``_fit``, ``_predict``, ``_state`` and ``_restore``.

    Attributes
    ----------
    voxels_ : xarray.Dataset
        The voxels of the training responses: coordinates on ``voxel``, ``roi (roi, voxel)``
        where there is one, and the attributes of the responses (space, affine, ...).
    features_ : dict
        What the training features were: ``basis``, ``key``, ``rows``, ``columns``, ``tokens``,
        ``channels``.
    """

    voxels_: xr.Dataset
    features_: dict[str, Any]
    #: Whether ``fit`` uses ``validation``; where it does not, those images may train.
    watches_validation = False

    def fit(
        self, features: xr.Dataset, responses: xr.Dataset, validation: xr.Dataset | None = None
    ) -> Self:
        """Learn to predict ``responses`` from ``features``.

        Parameters
        ----------
        features : xarray.Dataset
            ``tokens (image, token, channel)``; may hold more images than ``responses``, in any
            order: rows are found by image id.
        responses : xarray.Dataset
            ``response (presentation, voxel)``, finite.
        validation : xarray.Dataset, optional
            Responses of the same voxels to other images, watched by encoders that are trained by
            gradient descent. Closed-form encoders cross-validate inside ``responses`` instead.

        Returns
        -------
        Encoder
            Itself.

        Raises
        ------
        MismatchError
            If responses are of images without features, or validation is of other voxels.
        InputError
            If responses contain NaN or infinity, or there is nothing to fit.
        """
        align(features, responses)
        check_finite(responses)
        self.voxels_ = voxel_table(responses)
        self.features_ = describe_features(features)
        if validation is not None:
            self._check_voxels(validation)
            align(features, validation)
            check_finite(validation)
        self._fit(features, responses, validation)
        return self

    def predict(self, features: xr.Dataset, images: Iterable[str] | None = None) -> xr.DataArray:
        """Predict the responses to images.

        Parameters
        ----------
        features : xarray.Dataset
            Features of the basis that the encoder was fitted on.
        images : iterable of str, optional
            Ids to predict, in this order (default: every image of ``features``).

        Returns
        -------
        xarray.DataArray
            (image, voxel), float32, in the units of the training responses, with the voxel
            coordinates of the training responses.

        Raises
        ------
        MismatchError
            If the features are of another basis, or an image has no features.
        """
        self._check_features(features)
        ids = features["image"].values if images is None else np.asarray(list(images), dtype=object)
        values = self._predict(features, rows_of(features, ids))
        return xr.DataArray(
            values,
            dims=("image", "voxel"),
            coords={"image": np.asarray(ids, dtype=str), **self.voxels_["voxel"].coords},
            name="prediction",
        )

    def score(
        self,
        features: xr.Dataset,
        responses: xr.Dataset,
        threshold: float = 0.1,
        metric: str = "explained_variance",
    ) -> Score:
        """Score predictions against responses that were averaged over repetitions.

        The ceiling is ``responses.ceiling`` where the data set ships one, else the noise ceiling
        of the averaged responses from ``responses.ncsnr``, else unknown (NaN: no normalised
        score).

        Parameters
        ----------
        features : xarray.Dataset
            Features of the images, of the basis that the encoder was fitted on.
        responses : xarray.Dataset
            Responses of the voxels that the encoder was fitted on, to images that it was not.
        threshold : float
            Voxels whose ceiling is below it have no normalised score.
        metric : str
            "explained_variance", "pearson" or "r2".

        Returns
        -------
        Score
            Per voxel, with the predictions and averaged responses that it came from.

        Raises
        ------
        MismatchError
            If the voxels or the basis are not those of the training.
        """
        from neuroattn.data.transforms import average_repetitions
        from neuroattn.encoders.scoring import score_predictions

        self._require_fitted()
        self._check_voxels(responses)
        averaged = average_repetitions(responses)
        prediction = self.predict(features, averaged["image"].values)
        name = type(self).__name__
        return score_predictions(
            prediction, averaged, threshold=threshold, metric=metric, encoder=name
        )

    def save(self, directory: str | Path, overwrite: bool = False) -> None:
        """Write ``weights.safetensors``, ``voxels.nc`` and, last, ``config.json``.

        Parameters
        ----------
        directory : str or Path
            Made if it is not there; other files in it stay.
        overwrite : bool
            Whether an encoder that is there already may be replaced.

        Raises
        ------
        RunExistsError
            If an encoder is there and ``overwrite`` is false.
        """
        self._require_fitted()
        tensors, state = self._state()
        write_encoder(
            directory,
            tensors=tensors,
            voxels=self.voxels_,
            config={
                "class": type(self).__name__,
                "parameters": {k: plain(k, v) for k, v in self.get_params(deep=False).items()},
                "features": self.features_,
                "state": state,
            },
            overwrite=overwrite,
        )

    @classmethod
    def from_directory(cls, directory: str | Path) -> Self:
        """Read a fitted encoder that :meth:`save` wrote.

        Raises
        ------
        FileError
            If a file is missing or broken.
        MismatchError
            If the folder holds an encoder of another class, or the weights do not belong to
            the configuration.
        """
        config, tensors, voxels = read_encoder(directory)
        check_weights(directory, cls.__name__, config, tensors)
        encoder = cls(**config["parameters"])
        encoder.voxels_ = voxels
        encoder.features_ = config["features"]
        encoder._restore(tensors, config["state"])
        return encoder

    @abstractmethod
    def _fit(
        self, features: xr.Dataset, responses: xr.Dataset, validation: xr.Dataset | None
    ) -> None:
        """Learn; inputs are checked, ``voxels_`` and ``features_`` are set."""

    @abstractmethod
    def _predict(self, features: xr.Dataset, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return predictions (len(rows), voxel) for rows of checked features."""

    @abstractmethod
    def _state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the learned tensors by name and whatever else was learned as plain JSON data."""

    @abstractmethod
    def _restore(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Set the learned attributes from what ``_state`` returned."""

    def _require_fitted(self) -> None:
        if not hasattr(self, "voxels_"):
            raise InputError(
                f"This {type(self).__name__} is not fitted: call fit(features, responses), or load "
                "a fitted one with neuroattn.load(directory)."
            )

    def _check_features(self, features: xr.Dataset) -> None:
        self._require_fitted()
        expected, found = self.features_, describe_features(features)
        if expected["key"] != found["key"]:
            raise MismatchError(
                f"features are of basis {found['basis']!r} with key {found['key']}, but this "
                f"{type(self).__name__} was fitted on basis {expected['basis']!r} with key "
                f"{expected['key']}. Open the store with the basis of the training."
            )
        different = [
            k for k in ("tokens", "channels", "rows", "columns") if expected[k] != found[k]
        ]
        if different:
            raise MismatchError(
                "features have "
                + ", ".join(f"{found[k]} {k}" for k in different)
                + f", but this {type(self).__name__} was fitted on "
                + ", ".join(f"{expected[k]} {k}" for k in different)
                + ". Give features of the same basis and image size."
            )

    def _check_voxels(self, responses: xr.Dataset) -> None:
        expected, found = self.voxels_, responses
        if expected.sizes["voxel"] != found.sizes["voxel"]:
            raise MismatchError(
                f"responses have {found.sizes['voxel']} voxels, but this {type(self).__name__} was "
                f"fitted on {expected.sizes['voxel']}. Give responses of the training's voxels."
            )
        for name, values in expected["voxel"].coords.items():
            if name not in found.coords or (found.coords[name].values != values.values).any():
                raise MismatchError(
                    f"responses are of other voxels than the training: their coordinate {name!r} "
                    "differs or is missing. Give responses of the same voxels in the same order."
                )
