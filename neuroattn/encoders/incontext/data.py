"""Lightning data module of a recipe of an in-context encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import xarray as xr
from numpy.typing import NDArray

from neuroattn.data.preparation import prepare
from neuroattn.data.reader import Reader
from neuroattn.data.split import Split
from neuroattn.encoders.embedding import Embedding, EmbeddingConfig, fit_embedding
from neuroattn.encoders.incontext.episode_data import EpisodeData, one_scale
from neuroattn.encoders.incontext.episodes import EpisodeConfig, SyntheticVoxels
from neuroattn.encoders.inputs import rows_of
from neuroattn.encoders.provenance import Learned, check_unseen
from neuroattn.encoders.voxel_set import VoxelSet, voxel_set
from neuroattn.encoders.weight_prior import WeightPrior
from neuroattn.errors import InputError, MismatchError
from neuroattn.features.base import FeatureBasis
from neuroattn.features.store import FeatureStore
from neuroattn.images import Images, JoinedImages
from neuroattn.training.datamodule import SplitPlan, checked_seed


@dataclass(frozen=True)
class SyntheticPlan:
    """Voxels drawn from a prior over weights instead of measured ones.

    Parameters
    ----------
    exponent : float
        The variance of the weights falls as rank to the power of minus this along the principal
        axes of the embedded images; 0 is the isotropic prior of the paper.
    signal : tuple of float
        Range of the share of signal in the variance of a response, spread evenly.
    """

    exponent: float = 0.0
    signal: tuple[float, float] = (0.1, 0.8)


@dataclass(frozen=True)
class Evaluation:
    """The contexts that held-out subjects' encoders are written from.

    Parameters
    ----------
    context : int
        Images of the one in table, maps and report.
    lengths : tuple of int
        Numbers of images of the scaling curve.
    draws : int
        Contexts of each length of the scaling curve.

    Raises
    ------
    InputError
        If a context has fewer than two images, or there is no length or draw.
    """

    context: int = 100
    lengths: tuple[int, ...] = (10, 30, 100, 300, 1000)
    draws: int = 3

    def __post_init__(self) -> None:
        if not self.lengths or min(self.context, *self.lengths) < 2 or self.draws < 1:
            raise InputError(
                f"evaluation has context={self.context}, lengths={list(self.lengths)} and "
                f"draws={self.draws}; needed are 2 images or more, a length and a draw."
            )


class InContextData(EpisodeData):
    """The data of an in-context recipe: readers, held-out subjects, split, embedding, episodes.

    Parameters
    ----------
    sources : list of Reader
        Data sets; subjects of one source saw the same images, other sources may have others.
    basis : FeatureBasis
        Turns images into tokens.
    held_out : list of str
        Subjects, all of one source, that are never trained or validated on: the encoders of their
        voxels are written from some images and scored on the test images.
    embedding : EmbeddingConfig, optional
        One vector an image; learned from training images.
    episodes : EpisodeConfig, optional
        Lengths and counts of training and validation.
    synthetic : SyntheticPlan, optional
        Train on voxels drawn from a prior, looking at the training images, and read no response
        of the training subjects.
    split : SplitPlan, optional
        Split of the images of all sources. Training episodes are of training images, validation
        queries of validation images; the context of held-out subjects is drawn from training
        images.
    evaluation : Evaluation, optional
        Contexts that the held-out subjects' encoders are written from.
    store : str
        Folder of the feature store.
    store_dtype : {"float16", "float32"}
        Precision of the stored features.
    zscore : bool
        Z-score each voxel within each session.
    seed : int
        Seed of episodes, contexts and the network's first weights.

    Raises
    ------
    InputError
        If there is no source, no held-out subject or no validation part.
    """

    def __init__(
        self,
        sources: list[Reader],
        basis: FeatureBasis,
        held_out: list[str],
        embedding: EmbeddingConfig | None = None,
        episodes: EpisodeConfig | None = None,
        synthetic: SyntheticPlan | None = None,
        split: SplitPlan | None = None,
        evaluation: Evaluation | None = None,
        store: str = ".neuroattn/features",
        store_dtype: str = "float16",
        zscore: bool = True,
        seed: int = 0,
    ) -> None:
        pl.LightningDataModule.__init__(self)
        if not sources or not held_out:
            raise InputError(
                f"data.sources has {len(sources)} readers and data.held_out {list(held_out)}: "
                "give at least one source and one subject to hold out."
            )
        self.sources, self.basis, self.held_out = list(sources), basis, list(held_out)
        self.embedding_config = embedding or EmbeddingConfig()
        self.episodes, self.synthetic = episodes or EpisodeConfig(), synthetic
        self.plan, self.evaluation = split or SplitPlan(), evaluation or Evaluation()
        self.store, self.store_dtype = Path(store), store_dtype
        self.zscore, self.seed = zscore, checked_seed(seed)

    @property
    def key(self) -> str:  # type: ignore[override]
        """The key of the features."""
        return str(self.features.attrs["key"])

    @property
    def zscored(self) -> str:
        """How the responses are standardised, those of the held-out subjects included."""
        responses = [self.responses] if self.synthetic else [*self.prepared, self.responses]
        return one_scale(responses, ["session"] if self.synthetic else [])

    def check_start(self, start: str, learned: Learned) -> None:
        """Refuse a start that has learned from the held-out subjects or the test images.

        Raises
        ------
        MismatchError
            If it has.
        """
        check_unseen(start, learned, self.responses, self.split["test"])

    def prepare_data(self) -> None:
        """Fill the feature store (Lightning calls this)."""
        _ = self.features

    @cached_property
    def features(self) -> xr.Dataset:
        """The stored features of the images of all sources."""
        return FeatureStore(self.store).fill(self.basis, self.images, dtype=self.store_dtype)

    @cached_property
    def images(self) -> Images:
        """The images of all sources."""
        parts: list[Images] = [source.images() for source in self.sources]
        return parts[0] if len(parts) == 1 else JoinedImages(parts)

    @cached_property
    def prepared(self) -> list[xr.Dataset]:
        """The prepared responses of each source, one presentation an image."""
        return [prepare(source.responses(), self.zscore) for source in self.sources]

    @cached_property
    def split(self) -> Split:
        """One split of the images of all sources: a shared image is on one side for everybody."""
        images = np.concatenate([each["image"].values.astype(str) for each in self.prepared])
        shown = xr.Dataset(coords={"image": ("presentation", images)})
        split = self.plan.split(shown, self.sources)
        missing = [part for part in ("train", "validation", "test") if part not in split.parts]
        if missing:
            raise InputError(f"data.split has no part {missing[0]!r}; give it a fraction above 0.")
        return split

    @cached_property
    def responses(self) -> xr.Dataset:
        """The prepared responses of the held-out subjects."""
        found = [_of_subjects(each, self.held_out, True) for each in self.prepared]
        known = sorted({str(s) for each in self.prepared for s in each["subject"].values})
        missing = sorted(set(self.held_out) - set(known))
        if missing:
            raise MismatchError(
                f"data.held_out names {missing[0]!r}, but the sources have {', '.join(known)}."
            )
        held = [each for each in found if each.sizes["voxel"]]
        if len(held) > 1:
            raise InputError(
                f"data.held_out={self.held_out} are of {len(held)} sources; hold out subjects "
                "of one source. Where different people have one name, give the voxels of each "
                "source a `subject` of their own."
            )
        return held[0]

    def part(self, name: str) -> xr.Dataset:
        """Return the held-out subjects' responses to the images of a part."""
        return _of_images(self.responses, self.split[name])

    @property
    def training(self) -> list[xr.Dataset]:
        """The prepared responses of the training subjects, a set a source; a copy each time."""
        return [_of_subjects(each, self.held_out, False) for each in self._taught()]

    def _taught(self) -> list[xr.Dataset]:
        """Return the prepared responses of the sources that have a training subject."""
        found = [each for each in self.prepared if not _among(each, self.held_out).all()]
        if not found:
            raise InputError(
                f"data.held_out={self.held_out} leaves no subject to train on; hold out fewer."
            )
        return found

    @cached_property
    def embedding(self) -> Embedding:  # type: ignore[override]
        """The embedding, learned from the training images."""
        return fit_embedding(self.embedding_config, self.features, self.split["train"])

    @cached_property
    def training_sets(self) -> list[VoxelSet]:
        """The voxels of the training subjects with the training images that they saw."""
        return self._sets("train")

    @cached_property
    def sets(self) -> list[VoxelSet | SyntheticVoxels]:  # type: ignore[override]
        """What is trained on; before it is made, what would end the run after the training."""
        _ = self.zscored, self._taught()
        shown = self.part("train").sizes["presentation"]
        if self.evaluation.context > shown:
            raise InputError(
                f"data.evaluation.context={self.evaluation.context}, but the held-out subjects saw "
                f"{shown} training images. Give a smaller number."
            )
        if self.synthetic is None:
            return list(self.training_sets)
        rows = rows_of(self.features, self.split["train"])
        embedded = self.embedding.transform(self.features, rows)
        prior = WeightPrior.spectral(embedded, self.synthetic.exponent, self.synthetic.signal)
        return [SyntheticVoxels(embedded, prior)]

    @cached_property
    def validation(self) -> list[VoxelSet]:  # type: ignore[override]
        """The same voxels with the validation images; none of synthetic voxels."""
        return [] if self.synthetic is not None else self._sets("validation")

    def training_parts(self, part: str) -> list[xr.Dataset]:
        """Return the training subjects' responses to the images of a part, a set a source.

        Raises
        ------
        InputError
            If a source has no image in it.
        """
        found = [
            _of_images(each, self.split[part], ~_among(each, self.held_out))
            for each in self._taught()
        ]
        empty = [i for i, each in enumerate(found) if not each.sizes["presentation"]]
        if empty:
            raise InputError(
                f"source {empty[0]} has no image in part {part!r} of the split; give "
                "data.split another seed or larger fractions."
            )
        return found

    def _sets(self, part: str) -> list[VoxelSet]:
        return [
            voxel_set(self.embedding, self.features, each) for each in self.training_parts(part)
        ]


def _among(responses: xr.Dataset, subjects: list[str]) -> NDArray[np.bool_]:
    """Return whether each voxel is of one of the subjects."""
    return np.isin(responses["subject"].values.astype(str), subjects)


def _of_subjects(responses: xr.Dataset, subjects: list[str], wanted: bool) -> xr.Dataset:
    return responses.isel(voxel=np.flatnonzero(_among(responses, subjects) == wanted))


def _of_images(
    responses: xr.Dataset, images: Sequence[str], voxels: NDArray[np.bool_] | None = None
) -> xr.Dataset:
    """Select in one step: a copy of all images or all voxels may be gigabytes."""
    kept = np.isin(responses["image"].values.astype(str), list(images))
    rows = np.flatnonzero(kept)
    if voxels is None or voxels.all():
        return responses.isel(presentation=rows)
    return responses.isel(presentation=rows, voxel=np.flatnonzero(voxels))
