"""The transformer brain encoder: learned queries look where the image says, voxels read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from neuroattn.encoders.config import as_config
from neuroattn.encoders.decoder import BrainDecoder, DecoderConfig
from neuroattn.encoders.inputs import rows_of
from neuroattn.encoders.queries import QueryMap, query_map
from neuroattn.encoders.trained import TrainedEncoder, channel_statistics
from neuroattn.training.module import EncoderModule, EncoderNetwork
from neuroattn.training.optimisation import Optimisation


class TransformerModule(EncoderModule):
    """Train a transformer brain encoder.

    Parameters
    ----------
    network : DecoderConfig, optional
        Shape of the network.
    optimisation : Optimisation, optional
        Optimiser, schedule, early stopping.
    """

    def __init__(
        self, network: DecoderConfig | None = None, optimisation: Optimisation | None = None
    ) -> None:
        super().__init__(as_config("optimisation", optimisation, Optimisation))
        self.decoder = as_config("network", network, DecoderConfig)

    def build(self, features: xr.Dataset, responses: xr.Dataset, seed: int) -> EncoderNetwork:
        """Return a network for these features and voxels."""
        config = self.decoder
        queries = query_map(responses, config.queries, config.parcels, seed)
        grid = int(features.attrs["rows"]), int(features.attrs["columns"])
        built = BrainDecoder(config, queries, grid, features["tokens"].shape[2])
        built.mean, built.scale = channel_statistics(features, responses["image"].values)
        return built

    def encoder(self, features: xr.Dataset, responses: xr.Dataset, seed: int) -> TrainedEncoder:
        """Return the fitted encoder of this trained module."""
        return TransformerEncoder.from_module(
            self,
            features,
            responses,
            network=self.decoder,
            optimisation=self.optimisation,
            seed=seed,
        )


class TransformerEncoder(TrainedEncoder):
    """Learned queries attend to the tokens of an image; each voxel reads its own query.

    Parameters
    ----------
    network : DecoderConfig or mapping, optional
        Queries, width, heads, layers, attention mechanism, static branch.
    optimisation : Optimisation or mapping, optional
        Optimiser, schedule, early stopping.
    seed : int
        Seed of first weights, order of images, dropout and held-out validation images.
    progress : bool, optional
        Show a progress bar while fitting; by default where stderr is a terminal.

    References
    ----------
    Adeli, Sun & Kriegeskorte (2025), Transformer brain encoders explain human high-level visual
    responses; arXiv 2505.17329.
    """

    network_: BrainDecoder

    def __init__(
        self,
        network: DecoderConfig | Mapping[str, Any] | None = None,
        optimisation: Optimisation | Mapping[str, Any] | None = None,
        seed: int = 0,
        progress: bool | None = None,
    ) -> None:
        self.network = network
        self.optimisation = optimisation
        self.seed = seed
        self.progress = progress

    def attention_maps(
        self, features: xr.Dataset, images: Iterable[str] | None = None, layer: int = -1
    ) -> xr.DataArray:
        """Return where each query looks in each image.

        Parameters
        ----------
        features : xarray.Dataset
            Features of the basis that the encoder was fitted on.
        images : iterable of str, optional
            Ids, in this order; all of ``features`` by default. The result is held in memory.
        layer : int
            Decoder layer, the last by default.

        Returns
        -------
        xarray.DataArray
            (image, query, head, row, column), float32; sums to 1 over rows and columns for a
            mechanism that normalises, as softmax does.

        Raises
        ------
        MismatchError
            If the features are of another basis, or an image has none.
        InputError
            If there is no such layer, or the mechanism has no explicit weights.
        """
        self._check_features(features)
        ids = features["image"].values if images is None else np.asarray(list(images), dtype=object)
        weights = self._applied(
            features,
            rows_of(features, ids),
            lambda tokens: self.network_.attention_maps(tokens, layer),
        )
        grid = self.features_["rows"], self.features_["columns"]
        return xr.DataArray(
            weights.reshape(*weights.shape[:3], *grid),
            dims=("image", "query", "head", "row", "column"),
            coords={"image": ids.astype(str), "query": list(self.query_map_.names)},
            name="attention",
        )

    def gates(self) -> xr.DataArray:
        """Return the share of the static branch in each voxel's prediction (voxel,), 0..1.

        NaN for every voxel of an encoder without a static branch.
        """
        self._require_fitted()
        fixed = self.network_.static is not None
        share = (
            self.network_.gate.numpy() if fixed else np.full(self.voxels_.sizes["voxel"], np.nan)
        )
        return xr.DataArray(share, dims="voxel", coords=self.voxels_["voxel"].coords, name="gate")

    @property
    def query_map_(self) -> QueryMap:
        """The memberships of voxels in queries."""
        self._require_fitted()
        return self.network_.queries

    def _module(self) -> TransformerModule:
        return TransformerModule(
            as_config("network", self.network, DecoderConfig),
            as_config("optimisation", self.optimisation, Optimisation),
        )

    def _shape(self) -> dict[str, Any]:
        queries = self.query_map_
        return {
            "query_names": list(queries.names),
            "query": queries.query.tolist(),
            "voxel": queries.voxel.tolist(),
        }

    def _empty_network(self, shape: Mapping[str, Any]) -> BrainDecoder:
        queries = QueryMap(
            tuple(shape["query_names"]),
            np.asarray(shape["voxel"], np.int64),
            np.asarray(shape["query"], np.int64),
        )
        grid = self.features_["rows"], self.features_["columns"]
        config = as_config("network", self.network, DecoderConfig)
        return BrainDecoder(config, queries, grid, self.features_["channels"])
