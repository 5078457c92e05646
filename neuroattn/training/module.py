"""The Lightning module that every gradient-trained encoder shares."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import xarray as xr
from numpy.typing import NDArray
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from neuroattn.errors import InputError
from neuroattn.metrics import PairMoments, explained_variance
from neuroattn.training.dataset import Batch
from neuroattn.training.optimisation import Optimisation


class EncoderNetwork(nn.Module, ABC):
    """What the module asks of a network: predictions, a training loss, and a calibration."""

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Return predictions (batch, voxels) from tokens (batch, token, channel)."""

    def loss(self, tokens: Tensor, response: Tensor) -> Tensor:
        """Return the training loss: mean squared error over images and voxels."""
        return nn.functional.mse_loss(self(tokens), response)

    def statistics(self, tokens: Tensor, response: Tensor) -> dict[str, Tensor]:
        """Return what calibration needs of a validation batch; summed over batches and ranks."""
        return {}

    def calibrate(self, statistics: Mapping[str, Tensor]) -> None:
        """Set what is learned from the validation images, once an epoch."""


class NetworkModule(pl.LightningModule, ABC):
    """Base of the modules whose network is built when the data are known.

    Parameters
    ----------
    optimisation : Optimisation
        Optimiser, schedule, early stopping.
    """

    network: nn.Module

    def __init__(self, optimisation: Optimisation) -> None:
        super().__init__()
        self.optimisation = optimisation

    @abstractmethod
    def prepare_from(self, data: Any) -> None:
        """Build the network for a data module; later calls do nothing."""

    def setup(self, stage: str) -> None:
        """Build the network from the data module (Lightning calls this)."""
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.prepare_from(data)
        elif not hasattr(self, "network"):
            raise InputError(
                "The module has no network yet: call prepare(...) or give datamodule=."
            )

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule, stepped after every optimiser step."""
        optimizer = self.optimisation.optimizer(self.network)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = self.optimisation.scheduler(optimizer, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def check_loss(self, loss: float) -> None:
        """Refuse a validation loss that is not finite while fitting.

        Raises
        ------
        InputError
            If it is not; no such weights are saved.
        """
        if self.trainer.state.fn == TrainerFn.FITTING and not math.isfinite(loss):
            raise InputError(
                f"the training diverged: validation_loss is {loss} in epoch "
                f"{self.trainer.current_epoch}. Lower optimisation.learning_rate "
                f"({self.optimisation.learning_rate:g}), clip the gradient "
                f"(gradient_clip={self.optimisation.gradient_clip:g}), or use precision='32-true'."
            )

    def _sum(self, value: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return value
        total: Tensor = self.trainer.strategy.reduce(value, reduce_op="sum")
        return total


class EncoderModule(NetworkModule):
    """Train, validate, test and predict with a network from tokens to voxels.

    Parameters
    ----------
    optimisation : Optimisation
        Optimiser, schedule, early stopping.
    """

    network: EncoderNetwork

    def __init__(self, optimisation: Optimisation) -> None:
        super().__init__(optimisation)
        self._moments = PairMoments()
        self._statistics: dict[str, Tensor] = {}
        self._found = torch.empty(0)

    @abstractmethod
    def build(self, features: xr.Dataset, responses: xr.Dataset, seed: int) -> EncoderNetwork:
        """Return a freshly initialised network for these features and training responses.

        Called within :func:`torch.random.fork_rng`, seeded with ``seed``.
        """

    @abstractmethod
    def encoder(self, features: xr.Dataset, responses: xr.Dataset, seed: int) -> Any:
        """Return the fitted encoder of this module, trained on these inputs."""

    def prepare(self, features: xr.Dataset, responses: xr.Dataset, seed: int) -> None:
        """Build the network once; later calls do nothing."""
        if hasattr(self, "network"):
            return
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            self.network = self.build(features, responses, seed)

    def prepare_from(self, data: Any) -> None:
        """Build the network from a data module once."""
        self.prepare(data.features, data.part("train"), data.seed)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return predictions (batch, voxels)."""
        predicted: Tensor = self.network(tokens)
        return predicted

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of a batch."""
        loss = self.network.loss(batch["tokens"], batch["response"])
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's statistics."""
        self._moments, self._statistics = PairMoments(), {}

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Add a batch to the scores, and while fitting to the calibration."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            found = self.network.statistics(batch["tokens"], batch["response"])
            for name, value in found.items():
                self._statistics[name] = self._statistics.get(name, 0) + value
        self._moments.update(self(batch["tokens"]).float(), batch["response"])

    def on_validation_epoch_end(self) -> None:
        """Log loss and mean explained variance over all ranks; calibrate while fitting.

        Raises
        ------
        InputError
            If the loss is not finite while fitting; no such weights are saved.
        """
        moments = self._gathered(self._moments)
        loss = _mean_squared_error(moments)
        self.check_loss(loss)
        self.log("validation_loss", loss, prog_bar=True, sync_dist=True)
        explained = _mean(moments.explained_variance())
        self.log("validation_explained_variance", explained, prog_bar=True, sync_dist=True)
        if self._statistics:
            self.network.calibrate({n: self._sum(value) for n, value in self._statistics.items()})

    def on_test_epoch_start(self) -> None:
        """Make room for the predictions of the test images."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self._found = torch.zeros(data.responses_of("test").shape)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Keep the predictions of a batch."""
        self._found[batch["index"].cpu()] = self(batch["tokens"]).float().cpu()

    def on_test_epoch_end(self) -> None:
        """Join the predictions of all ranks and log the mean explained variance."""
        self.test_prediction = self._sum(self._found.to(self.device)).cpu().numpy()
        truth = self.trainer.datamodule.responses_of("test")  # type: ignore[attr-defined]
        explained = explained_variance(self.test_prediction, truth)
        self.log("test_explained_variance", _mean(explained), sync_dist=True)

    def predict_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return predictions (batch, voxels)."""
        return self.forward(batch["tokens"]).float()

    def _gathered(self, moments: PairMoments) -> PairMoments:
        if self.trainer.world_size == 1:
            return moments
        ranks: list[dict[str, NDArray[Any]]] = [{} for _ in range(self.trainer.world_size)]
        for name, value in moments.state().items():
            own = torch.as_tensor(value).to(self.device)
            found = [torch.empty_like(own) for _ in ranks]
            torch.distributed.all_gather(found, own)  # Lightning's gather is deprecated in torch
            for rank, part in zip(ranks, found, strict=True):
                rank[name] = part.cpu().numpy()
        joined = PairMoments()
        for rank in ranks:
            joined.merge(PairMoments.from_state(rank))
        return joined


def _mean_squared_error(moments: PairMoments) -> float:
    """Return the mean over images and voxels of (prediction - response)²."""
    pp, yy, py = moments.comoment
    bias = moments.mean[0] - moments.mean[1]
    return float(((pp + yy - 2 * py) / moments.count + bias**2).mean())


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean over the voxels where the metric is defined; NaN where it is for none."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else math.nan
