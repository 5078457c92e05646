"""Lightning data modules: from features and responses, or from a recipe."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import xarray as xr
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from neuroattn.data.preparation import prepare
from neuroattn.data.reader import Reader
from neuroattn.data.split import Split, groups_by_mark, split_by_image
from neuroattn.errors import InputError, MismatchError
from neuroattn.features.base import FeatureBasis
from neuroattn.features.store import FeatureStore
from neuroattn.names import check_name
from neuroattn.training.batches import EpochBatches
from neuroattn.training.dataset import Batch, ImageResponses
from neuroattn.training.optimisation import Optimisation


class ResponseData(pl.LightningDataModule):
    """Features and the responses of each part, ready for a trainer.

    Parameters
    ----------
    features : xarray.Dataset
        Tokens of at least the images of all parts.
    parts : dict of str to xarray.Dataset
        Averaged response sets under ``train`` and, as needed, ``validation`` and ``test``.
    seed : int
        Seed of the order of the training images and of the network's first weights.
    """

    def __init__(self, features: xr.Dataset, parts: dict[str, xr.Dataset], seed: int = 0) -> None:
        super().__init__()
        self.features, self.parts, self.seed = features, parts, checked_seed(seed)

    def part(self, name: str) -> xr.Dataset:
        """Return the responses of a part.

        Raises
        ------
        MismatchError
            If there is no such part.
        """
        if name not in self.parts:
            raise MismatchError(
                f"The data have parts {sorted(self.parts)}, but {name!r} is needed."
            )
        return self.parts[name]

    def responses_of(self, name: str) -> NDArray[np.float32]:
        """Return the responses (image, voxel) of a part."""
        values: NDArray[np.float32] = self.part(name)["response"].values
        return values

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled training batches."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the validation batches in order."""
        return self._loader("validation", shuffle=False)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the test batches in order."""
        return self._loader("test", shuffle=False)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return batches of every image of the features, in their order."""
        images = self.features["image"].values
        dataset = ImageResponses(self.features, images.tolist())
        return dataset.loader(EpochBatches(len(images), self._batch_size(), shuffle=False))

    def _loader(self, name: str, shuffle: bool) -> DataLoader[Batch]:
        part, trainer = self.part(name), self.trainer
        dataset = ImageResponses(
            self.features, part["image"].values.tolist(), part["response"].values
        )
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        batches = EpochBatches(len(dataset), self._batch_size(), shuffle, self.seed, rank, world)
        on_gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
        return dataset.loader(batches, pin=on_gpu)

    def _batch_size(self) -> int:
        module = self.trainer.lightning_module if self.trainer else None
        optimisation = getattr(module, "optimisation", None)
        return (optimisation or Optimisation()).batch_size


def checked_seed(seed: int) -> int:
    """Return ``seed`` as a plain integer if every generator takes it.

    Raises
    ------
    InputError
        If it is no whole number within 0..2147483647.
    """
    try:
        whole = operator.index(seed)
    except TypeError as error:
        raise InputError(f"seed={seed!r} must be a whole number.") from error
    if not 0 <= whole < 2**31:
        raise InputError(f"seed={whole} must lie within 0..{2**31 - 1}.")
    return whole


@dataclass(frozen=True)
class SplitPlan:
    """How images are divided: fractions and a seed.

    Parameters
    ----------
    train, validation, test : float
        Fractions of the images; they sum to 1. ``validation=0`` leaves that part out.
    seed : int
        The same seed and images give the same split.
    file : str, optional
        A split to take instead: JSON, part to list of image ids, as ``split.json`` of a run.
    published : str, optional
        A split of the data set's own to take instead, such as "shared515" of NSD; see
        :meth:`neuroattn.data.Reader.splits`. Where it has no validation part, the fraction
        ``validation`` of its training images becomes one, drawn by ``seed``.
    group_by : str, optional
        A mark in the image ids: what stands before its last occurrence is a group that is never
        divided. With "-" the samples of one film, "friends-s01e02a-00123", stay together:
        neighbours in time are so alike that dividing them would be a leak.
    """

    train: float = 0.8
    validation: float = 0.1
    test: float = 0.1
    seed: int = 0
    file: str | None = None
    published: str | None = None
    group_by: str | None = None

    def split(self, responses: xr.Dataset, readers: Sequence[Reader] = ()) -> Split:
        """Divide the images of a response set.

        Parameters
        ----------
        responses : xarray.Dataset
            Anything with a coordinate ``image``.
        readers : sequence of Reader
            Where it comes from; asked for a published split.

        Raises
        ------
        FileError, InputError, MismatchError
            If the file is no split, fractions do not fit, no reader knows the published split, or
            a part names images that are not there.
        """
        if self.file is not None and self.published is not None:
            raise InputError(
                f"split has file={self.file!r} and published={self.published!r}; give one."
            )
        if self.file is not None or self.published is not None:
            split = Split.load(self.file) if self.file is not None else self._agreed(readers)
            for part in split.parts:
                split.select(responses, part)
            return split
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        shares = {n: f for n, f in parts.items() if f}
        if abs(sum(shares.values()) - 1) > 1e-6:
            told = ", ".join(f"{name}={share:g}" for name, share in parts.items())
            raise InputError(
                f"split has {told}, which sum to {sum(shares.values()):g} and must sum to 1. What "
                "is not given is 0.8, 0.1 and 0.1; validation: 0 leaves that part out."
            )
        return split_by_image(responses, shares, self.seed, self._groups(responses))

    def _groups(self, shown: xr.Dataset) -> dict[str, str] | None:
        if self.group_by is None:
            return None
        return groups_by_mark(shown["image"].values.tolist(), self.group_by)

    def _agreed(self, readers: Sequence[Reader]) -> Split:
        known = [reader.splits() for reader in readers]
        for reader, splits in zip(readers, known, strict=True):
            if not splits:
                raise InputError(
                    f"split.published={self.published!r}: {type(reader).__name__} has no published "
                    "split; give fractions or a file."
                )
            check_name("split.published", str(self.published), splits)
        agreed = Split.joined([splits[str(self.published)] for splits in known])
        if "validation" in agreed.parts or "train" not in agreed.parts or not self.validation:
            return agreed
        shown = xr.Dataset(coords={"image": list(agreed["train"])})
        shares = {"train": 1 - self.validation, "validation": self.validation}
        drawn = split_by_image(shown, shares, self.seed, self._groups(shown))
        return Split({**agreed.parts, **drawn.parts})


class EncodingData(ResponseData):
    """The data of a recipe: reader → prepared responses → split → feature store.

    Parameters
    ----------
    source : Reader
        A reader of a data set, e.g. :class:`neuroattn.data.SimulatedCortex`.
    basis : FeatureBasis
        Turns images into tokens.
    split : SplitPlan
        Fractions and seed of the split by image.
    store : str
        Folder of the feature store.
    store_dtype : {"float16", "float32"}
        Precision of the stored features.
    zscore : bool
        Z-score each voxel within each session.
    seed : int
        Seed of the training order, of dropout and of the network's first weights.
    """

    def __init__(
        self,
        source: Reader,
        basis: FeatureBasis,
        split: SplitPlan | None = None,
        store: str = ".neuroattn/features",
        store_dtype: str = "float16",
        zscore: bool = True,
        seed: int = 0,
    ) -> None:
        pl.LightningDataModule.__init__(self)
        self.source, self.basis, self.plan = source, basis, split or SplitPlan()
        self.store, self.store_dtype = Path(store), store_dtype
        self.zscore, self.seed = zscore, checked_seed(seed)

    def prepare_data(self) -> None:
        """Fill the feature store (Lightning calls this)."""
        _ = self.features

    @cached_property
    def features(self) -> xr.Dataset:  # type: ignore[override]
        """The stored features of all images; what is in the store is not computed again."""
        store = FeatureStore(self.store)
        return store.fill(self.basis, self.source.images(), dtype=self.store_dtype)

    @cached_property
    def responses(self) -> xr.Dataset:
        """The prepared responses of all images."""
        return prepare(self.source.responses(), self.zscore)

    @cached_property
    def split(self) -> Split:
        """The split by image."""
        return self.plan.split(self.responses, [self.source])

    @cached_property
    def parts(self) -> dict[str, xr.Dataset]:  # type: ignore[override]
        """The responses of each part."""
        return {name: self.split.select(self.responses, name) for name in self.split.parts}
