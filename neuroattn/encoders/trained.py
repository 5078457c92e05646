"""Encoders that are trained by gradient descent: the scikit-learn face of a Lightning module."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from neuroattn.data.transforms import average_repetitions
from neuroattn.encoders.base import Encoder
from neuroattn.encoders.inputs import describe_features, rows_of, voxel_table
from neuroattn.training.dataset import ImageResponses
from neuroattn.training.loop import train
from neuroattn.training.module import EncoderModule, EncoderNetwork

#: Images predicted at once.
_BLOCK = 32


class TrainedEncoder(Encoder):
    """Base of encoders whose network a Lightning module trains.

    Attributes
    ----------
    network_ : EncoderNetwork
        The fitted network, in evaluation mode, on the CPU.
    """

    network_: EncoderNetwork
    seed: int
    watches_validation = True
    progress: bool | None

    @abstractmethod
    def _module(self) -> EncoderModule:
        """Return an untrained module with this encoder's settings."""

    @abstractmethod
    def _shape(self) -> dict[str, Any]:
        """Return as plain data what :meth:`_empty_network` needs beside the parameters."""

    @abstractmethod
    def _empty_network(self, shape: Mapping[str, Any]) -> EncoderNetwork:
        """Return a network whose weights are yet to be loaded."""

    def _fit(
        self, features: xr.Dataset, responses: xr.Dataset, validation: xr.Dataset | None
    ) -> None:
        module = self._module()
        held_out = None if validation is None else average_repetitions(validation)
        train(
            module,
            features,
            average_repetitions(responses),
            held_out,
            seed=self.seed,
            progress=sys.stderr.isatty() if self.progress is None else self.progress,
        )
        self._adopt(module)

    def _adopt(self, module: EncoderModule) -> None:
        self.network_ = module.network.cpu().eval()

    @classmethod
    def from_module(
        cls, module: EncoderModule, features: xr.Dataset, responses: xr.Dataset, **parameters: Any
    ) -> TrainedEncoder:
        """Return the fitted encoder of a module that was trained on these inputs.

        Parameters
        ----------
        module : EncoderModule
            Trained; its network is taken over.
        features, responses : xarray.Dataset
            What it was trained on.
        **parameters
            The constructor parameters that the module was built with.
        """
        encoder = cls(**parameters)
        encoder.voxels_, encoder.features_ = voxel_table(responses), describe_features(features)
        encoder._adopt(module)
        return encoder

    def _predict(self, features: xr.Dataset, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        return self._applied(features, rows, self.network_)

    def _applied(
        self,
        features: xr.Dataset,
        rows: NDArray[np.intp],
        function: Callable[[torch.Tensor], torch.Tensor],
    ) -> NDArray[np.float32]:
        """Return ``function`` of the tokens of images, block by block, on a GPU if there is one.

        The network is back on the processor afterwards.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dataset = ImageResponses(features, features["image"].values[rows].tolist())
        blocks = []
        self.network_.to(device)
        try:
            with torch.inference_mode():
                for start in range(0, max(1, len(rows)), _BLOCK):
                    index = range(start, min(start + _BLOCK, len(rows)))
                    tokens = dataset.__getitems__(index)["tokens"].to(device)
                    blocks.append(function(tokens).float().cpu().numpy())
        finally:
            self.network_.cpu()
        return np.concatenate(blocks)

    def _state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors = {name: value.clone() for name, value in self.network_.state_dict().items()}
        return tensors, self._shape()

    def _restore(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        with torch.random.fork_rng(devices=[]):
            self.network_ = self._empty_network(state)
        self.network_.load_state_dict(dict(tensors))
        self.network_.eval()


def channel_statistics(
    features: xr.Dataset, images: NDArray[np.str_]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of each channel over the tokens of images, float32.

    Streams over the images; a channel that never changes gets the scale 1.
    """
    rows = np.sort(rows_of(features, images))
    tokens = features["tokens"].values
    channels = tokens.shape[2]
    count, mean, square = 0, np.zeros(channels), np.zeros(channels)
    for start in range(0, len(rows), 64):
        block = tokens[rows[start : start + 64]].reshape(-1, channels).astype(np.float64)
        here, weight = block.mean(axis=0), len(block)
        delta, total = here - mean, count + weight
        square += ((block - here) ** 2).sum(axis=0) + delta**2 * count * weight / total
        mean, count = mean + delta * weight / total, total
    spread = np.sqrt(square / count)
    scale = np.where(spread > 1e-8 * np.maximum(np.abs(mean), 1e-30), spread, 1.0)
    return torch.from_numpy(mean).float(), torch.from_numpy(scale).float()
