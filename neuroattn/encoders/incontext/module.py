"""The Lightning module of the in-context voxel model: meta-training over episodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuroattn.encoders.config import as_config
from neuroattn.encoders.embedding import Embedding
from neuroattn.encoders.incontext.episodes import Episode
from neuroattn.encoders.incontext.network import SetTransformer, SetTransformerConfig
from neuroattn.encoders.incontext.start import check_basis, learned_before, start_weights
from neuroattn.metrics import PairMoments
from neuroattn.training.module import NetworkModule
from neuroattn.training.optimisation import Optimisation


class InContextModule(NetworkModule):
    """Train a network that reads a context and writes a voxel's encoder.

    The loss is the mean squared error of the written encoders' predictions of the query images
    (Yu et al. 2025); no weights need to be known. ``optimisation.batch_size`` is the number of
    voxels of an episode, of which each process draws its own.

    Parameters
    ----------
    network : SetTransformerConfig, optional
        Shape of the network.
    optimisation : Optimisation, optional
        Optimiser, schedule, early stopping.
    start : str, optional
        Where the first weights come from: the run of an earlier stage, a folder that
        ``InContextEncoder.save`` wrote, or a file of published weights.

    References
    ----------
    Yu et al. (2025), Meta-learning an in-context transformer model of human higher visual cortex,
    section 3; arXiv 2505.15813.
    """

    network: SetTransformer

    def __init__(
        self,
        network: SetTransformerConfig | None = None,
        optimisation: Optimisation | None = None,
        start: str | None = None,
    ) -> None:
        super().__init__(as_config("optimisation", optimisation, Optimisation))
        self.config = as_config("network", network, SetTransformerConfig)
        self.start = start
        self._losses: list[Tensor] = []
        self._explained: list[Tensor] = []

    def prepare_from(self, data: Any) -> None:
        """Build the network from a data module once."""
        if hasattr(self, "network"):
            return
        if self.start is not None and data.key is not None:
            check_basis(Path(self.start), data.key)
            data.check_start(self.start, learned_before(self.start))
        self.prepare(data.embedding, data.embedded, data.seed)

    def prepare(self, embedding: Embedding, embedded: Tensor, seed: int) -> None:
        """Build the network once; later calls do nothing.

        Parameters
        ----------
        embedding : Embedding
            Of the images; a start must have been trained on the same.
        embedded : Tensor
            (image, E) the training images: their mean and spread bring the input to order one.
        seed : int
            Of the first weights.

        Raises
        ------
        FileError, MismatchError
            If ``start`` cannot be read, or is of another network or embedding.
        """
        if hasattr(self, "network"):
            return
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            self.network = SetTransformer(self.config, embedding.width)
            # An untrained encoder predicts 0, and not noise that many steps go to take away.
            for layer in (self.network.write.bypass, self.network.write.contract):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.network.mean, self.network.scale = input_statistics(embedded)
        if self.start is not None:
            self.network.load_state_dict(start_weights(Path(self.start), self.network, embedding))

    def forward(self, context: Tensor, response: Tensor) -> Tensor:
        """Return weights and, last, the intercept (voxel, E + 1)."""
        written: Tensor = self.network(context, response)
        return written

    def training_step(self, batch: Episode, batch_index: int) -> Tensor:
        """Return the loss of an episode."""
        loss = self.training_loss(batch)
        self.log(
            "train_loss",
            loss,
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            sync_dist=True,
            batch_size=1,  # episodes count alike
        )
        return loss

    def training_loss(self, episode: Episode) -> Tensor:
        """Return the mean squared error of an episode's query responses."""
        return nn.functional.mse_loss(self._predicted(episode), episode.target)

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's scores."""
        self._losses, self._explained = [], []

    def validation_step(self, batch: Episode, batch_index: int) -> None:
        """Keep loss and explained variance of an episode."""
        predicted = self._predicted(batch).float()
        self._losses.append(nn.functional.mse_loss(predicted, batch.target))
        moments = PairMoments()
        moments.update(predicted.T, batch.target.T)
        explained = torch.from_numpy(moments.explained_variance())
        self._explained.append(explained[explained.isfinite()].mean())

    def on_validation_epoch_end(self) -> None:
        """Log the means over episodes, each counting alike.

        Raises
        ------
        InputError
            If the loss is not finite while fitting; no such weights are saved.
        """
        # Plain numbers: Lightning brings them to the device on which processes reduce.
        loss = float(torch.stack(self._losses).mean())
        self.check_loss(loss)
        explained = float(torch.stack(self._explained).nanmean())
        for name, value in (("loss", loss), ("explained_variance", explained)):
            self.log(f"validation_{name}", value, prog_bar=True, sync_dist=True, batch_size=1)

    def _predicted(self, episode: Episode) -> Tensor:
        written = self(episode.context, episode.response)
        predicted: Tensor = written[:, :-1] @ episode.query.to(written.dtype).T + written[:, -1:]
        return predicted


def input_statistics(embedded: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (E) of embedded images, and one scale for all columns (E).

    The scale is the root of the columns' mean variance: columns that vary more stay larger, as
    the ridge and the gradient that a network can learn to take want it.
    """
    values = embedded.double()
    mean, variance = values.mean(0), values.var(0, correction=0).mean()
    scale = variance.sqrt() if variance > 0 else torch.ones_like(variance)
    return mean.float(), scale.float().expand(len(mean)).clone()


def network_config(given: SetTransformerConfig | Mapping[str, Any] | None) -> SetTransformerConfig:
    """Return the configuration of a network from plain data."""
    return as_config("network", given, SetTransformerConfig)
