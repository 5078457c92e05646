"""Pairs of image tokens and responses, read from the feature store one batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from neuroattn.errors import MismatchError
from neuroattn.training.batches import EpochBatches

Batch = dict[str, Tensor]


class ImageResponses(Dataset[Batch]):
    """Tokens and responses of images; a list of indices gives a whole batch in one read.

    Parameters
    ----------
    features : xarray.Dataset
        With ``tokens (image, token, channel)``, memory-mapped or not; never loaded whole.
    images : sequence of str
        The image of each item.
    responses : ndarray of float32, shape (item, voxel), optional
        Their responses; items without responses serve prediction.

    Raises
    ------
    MismatchError
        If images have no features, or responses and images differ in number.
    """

    def __init__(
        self,
        features: xr.Dataset,
        images: Sequence[str],
        responses: NDArray[np.float32] | None = None,
    ) -> None:
        rows = features.indexes["image"].get_indexer(pd.Index(list(images)))
        if (rows < 0).any():
            missing = [image for image, row in zip(images, rows, strict=True) if row < 0]
            raise MismatchError(
                f"{len(missing)} of {len(images)} images have no features, e.g. {missing[:5]}; "
                "fill the feature store with the same images."
            )
        if responses is not None and len(responses) != len(rows):
            raise MismatchError(f"{len(rows)} images but {len(responses)} rows of responses.")
        self.rows, self.responses = rows, responses
        self.tokens = features["tokens"].values

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, index: Sequence[int]) -> Batch:
        """Return a batch: ``tokens`` (batch, token, channel), ``index`` and ``response``."""
        items = np.asarray(index, dtype=np.int64)
        batch = {
            "tokens": torch.from_numpy(np.take(self.tokens, self.rows[items], axis=0)),
            "index": torch.from_numpy(items),
        }
        if self.responses is not None:
            batch["response"] = torch.from_numpy(self.responses[items])
        return batch

    def loader(self, batches: EpochBatches, pin: bool = False) -> DataLoader[Batch]:
        """Return a loader of whole batches in the main process.

        A batch is one fancy read of the memory map; worker processes would copy it once more.
        The generator is the loader's own: it would otherwise draw from torch's global one, at
        moments that differ between a run and its resumption.
        """
        return DataLoader(
            self,
            batch_sampler=batches,
            collate_fn=_whole,
            pin_memory=pin,
            generator=torch.Generator().manual_seed(batches.seed),
        )


def _whole(batch: Any) -> Any:
    return batch
