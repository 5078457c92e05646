"""Episodes: some voxels of a set, a context that they share, and images to be predicted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from neuroattn.encoders.voxel_set import VoxelSet
from neuroattn.errors import InputError, MismatchError
from neuroattn.names import check_name

if TYPE_CHECKING:
    from neuroattn.encoders.weight_prior import WeightPrior

__all__ = ["Episode", "EpisodeConfig", "EpisodeOrder", "Episodes", "SyntheticVoxels"]

#: Epoch of the episodes that are the same every time.
FIXED = -1


@dataclass(frozen=True)
class EpisodeConfig:
    """How the episodes of a training are drawn.

    Parameters
    ----------
    least, most : int
        Range of the number of context images, drawn anew for each episode; equal for a fixed
        context. Fewer where a subject saw fewer images.
    spacing : {"uniform", "log"}
        Lengths are uniform, or uniform in their logarithm, over the range.
    queries : int
        Images to be predicted in an episode; none of them is in its context.
    steps : int
        Episodes in an epoch.
    validation : int
        Validation episodes for each training set, half of them at ``least`` images, the others
        at ``most``; the same in every epoch.

    Raises
    ------
    InputError
        If a number is out of range.
    """

    least: int = 30
    most: int = 500
    spacing: str = "uniform"
    queries: int = 100
    steps: int = 500
    validation: int = 4

    def __post_init__(self) -> None:
        check_name("episodes.spacing", self.spacing, ("uniform", "log"))
        if not 2 <= self.least <= self.most:
            raise InputError(
                f"episodes has least={self.least} and most={self.most}; allowed are "
                "2 <= least <= most."
            )
        for name, least in (("queries", 1), ("steps", 1), ("validation", 2)):
            if getattr(self, name) < least:
                raise InputError(
                    f"episodes has {name}={getattr(self, name)}; allowed is {least} or more."
                )

    def length(self, generator: np.random.Generator, images: int) -> int:
        """Draw a number of context images, with ``queries`` of ``images`` left over."""
        most = min(self.most, images - self.queries)
        least = min(self.least, most)
        if self.spacing == "uniform":
            return int(generator.integers(least, most + 1))
        drawn = int(math.exp(generator.uniform(math.log(least), math.log(most + 1))))
        return min(max(drawn, least), most)  # exp(log(n)) may round to below n


class Episode(NamedTuple):
    """What a training step sees.

    Attributes
    ----------
    context : Tensor
        (image, E), shared by all voxels.
    response : Tensor
        (voxel, image), to the context.
    query : Tensor
        (image, E), to be predicted.
    target : Tensor
        (voxel, image), responses to the queries.
    """

    context: Tensor
    response: Tensor
    query: Tensor
    target: Tensor


@dataclass(frozen=True)
class SyntheticVoxels:
    """Voxels that exist only as weights drawn from a prior, looking at real images.

    Attributes
    ----------
    embedded : Tensor
        (image, E) float32
    prior : WeightPrior
        Of weights and noise.
    """

    embedded: Tensor
    prior: WeightPrior

    def draw(
        self, rows: np.ndarray, count: int, generator: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return embedded images (image, E) and the responses (voxel, image) of new voxels."""
        own = torch.Generator().manual_seed(int(generator.integers(2**31)))
        drawn = self.prior.sample(count, own)
        shown = self.embedded[rows]
        weights = drawn.weights.to(shown.dtype)
        signal = weights[:, :-1] @ shown.T + weights[:, -1:]
        noise = torch.randn(signal.shape, generator=own, dtype=signal.dtype)
        return shown, signal + drawn.noise_sd.to(shown.dtype)[:, None] * noise


class Episodes(Dataset[Episode]):
    """Episodes as a function of seed, epoch and step alone.

    Parameters
    ----------
    sets : sequence of VoxelSet or SyntheticVoxels
        An episode is of one of them, drawn in proportion to its voxels.
    config : EpisodeConfig
        Lengths and counts.
    voxels : int
        Voxels of an episode, at most.
    seed : int
        Of all draws.
    queries : sequence of VoxelSet, optional
        As many sets of the same voxels with other images: queries are of these, and the context
        of ``sets``. Without it both are of ``sets``, disjoint in each episode.
    rank : int
        Of this process; each draws episodes of its own.

    Raises
    ------
    InputError
        If there are fewer images than an episode needs, or a query image may be in a context.
    MismatchError
        If sets and queries are of other voxels.
    """

    def __init__(
        self,
        sets: Sequence[VoxelSet | SyntheticVoxels],
        config: EpisodeConfig,
        voxels: int,
        seed: int,
        queries: Sequence[VoxelSet] | None = None,
        rank: int = 0,
    ) -> None:
        self.sets, self.config, self.voxels = list(sets), config, voxels
        self.seed, self.queries, self.rank = seed, queries, rank
        sizes = np.array([_voxels(each, voxels) for each in self.sets], dtype=np.float64)
        self.shares = sizes / sizes.sum()
        needed = 2 if queries is not None else config.queries + 2
        for each in self.sets:
            if len(each.embedded) < needed:
                raise InputError(
                    f"a training set has {len(each.embedded)} images, but an episode needs at "
                    f"least {needed}: {config.queries} queries beside its context. Lower "
                    "episodes.queries, or give more images."
                )
        if queries is not None:
            _check_queries(self.sets, queries)

    def __getitem__(self, key: tuple[int, int]) -> Episode:
        """Return the episode of an (epoch, step)."""
        epoch, step = key
        generator = np.random.default_rng([self.seed, epoch - FIXED, step, self.rank])
        fixed = epoch == FIXED
        # Fixed episodes take the sets and the two lengths in turn.
        index = step % len(self.sets) if fixed else generator.choice(len(self.sets), p=self.shares)
        images = len(self.sets[index].embedded)
        if self.queries is not None:
            images += self.config.queries
        length = self.config.length(generator, images)
        if fixed:
            longest = min(self.config.most, images - self.config.queries)
            wanted = self.config.most if step // len(self.sets) % 2 else self.config.least
            length = min(wanted, longest)
        return self._draw(int(index), length, generator)

    def _draw(self, index: int, length: int, generator: np.random.Generator) -> Episode:
        source, count = self.sets[index], self.config.queries
        rows = generator.permutation(len(source.embedded))[
            : length + (count if self.queries is None else 0)
        ]
        if isinstance(source, SyntheticVoxels):
            shown, response = source.draw(rows, self.voxels, generator)
        else:
            chosen = generator.permutation(source.response.shape[1])[: self.voxels]
            shown, response = source.embedded[rows], _responses(source, rows, chosen)
        if self.queries is None:
            return Episode(
                shown[:length], response[:, :length], shown[length:], response[:, length:]
            )
        asked = self.queries[index]
        wanted = generator.permutation(len(asked.embedded))[:count]
        target = _responses(asked, wanted, chosen)
        return Episode(shown, response, asked.embedded[wanted], target)

    def loader(self, order: EpisodeOrder, pin: bool = False) -> DataLoader[Episode]:
        """Return a loader of whole episodes in the main process.

        The generator is the loader's own: it would otherwise draw from torch's global one.
        """
        return DataLoader(
            self,
            batch_size=None,
            sampler=order,
            collate_fn=_whole,
            pin_memory=pin,
            generator=torch.Generator().manual_seed(self.seed),
        )


class EpisodeOrder(Sampler[tuple[int, int]]):
    """The keys of an epoch's episodes; a resumed run repeats them.

    Parameters
    ----------
    steps : int
        Episodes in an epoch.
    fixed : bool
        The same episodes in every epoch.
    """

    def __init__(self, steps: int, fixed: bool = False) -> None:
        self.steps, self.fixed, self.epoch = steps, fixed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose episodes come next (Lightning calls this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # Not before the first step: a resumed run makes the iterator before it sets the epoch.
        for step in range(self.steps):
            yield (FIXED if self.fixed else self.epoch, step)


def _voxels(each: VoxelSet | SyntheticVoxels, voxels: int) -> int:
    return voxels if isinstance(each, SyntheticVoxels) else each.response.shape[1]


def _whole(episode: Any) -> Any:
    return episode


def _responses(each: VoxelSet, rows: np.ndarray, chosen: np.ndarray) -> Tensor:
    """Return responses (voxel, image), touching no voxel but those that are chosen."""
    return each.response[torch.from_numpy(rows)[:, None], torch.from_numpy(chosen)].T


def _check_queries(sets: Sequence[VoxelSet | SyntheticVoxels], queries: Sequence[VoxelSet]) -> None:
    if len(queries) != len(sets):
        raise MismatchError(
            f"there are {len(sets)} training sets and {len(queries)} validation sets; give one "
            "of the same voxels for each."
        )
    for number, (each, asked) in enumerate(zip(sets, queries, strict=True)):
        if not asked.images:
            raise InputError(
                f"validation set {number} has no image; give another seed, a larger fraction, or "
                "validation responses of each training set."
            )
        if isinstance(each, SyntheticVoxels):
            continue
        same = each.response.shape[1] == asked.response.shape[1]
        if not same or not each.voxels.coords.equals(asked.voxels.coords):
            raise MismatchError(
                f"training set {number} and validation set {number} are of other voxels "
                f"({each.response.shape[1]} and {asked.response.shape[1]}): give the same voxels "
                "in the same order."
            )
        twice = sorted(set(each.images) & set(asked.images))
        if twice:
            raise InputError(
                f"{len(twice)} images of validation set {number} are also in its training set "
                f"(first: {twice[:3]}), and could be query and context at once. Give other images."
            )
