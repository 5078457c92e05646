"""Lightning data module of episodes, from voxel sets that are there."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
import xarray as xr
from torch.utils.data import DataLoader

from neuroattn.encoders.embedding import Embedding
from neuroattn.encoders.incontext.episodes import (
    Episode,
    EpisodeConfig,
    EpisodeOrder,
    Episodes,
    SyntheticVoxels,
)
from neuroattn.encoders.provenance import Learned
from neuroattn.encoders.voxel_set import VoxelSet
from neuroattn.errors import MismatchError
from neuroattn.training.datamodule import checked_seed
from neuroattn.training.optimisation import Optimisation

#: Of the seed: what is drawn for validation must not repeat what is drawn for training.
_VALIDATION = 1_000_003


class EpisodeData(pl.LightningDataModule):
    """Episodes for a trainer, from voxel sets.

    Parameters
    ----------
    embedding : Embedding
        Of the images.
    sets : list of VoxelSet or SyntheticVoxels
        What is trained on.
    validation : list of VoxelSet
        As many sets of the same voxels with other images, which are the queries of the validation
        episodes; empty for synthetic voxels, of which new ones are drawn.
    episodes : EpisodeConfig
        Lengths and counts.
    seed : int
        Of the network's first weights and of all draws.
    key : str, optional
        Of the features that are embedded.
    """

    def __init__(
        self,
        embedding: Embedding,
        sets: Sequence[VoxelSet | SyntheticVoxels],
        validation: Sequence[VoxelSet],
        episodes: EpisodeConfig,
        seed: int = 0,
        key: str | None = None,
    ) -> None:
        super().__init__()
        self.key = key
        self.embedding, self.sets, self.validation = embedding, list(sets), list(validation)
        self.episodes, self.seed = episodes, checked_seed(seed)

    @property
    def embedded(self) -> torch.Tensor:
        """The training images (image, E), those of several subjects one after the other."""
        return torch.cat([each.embedded for each in self.sets])

    @property
    def zscored(self) -> str:
        """How the responses are standardised; synthetic voxels are as within a session.

        Raises
        ------
        MismatchError
            If some are otherwise than others.
        """
        return one_scale([each.voxels for each in self.sets if isinstance(each, VoxelSet)])

    def check_start(self, start: str, learned: Learned) -> None:
        """Refuse a start that has learned from what is to be tested; here nothing is.

        Parameters
        ----------
        start : str
            Named in the message.
        learned : dict
            Of the start, see :func:`neuroattn.encoders.provenance.learned_from`.
        """

    def train_dataloader(self) -> DataLoader[Episode]:
        """Return the episodes of an epoch, new ones in each."""
        trainer = self.trainer
        rank = trainer.global_rank if trainer else 0
        episodes = Episodes(self.sets, self.episodes, self._voxels(), self.seed, rank=rank)
        return episodes.loader(EpisodeOrder(self.episodes.steps), self._on_gpu())

    def val_dataloader(self) -> DataLoader[Episode]:
        """Return the validation episodes, the same in every epoch."""
        queries = self.validation or None
        seed = self.seed + _VALIDATION
        episodes = Episodes(self.sets, self.episodes, self._voxels(), seed, queries)
        order = EpisodeOrder(self.episodes.validation * len(self.sets), fixed=True)
        return episodes.loader(order, self._on_gpu())

    def _on_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _voxels(self) -> int:
        module = self.trainer.lightning_module if self.trainer else None
        return (getattr(module, "optimisation", None) or Optimisation()).batch_size


def one_scale(tables: Sequence[xr.Dataset], further: Sequence[str] = ()) -> str:
    """Return how all responses are standardised; refuse those that are so in several ways."""
    found = sorted({*further, *(str(each.attrs.get("zscored", "none")) for each in tables)})
    if len(found) > 1:
        raise MismatchError(
            f"responses have zscored={' and '.join(map(repr, found))}, or voxels are synthetic, "
            "which is 'session': what is written for one would be in other units for the other. "
            "Give data.zscore=true, and sources that are standardised alike."
        )
    return found[0] if found else "session"
