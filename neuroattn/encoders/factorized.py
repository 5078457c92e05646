"""The factorised encoder: one static receptive field and one set of channel weights a voxel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from neuroattn.encoders.config import as_config
from neuroattn.encoders.readout import SpatialReadout
from neuroattn.encoders.trained import TrainedEncoder, channel_statistics
from neuroattn.training.module import EncoderModule, EncoderNetwork
from neuroattn.training.optimisation import Optimisation


class FactorizedNetwork(EncoderNetwork):
    """Standardised tokens into a :class:`~neuroattn.encoders.readout.SpatialReadout`.

    Parameters
    ----------
    voxels : int
        Number of voxels.
    grid : tuple of int
        Rows and columns of the tokens.
    channels : int
        Channels of the tokens.
    """

    def __init__(self, voxels: int, grid: tuple[int, int], channels: int) -> None:
        super().__init__()
        self.readout = SpatialReadout(voxels, grid, channels)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    mean: Tensor
    scale: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        """Return predictions (batch, voxels) from raw tokens (batch, token, channel)."""
        predicted: Tensor = self.readout((tokens.to(self.mean.dtype) - self.mean) / self.scale)
        return predicted

    def loss(self, tokens: Tensor, response: Tensor) -> Tensor:
        """Return the mean squared error and the maps' smoothness penalty."""
        return super().loss(tokens, response) + self.readout.penalty()


class FactorizedModule(EncoderModule):
    """Train a factorised encoder.

    Parameters
    ----------
    optimisation : Optimisation, optional
        Optimiser, schedule, early stopping.
    """

    def __init__(self, optimisation: Optimisation | None = None) -> None:
        super().__init__(as_config("optimisation", optimisation, Optimisation))

    def build(self, features: xr.Dataset, responses: xr.Dataset, seed: int) -> EncoderNetwork:
        """Return a network for these features and voxels."""
        grid = int(features.attrs["rows"]), int(features.attrs["columns"])
        channels = features["tokens"].shape[2]
        network = FactorizedNetwork(responses.sizes["voxel"], grid, channels)
        network.mean, network.scale = channel_statistics(features, responses["image"].values)
        return network

    def encoder(self, features: xr.Dataset, responses: xr.Dataset, seed: int) -> TrainedEncoder:
        """Return the fitted encoder of this trained module."""
        return FactorizedEncoder.from_module(
            self, features, responses, optimisation=self.optimisation, seed=seed
        )


class FactorizedEncoder(TrainedEncoder):
    """Spatial map × channel weights for each voxel, the same for every image.

    The model of a voxel with one receptive field that never moves: right for retinotopic
    cortex, and the bar that routing by attention has to clear elsewhere.

    Parameters
    ----------
    optimisation : Optimisation or mapping, optional
        Optimiser, schedule, early stopping.
    seed : int
        Seed of first weights, order of images and held-out validation images.
    progress : bool, optional
        Show a progress bar while fitting; by default where stderr is a terminal.

    References
    ----------
    Klindt et al. (2017), Neural system identification for large populations separating "what"
    and "where", equation 3.
    """

    def __init__(
        self,
        optimisation: Optimisation | Mapping[str, Any] | None = None,
        seed: int = 0,
        progress: bool | None = None,
    ) -> None:
        self.optimisation = optimisation
        self.seed = seed
        self.progress = progress

    def receptive_fields(self) -> xr.DataArray:
        """Return each voxel's spatial map (voxel, row, column), summing to 1."""
        self._require_fitted()
        maps = self.network_.readout.maps().detach()  # type: ignore[union-attr, operator]
        grid = self.features_["rows"], self.features_["columns"]
        return xr.DataArray(
            maps.reshape(-1, *grid).numpy(),
            dims=("voxel", "row", "column"),
            coords=self.voxels_["voxel"].coords,
            name="receptive_field",
        )

    def _module(self) -> FactorizedModule:
        return FactorizedModule(as_config("optimisation", self.optimisation, Optimisation))

    def _shape(self) -> dict[str, Any]:
        return {}

    def _empty_network(self, shape: Mapping[str, Any]) -> FactorizedNetwork:
        grid = self.features_["rows"], self.features_["columns"]
        return FactorizedNetwork(self.voxels_.sizes["voxel"], grid, self.features_["channels"])
