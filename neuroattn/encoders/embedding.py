"""One vector an image: the embedding that in-context encoders read, learned from no response."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from neuroattn.encoders.feature_views import VIEWS, View, fit_view
from neuroattn.encoders.inputs import rows_of
from neuroattn.errors import InputError, MismatchError
from neuroattn.names import check_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Embedding", "EmbeddingConfig", "fit_embedding"]


@dataclass(frozen=True)
class EmbeddingConfig:
    """How the tokens of an image become one vector.

    Parameters
    ----------
    view : {"mean", "class", "flatten", "pca"}
        The mean over tokens, the class token, all tokens side by side, or ``components``
        principal components of the standardised flattened tokens.
    components : int
        For ``view="pca"`` alone: how many.
    normalise : bool
        Divide each vector by its Euclidean norm.

    Raises
    ------
    InputError
        If ``components`` is missing, or given for another view.
    """

    view: str = "mean"
    components: int = 0
    normalise: bool = True

    def __post_init__(self) -> None:
        check_name("embedding.view", self.view, VIEWS)
        if (self.view == "pca") != (self.components > 0) or self.components < 0:
            raise InputError(
                f"embedding has view={self.view!r} and components={self.components}: give a "
                "positive number with view='pca', and 0 with any other."
            )


@dataclass(frozen=True)
class Embedding:
    """A fitted embedding.

    Attributes
    ----------
    config : EmbeddingConfig
        View and normalisation.
    view : View
        Turns tokens into columns.
    """

    config: EmbeddingConfig
    view: View

    @property
    def width(self) -> int:
        """Length E of a vector."""
        return self.view.columns

    def transform(self, features: xr.Dataset, rows: NDArray[np.intp]) -> torch.Tensor:
        """Return the vectors (len(rows), E) float32 of images, given as rows of the features."""
        return self._normalised(self.view.transform(features, rows))

    def apply(self, values: torch.Tensor) -> torch.Tensor:
        """Return what vectors that were never an image's tokens become, such as those of texts.

        Parameters
        ----------
        values : torch.Tensor
            (vector, channel), in the space of the features' channels.

        Raises
        ------
        MismatchError
            If their width is not that of the view's columns.
        """
        if values.ndim != 2 or values.shape[1] != len(self.view.mean):
            raise MismatchError(
                f"values have shape {tuple(values.shape)}; this embedding takes vectors of "
                f"{len(self.view.mean)} channels. Embed them with the model of the features."
            )
        standard = ((values.double() - self.view.mean) * self.view.scale).float()
        if self.view.components is not None:
            standard = standard @ self.view.components
        return self._normalised(standard)

    def features(self, features: xr.Dataset) -> xr.Dataset:
        """Return the vectors of all images as features of one token, with a key of their own."""
        vectors = self.transform(features, np.arange(features.sizes["image"]))
        content = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True).encode())
        content.update(str(features.attrs.get("key", "")).encode())
        for tensor in self.tensors().values():
            content.update(tensor.contiguous().numpy().tobytes())
        return xr.Dataset(
            {"tokens": (("image", "token", "channel"), vectors[:, None].numpy())},
            coords={"image": features["image"].values},
            attrs={
                "rows": 1,
                "columns": 1,
                "key": content.hexdigest(),
                "basis": f"{features.attrs.get('basis', '')}, {self.config.view}",
            },
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what :meth:`restored` needs."""
        return {f"embedding_{name}": value for name, value in self.view.tensors().items()}

    @classmethod
    def restored(cls, config: EmbeddingConfig, tensors: Mapping[str, torch.Tensor]) -> Embedding:
        """Return the embedding whose :meth:`tensors` are among those given."""
        own = {
            name.removeprefix("embedding_"): value
            for name, value in tensors.items()
            if name.startswith("embedding_")
        }
        return cls(config, View.restored(config.view, own))

    def _normalised(self, vectors: torch.Tensor) -> torch.Tensor:
        if not self.config.normalise:
            return vectors
        length = vectors.norm(dim=1, keepdim=True)
        return vectors / torch.where(length > 0, length, 1.0)


def fit_embedding(config: EmbeddingConfig, features: xr.Dataset, ids: Iterable[Any]) -> Embedding:
    """Learn what the view needs; only "pca" learns anything.

    Parameters
    ----------
    config : EmbeddingConfig
        View and normalisation.
    features : xarray.Dataset
        ``tokens (image, token, channel)`` and, for "class", ``class_token (image, channel)``.
    ids : iterable of str
        Images to learn from, each counted once; those that are tested later are not among them.

    Raises
    ------
    InputError
        If there is no class token, or more components than images or columns.
    """
    if config.view == "pca":
        rows = np.unique(rows_of(features, np.asarray(list(ids), dtype=object)))
        return Embedding(config, fit_view("pca", features, rows, config.components))
    if config.view == "class" and "class_token" not in features:
        raise InputError(
            f"embedding.view='class' needs a class token, and basis "
            f"{features.attrs.get('basis')!r} has none. Take view='mean'."
        )
    tokens, channels = features.sizes["token"], features.sizes["channel"]
    columns = tokens * channels if config.view == "flatten" else channels
    raw = torch.zeros(columns, dtype=torch.float64), torch.ones(columns, dtype=torch.float64)
    return Embedding(config, View(config.view, *raw))
